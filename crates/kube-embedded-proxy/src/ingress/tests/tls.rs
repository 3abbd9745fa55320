//! Certificates from Secrets.

use super::*;
use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};

/// Returns the certificate that is served for a name.
async fn served(at: SocketAddr, name: &str) -> Vec<u8> {
    let stream = connect_tls(at, name).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// Waits until this certificate is served for a name.
async fn serves_certificate(at: SocketAddr, name: &str, certificate: &str) {
    let expected = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    eventually(&format!("the certificate of {name}"), async || {
        (served(at, name).await == *expected).then_some(())
    })
    .await;
}

/// Generates a certificate for some names, and its key, in PEM.
fn generate(names: &[&str]) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let params = rcgen::CertificateParams::new(names).unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

impl ClusterFixture {
    async fn secret(&self, name: &str, (certificate, key): &(String, String)) {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name },
            "type": "kubernetes.io/tls", "stringData": { "tls.crt": certificate, "tls.key": key },
        });
        let params = PatchParams::apply("test").force();
        let secrets: Api<Secret> = Api::default_namespaced(self.client.clone());
        secrets.patch(name, &params, &Patch::Apply(secret)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_is_chosen_by_name_and_reloaded() {
    let fixture = ClusterFixture::new().await;
    fixture.letter('a').await;
    let (foo, wild) = (generate(&["foo.bar"]), generate(&["*.wild.bar"]));
    fixture.secret("foo", &foo).await;
    fixture.secret("wild", &wild).await;
    let tls = json!([
        { "hosts": ["foo.bar"], "secretName": "foo" },
        { "hosts": ["*.wild.bar"], "secretName": "wild" },
    ]);
    fixture.ingress("app", json!({ "defaultBackend": backend("a"), "tls": tls })).await;
    let (_, https) = fixture.published("default", "app").await;
    serves_certificate(https, "foo.bar", &foo.0).await;
    serves_certificate(https, "FOO.bar", &foo.0).await;
    serves_certificate(https, "x.wild.bar", &wild.0).await;
    let default = served(https, "other.bar").await;
    assert_eq!(served(https, "x.y.wild.bar").await, default);
    assert_eq!(served(https, "wild.bar").await, default);
    assert_eq!(served(https, "127.0.0.1").await, default, "no name is sent for an address");
    let stream = connect_tls(https, "foo.bar").await.unwrap();
    assert_eq!(ask_over(stream, "foo.bar", "/").await.unwrap(), "a");

    // A connection from before the reload continues.
    let before = connect_tls(https, "foo.bar").await.unwrap();
    let renewed = generate(&["foo.bar"]);
    fixture.secret("foo", &renewed).await;
    serves_certificate(https, "foo.bar", &renewed.0).await;
    assert_eq!(ask_over(before, "foo.bar", "/").await.unwrap(), "a");
    assert_eq!(fixture.events("app").await.len(), 2, "{:?}", fixture.events("app").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_secret_takes_over_without_a_gap() {
    let fixture = ClusterFixture::new().await;
    fixture.letter('a').await;
    let both = ["one", "two"].map(|name| (name, generate(&["foo.bar"])));
    for (name, certificate) in &both {
        fixture.secret(name, certificate).await;
    }
    let tls = |secret| json!([{ "hosts": ["foo.bar"], "secretName": secret }]);
    fixture.ingress("app", json!({ "defaultBackend": backend("a"), "tls": tls("one") })).await;
    let (_, https) = fixture.published("default", "app").await;
    let [one, two] = both.map(|(_, (certificate, _))| {
        CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap().to_vec()
    });
    assert_eq!(served(https, "foo.bar").await, one);
    for (secret, before, after) in
        [("two", &one, &two), ("one", &two, &one), ("two", &one, &two), ("one", &two, &one)]
    {
        fixture.patch("app", json!({ "spec": { "tls": tls(secret) } })).await;
        eventually("the other certificate", async || {
            let certificate = served(https, "foo.bar").await;
            assert!(
                certificate == *before || certificate == *after,
                "the default certificate was served"
            );
            (certificate == *after).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_secret_is_reported_and_affects_no_other_host() {
    let fixture = ClusterFixture::new().await;
    fixture.letter('a').await;
    let good = generate(&["good.bar"]);
    fixture.secret("good", &good).await;
    fixture.secret("text", &("nothing".into(), "nothing".into())).await;
    fixture.secret("foreign", &(good.0.clone(), generate(&["x"]).1)).await;
    let tls: Vec<Value> = ["good", "none", "text", "foreign", "other"]
        .iter()
        .map(|name| json!({ "hosts": [format!("{name}.bar")], "secretName": name }))
        .collect();
    fixture.secret("other", &good).await;
    fixture.ingress("app", json!({ "defaultBackend": backend("a"), "tls": tls })).await;
    let (_, https) = fixture.published("default", "app").await;
    for expected in [
        "TLSSecretNotFound Secret \"none\" does not exist; the default certificate is served for none.bar",
        "TLSSecretInvalid Secret \"text\" has no certificate (PEM) in tls.crt",
        "TLSSecretInvalid Secret \"foreign\" has a tls.key that does not match",
        "CertificateHostMismatch Secret \"other\" has a certificate whose alternative names do \
         not cover other.bar",
    ] {
        fixture.reported("app", expected).await;
    }
    serves_certificate(https, "good.bar", &good.0).await;
    let default = served(https, "whatever.bar").await;
    for name in ["none.bar", "text.bar", "foreign.bar", "other.bar"] {
        assert_eq!(served(https, name).await, default, "{name}");
    }
    let late = generate(&["none.bar"]);
    fixture.secret("none", &late).await;
    serves_certificate(https, "none.bar", &late.0).await;
    let secrets: Api<Secret> = Api::default_namespaced(fixture.client.clone());
    secrets.delete("none", &DeleteParams::default()).await.unwrap();
    eventually("the default certificate", async || {
        (served(https, "none.bar").await == default).then_some(())
    })
    .await;
    serves_certificate(https, "good.bar", &good.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_with_a_common_name_only_is_served_and_reported() {
    let fixture = ClusterFixture::new().await;
    let pem = include_str!("../../http_proxy/tls_secret/common_name.pem");
    let (key, certificate) = pem.split_at(pem.find("-----BEGIN CERTIFICATE").unwrap());
    fixture.secret("cn", &(certificate.to_owned(), key.to_owned())).await;
    let tls = json!([{ "hosts": ["cn.foo.bar"], "secretName": "cn" }]);
    fixture.ingress("app", json!({ "defaultBackend": backend("a"), "tls": tls })).await;
    let (_, https) = fixture.published("default", "app").await;
    serves_certificate(https, "cn.foo.bar", certificate).await;
    let expected = "CertificateWithoutAlternativeName Secret \"cn\" has a certificate that names \
                    cn.foo.bar only in its common name";
    fixture.reported("app", expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_without_hosts_is_served_for_all_other_names() {
    let fixture = ClusterFixture::new().await;
    let (any, foo) = (generate(&["any.bar"]), generate(&["foo.bar"]));
    fixture.secret("any", &any).await;
    fixture.secret("foo", &foo).await;
    let tls = json!([{ "secretName": "any" }, { "hosts": ["foo.bar"], "secretName": "foo" }]);
    fixture.ingress("app", json!({ "defaultBackend": backend("a"), "tls": tls })).await;
    let (_, https) = fixture.published("default", "app").await;
    serves_certificate(https, "foo.bar", &foo.0).await;
    serves_certificate(https, "any.bar", &any.0).await;
    serves_certificate(https, "127.0.0.1", &any.0).await;
}

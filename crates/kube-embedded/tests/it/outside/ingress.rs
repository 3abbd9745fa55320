//! Ingresses where traffic goes through node ports.

use super::*;
use k8s_openapi::api::{core::v1::Secret, networking::v1::IngressClass};
use std::{collections::BTreeSet, sync::Arc};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, pki_types::ServerName},
};

const HOST: &str = "web.test";

#[tokio::test(flavor = "multi_thread")]
async fn hosts_lead_to_pods_that_are_ready() {
    let world = World::new().await;
    let (pods, _) =
        tokio::join!(world.ready("web", ["web-1", "web-2"]), world.ready("inner", ["inner-1"]));
    world.service("web", json!({ "type": "NodePort" })).await;
    // It has no node port.
    world.service("inner", json!({ "type": "ClusterIP" })).await;
    world.service("nobody", json!({ "type": "NodePort" })).await;
    let classes: Api<IngressClass> = Api::all(world.cluster.client());
    assert!(classes.get_opt("edge").await.unwrap().is_none());
    let edge = world.edge(Options::default()).await;
    let class = classes.get("edge").await.unwrap();
    assert_eq!(class.spec.unwrap().controller.unwrap(), "canary-labs.dev/edge");
    let hosts = [(HOST, "web"), ("inner.test", "inner"), ("nobody.test", "nobody")];
    world.ingress("web", Some("edge"), &hosts).await;
    let http = world.published::<Ingress>(&edge, "web", 80).await;
    until_answers(http, HOST, &["web-1", "web-2"]).await;
    until_answers(http, "inner.test", &["inner-1"]).await;
    assert_eq!(ask(http, "nobody.test", "/").await.unwrap().0, 503);
    assert_eq!(ask(http, "other.test", "/").await.unwrap().0, 404);

    // Connections that clients keep lead to all, each request anew.
    let mut kept = BufReader::new(TcpStream::connect(http).await.unwrap());
    let mut seen = BTreeSet::new();
    for _ in 0..40 {
        seen.insert(ask_on(&mut kept, HOST, "/").await.unwrap().1);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["web-1", "web-2"]);
    world.unready(&pods[0]).await;
    until_answers(http, HOST, &["web-2"]).await;
    for _ in 0..40 {
        assert_eq!(ask_on(&mut kept, HOST, "/").await.unwrap(), (200, "web-2".into()));
    }
    world.delete_pods(&["web-2"]).await;
    until("503", async || ask_on(&mut kept, HOST, "/").await.unwrap().0 == 503).await;

    edge.stop().await;
    until_refused(http).await;
    assert!(classes.get_opt("edge").await.unwrap().is_none());
    let left = world.get::<Ingress>("web").await;
    assert_eq!((left.address(), left.annotations().get(PUBLISHED_PORT)), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_those_of_the_cluster() {
    let world = World::new().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec![HOST.to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    world
        .make::<Secret>(json!({
            "metadata": { "name": "cert" }, "type": "kubernetes.io/tls",
            "stringData": { "tls.crt": certificate.pem(), "tls.key": key.serialize_pem() },
        }))
        .await;
    world.ready("web", ["web-1"]).await;
    world.service("web", json!({ "type": "NodePort" })).await;
    let edge = world.edge(Options::default()).await;
    world.ingress("web", Some("edge"), &[(HOST, "web")]).await;
    let tls =
        Patch::Merge(json!({ "spec": { "tls": [{ "hosts": [HOST], "secretName": "cert" }] } }));
    world.api::<Ingress>().patch("web", &PatchParams::default(), &tls).await.unwrap();
    let https = world.published::<Ingress>(&edge, "web", 443).await;
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    until("an answer over TLS", async || {
        let stream = TcpStream::connect(https).await.unwrap();
        let name = ServerName::try_from(HOST).unwrap();
        let Ok(stream) = in_time(connector.connect(name, stream)).await else { return false };
        ask_on(&mut BufReader::new(stream), HOST, "/").await.unwrap() == (200, "web-1".into())
    })
    .await;
}

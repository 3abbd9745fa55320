//! Ingresses of an external cluster, through node ports.

use crate::fixture::{
    eventually,
    external::{EdgeFixture, External, get_on, http_get, wait_for_pods, wait_for_refusal},
    in_time,
};
use k8s_openapi::api::{
    core::v1::Secret,
    networking::v1::{Ingress, IngressClass},
};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use kube_embedded_proxy::{PUBLISHED_PORT, external::Options};
use serde_json::json;
use std::{collections::BTreeSet, sync::Arc};
use tokio::{io::BufReader, net::TcpStream};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, pki_types::ServerName},
};

const HOST: &str = "web.test";

#[tokio::test(flavor = "multi_thread")]
async fn ingress_routes_hosts_to_ready_pods() {
    let fixture = EdgeFixture::new().await;
    let (pods, _) = tokio::join!(
        fixture.ready_pods("web", ["web-1", "web-2"]),
        fixture.ready_pods("inner", ["inner-1"])
    );
    fixture.create_service("web", json!({ "type": "NodePort" })).await;
    // This one has no node port.
    fixture.create_service("inner", json!({ "type": "ClusterIP" })).await;
    fixture.create_service("empty", json!({ "type": "NodePort" })).await;
    let classes: Api<IngressClass> = Api::all(fixture.cluster.client());
    assert!(classes.get_opt("edge").await.unwrap().is_none());
    let edge = fixture.edge(Options::default()).await;
    let class = classes.get("edge").await.unwrap();
    assert_eq!(class.spec.unwrap().controller.unwrap(), "canary-labs.dev/edge");
    let hosts = [(HOST, "web"), ("inner.test", "inner"), ("empty.test", "empty")];
    fixture.create_ingress("web", Some("edge"), &hosts).await;
    let http = fixture.published::<Ingress>(&edge, "web", 80).await;
    wait_for_pods(http, HOST, &["web-1", "web-2"]).await;
    wait_for_pods(http, "inner.test", &["inner-1"]).await;
    assert_eq!(http_get(http, "empty.test", "/").await.unwrap().0, 503);
    assert_eq!(http_get(http, "other.test", "/").await.unwrap().0, 404);

    // Each request on a keep-alive connection may go to another pod.
    let mut keep_alive = BufReader::new(TcpStream::connect(http).await.unwrap());
    let mut seen = BTreeSet::new();
    for _ in 0..40 {
        seen.insert(get_on(&mut keep_alive, HOST, "/").await.unwrap().1);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["web-1", "web-2"]);
    fixture.make_unready(&pods[0]).await;
    wait_for_pods(http, HOST, &["web-2"]).await;
    for _ in 0..40 {
        assert_eq!(get_on(&mut keep_alive, HOST, "/").await.unwrap(), (200, "web-2".into()));
    }
    fixture.delete_pods(&["web-2"]).await;
    eventually("503 without pods", async || {
        get_on(&mut keep_alive, HOST, "/").await.unwrap().0 == 503
    })
    .await;

    edge.stop().await;
    wait_for_refusal(http).await;
    assert!(classes.get_opt("edge").await.unwrap().is_none());
    let object = fixture.get::<Ingress>("web").await;
    assert_eq!((object.address(), object.annotations().get(PUBLISHED_PORT)), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_secret_of_the_cluster_is_served() {
    let fixture = EdgeFixture::new().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec![HOST.to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    fixture
        .create::<Secret>(json!({
            "metadata": { "name": "cert" }, "type": "kubernetes.io/tls",
            "stringData": { "tls.crt": certificate.pem(), "tls.key": key.serialize_pem() },
        }))
        .await;
    fixture.ready_pods("web", ["web-1"]).await;
    fixture.create_service("web", json!({ "type": "NodePort" })).await;
    let edge = fixture.edge(Options::default()).await;
    fixture.create_ingress("web", Some("edge"), &[(HOST, "web")]).await;
    let tls =
        Patch::Merge(json!({ "spec": { "tls": [{ "hosts": [HOST], "secretName": "cert" }] } }));
    fixture.api::<Ingress>().patch("web", &PatchParams::default(), &tls).await.unwrap();
    let https = fixture.published::<Ingress>(&edge, "web", 443).await;
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    eventually("a response over TLS", async || {
        let stream = TcpStream::connect(https).await.unwrap();
        let name = ServerName::try_from(HOST).unwrap();
        let Ok(stream) = in_time(connector.connect(name, stream)).await else { return false };
        get_on(&mut BufReader::new(stream), HOST, "/").await.unwrap() == (200, "web-1".into())
    })
    .await;
}

//! Objects that another controller manages are left alone.

use crate::fixture::{
    eventually,
    external::{EdgeFixture, External, FOREIGN, PORT, wait_for_pods, wait_for_refusal},
};
use k8s_openapi::api::{
    core::v1::{Namespace, Service},
    networking::v1::{Ingress, IngressClass},
};
use kube::{Api, ResourceExt, api::PostParams};
use kube_embedded_proxy::{
    PUBLISHED_PORT,
    external::{ExternalEdge, Options},
};
use serde_json::json;

/// Waits until the edge has reconciled all existing objects. It reconciles in the order of creation, so this
/// waits for the address of a new Service.
async fn wait_for_reconcile(fixture: &EdgeFixture, edge: &ExternalEdge, name: &str) {
    fixture.create_service(name, json!({})).await;
    fixture.load_balancer(edge, name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_other_controllers_are_not_changed() {
    let fixture = EdgeFixture::without_nodes().await;
    fixture.create_service("classed", json!({ "loadBalancerClass": "example.com/other" })).await;
    fixture.create_service("foreign", json!({})).await;
    fixture.create_service("tunneled", json!({})).await;
    fixture.create_ingress("foreign", None, &[("a.test", "foreign")]).await;
    fixture.create_ingress("classed", Some("other"), &[("b.test", "foreign")]).await;
    fixture.set_address::<Service>("foreign", Some(FOREIGN)).await;
    // `minikube tunnel` assigns such addresses.
    fixture.set_address::<Service>("tunneled", Some("127.0.0.1")).await;
    fixture.set_address::<Ingress>("foreign", Some(FOREIGN)).await;
    let versions = async || {
        let services = ["classed", "foreign", "tunneled"].map(|name| fixture.get::<Service>(name));
        let ingresses = ["classed", "foreign"].map(|name| fixture.get::<Ingress>(name));
        let services = futures::future::join_all(services).await;
        let ingresses = futures::future::join_all(ingresses).await;
        let ingresses = ingresses.iter().map(|ingress| ingress.resource_version().unwrap());
        let services = services.iter().map(|service| service.resource_version().unwrap());
        services.chain(ingresses).collect::<Vec<_>>()
    };
    let before = versions().await;
    let edge = fixture.edge(Options::default()).await;
    fixture.create_ingress("ours", None, &[("c.test", "foreign")]).await;
    fixture.published::<Ingress>(&edge, "ours", 80).await;
    wait_for_reconcile(&fixture, &edge, "one").await;
    wait_for_reconcile(&fixture, &edge, "two").await;
    assert_eq!(versions().await, before);
    // Once the other controller has removed its address, the edge assigns one.
    fixture.set_address::<Service>("foreign", None).await;
    fixture.set_address::<Ingress>("foreign", None).await;
    fixture.load_balancer(&edge, "foreign").await;
    fixture.published::<Ingress>(&edge, "foreign", 80).await;
    edge.stop().await;
    let after = versions().await;
    assert_eq!((&after[0], &after[2], &after[3]), (&before[0], &before[2], &before[3]));
}

#[tokio::test(flavor = "multi_thread")]
async fn address_of_another_controller_suspends_the_edge_until_it_is_removed() {
    let fixture = EdgeFixture::new().await;
    fixture.ready_pods("web", ["web-1"]).await;
    fixture.create_service("web", json!({})).await;
    fixture.create_ingress("web", Some("edge"), &[("web.test", "web")]).await;
    let edge = fixture.edge(Options::default()).await;
    let address = fixture.load_balancer(&edge, "web").await;
    let http = fixture.published::<Ingress>(&edge, "web", 80).await;
    wait_for_pods(address, "", &["web-1"]).await;
    wait_for_pods(http, "web.test", &["web-1"]).await;

    let service = fixture.set_address::<Service>("web", Some(FOREIGN)).await;
    fixture.set_address::<Ingress>("web", Some(FOREIGN)).await;
    wait_for_refusal(address).await;
    wait_for_refusal(http).await;
    wait_for_reconcile(&fixture, &edge, "one").await;
    wait_for_reconcile(&fixture, &edge, "two").await;
    let now = fixture.get::<Service>("web").await;
    assert_eq!(now.resource_version(), service.resource_version());
    eventually("no published-port annotation at a foreign address", async || {
        let now = fixture.get::<Ingress>("web").await;
        assert_eq!(now.address().as_deref(), Some(FOREIGN));
        !now.annotations().contains_key(PUBLISHED_PORT)
    })
    .await;

    fixture.set_address::<Service>("web", None).await;
    fixture.set_address::<Ingress>("web", None).await;
    let address = fixture.load_balancer(&edge, "web").await;
    let http = fixture.published::<Ingress>(&edge, "web", 80).await;
    wait_for_pods(address, "", &["web-1"]).await;
    wait_for_pods(http, "web.test", &["web-1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_address_of_another_edge_is_replaced() {
    let fixture = EdgeFixture::without_nodes().await;
    fixture.create_service("web", json!({})).await;
    let edge = fixture.edge(Options::default()).await;
    let address = fixture.load_balancer(&edge, "web").await;
    let other = format!("127.{}.1.9", if edge.addresses().block == 200 { 201 } else { 200 });
    fixture.set_address::<Service>("web", Some(&other)).await;
    eventually("the edge's own address again", async || {
        fixture.get::<Service>("web").await.address() == Some(address.ip().to_string())
    })
    .await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespace_option_limits_the_edge_to_it() {
    let fixture = EdgeFixture::without_nodes().await;
    let namespaces: Api<Namespace> = Api::all(fixture.cluster.client());
    let mine = json!({ "metadata": { "name": "mine" } });
    let mine = serde_json::from_value(mine).unwrap();
    namespaces.create(&PostParams::default(), &mine).await.unwrap();
    fixture.create_service("web", json!({})).await;
    fixture.create_ingress("web", None, &[("web.test", "web")]).await;
    let spec = json!({ "type": "LoadBalancer", "ports": [{ "port": PORT }] });
    let service = json!({ "metadata": { "name": "web" }, "spec": spec });
    let services: Api<Service> = Api::namespaced(fixture.cluster.client(), "mine");
    let service = serde_json::from_value(service).unwrap();
    services.create(&PostParams::default(), &service).await.unwrap();
    let options = Options { namespace: Some("mine".into()), ..Options::default() };
    let edge = fixture.edge(options).await;
    eventually("an address", async || services.get("web").await.unwrap().address()).await;
    // The edge reconciled these before that Service.
    assert_eq!(fixture.get::<Service>("web").await.address(), None);
    assert_eq!(fixture.get::<Ingress>("web").await.address(), None);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ingress_classes_of_other_controllers_or_names_are_kept() {
    let fixture = EdgeFixture::without_nodes().await;
    let classes: Api<IngressClass> = Api::all(fixture.cluster.client());
    let label = json!({ "app.kubernetes.io/managed-by": "canary-labs" });
    for (name, controller) in [("mine", "canary-labs.dev/edge"), ("edge", "example.com/other")] {
        let class = json!({
            "metadata": { "name": name, "labels": label },
            "spec": { "controller": controller },
        });
        let class = serde_json::from_value(class).unwrap();
        classes.create(&PostParams::default(), &class).await.unwrap();
    }
    fixture.edge(Options::default()).await.stop().await;
    for name in ["mine", "edge"] {
        assert!(classes.get_opt(name).await.unwrap().is_some(), "{name}");
    }
}

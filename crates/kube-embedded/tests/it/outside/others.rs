//! What somebody else serves is left alone.

use super::*;
use k8s_openapi::api::{core::v1::Namespace, networking::v1::IngressClass};

/// A whole round of the edge: what was there before has been looked at once a Service that is made
/// now has an address.
async fn round(world: &World, edge: &ExternalEdge, name: &str) {
    world.service(name, json!({})).await;
    world.balancer(edge, name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_serve_already_is_not_touched() {
    let world = World::empty().await;
    world.service("classed", json!({ "loadBalancerClass": "example.com/other" })).await;
    world.service("theirs", json!({})).await;
    world.service("tunnelled", json!({})).await;
    world.ingress("theirs", None, &[("a.test", "theirs")]).await;
    world.ingress("classed", Some("other"), &[("b.test", "theirs")]).await;
    world.give::<Service>("theirs", Some(FOREIGN)).await;
    // As `minikube tunnel` does.
    world.give::<Service>("tunnelled", Some("127.0.0.1")).await;
    world.give::<Ingress>("theirs", Some(FOREIGN)).await;
    let versions = async || {
        let services = ["classed", "theirs", "tunnelled"].map(|name| world.get::<Service>(name));
        let ingresses = ["classed", "theirs"].map(|name| world.get::<Ingress>(name));
        let services = futures::future::join_all(services).await;
        let ingresses = futures::future::join_all(ingresses).await;
        let ingresses = ingresses.iter().map(|ingress| ingress.resource_version().unwrap());
        let services = services.iter().map(|service| service.resource_version().unwrap());
        services.chain(ingresses).collect::<Vec<_>>()
    };
    let before = versions().await;
    let edge = world.edge(Options::default()).await;
    world.ingress("ours", None, &[("c.test", "theirs")]).await;
    world.published::<Ingress>(&edge, "ours", 80).await;
    round(&world, &edge, "one").await;
    round(&world, &edge, "two").await;
    assert_eq!(versions().await, before);
    // Once it is free, it is ours.
    world.give::<Service>("theirs", None).await;
    world.give::<Ingress>("theirs", None).await;
    world.balancer(&edge, "theirs").await;
    world.published::<Ingress>(&edge, "theirs", 80).await;
    edge.stop().await;
    let left = versions().await;
    assert_eq!((&left[0], &left[2], &left[3]), (&before[0], &before[2], &before[3]));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_steps_back_from_who_comes_later_and_returns_once_they_are_gone() {
    let world = World::new().await;
    world.ready("web", ["web-1"]).await;
    world.service("web", json!({})).await;
    world.ingress("web", Some("edge"), &[("web.test", "web")]).await;
    let edge = world.edge(Options::default()).await;
    let at = world.balancer(&edge, "web").await;
    let http = world.published::<Ingress>(&edge, "web", 80).await;
    until_answers(at, "", &["web-1"]).await;
    until_answers(http, "web.test", &["web-1"]).await;

    let service = world.give::<Service>("web", Some(FOREIGN)).await;
    world.give::<Ingress>("web", Some(FOREIGN)).await;
    until_refused(at).await;
    until_refused(http).await;
    round(&world, &edge, "one").await;
    round(&world, &edge, "two").await;
    let now = world.get::<Service>("web").await;
    assert_eq!(now.resource_version(), service.resource_version());
    until("no ports of ours at somebody else's address", async || {
        let now = world.get::<Ingress>("web").await;
        assert_eq!(now.address().as_deref(), Some(FOREIGN));
        !now.annotations().contains_key(PUBLISHED_PORT)
    })
    .await;

    world.give::<Service>("web", None).await;
    world.give::<Ingress>("web", None).await;
    let at = world.balancer(&edge, "web").await;
    let http = world.published::<Ingress>(&edge, "web", 80).await;
    until_answers(at, "", &["web-1"]).await;
    until_answers(http, "web.test", &["web-1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_edge_has_left_is_replaced_while_this_one_runs() {
    let world = World::empty().await;
    world.service("web", json!({})).await;
    let edge = world.edge(Options::default()).await;
    let at = world.balancer(&edge, "web").await;
    let other = format!("127.{}.1.9", if edge.addresses().block == 200 { 201 } else { 200 });
    world.give::<Service>("web", Some(&other)).await;
    until("its own address again", async || {
        world.get::<Service>("web").await.address() == Some(at.ip().to_string())
    })
    .await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_namespace_alone_may_be_served() {
    let world = World::empty().await;
    let namespaces: Api<Namespace> = Api::all(world.cluster.client());
    let mine = json!({ "metadata": { "name": "mine" } });
    let mine = serde_json::from_value(mine).unwrap();
    namespaces.create(&PostParams::default(), &mine).await.unwrap();
    world.service("web", json!({})).await;
    world.ingress("web", None, &[("web.test", "web")]).await;
    let spec = json!({ "type": "LoadBalancer", "ports": [{ "port": PORT }] });
    let service = json!({ "metadata": { "name": "web" }, "spec": spec });
    let there: Api<Service> = Api::namespaced(world.cluster.client(), "mine");
    let service = serde_json::from_value(service).unwrap();
    there.create(&PostParams::default(), &service).await.unwrap();
    let options = Options { namespace: Some("mine".into()), ..Options::default() };
    let edge = world.edge(options).await;
    until("an address", async || there.get("web").await.unwrap().address().is_some()).await;
    // Those were seen before it.
    assert_eq!(world.get::<Service>("web").await.address(), None);
    assert_eq!(world.get::<Ingress>("web").await.address(), None);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_of_others_stay() {
    let world = World::empty().await;
    let classes: Api<IngressClass> = Api::all(world.cluster.client());
    let label = json!({ "app.kubernetes.io/managed-by": "canary-labs" });
    for (name, controller) in [("mine", "canary-labs.dev/edge"), ("edge", "example.com/other")] {
        let class = json!({
            "metadata": { "name": name, "labels": label },
            "spec": { "controller": controller },
        });
        let class = serde_json::from_value(class).unwrap();
        classes.create(&PostParams::default(), &class).await.unwrap();
    }
    world.edge(Options::default()).await.stop().await;
    for name in ["mine", "edge"] {
        assert!(classes.get_opt(name).await.unwrap().is_some(), "{name}");
    }
}

//! One edge a cluster, and what it leaves behind.

use super::*;
use k8s_openapi::api::{coordination::v1::Lease, networking::v1::IngressClass};
use kube_embedded_proxy::external::EdgeError;

const LEASE: &str = "canary-labs-edge";

fn leases(world: &World) -> Api<Lease> {
    Api::namespaced(world.cluster.client(), "kube-system")
}

async fn change_lease(world: &World, spec: Value) {
    let change = Patch::Merge(json!({ "spec": spec }));
    leases(world).patch(LEASE, &PatchParams::default(), &change).await.unwrap();
}

/// A Service and an Ingress, and no edge yet.
async fn world() -> World {
    let world = World::empty().await;
    world.service("web", json!({})).await;
    world.ingress("web", Some("edge"), &[("web.test", "web")]).await;
    world
}

/// Whether a class, a Service and an Ingress show that there is an edge.
async fn shown(world: &World) -> (bool, Option<String>, Option<String>) {
    let classes: Api<IngressClass> = Api::all(world.cluster.client());
    let class = classes.get_opt("edge").await.unwrap().is_some();
    let service = world.get::<Service>("web").await.address();
    (class, service, world.get::<Ingress>("web").await.address())
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_one_and_it_leaves_nothing_behind() {
    let world = world().await;
    // Privileged, so that there is an annotation where ports cannot be had as they are asked for.
    let port = json!({ "ports": [{ "port": 81, "targetPort": 8080 }] });
    let port = Patch::Merge(json!({ "spec": port }));
    world.api::<Service>().patch("web", &PatchParams::default(), &port).await.unwrap();
    let first = world.edge(Options::default()).await;
    world.published::<Service>(&first, "web", 81).await;
    world.published::<Ingress>(&first, "web", 80).await;
    let holder = leases(&world).get(LEASE).await.unwrap().spec.unwrap().holder_identity.unwrap();
    let second = ExternalEdge::start(world.config().await, Options::default());
    let refused = in_time(second).await.unwrap_err().to_string();
    let expected = format!(
        "another edge serves this cluster: {holder} (Lease canary-labs-edge in kube-system); stop \
         it first"
    );
    assert_eq!(refused, expected);
    assert!(holder.starts_with(&format!("process {} on ", std::process::id())), "{holder}");
    assert!(shown(&world).await.0, "who was refused takes nothing away");

    first.stop().await;
    assert_eq!(shown(&world).await, (false, None, None));
    assert!(leases(&world).get_opt(LEASE).await.unwrap().is_none());
    let annotations = world.get::<Service>("web").await.annotations().clone();
    assert!(!annotations.contains_key(PUBLISHED_PORT), "{annotations:?}");
    let annotations = world.get::<Ingress>("web").await.annotations().clone();
    assert!(!annotations.contains_key(PUBLISHED_PORT), "{annotations:?}");
    let second = world.edge(Options::default()).await;
    world.published::<Service>(&second, "web", 81).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_one_replaces_what_a_dropped_one_left() {
    let world = world().await;
    let dropped = world.edge(Options::default()).await;
    let at = world.balancer(&dropped, "web").await;
    world.published::<Ingress>(&dropped, "web", 80).await;
    let of_the_dropped = block(&dropped);
    drop(dropped);
    until_refused(at).await;
    let (class, service, ingress) = shown(&world).await;
    assert!(class && service.is_some() && ingress.is_some(), "nobody took them back");
    // Sooner than it would by itself.
    change_lease(&world, json!({ "leaseDurationSeconds": 1 })).await;
    let next = world.edge(Options::default()).await;
    world.balancer(&next, "web").await;
    world.published::<Ingress>(&next, "web", 80).await;
    assert_ne!(block(&next), of_the_dropped);
    next.stop().await;
    assert_eq!(shown(&world).await, (false, None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_has_lost_its_lease_says_so_and_leaves_everything_to_the_other() {
    let world = world().await;
    let mut edge = world.edge(Options::default()).await;
    world.balancer(&edge, "web").await;
    world.published::<Ingress>(&edge, "web", 80).await;
    let before = shown(&world).await;
    change_lease(&world, json!({ "holderIdentity": "somebody else" })).await;
    let error = in_time(edge.failed()).await;
    assert!(matches!(&error, EdgeError::HeldByOther(by) if by == "somebody else"), "{error}");
    edge.stop().await;
    assert_eq!(shown(&world).await, before);
    let left = leases(&world).get(LEASE).await.unwrap().spec.unwrap();
    assert_eq!(left.holder_identity.as_deref(), Some("somebody else"));
}

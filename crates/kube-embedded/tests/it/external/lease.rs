//! The Lease that permits one edge a cluster, and what an edge cleans up.

use crate::fixture::{
    eventually,
    external::{EdgeFixture, External, block, wait_for_refusal},
    in_time,
};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::Service,
    networking::v1::{Ingress, IngressClass},
};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use kube_embedded_core::network::API_PORT;
use kube_embedded_proxy::{
    PUBLISHED_PORT,
    external::{EdgeError, ExternalEdge, Options},
};
use serde_json::{Value, json};
use std::net::TcpListener;

const LEASE: &str = "canary-labs-edge";

fn leases(fixture: &EdgeFixture) -> Api<Lease> {
    Api::namespaced(fixture.cluster.client(), "kube-system")
}

async fn patch_lease(fixture: &EdgeFixture, spec: Value) {
    let change = Patch::Merge(json!({ "spec": spec }));
    leases(fixture).patch(LEASE, &PatchParams::default(), &change).await.unwrap();
}

/// Creates a cluster with a Service and an Ingress, and no edge yet.
async fn fixture() -> EdgeFixture {
    let fixture = EdgeFixture::without_nodes().await;
    fixture.create_service("web", json!({})).await;
    fixture.create_ingress("web", Some("edge"), &[("web.test", "web")]).await;
    fixture
}

/// Returns what the edge has published: its class, and the addresses of the Service and the Ingress.
async fn publication(fixture: &EdgeFixture) -> (bool, Option<String>, Option<String>) {
    let classes: Api<IngressClass> = Api::all(fixture.cluster.client());
    let class = classes.get_opt("edge").await.unwrap().is_some();
    let service = fixture.get::<Service>("web").await.address();
    (class, service, fixture.get::<Ingress>("web").await.address())
}

#[tokio::test(flavor = "multi_thread")]
async fn second_edge_is_rejected_and_stopped_edge_cleans_up() {
    let fixture = fixture().await;
    // A privileged port, so that there is an annotation where it may not be bound.
    let port = json!({ "ports": [{ "port": 81, "targetPort": 8080 }] });
    let port = Patch::Merge(json!({ "spec": port }));
    fixture.api::<Service>().patch("web", &PatchParams::default(), &port).await.unwrap();
    let first = fixture.edge(Options::default()).await;
    fixture.published::<Service>(&first, "web", 81).await;
    fixture.published::<Ingress>(&first, "web", 80).await;
    let holder = leases(&fixture).get(LEASE).await.unwrap().spec.unwrap().holder_identity.unwrap();
    let second = ExternalEdge::start(fixture.config().await, Options::default());
    let refused = in_time(second).await.unwrap_err().to_string();
    let expected = format!(
        "another edge serves this cluster: {holder} (Lease canary-labs-edge in kube-system); stop \
         it first"
    );
    assert_eq!(refused, expected);
    assert!(holder.starts_with(&format!("process {} on ", std::process::id())), "{holder}");
    assert!(publication(&fixture).await.0, "the rejected edge removes nothing");

    first.stop().await;
    assert_eq!(publication(&fixture).await, (false, None, None));
    assert!(leases(&fixture).get_opt(LEASE).await.unwrap().is_none());
    let annotations = fixture.get::<Service>("web").await.annotations().clone();
    assert!(!annotations.contains_key(PUBLISHED_PORT), "{annotations:?}");
    let annotations = fixture.get::<Ingress>("web").await.annotations().clone();
    assert!(!annotations.contains_key(PUBLISHED_PORT), "{annotations:?}");
    let second = fixture.edge(Options::default()).await;
    fixture.published::<Service>(&second, "web", 81).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn next_edge_replaces_the_publications_of_a_dropped_edge() {
    let fixture = fixture().await;
    let dropped = fixture.edge(Options::default()).await;
    let address = fixture.load_balancer(&dropped, "web").await;
    fixture.published::<Ingress>(&dropped, "web", 80).await;
    let dropped_block = block(&dropped);
    drop(dropped);
    wait_for_refusal(address).await;
    let (class, service, ingress) = publication(&fixture).await;
    assert!(class && service.is_some() && ingress.is_some(), "a dropped edge cannot clean up");
    // Let the Lease of the dropped edge expire sooner.
    patch_lease(&fixture, json!({ "leaseDurationSeconds": 1 })).await;
    // Otherwise the next edge may claim the same block by chance.
    let _claim = eventually("the block is free", async || {
        TcpListener::bind(format!("{dropped_block}0.1:{API_PORT}")).ok()
    })
    .await;
    let next = fixture.edge(Options::default()).await;
    fixture.load_balancer(&next, "web").await;
    fixture.published::<Ingress>(&next, "web", 80).await;
    assert_ne!(block(&next), dropped_block);
    next.stop().await;
    assert_eq!(publication(&fixture).await, (false, None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_that_lost_its_lease_fails_and_removes_nothing() {
    let fixture = fixture().await;
    let mut edge = fixture.edge(Options::default()).await;
    fixture.load_balancer(&edge, "web").await;
    fixture.published::<Ingress>(&edge, "web", 80).await;
    let before = publication(&fixture).await;
    patch_lease(&fixture, json!({ "holderIdentity": "another edge" })).await;
    let error = in_time(edge.failed()).await;
    assert!(matches!(&error, EdgeError::HeldByOther(by) if by == "another edge"), "{error}");
    edge.stop().await;
    assert_eq!(publication(&fixture).await, before);
    let lease = leases(&fixture).get(LEASE).await.unwrap().spec.unwrap();
    assert_eq!(lease.holder_identity.as_deref(), Some("another edge"));
}

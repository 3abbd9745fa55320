//! Runs two clusters side by side: `cargo run --example two_clusters`.
//!
//! Each has its own API, addresses and credentials, so a test of software that spans clusters needs
//! nothing else, and tests that run in parallel do not see each other.

use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
    config::Kubeconfig,
};
use kube_embedded::{Cluster, Config};
use serde_json::json;
use std::error::Error;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    run().await
}

/// Starts both clusters and shows that nothing of one is visible in the other.
pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let config = Config { nodes: 0, ..Config::default() };
    let (east, west) = tokio::try_join!(Cluster::start(config.clone()), Cluster::start(config))?;
    println!("east: {}\nwest: {}", east.url(), west.url());
    assert_ne!(east.url(), west.url());

    let namespace = serde_json::from_value(json!({ "metadata": { "name": "payments" } }))?;
    Api::<Namespace>::all(east.client()).create(&PostParams::default(), &namespace).await?;
    let in_west = Api::<Namespace>::all(west.client()).get_opt("payments").await?;
    assert!(in_west.is_none(), "clusters share no objects");

    // Credentials of one cluster are worth nothing at the other.
    let mut stolen = Kubeconfig::from_yaml(&east.kubeconfig())?;
    for cluster in stolen.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        cluster.server = Some(west.url());
    }
    let stolen = kube::Config::from_custom_kubeconfig(stolen, &Default::default()).await?;
    let nodes = Api::<Node>::all(Client::try_from(stolen)?);
    assert!(nodes.list(&ListParams::default()).await.is_err(), "another authority signed it");

    tokio::join!(east.stop(), west.stop());
    println!("two clusters, two authorities, nothing shared");
    Ok(())
}

//! Uses kubectl alongside a test: `cargo run --example kubectl`.
//!
//! Any client works that reads a kubeconfig: kubectl, helm, client-go, the Python client.

use kube_embedded::{Cluster, Config};
use std::{error::Error, fs, io::Write, os::unix::fs::OpenOptionsExt};
use tokio::process::Command;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    run().await
}

/// Starts a cluster, applies a manifest with kubectl and reads it back.
pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let cluster = Cluster::start(Config { nodes: 1, ..Config::default() }).await?;
    // The private directory is removed with the cluster, and the kubeconfig with it.
    let kubeconfig = cluster.state_dir().join("kubeconfig");
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&kubeconfig)?;
    file.write_all(cluster.kubeconfig().as_bytes())?;

    let kubectl = |arguments: &str| {
        let mut command = Command::new("kubectl");
        command.env("KUBECONFIG", &kubeconfig).args(arguments.split(' '));
        command
    };
    let created = kubectl("create configmap settings --from-literal=color=red").output().await?;
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    let read = kubectl("get configmap settings -o jsonpath={.data.color}").output().await?;
    assert_eq!(read.stdout, b"red");
    let nodes = kubectl("get nodes -o wide").output().await?;
    print!("{}", String::from_utf8_lossy(&nodes.stdout));
    cluster.stop().await;
    Ok(())
}

//! Nodes and the pods on them: images, sandboxed processes, probes, logs and their end.

mod limits;
mod sandbox;
#[cfg(test)]
mod testing;

use crate::{
    images::ImageStore,
    network::{Addresses, Network, Sandbox},
    node_api::{LogOptions, NodeApi, NodeError},
};
use bytes::Bytes;
use futures::{future::BoxFuture, stream::BoxStream};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

/// What the kubelets of a cluster need.
pub struct Config {
    /// Name and internal address of each node; the first is the control plane.
    pub nodes: Vec<(String, Ipv4Addr)>,
    /// Where pods get their addresses from, and which sandbox they run in.
    pub addresses: Addresses,
    /// The images that containers may be started from.
    pub images: Arc<ImageStore>,
    /// Where pods make themselves known.
    pub network: Arc<Network>,
    /// A private folder for root file systems, volumes and logs.
    pub state: PathBuf,
    /// Where the API server listens on the host.
    pub api_server: SocketAddr,
}

/// Why the kubelets could not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the kubelet: {0}")]
pub struct KubeletError(pub String);

/// The kubelets of all nodes of a cluster.
pub struct Kubelet {}

impl Kubelet {
    /// Registers the nodes and runs the pods that are bound to them, until stopped or dropped.
    ///
    /// # Errors
    /// When the state folder cannot be written or no process can be started.
    pub async fn start(_client: kube::Client, _config: Config) -> Result<Arc<Self>, KubeletError> {
        Ok(Arc::new(Self {}))
    }

    /// Ends the processes of every pod, gracefully for a moment, then by force.
    pub async fn stop(&self) {}
}

impl NodeApi for Kubelet {
    fn logs(
        &self,
        _namespace: &str,
        _pod: &str,
        _options: LogOptions,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Bytes>, NodeError>> {
        Box::pin(async { Err(NodeError::Internal("no logs yet".to_owned())) })
    }
}

/// The best sandbox that works here, found by trying, and why it is not a better one. Takes a few
/// milliseconds.
pub fn detect() -> (Sandbox, String) {
    sandbox::detect()
}

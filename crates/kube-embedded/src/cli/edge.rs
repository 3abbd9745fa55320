//! `kube-embedded edge`: load balancers and Ingresses of an external cluster, published on this host.

use super::{
    client, logging,
    output::print_ready,
    shutdown::{ShutdownSignals, Source},
};
use clap::Args;
use kube_embedded_proxy::external::{ExternalEdge, Options, Reachability};
use serde_json::json;
use std::{net::SocketAddr, path::PathBuf, pin::pin, time::Duration};
use tokio::time::timeout;

/// How long startup may take to finish after a shutdown request, so that there is state to clean up.
const STARTUP: Duration = Duration::from_secs(5);

/// Publish LoadBalancer Services and Ingresses of an external cluster on loopback addresses of this host.
///
/// Traffic goes to node ports, or to pods through the API where no node is reachable. Objects managed by
/// another controller are left alone. Prints one line of JSON when it is ready. Exits on SIGTERM,
/// SIGINT or SIGHUP, or once its Lease could not be renewed for five minutes, and removes the addresses again.
#[derive(Args, Debug)]
pub(super) struct Edge {
    /// The kubeconfig whose current context to use.
    #[arg(long, value_name = "PATH")]
    pub(super) kubeconfig: PathBuf,
    /// A node port that is published at an address of this host, for clusters whose nodes are not
    /// reachable. Repeatable.
    #[arg(long, value_name = "NODEPORT=IP:PORT", value_parser = published)]
    published: Vec<(u16, SocketAddr)>,
    /// Never connect to nodes, whatever their addresses.
    #[arg(long)]
    nodes_unreachable: bool,
    /// Serve only Services and Ingresses of this namespace.
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// Exit when stdin is closed, e.g. because the parent process died.
    #[arg(long)]
    pub(super) exit_with_stdin: bool,
    #[command(flatten)]
    pub(super) log: logging::Options,
}

fn published(text: &str) -> Result<(u16, SocketAddr), String> {
    let parse = || {
        let (port, at) = text.split_once('=')?;
        Some((port.parse().ok()?, at.parse().ok()?))
    };
    parse().ok_or_else(|| "expected NODEPORT=IP:PORT, such as 30080=127.0.0.1:8080".to_owned())
}

impl Edge {
    pub(super) fn options(&self) -> Options {
        let mut options = Options::default();
        options.published.extend(self.published.iter().copied());
        options.unreachable = self.nodes_unreachable;
        options.namespace = self.namespace.clone();
        options
    }

    pub(super) async fn run(self) -> Result<(), String> {
        let mut shutdown = ShutdownSignals::listen()?;
        let config = client::config(&self.kubeconfig).await?;
        let mut starting = pin!(ExternalEdge::start(config, self.options()));
        let started = tokio::select! {
            started = starting.as_mut() => started,
            _ = shutdown.first(self.exit_with_stdin) => {
                if let Ok(Ok(edge)) = timeout(STARTUP, starting).await {
                    edge.stop().await;
                }
                return Ok(());
            }
        };
        let mut edge = started.map_err(|error| error.to_string())?;
        print_ready(json!({
            "addresses": format!("127.{}.0.0/16", edge.addresses().block),
            "reachability": edge.reachability().to_string(),
            // The former name of `reachability`.
            "way": edge.reachability().to_string(),
            "nodesReachable": *edge.reachability() == Reachability::NodePorts,
        }));
        let (ended, source) = tokio::select! {
            error = edge.failed() => (Err(error.to_string()), Source::Signal),
            source = shutdown.first(self.exit_with_stdin) => (Ok(()), source),
        };
        tokio::select! {
            () = edge.stop() => {}
            () = shutdown.again(source) => {}
        }
        ended
    }
}

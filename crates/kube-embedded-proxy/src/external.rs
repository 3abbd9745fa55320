//! The edge: load balancers and Ingresses of an external cluster, on this host. For clusters without
//! a load balancer implementation and an Ingress controller, as kind and minikube create them.
//!
//! It knows the cluster through its API alone. Traffic goes to node ports if nodes can be reached, or
//! to where these are published, and else to each pod through the API ([`Reachability`]). Objects
//! that another controller serves are left alone.

mod cleanup;
mod dialer;
mod error;
pub(crate) mod node_ports;
mod options;
mod port_forward;
mod reachability;

pub use error::EdgeError;
pub use options::Options;
pub use reachability::Reachability;

use crate::{
    config::{Config, Mode},
    run,
};
use dialer::PodDialer;
use error::REQUEST_TIMEOUT;
use kube::Client;
use kube_embedded_core::{
    lease::{LeaderLease, LeaseTimings},
    network::{Addresses, Network, Sandbox, claim_block},
    task::{Task, spawn_named},
};
use std::{fmt, sync::Arc, time::Duration};
use tokio::{net::TcpListener, time};

const LEASE: &str = "canary-labs-edge";
const LEASE_NAMESPACE: &str = "kube-system";
const LEASE_TIMINGS: LeaseTimings = LeaseTimings {
    duration: Duration::from_secs(9),
    renew_interval: Duration::from_secs(3),
    // Nothing else stops the edge of a cluster that was deleted.
    renew_deadline: Duration::from_secs(300),
    request_timeout: REQUEST_TIMEOUT,
};

/// The timeout of removing what was written. A parent process waits a little longer.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(10);

/// A running edge. Dropping it closes all listeners and leaves what it wrote to the API;
/// [`ExternalEdge::stop`] removes that.
#[derive(Debug)]
pub struct ExternalEdge {
    lease: LeaderLease,
    proxy: RunningProxy,
}

struct RunningProxy {
    client: Client,
    addresses: Addresses,
    reachability: Reachability,
    task: Task<()>,
    /// Reserves the block of addresses.
    _block: TcpListener,
}

impl fmt::Debug for RunningProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningProxy").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl ExternalEdge {
    /// Starts serving the cluster. Waits for the Lease of an edge that was killed to expire.
    ///
    /// # Errors
    /// Fails if the API refuses a request, or another edge serves the cluster.
    pub async fn start(config: kube::Config, options: Options) -> Result<Self, EdgeError> {
        let client = Client::try_from(config.clone()).map_err(EdgeError::api("set up TLS"))?;
        let url = config.cluster_url.to_string();
        time::timeout(REQUEST_TIMEOUT, client.apiserver_version())
            .await?
            .map_err(|error| EdgeError::Unreachable { url, error: Box::new(error) })?;
        let lease =
            LeaderLease::acquire(client.clone(), LEASE_NAMESPACE, LEASE, LEASE_TIMINGS).await?;
        let starting = RunningProxy::start(config, client, options);
        let started = time::timeout(REQUEST_TIMEOUT, starting).await;
        match started.map_err(EdgeError::from).and_then(|started| started) {
            Ok(proxy) => {
                let (block, reachability) = (proxy.addresses.block, &proxy.reachability);
                tracing::info!(addresses = format!("127.{block}.0.0/16"), %reachability, "edge started");
                Ok(Self { lease, proxy })
            }
            Err(error) => {
                lease.release().await;
                Err(error)
            }
        }
    }

    /// Returns the addresses that it assigns: load balancers in `127.A.1.0/24`, Ingresses in
    /// `127.A.2.0/24`.
    pub fn addresses(&self) -> Addresses {
        self.proxy.addresses
    }

    /// Returns how traffic enters the cluster.
    pub fn reachability(&self) -> &Reachability {
        &self.proxy.reachability
    }

    /// Resolves when the edge cannot go on: the cluster is lost, or another edge has taken it over.
    pub async fn failed(&mut self) -> EdgeError {
        tokio::select! {
            error = self.lease.lost() => error.into(),
            _ = &mut self.proxy.task => EdgeError::Ended,
        }
    }

    /// Closes all listeners and removes what was written to the API, if that responds.
    pub async fn stop(self) {
        let Self { lease, proxy: RunningProxy { client, task, _block, .. } } = self;
        task.cancel().await;
        let clean_up = async {
            if lease.is_held_by_other().await {
                // The new Lease holder has already taken over the published addresses.
                return;
            }
            if let Err(error) = cleanup::clean_up(&client).await {
                tracing::error!(%error, "failed to remove published addresses");
            }
            lease.release().await;
        };
        if time::timeout(CLEANUP_TIMEOUT, clean_up).await.is_err() {
            tracing::error!("timed out removing published addresses; they remain in the cluster");
        }
    }
}

impl RunningProxy {
    async fn start(
        config: kube::Config,
        client: Client,
        options: Options,
    ) -> Result<Self, EdgeError> {
        // Remove what an edge that was killed has left.
        cleanup::clean_up(&client).await?;
        let namespace = options.namespace.clone();
        let reachability = Reachability::detect(&config, &client, options).await?;
        let nodes = reachability.node_endpoints(&client).await?;
        let (block, number) = claim_block()?;
        // Last, so that an error above leaves nothing behind.
        cleanup::create_ingress_class(&client).await?;
        // Its pods' addresses are not addresses of this host, whatever their sandbox is.
        let addresses = Addresses { block: number, sandbox: Sandbox::Namespaced };
        let dialer = PodDialer::new(client.clone(), &reachability, nodes.clone());
        let config = Config {
            network: Arc::new(Network::with_dialer(Arc::new(dialer))),
            addresses,
            mode: Mode::External(nodes),
            namespace,
        };
        let task = spawn_named("proxy", run(client.clone(), config));
        Ok(Self { client, addresses, reachability, task, _block: block })
    }
}

#[cfg(test)]
mod tests;

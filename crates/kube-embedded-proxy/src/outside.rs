//! The edge on the host of a cluster of somebody else's that gives load balancers and Ingresses no
//! addresses, as kind and minikube do not.
//!
//! It knows the cluster through its API alone. Traffic goes to node ports where the nodes can be
//! reached, or to where these are published, and else to each pod through the API ([`Way`]). What
//! somebody else serves already is left alone.

mod carry;
mod dialler;
mod objects;
mod way;

pub use way::Way;

use super::{Config, Part, run};
use dialler::Dialler;
use kube::Client;
use kube_embedded_core::{
    lease::{LeaderLease, LeaseError, LeaseTimings},
    network::{Addresses, Network, Sandbox, claim_block},
};
use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    task::JoinHandle,
    time::{self, error::Elapsed},
};

/// For the API to answer a question, when the edge begins and when it ends.
const ANSWER: Duration = Duration::from_secs(15);
const LEASE: &str = "canary-labs-edge";
const LEASE_NAMESPACE: &str = "kube-system";
const LEASE_TIMINGS: LeaseTimings = LeaseTimings {
    duration: Duration::from_secs(9),
    renew_interval: Duration::from_secs(3),
    renew_deadline: Duration::from_secs(300),
    request_timeout: ANSWER,
};
/// To take everything back. Whoever tells us to end waits a little longer.
const STOP: Duration = Duration::from_secs(10);

/// What cannot be seen in the API.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Node ports and where they are published, for when no node can be reached.
    pub published: BTreeMap<u16, SocketAddr>,
    /// That no node can be reached, whatever its address.
    pub unreachable: bool,
    /// The one namespace whose Services and Ingresses are served; `None` for all.
    pub namespace: Option<String>,
}

/// Why the edge could not start, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// There is no API where the kubeconfig says.
    #[error("no Kubernetes API answers at {url}: {}; is the cluster running?", cause(error))]
    Unreachable {
        /// Where it was looked for.
        url: String,
        /// What came instead of an answer.
        error: Box<kube::Error>,
    },
    /// The API refuses something that the edge needs.
    #[error("cannot {what}: {}", cause(error))]
    Api {
        /// What was tried.
        what: &'static str,
        /// What the API said.
        error: Box<kube::Error>,
    },
    /// The API takes too long.
    #[error("the cluster's API does not answer within {ANSWER:?}")]
    Late,
    /// Somebody else serves this cluster.
    #[error(
        "another edge serves this cluster: {0} (Lease canary-labs-edge in kube-system); end that first"
    )]
    Taken(String),
    /// There are no addresses left.
    #[error("no free block of loopback addresses: {0}")]
    Address(#[from] io::Error),
    /// The cluster is gone, or lets the edge do nothing any more.
    #[error("the Lease of edges could not be renewed for {0:?}: {1}")]
    Gone(Duration, String),
    /// It ended without being told to.
    #[error("the edge has no threads for traffic")]
    Ended,
}

impl EdgeError {
    fn api(what: &'static str) -> impl FnOnce(kube::Error) -> Self {
        move |error| Self::Api { what, error: Box::new(error) }
    }
}

impl From<LeaseError> for EdgeError {
    fn from(error: LeaseError) -> Self {
        match error {
            LeaseError::Api { verb: "get", error } => {
                Self::Api { what: "read the Lease of edges", error }
            }
            LeaseError::Api { error, .. } => Self::Api { what: "take the Lease of edges", error },
            LeaseError::Timeout(_) => Self::Late,
            LeaseError::HeldByOther(holder) => Self::Taken(holder),
            LeaseError::RenewalFailed { deadline, cause: error } => {
                let why = error
                    .map_or_else(|| "the API does not answer".to_owned(), |error| cause(&error));
                Self::Gone(deadline, why)
            }
            LeaseError::Stopped(_) => Self::Ended,
        }
    }
}

impl From<Elapsed> for EdgeError {
    fn from(_: Elapsed) -> Self {
        Self::Late
    }
}

/// What is wrong, in one line. Of what kube says itself the first words are the least.
fn cause(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        let message = status.message.lines().next().unwrap_or_default();
        return format!("{message} (HTTP {})", status.code);
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// A running edge. Dropping it closes all listeners and leaves what it wrote to the API;
/// [`OutsideEdge::stop`] takes that back.
#[derive(Debug)]
pub struct OutsideEdge {
    lease: LeaderLease,
    work: Work,
}

struct Work {
    client: Client,
    addresses: Addresses,
    way: Way,
    running: JoinHandle<()>,
    /// Keeps others from the block of addresses.
    _block: TcpListener,
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl OutsideEdge {
    /// Serves the cluster from here on. Another edge that was killed is waited for as long as its
    /// Lease lasts.
    ///
    /// # Errors
    /// Says what the API refuses or who else serves the cluster.
    pub async fn start(config: kube::Config, options: Options) -> Result<Self, EdgeError> {
        let client = Client::try_from(config.clone()).map_err(EdgeError::api("speak TLS"))?;
        let url = config.cluster_url.to_string();
        time::timeout(ANSWER, client.apiserver_version())
            .await?
            .map_err(|error| EdgeError::Unreachable { url, error: Box::new(error) })?;
        let lease =
            LeaderLease::acquire(client.clone(), LEASE_NAMESPACE, LEASE, LEASE_TIMINGS).await?;
        match time::timeout(ANSWER, Work::begin(config, client, options)).await {
            Ok(Ok(work)) => Ok(Self { lease, work }),
            failed => {
                lease.release().await;
                Err(failed.map_or_else(EdgeError::from, |begun| match begun {
                    Err(error) => error,
                    Ok(_) => EdgeError::Ended,
                }))
            }
        }
    }

    /// Where its addresses are: load balancers in `127.A.1.0/24`, Ingresses in `127.A.2.0/24`.
    pub fn addresses(&self) -> Addresses {
        self.work.addresses
    }

    /// How traffic gets in.
    pub fn way(&self) -> &Way {
        &self.work.way
    }

    /// Resolves when the edge cannot go on: the cluster is gone, or somebody else has taken it.
    pub async fn failed(&mut self) -> EdgeError {
        tokio::select! {
            error = self.lease.lost() => error.into(),
            _ = &mut self.work.running => EdgeError::Ended,
        }
    }

    /// Closes all listeners and takes back what it gave, as far as the API answers.
    pub async fn stop(self) {
        let Self { lease, mut work } = self;
        work.running.abort();
        // One that has ended may have been waited for already.
        if !work.running.is_finished() {
            let _ = (&mut work.running).await;
        }
        let withdraw = async {
            if lease.is_held_by_other().await {
                // Whoever has it now has taken everything else, too.
                return;
            }
            if let Err(error) = objects::withdraw(&work.client).await {
                eprintln!("edge: addresses are left at which nobody answers: {error}");
            }
            lease.release().await;
        };
        if time::timeout(STOP, withdraw).await.is_err() {
            eprintln!("edge: the API is silent; what the edge gave is left in the cluster");
        }
    }
}

impl Work {
    async fn begin(
        config: kube::Config,
        client: Client,
        options: Options,
    ) -> Result<Self, EdgeError> {
        // Those of an edge that was killed.
        objects::withdraw(&client).await?;
        let only = options.namespace.clone();
        let way = Way::find(&config, &client, options).await?;
        let entrances = way.entrances(&client).await?;
        let (block, number) = claim_block()?;
        // Last, so that what fails leaves nothing behind.
        objects::announce(&client).await?;
        // The sandbox of its pods is somebody else's; their addresses are not of the host.
        let addresses = Addresses { block: number, sandbox: Sandbox::Namespaced };
        let dialler = Dialler::new(client.clone(), &way, entrances.clone());
        let config = Config {
            network: Arc::new(Network::with_dialler(Arc::new(dialler))),
            addresses,
            part: Part::Outside(entrances),
            only,
        };
        let running = tokio::spawn(run(client.clone(), config));
        Ok(Self { client, addresses, way, running, _block: block })
    }
}

#[cfg(test)]
mod tests;

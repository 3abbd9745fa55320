//! Decides whether a failed claim is evidence or fallout: it is fallout if the cluster is unresponsive or
//! has been taken over by another run.

use crate::claim::Verdict;
use crate::context::Context;
use crate::lease;
use std::time::Duration;
use tokio::time::timeout;

/// The timeout of one probe of the API server.
pub(super) const READYZ_TIMEOUT: Duration = Duration::from_secs(5);
/// The number of probes: on a busy machine, one response may come too late.
const ATTEMPTS: usize = 2;

/// The state of a cluster on which nothing can be judged any more, with the reason.
#[derive(Debug)]
pub(super) enum ClusterLost {
    /// The API server does not respond, or not usefully.
    Unresponsive(String),
    /// The cluster no longer belongs to this run.
    TakenOver(String),
}

impl ClusterLost {
    /// Checks the cluster. `None` if it responds and belongs to this run.
    pub(super) async fn check(context: &Context) -> Option<Self> {
        let client = context.client();
        if let Err(why) = probe_readyz(&client).await {
            return Some(Self::Unresponsive(why));
        }
        context.namespace().taken_over(&client).await.map(Self::TakenOver)
    }

    /// The reason.
    pub(super) fn why(&self) -> &str {
        match self {
            Self::Unresponsive(why) | Self::TakenOver(why) => why,
        }
    }

    /// The verdict that replaces a failure seen on such a cluster.
    pub(super) fn verdict(&self) -> Verdict {
        Verdict::skipped(match self {
            Self::Unresponsive(_) => "the cluster was gone",
            Self::TakenOver(_) => "the cluster was no longer this run's",
        })
    }
}

/// Probes the API server.
///
/// # Errors
/// If it is unresponsive or unusable, with the reason.
pub(super) async fn probe_readyz(client: &kube::Client) -> Result<(), String> {
    let mut result = Ok(());
    for _ in 0..ATTEMPTS {
        result = probe_once(client).await;
        if result.is_ok() {
            break;
        }
    }
    result
}

/// Asks for readiness rather than the version, which the API server reports without its store, too.
async fn probe_once(client: &kube::Client) -> Result<(), String> {
    let request = http::Request::get("/readyz").body(Vec::new()).map_err(|e| e.to_string())?;
    match timeout(READYZ_TIMEOUT, client.request_text(request)).await {
        Ok(Ok(_)) => Ok(()),
        // Any other status proves that the API server is alive; a 5xx may come from a proxy in front.
        Ok(Err(kube::Error::Api(status))) if status.code != 401 && status.code < 500 => Ok(()),
        Ok(Err(error)) => Err(lease::unresponsive(error)),
        Err(_) => {
            Err(format!("the cluster does not respond within {} s", READYZ_TIMEOUT.as_secs()))
        }
    }
}

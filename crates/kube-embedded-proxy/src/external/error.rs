//! Why the edge of an external cluster cannot start or go on.

use kube_embedded_core::lease::LeaseError;
use std::{io, time::Duration};
use tokio::time::error::Elapsed;

/// The timeout of requests to the API when the edge starts and stops.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Why the edge cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// No API responds at the URL in the kubeconfig.
    #[error(
        "failed to reach the Kubernetes API at {url}: {}; is the cluster running?",
        cause(error)
    )]
    Unreachable {
        /// The URL in the kubeconfig.
        url: String,
        /// The cause.
        error: Box<kube::Error>,
    },
    /// The API refuses a request that the edge needs.
    #[error("failed to {action}: {}", cause(error))]
    Api {
        /// What the request was for.
        action: &'static str,
        /// The refusal.
        error: Box<kube::Error>,
    },
    /// The API does not respond in time.
    #[error("timed out: the cluster's API did not respond within {REQUEST_TIMEOUT:?}")]
    Timeout,
    /// Another edge serves the cluster.
    #[error(
        "another edge serves this cluster: {0} (Lease canary-labs-edge in kube-system); stop it first"
    )]
    HeldByOther(String),
    /// There are no addresses left.
    #[error("failed to claim a block of loopback addresses: {0}")]
    Address(#[from] io::Error),
    /// The cluster is lost, or no longer accepts requests of the edge.
    #[error("failed to renew the Lease of the edge for {0:?}: {1}")]
    RenewalFailed(Duration, String),
    /// A task of the edge has ended; the log has the reason.
    #[error("the edge has failed; its log has the reason")]
    Ended,
}

impl EdgeError {
    /// Wraps an error of the API; `action` completes "failed to".
    pub(super) fn api(action: &'static str) -> impl FnOnce(kube::Error) -> Self {
        move |error| Self::Api { action, error: Box::new(error) }
    }
}

impl From<LeaseError> for EdgeError {
    fn from(error: LeaseError) -> Self {
        match error {
            LeaseError::Api { verb: "get", error } => {
                Self::Api { action: "read the Lease of the edge", error }
            }
            LeaseError::Api { error, .. } => {
                Self::Api { action: "acquire the Lease of the edge", error }
            }
            LeaseError::Timeout(_) => Self::Timeout,
            LeaseError::HeldByOther(holder) => Self::HeldByOther(holder),
            LeaseError::RenewalFailed { deadline, cause: error } => {
                let no_response = || "the API does not respond".to_owned();
                Self::RenewalFailed(deadline, error.map_or_else(no_response, |e| cause(&e)))
            }
            LeaseError::Stopped(_) => Self::Ended,
        }
    }
}

impl From<Elapsed> for EdgeError {
    fn from(_: Elapsed) -> Self {
        Self::Timeout
    }
}

/// Returns the cause of an error in one line. kube's own words come first in the chain and say the
/// least.
pub(super) fn cause(error: &kube::Error) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cause_is_one_line() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let error = kube::Error::Service(Box::new(io::Error::other(refused)));
        assert_eq!(cause(&error), "connection refused");
        let status = kube::core::Status::failure("<html>\n<p>", "NotFound").with_code(404);
        assert_eq!(cause(&kube::Error::Api(Box::new(status))), "<html> (HTTP 404)");
    }
}

//! What the API server asks of a kubelet: the `log` subresource now, `exec`, `attach` and
//! `port-forward` later. Real clusters do this over HTTPS to the node; here it is a trait, so that
//! the API knows no processes and the kubelet no HTTP.

use bytes::Bytes;
use futures::{future::BoxFuture, stream::BoxStream};

/// Query of `GET …/pods/{name}/log`, as Kubernetes names it.
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    /// Which container; `None` where the pod has only one.
    pub container: Option<String>,
    /// Keep the stream open for lines to come.
    pub follow: bool,
    /// Of the container before its last restart.
    pub previous: bool,
    /// Only lines younger than this.
    pub since_seconds: Option<i64>,
    /// Only the last lines.
    pub tail_lines: Option<i64>,
    /// Cut after so many bytes.
    pub limit_bytes: Option<i64>,
    /// Start each line with its time, RFC 3339 with nanoseconds.
    pub timestamps: bool,
}

/// Refusals that become a `Status` on the wire.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NodeError {
    /// 400: the container exists but cannot answer now (it is still waiting to start, say).
    #[error("{0}")]
    BadRequest(String),
    /// 404: the node knows no such pod or container.
    #[error("{0}")]
    NotFound(String),
    /// 500.
    #[error("{0}")]
    Internal(String),
}

/// The kubelets of a cluster, as the API server sees them.
pub trait NodeApi: Send + Sync {
    /// The log of a container, in chunks; ends at once unless `follow` is set.
    fn logs(
        &self,
        namespace: &str,
        pod: &str,
        options: LogOptions,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Bytes>, NodeError>>;
}

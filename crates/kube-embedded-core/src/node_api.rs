//! What the API server asks of a kubelet: the subresources `log`, `exec`, `attach` and
//! `portforward`. Real clusters do this over HTTPS to the node; here it is a trait, so that the API
//! knows no processes and the kubelet no HTTP.

use bytes::Bytes;
use futures::{future::BoxFuture, stream::BoxStream};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

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

/// Query of `…/pods/{name}/exec` and `…/attach`, as Kubernetes names it.
#[derive(Clone, Debug, Default)]
pub struct StreamOptions {
    /// Which container.
    pub container: String,
    /// Whether the client writes to the program.
    pub stdin: bool,
    /// Whether the client reads what the program prints.
    pub stdout: bool,
    /// Whether the client reads what it prints as errors.
    pub stderr: bool,
    /// Whether the program shall have a terminal.
    pub tty: bool,
}

/// What one reads a program's output from.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;
/// What one writes a program's input to. Dropped, the input ends.
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// A client's connection with a program. Dropped, a program that was started for it is killed.
pub struct Session {
    /// The program's input, where it has one.
    pub stdin: Option<Writer>,
    /// What it prints.
    pub stdout: Option<Reader>,
    /// What it prints as errors; a terminal has it among the rest.
    pub stderr: Option<Reader>,
    /// Tells its terminal, if it has one, how many columns and rows the client shows.
    pub resize: Option<Box<dyn Fn(u16, u16) + Send + Sync>>,
    /// Its exit code, or why there is none. Output may still be there to be read.
    pub end: BoxFuture<'static, Result<i32, String>>,
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

    /// Starts a program in a running container.
    fn exec(
        &self,
        namespace: &str,
        pod: &str,
        command: Vec<String>,
        options: StreamOptions,
    ) -> BoxFuture<'_, Result<Session, NodeError>>;

    /// Joins the program that a running container was started for.
    fn attach(
        &self,
        namespace: &str,
        pod: &str,
        options: StreamOptions,
    ) -> BoxFuture<'_, Result<Session, NodeError>>;

    /// Connects to a port inside a pod.
    fn connect(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
    ) -> BoxFuture<'_, Result<TcpStream, NodeError>>;
}

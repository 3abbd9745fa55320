//! The interface between API server and kubelet: the subresources `log`, `exec`, `attach` and
//! `portforward`. In other clusters it is HTTPS to the node; here it is a trait, so that the API
//! server knows no processes and the kubelet no HTTP.

use bytes::Bytes;
use futures::{future::BoxFuture, stream::BoxStream};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// The query of `GET …/pods/{name}/log` (`PodLogOptions`).
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    /// The name of the container; `None` if the pod has only one.
    pub container: Option<String>,
    /// Keeps the stream open for new lines.
    pub follow: bool,
    /// Reads the log of the container before its last restart.
    pub previous: bool,
    /// Selects the lines that are younger than this.
    pub since_seconds: Option<i64>,
    /// Selects this many lines from the end.
    pub tail_lines: Option<i64>,
    /// Ends the stream after this many bytes.
    pub limit_bytes: Option<i64>,
    /// Prefixes each line with its time in RFC 3339 with nanoseconds.
    pub timestamps: bool,
}

/// The query of `…/pods/{name}/exec` and `…/attach` (`PodExecOptions`).
#[derive(Clone, Debug, Default)]
pub struct StreamOptions {
    /// The name of the container.
    pub container: String,
    /// The client sends the program's standard input.
    pub stdin: bool,
    /// The client receives standard output.
    pub stdout: bool,
    /// The client receives standard error.
    pub stderr: bool,
    /// The program gets a terminal.
    pub tty: bool,
}

/// The output of a program.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;
/// The input of a program, which ends when this is dropped.
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// Bytes in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection to a pod, encrypted or not.
pub type Connection = Box<dyn Duplex>;

/// A client's connection to a program. Dropping it kills a program that was started for it.
pub struct Session {
    /// Standard input, if requested.
    pub stdin: Option<Writer>,
    /// Standard output.
    pub stdout: Option<Reader>,
    /// Standard error; a terminal merges it into standard output.
    pub stderr: Option<Reader>,
    /// Resizes the terminal, if there is one, to this many columns and rows.
    pub resize: Option<Box<dyn Fn(u16, u16) + Send + Sync>>,
    /// Resolves to the exit code, or to the reason why there is none. Output may remain to be read.
    pub end: BoxFuture<'static, Result<i32, String>>,
}

/// Errors, which the API server converts to a `Status`.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NodeError {
    /// 400: the container exists but is not ready for the request, for example not started yet.
    #[error("{0}")]
    BadRequest(String),
    /// 404: no such pod or container on the node.
    #[error("{0}")]
    NotFound(String),
    /// 500.
    #[error("{0}")]
    Internal(String),
}

/// The kubelets of a cluster.
pub trait NodeApi: Send + Sync {
    /// Returns the log of a container in chunks. The stream ends at once unless `follow` is set.
    fn logs(
        &self,
        namespace: &str,
        pod: &str,
        options: LogOptions,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Bytes>, NodeError>>;

    /// Runs a program in a running container.
    fn exec(
        &self,
        namespace: &str,
        pod: &str,
        command: Vec<String>,
        options: StreamOptions,
    ) -> BoxFuture<'_, Result<Session, NodeError>>;

    /// Attaches to the main program of a running container.
    fn attach(
        &self,
        namespace: &str,
        pod: &str,
        options: StreamOptions,
    ) -> BoxFuture<'_, Result<Session, NodeError>>;

    /// Connects to a port of a pod from outside, at its address.
    fn dial(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
    ) -> BoxFuture<'_, Result<TcpStream, NodeError>>;

    /// Connects to a port of a pod from outside by TLS. The certificate is not verified.
    fn dial_tls(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
    ) -> BoxFuture<'_, Result<Connection, NodeError>>;

    /// Connects to a port as if from inside a pod, where a program may listen on its loopback alone.
    fn connect(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
    ) -> BoxFuture<'_, Result<TcpStream, NodeError>>;
}

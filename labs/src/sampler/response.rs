//! The results of a request: a reply, a whole response, or a failure.

use serde::Serialize;
use std::fmt;

/// A good response: status 200, completely received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The body without its final newline, if it reads like a version: `1.0`.
    pub version: Option<String>,
    /// The pod that responded, from the header `x-pod`.
    pub pod: Option<String>,
}

/// A response of any status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The body, with chunks joined.
    pub body: Vec<u8>,
}

/// The reason why a request had no good response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "failure", content = "detail", rename_all = "kebab-case")]
pub enum Failure {
    /// No connection: refused, unreachable.
    Connect(String),
    /// This machine lacks something that a connection needs, such as file descriptors: no evidence
    /// about the cluster.
    Local(String),
    /// The connection broke before the response was complete.
    Broken(String),
    /// No complete response in time.
    Timeout,
    /// A status other than 200.
    Status(u16),
    /// The response is not valid HTTP.
    Malformed(String),
}

/// Errors of `connect` for want of something on this machine (Linux): ENOMEM, ENFILE, EMFILE,
/// EADDRNOTAVAIL (no free port), ENOBUFS.
const LOCAL: [(i32, &str); 5] = [
    (12, "free memory"),
    (23, "a larger limit of open files: `sysctl fs.file-max`"),
    (24, "a larger limit of open files: `ulimit -n 1024`"),
    (99, "a free local port: `sysctl net.ipv4.ip_local_port_range`"),
    (105, "free memory for sockets"),
];

impl Failure {
    /// Classifies an error of opening a connection.
    pub(super) fn connecting(error: &std::io::Error) -> Self {
        let code = error.raw_os_error();
        match LOCAL.iter().find(|(local, _)| Some(*local) == code) {
            Some((_, need)) => Self::Local(format!(
                "this machine failed to open a connection ({error}); it needs {need}"
            )),
            None => Self::Connect(error.to_string()),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(why) => write!(f, "no connection: {why}"),
            Self::Local(why) => f.write_str(why),
            Self::Broken(why) => write!(f, "the connection broke: {why}"),
            Self::Timeout => f.write_str("no response in time"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Malformed(why) => write!(f, "not good HTTP: {why}"),
        }
    }
}

impl std::error::Error for Failure {}

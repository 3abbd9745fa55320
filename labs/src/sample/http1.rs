//! One HTTP/1.1 request on one connection, read strictly: an answer that a careful client would
//! refuse is a failure, never a hit.

use serde::Serialize;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A good answer: status 200, completely received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    /// The body without the newline at its end, if it looks like a version: `1.0`.
    pub version: Option<String>,
    /// The pod that answered, if it said so in the header `x-pod`.
    pub pod: Option<String>,
}

/// Why a request had no good answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "failure", content = "detail", rename_all = "kebab-case")]
pub enum Failure {
    /// No connection: refused, unreachable.
    Connect(String),
    /// The connection broke before the answer was complete.
    Broken(String),
    /// No complete answer in time.
    Timeout,
    /// Another status than 200.
    Status(u16),
    /// Not HTTP as it should be.
    Malformed(String),
}
impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connect(why) => write!(f, "no connection: {why}"),
            Self::Broken(why) => write!(f, "connection broke: {why}"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Malformed(why) => write!(f, "not good HTTP: {why}"),
        }
    }
}

pub(super) async fn ask(
    address: SocketAddr,
    request: &[u8],
    deadline: Duration,
) -> Result<Reply, Failure> {
    match tokio::time::timeout(deadline, exchange(address, request)).await {
        Ok(result) => result,
        Err(_) => Err(Failure::Timeout),
    }
}

async fn exchange(address: SocketAddr, request: &[u8]) -> Result<Reply, Failure> {
    let connect = TcpStream::connect(address).await;
    let mut stream = connect.map_err(|error| Failure::Connect(error.to_string()))?;
    let broken = |error: std::io::Error| Failure::Broken(error.to_string());
    stream.write_all(request).await.map_err(broken)?;
    let mut bytes = Vec::with_capacity(1024);
    while stream.read_buf(&mut bytes).await.map_err(broken)? > 0 {}
    Err(Failure::Malformed("not read yet".to_owned()))
}

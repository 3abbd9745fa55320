//! What is asked of whom: an address, the name it is asked by, and a path. The name goes into the
//! request (and the TLS handshake) alone, so that no resolver has to know it.

use super::{Failure, Tls};
use std::net::SocketAddr;
use tokio::net::TcpStream;

/// One page of one server.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    /// `foo.bar` or `foo.bar:10080`; `None` for a client that names no host.
    pub(super) host: Option<String>,
    pub(super) path: String,
    pub(super) tls: Option<Tls>,
}

impl Target {
    /// The request; `keep` asks the server to leave the connection open.
    pub(super) fn request(&self, keep: bool) -> Vec<u8> {
        let Self { path, .. } = self;
        let connection = if keep { "keep-alive" } else { "close" };
        match &self.host {
            Some(host) => {
                format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: {connection}\r\n\r\n")
            }
            None => format!("GET {path} HTTP/1.0\r\nConnection: {connection}\r\n\r\n"),
        }
        .into_bytes()
    }

    pub(super) async fn dial(&self) -> Result<TcpStream, Failure> {
        let connected = TcpStream::connect(self.address).await;
        connected.map_err(|error| Failure::Connect(error.to_string()))
    }
}

//! The target of requests: an address, a host name and a path. The name is only sent in the request (and
//! the TLS handshake), so that no resolver has to know it.

use super::response::Failure;
use super::tls::Tls;
use std::net::SocketAddr;
use tokio::net::TcpStream;

/// One path of one server.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    /// `foo.bar` or `foo.bar:10080`; `None` to send no host name.
    pub(super) host: Option<String>,
    pub(super) path: String,
    pub(super) tls: Option<Tls>,
    /// Further headers.
    pub(super) headers: Vec<(String, String)>,
}

impl Target {
    /// Returns the bytes of a request; `keep` asks the server to keep the connection open.
    pub(super) fn request(&self, keep: bool) -> Vec<u8> {
        let Self { path, .. } = self;
        let connection = if keep { "keep-alive" } else { "close" };
        let (version, host) = match &self.host {
            Some(host) => ("HTTP/1.1", format!("Host: {host}\r\n")),
            None => ("HTTP/1.0", String::new()),
        };
        let headers = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        let headers: String = headers.collect();
        format!("GET {path} {version}\r\n{host}Connection: {connection}\r\n{headers}\r\n")
            .into_bytes()
    }

    pub(super) async fn dial(&self) -> Result<TcpStream, Failure> {
        let connected = TcpStream::connect(self.address).await;
        connected.map_err(|error| Failure::connecting(&error))
    }
}

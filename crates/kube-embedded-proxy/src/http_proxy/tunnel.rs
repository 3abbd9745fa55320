//! An upgraded connection, such as a WebSocket: bytes both ways until both ends are done.

use super::{client_io::ClientIo, upstream_io::UpstreamIo};
use crate::data_plane::{BidirectionalCopy, ProxyStream};
use hyper::upgrade::{OnUpgrade, Parts};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// Both ends, once hyper has released them.
pub(super) struct Tunnel {
    pub(super) client: OnUpgrade,
    pub(super) endpoint: OnUpgrade,
}

impl Tunnel {
    /// Copies bytes, first those that arrived along with the heads.
    pub(super) async fn copy<S: ProxyStream>(self) {
        let (Ok(client), Ok(endpoint)) = (self.client.await, self.endpoint.await) else { return };
        // They have the types that the proxy gave to hyper.
        let Ok(client) = client.downcast::<ClientIo<S>>() else { return };
        match endpoint.downcast::<TokioIo<UpstreamIo<TcpStream>>>() {
            Ok(endpoint) => copy(client, endpoint).await,
            Err(endpoint) => {
                let endpoint = endpoint.downcast::<TokioIo<UpstreamIo<TlsStream<TcpStream>>>>();
                if let Ok(endpoint) = endpoint {
                    copy(client, endpoint).await;
                }
            }
        }
    }
}

async fn copy<S: ProxyStream, E: ProxyStream>(
    client: Parts<ClientIo<S>>,
    endpoint: Parts<TokioIo<UpstreamIo<E>>>,
) {
    let ends = client.io.into_inner().zip(endpoint.io.into_inner().into_inner());
    let Some((client_stream, endpoint_stream)) = ends else { return };
    BidirectionalCopy::new(client_stream, endpoint_stream)
        .with_read(client.read_buf.to_vec(), endpoint.read_buf.to_vec())
        .await;
}

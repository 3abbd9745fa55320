//! A connection that is HTTP no more, such as a WebSocket: bytes both ways until both ends are done.

use super::socket::{ClientIo, Side};
use crate::pump::Pump;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Both ends, as soon as HTTP has let go of them.
pub(super) struct Tunnel {
    pub(super) client: OnUpgrade,
    pub(super) endpoint: OnUpgrade,
}

impl Tunnel {
    /// Carries bytes, those first that came along with the heads.
    pub(super) async fn carry<S: Side>(self) {
        let (Ok(client), Ok(endpoint)) = (self.client.await, self.endpoint.await) else { return };
        let client = client.downcast::<ClientIo<S>>();
        let endpoint = endpoint.downcast::<TokioIo<TcpStream>>();
        // They are what the proxy made them of.
        let (Ok(client), Ok(endpoint)) = (client, endpoint) else { return };
        let Some(stream) = client.io.into_inner() else { return };
        Pump::new(stream, endpoint.io.into_inner())
            .with_read(client.read_buf.to_vec(), endpoint.read_buf.to_vec())
            .await;
    }
}

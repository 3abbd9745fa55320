//! The handler for Service ports: each connection is proxied, as bytes, to one endpoint.

use super::{
    handler::{AcceptedConnection, Handler},
    tcp_copy::{BidirectionalCopy, ProxyStream},
};
use crate::route::Route;
use futures::{FutureExt, future::BoxFuture};
use kube_embedded_core::network::Network;
use std::{net::SocketAddr, sync::Arc};
use tokio::{net::TcpStream, time};

/// Proxies connections along a route, and accepts none while the route has no endpoints.
pub struct TcpProxy {
    network: Arc<Network>,
    route: Arc<Route>,
}

impl TcpProxy {
    /// Creates a proxy that reaches the endpoints of `route` through `network`.
    pub fn new(network: Arc<Network>, route: Arc<Route>) -> Self {
        Self { network, route }
    }

    /// Waits until the route has endpoints, or until it has none.
    fn endpoints(&self, any: bool) -> BoxFuture<'_, ()> {
        let mut changes = self.route.changes();
        async move {
            // Fails only once the route is dropped, and `self` holds it.
            let _ = changes.wait_for(|routing| routing.backends.is_empty() != any).await;
        }
        .boxed()
    }
}

impl Handler for TcpProxy {
    fn handle(&self, connection: AcceptedConnection) -> BoxFuture<'static, ()> {
        let (network, route) = (self.network.clone(), self.route.clone());
        async move {
            let AcceptedConnection { stream: client, peer, .. } = connection;
            let Some(endpoint) = connect_to_endpoint(&network, &route, peer).await else {
                client.reset();
                return;
            };
            // Nothing is lost without it, only delayed.
            let _ = endpoint.set_nodelay(true);
            BidirectionalCopy::new(client, endpoint).await;
        }
        .boxed()
    }

    fn available(&self) -> BoxFuture<'_, ()> {
        self.endpoints(true)
    }

    fn unavailable(&self) -> BoxFuture<'_, ()> {
        self.endpoints(false)
    }
}

/// Connects to a random endpoint, and to another one where that fails: the client's bytes have not
/// been read yet, so nothing is sent twice.
pub(crate) async fn connect_to_endpoint(
    network: &Network,
    route: &Route,
    peer: SocketAddr,
) -> Option<TcpStream> {
    let mut tried = Vec::new();
    loop {
        let Some(to) = route.choose(peer.ip(), &tried) else {
            tracing::debug!(%peer, attempts = tried.len(), "no endpoint accepted the connection");
            return None;
        };
        match time::timeout(route.connect_timeout(), network.connect(to)).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(error)) => {
                tracing::debug!(%peer, endpoint = %to, %error, "failed to connect to endpoint");
                route.record_failure(&mut tried, to, false);
            }
            Err(_) => {
                tracing::debug!(%peer, endpoint = %to, "timed out connecting to endpoint");
                route.record_failure(&mut tried, to, true);
            }
        }
    }
}

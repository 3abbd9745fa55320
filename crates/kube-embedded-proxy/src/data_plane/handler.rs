//! The interface between a listener and whatever serves its connections.

use super::slots::ConnectionSlot;
use futures::{
    FutureExt,
    future::{self, BoxFuture},
};
use std::{net::SocketAddr, sync::Arc};
use tokio::net::TcpStream;

/// A connection that a listener accepted, registered with the worker that serves it.
#[derive(Debug)]
pub struct AcceptedConnection {
    /// The client's socket, with `TCP_NODELAY`.
    pub stream: TcpStream,
    /// The client's address.
    pub peer: SocketAddr,
    /// Where the handler records that the connection is idle; it should end once it is shed.
    pub slot: Arc<ConnectionSlot>,
}

/// Serves the connections of one listener.
///
/// A listener holds the only lasting reference to its handler, so a handler is dropped when its
/// listener closes. Connections outlive both.
pub trait Handler: Send + Sync + 'static {
    /// Serves one connection until it ends. Runs on the worker that the connection was assigned to.
    fn handle(&self, connection: AcceptedConnection) -> BoxFuture<'static, ()>;

    /// Resolves while connections can be served. Until then the listener refuses clients, as a
    /// Service without endpoints does.
    fn available(&self) -> BoxFuture<'_, ()> {
        future::ready(()).boxed()
    }

    /// Resolves while connections cannot be served.
    fn unavailable(&self) -> BoxFuture<'_, ()> {
        future::pending().boxed()
    }
}

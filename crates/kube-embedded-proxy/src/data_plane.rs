//! The data plane: listeners and connections, on worker threads of their own.
//!
//! It stands for what kube-proxy programs into the kernel and for the listeners of a load balancer.
//! The workers keep traffic from waiting for the API server's work and from delaying it, and
//! stopping them is enough to close every socket.
//!
//! Layers, from the bottom: [`handler`] (the interface), [`workers`] (threads), [`listeners`]
//! (accepting), [`tcp_proxy`] (the handler for Services). No layer knows HTTP; the Ingress
//! controller brings a handler of its own.

mod handler;
mod listeners;
mod slots;
mod tcp_copy;
mod tcp_proxy;
mod workers;

pub use handler::{AcceptedConnection, Handler};
pub use listeners::{BoundPort, DataPlane, ListenerError, ListenerHandle};
pub(crate) use slots::ConnectionSlot;
pub use tcp_proxy::TcpProxy;
pub(crate) use tcp_proxy::connect_to_endpoint;

pub(crate) use tcp_copy::{BidirectionalCopy, ProxyStream};

#[cfg(test)]
mod tests;

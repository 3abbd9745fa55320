//! Ingress: HTTP by host and path, and TLS, on one address for each namespace that has any.

pub(in crate::edge) mod front;
pub(in crate::edge) mod proxy;
pub(in crate::edge) mod table;

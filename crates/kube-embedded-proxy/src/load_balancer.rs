//! External addresses of Services and Ingresses: what cloud-provider load balancer controllers do.
//!
//! An [`AddressPool`](address_pool::AddressPool) gives addresses out, [`publish`] binds their ports,
//! [`status`] is what is written to the API, and [`status_writer`] writes it.

mod address_pool;
mod ownership;
mod publish;
mod status;
mod status_writer;

pub(crate) use address_pool::AddressPool;
pub(crate) use ownership::Ownership;
pub(crate) use publish::{Bind, PortResult, listener_error, not_bound, publish};
pub use status::PUBLISHED_PORT;
pub(crate) use status::{LbStatus, LoadBalanced, is_edge_address};
pub(crate) use status_writer::{LbStatusWriter, WriteResult};

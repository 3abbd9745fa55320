//! The HTTP data plane of Ingresses and Gateways: requests in over HTTP/1.1 or HTTP/2, with or
//! without TLS; out to a ready endpoint over HTTP/1.1,
//! or as its Service and its BackendTLSPolicy say.
//!
//! An endpoint is chosen for each request. Bodies are streamed, never buffered as a whole: hyper
//! holds one chunk each way, and backpressure passes from end to end. hyper parses messages and
//! writes them again, so that an endpoint never sees framing that a client made up; what hyper is
//! lenient about and a proxy must not be is refused in [`head`]. Usual exchanges with an endpoint need no hyper, see
//! [`direct`].

mod attempts;
pub(crate) mod backend;
pub(crate) mod certificates;
mod client;
pub(crate) mod client_certificates;
mod client_io;
pub(crate) mod conditions;
pub(crate) mod cors;
mod direct;
pub(crate) mod filters;
mod forward;
mod forwarded_headers;
pub(crate) mod frontend;
pub(crate) mod fuzzing;
mod head;
mod hints;
mod limits;
mod listener;
mod on_wake;
mod outbox;
pub(crate) mod policies;
mod pool;
mod refusal;
mod request_body;
mod response;
pub(crate) mod route_table;
mod session;
mod shared_map;
mod signals;
mod target_encoder;
pub(crate) mod tls_secret;
mod tunnel;
mod upstream_io;
pub(crate) mod upstream_tls;
mod x509;

pub(crate) use listener::HttpListener;

use crate::{data_plane::Handler, route::Route};
use kube_embedded_core::network::Network;
use route_table::{Backend, RouteTable};
use std::{io, net::SocketAddr, sync::Arc};

/// Creates the handler of an Ingress that has nothing but a default backend, listening at `at`.
///
/// # Errors
/// Fails if TLS cannot be set up, although the handler does not speak it.
#[doc(hidden)]
pub fn default_backend_handler(
    network: Arc<Network>,
    route: Arc<Route>,
    at: SocketAddr,
) -> io::Result<Arc<dyn Handler>> {
    let default_certificate = certificates::self_signed().map_err(io::Error::other)?;
    let frontend = frontend::Frontend::new(Some(default_certificate)).map_err(io::Error::other)?;
    let backend = Backend::plain("default backend".to_owned(), route);
    frontend.set_route_table(RouteTable::new([], Some(Arc::new(backend))));
    Ok(Arc::new(HttpListener::new(Arc::new(frontend), network, false, at)))
}

/// Parses a certificate as far as that is done here; for fuzzing.
pub(crate) fn fuzz_certificate(der: &[u8]) {
    if let Some(parsed) = x509::Certificate::parse(der) {
        let _ = (parsed.validity(), parsed.has_alternative_names(), parsed.common_name());
    }
}

#[cfg(test)]
mod tests;

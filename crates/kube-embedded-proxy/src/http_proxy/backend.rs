//! Backends of rules and mirrors, and how their endpoints are spoken to.

use super::upstream_tls::UpstreamTls;
use crate::route::Route;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// A Service port. Its route has no endpoints while the Service has none, or does not exist.
#[derive(Debug)]
pub(crate) struct Backend {
    /// The name in responses, as `default/kubeapp:80`.
    pub(crate) name: String,
    pub(crate) route: Arc<Route>,
    pub(crate) upstream: Upstream,
    /// Tells idle connections to the same endpoint apart: those of HTTP/1.1 without TLS are shared.
    pub(super) pool: u64,
}

/// The protocol of connections to endpoints.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Upstream {
    /// With prior knowledge, or by ALPN where there is TLS.
    pub(crate) http2: bool,
    pub(crate) tls: Option<Arc<UpstreamTls>>,
}

impl Backend {
    pub(crate) fn new(name: String, route: Arc<Route>, upstream: Upstream) -> Self {
        static POOLS: AtomicU64 = AtomicU64::new(1);
        let pool = match upstream == Upstream::default() {
            true => 0,
            false => POOLS.fetch_add(1, Ordering::Relaxed),
        };
        Self { name, route, upstream, pool }
    }

    /// Creates a backend that speaks HTTP/1.1 without TLS.
    pub(crate) fn plain(name: String, route: Arc<Route>) -> Self {
        Self::new(name, route, Upstream::default())
    }
}

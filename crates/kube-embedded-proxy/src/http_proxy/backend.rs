//! Backends of rules and mirrors.

use crate::route::Route;
use std::sync::Arc;

/// A Service port. Its route has no endpoints while the Service has none, or does not exist.
#[derive(Debug)]
pub(crate) struct Backend {
    /// The name in responses, as `default/kubeapp:80`.
    pub(crate) name: String,
    pub(crate) route: Arc<Route>,
}

impl Backend {
    /// Creates a backend that speaks HTTP/1.1 without TLS.
    pub(crate) fn plain(name: String, route: Arc<Route>) -> Self {
        Self { name, route }
    }
}

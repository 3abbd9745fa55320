//! The frontend of one Ingress address, shared by its listeners: the route table and the
//! certificates, both of which change under running connections.

use super::{
    certificates::{CertificateResolver, Certificates, TlsError},
    route_table::RouteTable,
};
use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio_rustls::rustls::{ServerConfig, crypto::ring, sign::CertifiedKey};

/// What one Ingress address serves at the moment.
#[derive(Debug)]
pub(crate) struct Frontend {
    route_table: RwLock<Arc<RouteTable>>,
    certificates: Arc<CertificateResolver>,
    tls: Arc<ServerConfig>,
    pub(super) timeouts: Timeouts,
}

/// Timeouts of client and upstream connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    /// The time for a complete request head, and the idle time before one; it may take twice as long
    /// until a connection is closed.
    pub(super) idle: Duration,
    /// The number of `idle` periods after which a client that reads nothing of its response is cut
    /// off.
    pub(super) stalled_periods: u32,
    /// The time that an endpoint may be silent while nothing of its request moves; that of
    /// ingress-nginx.
    pub(super) response: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let [idle, response] = [45, 60].map(Duration::from_secs);
        Self { idle, stalled_periods: 8, response }
    }
}

impl Frontend {
    /// Creates a frontend that responds 404 to everything, over TLS with the `default` certificate. Without
    /// one, a handshake with a name that has no certificate fails.
    ///
    /// # Errors
    /// Fails if TLS cannot be set up.
    pub(crate) fn new(default: Option<Arc<CertifiedKey>>) -> Result<Self, TlsError> {
        let certificates = Arc::new(CertificateResolver::new(default));
        // With an explicit provider, as another library in the process may install another one.
        let mut tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(certificates.clone());
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let (route_table, timeouts) = Default::default();
        Ok(Self { route_table, certificates, tls: Arc::new(tls), timeouts })
    }

    /// Returns the route table for a new request.
    pub(crate) fn route_table(&self) -> Arc<RouteTable> {
        self.route_table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the routes of new requests.
    pub(crate) fn set_route_table(&self, table: RouteTable) {
        *self.route_table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }

    /// Returns the TLS configuration, which looks certificates up for each handshake.
    pub(crate) fn tls(&self) -> Arc<ServerConfig> {
        self.tls.clone()
    }

    /// Replaces the certificates of new handshakes.
    pub(crate) fn set_certificates(&self, certificates: Certificates) {
        self.certificates.set(certificates);
    }
}

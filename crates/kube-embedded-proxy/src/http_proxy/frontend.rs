//! The frontend of one Ingress address, shared by its listeners: the route table and the
//! certificates, both of which change under running connections.

use super::{
    certificates::{CertificateResolver, Certificates, TlsError},
    client_certificates::ClientValidation,
    route_table::RouteTable,
};
use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio_rustls::rustls::{
    ServerConfig, crypto::ring, server::danger::ClientCertVerifier, sign::CertifiedKey,
};

/// The protocols that HTTPS listeners offer.
const HTTP_PROTOCOLS: &[&[u8]] = &[b"h2", b"http/1.1"];

/// What one Ingress address serves at the moment.
#[derive(Debug)]
pub(crate) struct Frontend {
    route_table: RwLock<Arc<RouteTable>>,
    certificates: Arc<CertificateResolver>,
    tls: RwLock<Arc<ServerConfig>>,
    /// Whether clients without TLS may speak HTTP/2.
    pub(super) http2: bool,
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
        let tls = RwLock::new(server_config(&certificates, None, HTTP_PROTOCOLS)?);
        let (route_table, http2, timeouts) = Default::default();
        Ok(Self { route_table, certificates, tls, http2, timeouts })
    }

    /// Verifies certificates of the clients of new handshakes.
    ///
    /// # Errors
    /// Fails if TLS cannot be set up.
    pub(crate) fn set_client_validation(
        &self,
        validation: Option<&ClientValidation>,
    ) -> Result<(), TlsError> {
        let verifier = validation.map(ClientValidation::verifier).transpose()?;
        let config = server_config(&self.certificates, verifier, HTTP_PROTOCOLS)?;
        *self.tls.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// Lets clients without TLS begin with HTTP/2, which costs each connection a system call.
    #[must_use]
    pub(crate) fn with_http2(self) -> Self {
        Self { http2: true, ..self }
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
        self.tls.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the certificates of new handshakes.
    pub(crate) fn set_certificates(&self, certificates: Certificates) {
        self.certificates.set(certificates);
    }
}

/// Creates the TLS configuration of a port, with the protocols that it offers (ALPN).
///
/// # Errors
/// Fails if TLS cannot be set up.
pub(crate) fn server_config(
    certificates: &Arc<CertificateResolver>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    protocols: &[&[u8]],
) -> Result<Arc<ServerConfig>, TlsError> {
    // With an explicit provider, as another library in the process may install another one.
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?;
    let builder = match verifier {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(verifier),
    };
    let mut config = builder.with_cert_resolver(certificates.clone());
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

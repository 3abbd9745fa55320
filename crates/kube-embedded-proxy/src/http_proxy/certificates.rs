//! The certificates of one Ingress address, chosen by the name that a TLS client sends.

use super::route_table::{Hosts, host_name};
use std::sync::{Arc, PoisonError, RwLock};
use tokio_rustls::rustls::{
    self,
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("failed to generate a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("failed to configure TLS: {0}")]
    Config(#[from] rustls::Error),
}

/// Certificates by host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Certificates {
    hosts: Hosts<Option<Arc<CertifiedKey>>>,
    /// Whether a wildcard covers any number of labels, as that of a Gateway's listener.
    deep: bool,
}

/// The certificates at the moment, and the one for all other names.
#[derive(Debug)]
pub(crate) struct CertificateResolver {
    current: RwLock<Arc<Certificates>>,
    default: Option<Arc<CertifiedKey>>,
}

/// Generates the certificate for names that no Secret covers. It is self-signed, so clients warn.
pub(crate) fn self_signed() -> Result<Arc<CertifiedKey>, TlsError> {
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::new(vec!["ingress.local".to_owned()])?;
    // The name that ingress-nginx uses.
    let name = "Kubernetes Ingress Controller Fake Certificate";
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let chain = vec![certificate.der().clone()];
    Ok(Arc::new(CertifiedKey::from_der(chain, key, &ring::default_provider())?))
}

impl Certificates {
    /// Returns no certificates, for hosts of a Gateway's listeners.
    pub(crate) fn of_gateway() -> Self {
        Self { deep: true, ..Self::default() }
    }

    /// Adds the certificate of a host, of a wildcard such as `*.foo.com`, or, without a host, of all
    /// others. An existing one is kept.
    pub(crate) fn add(&mut self, host: Option<&str>, certificate: Arc<CertifiedKey>) {
        self.hosts.entry(host).get_or_insert(certificate);
    }

    fn find(&self, name: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        let name = name.map(host_name);
        self.hosts.matching(name.as_deref(), self.deep).find_map(Option::as_ref)
    }
}

impl CertificateResolver {
    pub(crate) fn new(default: Option<Arc<CertifiedKey>>) -> Self {
        Self { current: RwLock::default(), default }
    }

    /// Replaces the certificates of new handshakes.
    pub(crate) fn set(&self, certificates: Certificates) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(certificates);
    }
}

impl ResolvesServerCert for CertificateResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let certificates = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        certificates.find(hello.server_name()).or(self.default.as_ref()).cloned()
    }
}

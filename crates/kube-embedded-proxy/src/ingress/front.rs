//! What one Ingress address serves at this moment, shared by its listeners: the table of its rules
//! and the certificates, both of which change under running connections.

use super::table::{Table, host_name};
use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio_rustls::rustls::{
    self, ServerConfig,
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

/// Why there is no certificate to start with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrontError {
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// What one Ingress address serves at this moment.
#[derive(Debug)]
pub(crate) struct Front {
    table: RwLock<Arc<Table>>,
    certificates: Arc<Current>,
    tls: Arc<ServerConfig>,
    pub(super) limits: Limits,
}

/// How long is waited for whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// How long a client has for a whole head, and how long its connection may be idle before one;
    /// at most twice as long.
    pub(super) idle: Duration,
    /// After how many of these a client that takes nothing of its answer is given up.
    pub(super) stalled: u32,
    /// How long an endpoint may be silent while nothing of its request moves. It is that of
    /// ingress-nginx.
    pub(super) response: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { idle: Duration::from_secs(45), stalled: 8, response: Duration::from_secs(60) }
    }
}

/// The certificates of one address by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Certificates {
    hosts: HashMap<String, Arc<CertifiedKey>>,
    /// `foo.com` for `*.foo.com`.
    wildcards: HashMap<String, Arc<CertifiedKey>>,
    /// Of an entry that names no hosts: for every name that no other one has.
    others: Option<Arc<CertifiedKey>>,
}

#[derive(Debug)]
struct Current {
    certificates: RwLock<Arc<Certificates>>,
    default: Arc<CertifiedKey>,
}

/// The certificate for names that no Secret has: signed by itself, as clients will say.
pub(crate) fn self_signed() -> Result<Arc<CertifiedKey>, FrontError> {
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::new(vec!["ingress.local".to_owned()])?;
    let name = "Kubernetes Ingress Controller Fake Certificate";
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let chain = vec![certificate.der().clone()];
    Ok(Arc::new(CertifiedKey::from_der(chain, key, &ring::default_provider())?))
}

impl Front {
    /// A front that answers 404 to everything, over TLS with the `default` certificate.
    ///
    /// # Errors
    /// When the TLS library cannot be set up.
    pub(crate) fn new(default: Arc<CertifiedKey>) -> Result<Self, FrontError> {
        let certificates = Arc::new(Current { certificates: RwLock::default(), default });
        // Named, so that another library in the process may have chosen another provider.
        let mut tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(certificates.clone());
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let (table, limits) = Default::default();
        Ok(Self { table, certificates, tls: Arc::new(tls), limits })
    }

    /// The rules that requests from now on follow.
    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_table(&self, table: Table) {
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }

    /// How TLS is spoken. It stays the same; the certificates that it finds do not.
    pub(crate) fn tls(&self) -> Arc<ServerConfig> {
        self.tls.clone()
    }

    /// What handshakes from now on choose from.
    pub(crate) fn set_certificates(&self, certificates: Certificates) {
        let now = &self.certificates.certificates;
        *now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(certificates);
    }
}

impl Certificates {
    /// The certificate for a host, for a wildcard such as `*.foo.com`, or, without a host, for all
    /// others. The first one that is given stays.
    pub(crate) fn add(&mut self, host: Option<&str>, certificate: Arc<CertifiedKey>) {
        let Some(host) = host.map(host_name) else {
            self.others.get_or_insert(certificate);
            return;
        };
        let (names, name) = match host.strip_prefix("*.") {
            Some(parent) => (&mut self.wildcards, parent),
            None => (&mut self.hosts, &*host),
        };
        names.entry(name.to_owned()).or_insert(certificate);
    }

    fn find(&self, name: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        let named = name.map(host_name).and_then(|name| {
            let parent = || self.wildcards.get(name.split_once('.')?.1);
            self.hosts.get(&*name).or_else(parent)
        });
        named.or(self.others.as_ref())
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let certificates = self.certificates.read().unwrap_or_else(PoisonError::into_inner).clone();
        let found = certificates.find(hello.server_name()).unwrap_or(&self.default);
        Some(found.clone())
    }
}

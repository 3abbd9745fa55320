//! TLS to endpoints, as a BackendTLSPolicy asks for it.

use super::x509::Certificate;
use std::{fmt, io, sync::Arc};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore,
        SignatureScheme,
        client::{
            ResolvesClientCert,
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
            verify_server_cert_signed_by_trust_anchor, verify_server_name,
        },
        crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, ServerName, UnixTime},
        server::ParsedCertificate,
        sign::CertifiedKey,
    },
};

/// What the certificate of an endpoint must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Validation {
    /// Certificate authorities, in DER.
    pub(crate) authorities: Vec<CertificateDer<'static>>,
    /// The server name that is sent, and that the certificate must have unless there are others.
    pub(crate) hostname: ServerName<'static>,
    /// Of which the certificate must have one.
    pub(crate) alternative_names: Vec<AlternativeName>,
}

/// A name in a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AlternativeName {
    Hostname(ServerName<'static>),
    Uri(String),
}

/// TLS to the endpoints of a backend.
pub(crate) struct UpstreamTls {
    validation: Validation,
    client: Option<Arc<CertifiedKey>>,
    http2: bool,
    config: Arc<ClientConfig>,
}

impl UpstreamTls {
    /// Creates it with the certificate that the proxy shows.
    ///
    /// # Errors
    /// Fails if no authority can be used.
    pub(crate) fn new(
        validation: Validation,
        client: Option<Arc<CertifiedKey>>,
        http2: bool,
    ) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        for authority in &validation.authorities {
            roots.add(authority.clone())?;
        }
        let provider = Arc::new(ring::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let names = validation.alternative_names.clone();
        let verifier = Arc::new(Verifier { roots, names, algorithms });
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &client {
            None => builder.with_no_client_auth(),
            Some(key) => {
                builder.with_client_cert_resolver(Arc::new(ClientCertificate(key.clone())))
            }
        };
        config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        Ok(Self { validation, client, http2, config: Arc::new(config) })
    }

    /// Returns whether this is what [`Self::new`] would create.
    pub(crate) fn is(
        &self,
        validation: &Validation,
        client: Option<&Arc<CertifiedKey>>,
        http2: bool,
    ) -> bool {
        let chain = |key: Option<&Arc<CertifiedKey>>| key.map(|key| key.cert.clone());
        self.validation == *validation
            && self.http2 == http2
            && chain(self.client.as_ref()) == chain(client)
    }

    /// Speaks TLS on a connection to an endpoint.
    pub(crate) async fn connect(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let connector = TlsConnector::from(self.config.clone());
        connector.connect(self.validation.hostname.clone(), stream).await
    }
}

impl PartialEq for UpstreamTls {
    fn eq(&self, other: &Self) -> bool {
        self.is(&other.validation, other.client.as_ref(), other.http2)
    }
}

impl fmt::Debug for UpstreamTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamTls").field("hostname", &self.validation.hostname).finish()
    }
}

/// Shows the same certificate whatever authorities a server names.
#[derive(Debug)]
struct ClientCertificate(Arc<CertifiedKey>);

impl ResolvesClientCert for ClientCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Verifies as webpki does, but by alternative names where the policy has any.
#[derive(Debug)]
struct Verifier {
    roots: RootCertStore,
    names: Vec<AlternativeName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        let has = |name: &AlternativeName| match name {
            AlternativeName::Hostname(name) => verify_server_name(&parsed, name).is_ok(),
            AlternativeName::Uri(uri) => {
                Certificate::parse(end_entity).is_some_and(|c| c.has_uri(uri.as_bytes()))
            }
        };
        match &*self.names {
            [] => verify_server_name(&parsed, server_name)?,
            names if names.iter().any(has) => {}
            _ => return Err(CertificateError::NotValidForName.into()),
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

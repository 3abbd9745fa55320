//! A TLS client that trusts a single certificate, verifies it on every connection (no resumption), and
//! records each certificate that a server presented, including rejected ones.

use super::response::Failure;
use anyhow::Context as _;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpStream;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::{Resumption, WebPkiServerVerifier};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A certificate that a server presented.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Certificate {
    /// Its DNS names (subject alternative names).
    pub names: Vec<String>,
    /// Its SHA-256 fingerprint, as `openssl x509 -fingerprint` prints it but in lower case and without
    /// colons.
    pub sha256: String,
}

impl Certificate {
    /// Describes a certificate in DER; without names if it cannot be parsed.
    pub fn of(der: &[u8]) -> Self {
        let der = CertificateDer::from(der);
        let parsed = webpki::EndEntityCert::try_from(&der).ok();
        let names = parsed.iter().flat_map(|parsed| parsed.valid_dns_names());
        let names = names.map(str::to_owned).collect();
        let sha256 = Sha256::digest(&der).iter().map(|byte| format!("{byte:02x}")).collect();
        Self { names, sha256 }
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = if self.names.is_empty() { "no name".into() } else { self.names.join(", ") };
        write!(f, "{names}, SHA-256 {}", self.sha256)
    }
}

/// A TLS client for one server name. Clones share the record of certificates.
#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
    verifier: Arc<RecordingVerifier>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Tls {
    /// Connects to `name` and trusts only `root` (DER) and what it signed.
    pub fn trusting(root: &[u8], name: &str) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from(root).into_owned();
        roots.add(root.clone()).context("invalid root certificate")?;
        let provider = Arc::new(ring::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .context("failed to create the certificate verifier")?;
        let verifier = Arc::new(RecordingVerifier { verifier, root, seen: Mutex::default() });
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("failed to set up TLS")?
            .dangerous()
            // It only records; rustls' own verifier decides.
            .with_custom_certificate_verifier(verifier.clone())
            .with_no_client_auth();
        // The server presents no certificate in a resumed session.
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        Ok(Self { connector, name: server_name(name)?, verifier })
    }

    /// Returns a client for another server name with the same trust.
    pub fn named(&self, name: &str) -> anyhow::Result<Self> {
        Ok(Self { name: server_name(name)?, ..self.clone() })
    }

    /// Every certificate presented so far, trusted or not.
    pub fn presented(&self) -> BTreeSet<Certificate> {
        let seen = self.verifier.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().map(|der| Certificate::of(der)).collect()
    }

    pub(super) async fn over(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, Failure> {
        let connected = self.connector.connect(self.name.clone(), stream).await;
        connected.map_err(|error| Failure::Connect(format!("TLS: {error}")))
    }
}

fn server_name(name: &str) -> anyhow::Result<ServerName<'static>> {
    ServerName::try_from(name.to_owned())
        .with_context(|| format!("`{name}` is not a valid server name"))
}

/// Rustls' own verifier, with a record of the certificates presented.
#[derive(Debug)]
struct RecordingVerifier {
    verifier: Arc<WebPkiServerVerifier>,
    root: CertificateDer<'static>,
    /// In DER.
    seen: Mutex<BTreeSet<Vec<u8>>>,
}

impl ServerCertVerifier for RecordingVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if !seen.contains(end_entity.as_ref()) {
                seen.insert(end_entity.to_vec());
            }
        }
        let verifier = &self.verifier;
        let verified =
            verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            Err(error) if *end_entity == self.root && is_only_a_ca(&error) => {
                let end_entity = webpki::EndEntityCert::try_from(end_entity).map_err(invalid)?;
                end_entity.verify_is_valid_for_subject_name(server_name).map_err(invalid)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// Returns true if a certificate within its validity was refused because it is one of an authority, as `openssl req
/// -x509` makes them. Everything else about it has still to be verified.
fn is_only_a_ca(error: &rustls::Error) -> bool {
    let rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) = error else {
        return false;
    };
    matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

fn invalid(error: webpki::Error) -> rustls::Error {
    rustls::Error::General(format!("invalid certificate: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::Sampler;
    use rustls::ServerConfig;
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use std::net::SocketAddr;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    fn certificate() -> rcgen::CertifiedKey<rcgen::KeyPair> {
        rcgen::generate_simple_self_signed(["foo.bar", "canary.foo.bar"].map(str::to_owned))
            .unwrap()
    }

    /// Starts a TLS server with that certificate that responds to one request per connection.
    async fn server(certificate: &rcgen::CertifiedKey<rcgen::KeyPair>) -> SocketAddr {
        let key = PrivatePkcs8KeyDer::from(certificate.signing_key.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.cert.der().clone()], PrivateKeyDer::Pkcs8(key))
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    _ = stream.read(&mut [0; 1024]).await;
                    let response = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n1.0\n";
                    _ = stream.write_all(response).await;
                });
            }
        });
        address
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn only_the_trusted_certificate_is_accepted_and_all_are_recorded() {
        let (ours, other) = (certificate(), certificate());
        let shown = Certificate::of(ours.cert.der());
        assert_eq!(shown.names, ["foo.bar", "canary.foo.bar"]);
        assert_eq!(shown.sha256.len(), 64);
        let address = server(&ours).await;
        for (trusted, name, accepted) in [
            (&ours, "foo.bar", true),
            (&ours, "canary.foo.bar", true),
            (&ours, "other.bar", false),
            (&other, "foo.bar", false),
        ] {
            let tls = Tls::trusting(trusted.cert.der(), "unused").unwrap().named(name).unwrap();
            let sampler = Sampler::new(address, name, "/version", Duration::from_secs(10));
            let sample = sampler.over(tls.clone()).take(3, |_| {}).await.unwrap();
            assert_eq!(
                sample.hits("1.0"),
                if accepted { 3 } else { 0 },
                "{:?}",
                sample.observations
            );
            assert_eq!(tls.presented(), [shown.clone()].into(), "{name}");
            for (_, failure) in sample.failures() {
                assert!(failure.to_string().starts_with("no connection: TLS: "), "{failure}");
            }
        }
    }

    #[test]
    fn invalid_certificate_is_described_by_fingerprint_only() {
        assert!(Certificate::of(b"nothing").to_string().starts_with("no name, SHA-256 "));
        assert!(Tls::trusting(b"nothing", "foo.bar").is_err());
        assert!(Tls::trusting(certificate().cert.der(), "not a name").is_err());
    }
}

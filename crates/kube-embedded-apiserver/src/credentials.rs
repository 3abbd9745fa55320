//! The credentials of a cluster: its CA, the certificates that it signs, and the kubeconfig with all of them.

use crate::authentication::user::ADMIN;
use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use std::{
    fs, io,
    io::Write,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio_rustls::rustls::{
    self, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};

/// The reason why credentials could not be generated.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// Generating a key or a certificate failed.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The TLS library rejected the certificate.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The TLS library rejected the CA.
    #[error("cannot set up TLS client authentication: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// The cluster CA and client certificates, generated on each start.
pub struct Credentials {
    authority: Signed,
    server: Signed,
    client: Signed,
    token: String,
}

struct Signed {
    pem: String,
    der: CertificateDer<'static>,
    key_pem: String,
    key_der: Vec<u8>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

impl Credentials {
    /// Generates the credentials of a server that is reached at these addresses.
    ///
    /// # Errors
    /// If a key cannot be generated.
    pub fn generate(addresses: &[Ipv4Addr]) -> Result<Self, CredentialsError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = named(&[(DnType::CommonName, "kube-embedded")]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
        let authority = Signed::new(params.self_signed(&key)?, &key);
        let issuer = Issuer::new(params, key);

        let names = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ];
        let mut params = CertificateParams::new(names.map(str::to_owned))?;
        let addresses = addresses.iter().map(|address| SanType::IpAddress(IpAddr::V4(*address)));
        params.subject_alt_names.extend(addresses);
        let server = leaf(
            params,
            &[(DnType::CommonName, "kube-apiserver")],
            ExtendedKeyUsagePurpose::ServerAuth,
            &issuer,
        )?;
        let client = leaf(
            CertificateParams::new(Vec::new())?,
            &[(DnType::OrganizationName, "system:masters"), (DnType::CommonName, ADMIN)],
            ExtendedKeyUsagePurpose::ClientAuth,
            &issuer,
        )?;
        let token = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
        Ok(Self { authority, server, client, token })
    }

    /// The CA certificate, PEM.
    pub fn authority(&self) -> &str {
        &self.authority.pem
    }

    /// The administrator's bearer token, for clients that use no client certificate.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// A self-contained kubeconfig, YAML.
    pub fn kubeconfig(&self, url: &str) -> String {
        let authority = STANDARD.encode(&self.authority.pem);
        let certificate = STANDARD.encode(&self.client.pem);
        let key = STANDARD.encode(&self.client.key_pem);
        let user = ADMIN;
        format!(
            "apiVersion: v1\n\
             kind: Config\n\
             clusters:\n\
             - name: kube-embedded\n\
             \x20 cluster:\n\
             \x20   server: {url}\n\
             \x20   certificate-authority-data: {authority}\n\
             users:\n\
             - name: {user}\n\
             \x20 user:\n\
             \x20   client-certificate-data: {certificate}\n\
             \x20   client-key-data: {key}\n\
             - name: {user}-token\n\
             \x20 user:\n\
             \x20   token: {}\n\
             contexts:\n\
             - name: kube-embedded\n\
             \x20 context:\n\
             \x20   cluster: kube-embedded\n\
             \x20   user: {user}\n\
             current-context: kube-embedded\n",
            self.token
        )
    }

    pub(crate) fn server_config(&self) -> Result<ServerConfig, CredentialsError> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der.clone())?;
        // Named explicitly, since another library in the process may have installed another default provider.
        let provider = Arc::new(ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .allow_unauthenticated()
                .build()?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.server.key_der.clone()));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![self.server.der.clone(), self.authority.der.clone()], key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// Atomically writes a file that only its owner may read.
///
/// # Errors
/// If the file cannot be written to its directory.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:08x}", rand::random::<u32>()));
    let draft: PathBuf = path.with_file_name(name);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written
}

impl Signed {
    fn new(certificate: rcgen::Certificate, key: &KeyPair) -> Self {
        Self {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            key_pem: key.serialize_pem(),
            key_der: key.serialize_der(),
        }
    }
}

fn named(parts: &[(DnType, &str)]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    for (part, value) in parts {
        name.push(part.clone(), *value);
    }
    name
}

fn leaf(
    mut params: CertificateParams,
    name: &[(DnType, &str)],
    purpose: ExtendedKeyUsagePurpose,
    issuer: &Issuer<'static, KeyPair>,
) -> Result<Signed, CredentialsError> {
    params.distinguished_name = named(name);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    let key = KeyPair::generate()?;
    Ok(Signed::new(params.signed_by(&key, issuer)?, &key))
}

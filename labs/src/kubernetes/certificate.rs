//! A self-signed certificate created during the run, and the Secret that an Ingress reads it from.

use super::namespace_client::NamespaceClient;
use crate::names::FIELD_MANAGER;
use crate::sampler::{self, Tls};
use anyhow::Context as _;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::api::{Patch, PatchParams};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use std::time::Duration;
use time::OffsetDateTime;
use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject as _};

/// A self-signed certificate with its key.
pub(crate) struct Certificate {
    der: Vec<u8>,
    pem: String,
    key: String,
}

/// The margin of the validity period, for clock skew and for labs run with `--keep`.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Certificate {
    /// Creates a certificate for these DNS names, valid from yesterday until tomorrow.
    pub(crate) fn new(names: &[&str]) -> anyhow::Result<Self> {
        let create = || {
            let mut params =
                CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())?;
            let now = OffsetDateTime::now_utc();
            (params.not_before, params.not_after) = (now - DAY, now + DAY);
            params.distinguished_name = DistinguishedName::new();
            for name in names.iter().take(1) {
                params.distinguished_name.push(DnType::CommonName, *name);
            }
            let key = KeyPair::generate()?;
            let certificate = params.self_signed(&key)?;
            Ok::<_, rcgen::Error>(Self {
                der: certificate.der().to_vec(),
                pem: certificate.pem(),
                key: key.serialize_pem(),
            })
        };
        create().context("failed to create a certificate")
    }

    /// Returns a TLS client for that server name that trusts this certificate alone.
    pub(crate) fn trusted(&self, name: &str) -> anyhow::Result<Tls> {
        Tls::trusting(&self.der, name)
    }

    /// Returns the certificate as a client records it.
    pub(crate) fn as_presented(&self) -> sampler::Certificate {
        sampler::Certificate::of(&self.der)
    }
}

/// Returns a TLS client for that server name that trusts the first certificate of a Secret alone.
///
/// # Errors
/// If the Secret holds none.
pub(crate) fn trusting_secret(secret: &Secret, name: &str) -> anyhow::Result<Tls> {
    let pem = secret.data.as_ref().and_then(|data| data.get("tls.crt"));
    let pem = pem.context("it has no tls.crt")?;
    let der = CertificateDer::from_pem_slice(&pem.0);
    let der = der.map_err(|error| anyhow::anyhow!("its tls.crt is not in PEM: {error}"))?;
    Tls::trusting(&der, name)
}

impl NamespaceClient {
    /// Applies the Secret, as `kubectl create secret tls NAME` does.
    pub(crate) async fn apply_certificate(
        &self,
        name: &str,
        certificate: &Certificate,
    ) -> anyhow::Result<()> {
        self.performs(format!("create secret tls {name} --cert=cert.pem --key=key.pem"));
        let data = [("tls.crt", &certificate.pem), ("tls.key", &certificate.key)];
        let data = data.map(|(key, pem)| (key.to_owned(), ByteString(pem.clone().into_bytes())));
        let mut secret = Secret {
            type_: Some("kubernetes.io/tls".to_owned()),
            data: Some(data.into()),
            ..Secret::default()
        };
        secret.metadata.name = Some(name.to_owned());
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let applied = self.api::<Secret>().patch(name, &params, &Patch::Apply(&secret)).await;
        applied.with_context(|| format!("failed to apply the Secret {name}"))?;
        Ok(())
    }
}

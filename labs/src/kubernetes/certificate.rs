//! A certificate that is made in the run, and the Secret that an Ingress finds it in.

use super::{FIELD_MANAGER, Scope};
use crate::sample::{self, Tls};
use anyhow::Context as _;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::api::{Patch, PatchParams};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use std::time::Duration;
use time::OffsetDateTime;

/// A certificate that signs itself, with its key.
pub struct Certificate {
    der: Vec<u8>,
    pem: String,
    key: String,
}

/// For clocks that do not agree, and for a lab that somebody keeps to look around.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Certificate {
    /// For these DNS names, from yesterday until tomorrow.
    pub fn new(names: &[&str]) -> anyhow::Result<Self> {
        let make = || {
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
        make().context("failed to make a certificate")
    }

    /// A client that trusts this certificate alone, for a server of that name.
    pub fn trusted(&self, name: &str) -> anyhow::Result<Tls> {
        Tls::trusting(&self.der, name)
    }

    /// How a client sees it.
    pub fn as_seen(&self) -> sample::Certificate {
        sample::Certificate::of(&self.der)
    }
}

impl Scope {
    /// `kubectl create secret tls NAME`, or changes the one there is.
    pub async fn apply_certificate(
        &self,
        name: &str,
        certificate: &Certificate,
    ) -> anyhow::Result<()> {
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

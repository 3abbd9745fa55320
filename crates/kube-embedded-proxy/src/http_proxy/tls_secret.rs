//! A Secret of type `kubernetes.io/tls` as a certificate that can be served, or why it cannot.

use super::x509::Certificate;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use std::sync::Arc;
use tokio_rustls::rustls::{
    client::verify_server_name,
    crypto::ring::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::ParsedCertificate,
    sign::CertifiedKey,
};

/// A certificate chain with its private key.
#[derive(Clone, Debug)]
pub(crate) struct TlsSecret {
    pub(crate) key: Arc<CertifiedKey>,
}

/// The name in a certificate that covers a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coverage {
    AlternativeName,
    CommonName,
    None,
}

impl TlsSecret {
    /// Reads the chain in `tls.crt` and the key (PKCS #8, PKCS #1 or SEC 1) in `tls.key`.
    ///
    /// # Errors
    /// Returns the rest of a sentence that begins with the Secret.
    pub(crate) fn read(secret: &Secret) -> Result<Self, String> {
        let data = |key: &str| {
            let value = secret.data.as_ref().and_then(|data| data.get(key));
            value.map(|value| &*value.0).ok_or_else(|| format!("has no {key}"))
        };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(data("tls.crt")?).collect();
        let chain = chain.ok().filter(|chain| !chain.is_empty());
        let chain = chain.ok_or("has no certificate (PEM) in tls.crt")?;
        let key = PrivateKeyDer::from_pem_slice(data("tls.key")?);
        let key = key.map_err(|_| "has no private key (PEM) in tls.key")?;
        let key = any_supported_type(&key)
            .map_err(|error| format!("has an unusable tls.key: {error}"))?;
        let first = chain.first().ok_or("has no certificate (PEM) in tls.crt")?;
        let parsed = Certificate::parse(first).ok_or("has an invalid certificate in tls.crt")?;
        // webpki parses no certificate of version 1, which clients nevertheless accept.
        if parsed.has_version
            && let Err(error) = ParsedCertificate::try_from(first)
        {
            return Err(format!("has an invalid certificate in tls.crt: {error}"));
        }
        if key.public_key().is_some_and(|public| public.as_ref() != parsed.public_key) {
            return Err("has a tls.key that does not match the certificate in tls.crt".into());
        }
        Ok(Self { key: Arc::new(CertifiedKey::new(chain, key)) })
    }

    /// Returns how the certificate covers the host. A common name counts if there is no alternative
    /// name, as with ingress-nginx and Traefik.
    pub(crate) fn coverage(&self, host: &str) -> Coverage {
        let Some(first) = self.key.cert.first() else { return Coverage::None };
        // A wildcard is covered if any name under it is.
        let name = match host.strip_prefix("*.") {
            Some(parent) => format!("any.{parent}"),
            None => host.to_owned(),
        };
        if let (Ok(parsed), Ok(name)) =
            (ParsedCertificate::try_from(first), ServerName::try_from(name.clone()))
            && verify_server_name(&parsed, &name).is_ok()
        {
            return Coverage::AlternativeName;
        }
        let parsed = Certificate::parse(first).filter(|parsed| !parsed.has_alternative_names());
        let common = parsed.and_then(|parsed| parsed.common_name()).map(str::to_ascii_lowercase);
        match common.is_some_and(|common| covers(&common, &name.to_ascii_lowercase())) {
            true => Coverage::CommonName,
            false => Coverage::None,
        }
    }

    /// Returns why clients reject the certificate at this time, if it is expired or not valid yet.
    pub(crate) fn validity_problem(&self, now: Timestamp) -> Option<String> {
        let (from, until) = Certificate::parse(self.key.cert.first()?)?.validity()?;
        if until < now {
            return Some(format!("has a certificate that expired at {until}"));
        }
        (now < from).then(|| format!("has a certificate that is not valid before {from}"))
    }
}

/// Reads the certificate authorities in `ca.crt` of a ConfigMap.
///
/// # Errors
/// Returns the rest of a sentence that begins with the ConfigMap.
pub(crate) fn authorities(map: &ConfigMap) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = map.data.as_ref().and_then(|data| data.get("ca.crt")).ok_or("has no ca.crt")?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let all = all.ok().filter(|all| !all.is_empty()).ok_or("has no certificate (PEM) in ca.crt")?;
    match all.iter().find_map(|der| ParsedCertificate::try_from(der).err()) {
        None => Ok(all),
        Some(error) => Err(format!("has an invalid certificate in ca.crt: {error}")),
    }
}

/// Returns whether a name in a certificate covers a host or a wildcard.
fn covers(name: &str, host: &str) -> bool {
    let below = || Some(name.strip_prefix("*.")? == host.split_once('.')?.1);
    name == host || below().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, date_time_ymd};

    fn secret(certificate: &str, key: &str) -> Secret {
        let data = [("tls.crt", certificate), ("tls.key", key)];
        let data = data.map(|(name, pem)| (name.to_owned(), ByteString(pem.into())));
        Secret { data: Some(data.into()), ..Secret::default() }
    }

    fn params(names: &[&str]) -> CertificateParams {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        CertificateParams::new(names).unwrap()
    }

    fn generate(params: CertificateParams) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn host_is_covered_by_alternative_names() {
        let (certificate, key) = generate(params(&["foo.bar", "*.wild.bar"]));
        let certificate = TlsSecret::read(&secret(&certificate, &key)).unwrap();
        for (host, covered) in [
            ("foo.bar", true),
            ("FOO.bar", true),
            ("x.foo.bar", false),
            ("a.wild.bar", true),
            ("*.wild.bar", true),
            ("a.b.wild.bar", false),
            ("*.foo.bar", false),
            ("not a host", false),
        ] {
            let expected = if covered { Coverage::AlternativeName } else { Coverage::None };
            assert_eq!(certificate.coverage(host), expected, "{host}");
        }
        assert_eq!(certificate.validity_problem(Timestamp::now()), None);
    }

    /// Keys in their traditional forms, as generated by openssl, and a chain.
    #[test]
    fn secret_with_any_key_format_or_chain_is_read() {
        let (ec, other) = (include_str!("tls_secret/ec.pem"), include_str!("tls_secret/rsa.pem"));
        let split = |pem: &str| {
            let (key, certificate) = pem.split_once("-----BEGIN CERTIFICATE-----").unwrap();
            (format!("-----BEGIN CERTIFICATE-----{certificate}"), key.to_owned())
        };
        for (pem, name) in [(ec, "EC PRIVATE KEY"), (other, "RSA PRIVATE KEY")] {
            assert!(pem.contains(name));
            let (certificate, key) = split(pem);
            let certificate = TlsSecret::read(&secret(&certificate, &key)).unwrap();
            assert_eq!(certificate.coverage("foo.bar"), Coverage::AlternativeName, "{name}");
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        let leaf = params(&["foo.bar"]).self_signed(&key).unwrap().pem();
        let chain = format!("{leaf}{}", generate(params(&["authority"])).0);
        let read = TlsSecret::read(&secret(&chain, &key.serialize_pem())).unwrap();
        assert_eq!(read.key.cert.len(), 2);
    }

    #[test]
    fn invalid_secret_is_reported_with_the_reason() {
        let (certificate, key) = generate(params(&["foo.bar"]));
        let other = KeyPair::generate().unwrap().serialize_pem();
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let garbage_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        for (certificate, key, expected) in [
            ("no PEM", &*key, "has no certificate (PEM) in tls.crt"),
            ("", &*key, "has no certificate (PEM) in tls.crt"),
            (&*key, &*key, "has no certificate (PEM) in tls.crt"),
            (&*certificate, "", "has no private key (PEM) in tls.key"),
            (&*certificate, &*other, "does not match the certificate"),
            (&*certificate, garbage_key, "has an unusable"),
            (garbage, &*key, "has an invalid certificate"),
        ] {
            let error = TlsSecret::read(&secret(certificate, key)).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert_eq!(TlsSecret::read(&Secret::default()).unwrap_err(), "has no tls.crt");
    }

    #[test]
    fn certificate_outside_its_validity_is_reported() {
        let mut params = params(&["foo.bar"]);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2060, 2, 3);
        let (certificate, key) = generate(params);
        let certificate = TlsSecret::read(&secret(&certificate, &key)).unwrap();
        for (now, expected) in [
            ("2019-12-31T23:59:59Z", "is not valid before 2020-01-01T00:00:00Z"),
            ("2030-01-01T00:00:00Z", ""),
            ("2060-02-04T00:00:00Z", "expired at 2060-02-03T00:00:00Z"),
        ] {
            let problem = certificate.validity_problem(now.parse().unwrap()).unwrap_or_default();
            assert!(problem.ends_with(expected), "{problem}");
            assert_eq!(problem.is_empty(), expected.is_empty(), "{problem}");
        }
    }

    /// As tutorials make them with openssl: `req -x509 -subj /CN=…`, and `x509 -req`, which makes
    /// version 1.
    #[test]
    fn common_name_counts_without_alternative_names() {
        let named = [
            (include_str!("tls_secret/common_name.pem"), "cn.foo.bar", "CN.foo.bar"),
            (include_str!("tls_secret/version1.pem"), "a.v1.foo.bar", "*.v1.foo.bar"),
        ];
        for (pem, host, other) in named {
            let certificate = TlsSecret::read(&secret(pem, pem)).unwrap();
            assert_eq!(certificate.coverage(host), Coverage::CommonName, "{host}");
            assert_eq!(certificate.coverage(other), Coverage::CommonName, "{other}");
            assert_eq!(certificate.coverage("foo.bar"), Coverage::None);
            assert_eq!(certificate.coverage("a.b.v1.foo.bar"), Coverage::None);
            assert_eq!(certificate.validity_problem(Timestamp::now()), None);
        }
        let mut params = params(&["foo.bar"]);
        params.distinguished_name.push(rcgen::DnType::CommonName, "cn.bar");
        let (certificate, key) = generate(params);
        let certificate = TlsSecret::read(&secret(&certificate, &key)).unwrap();
        assert_eq!(certificate.coverage("cn.bar"), Coverage::None, "there are alternative names");
    }
}

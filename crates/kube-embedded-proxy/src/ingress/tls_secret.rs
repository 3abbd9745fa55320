//! A Secret of type `kubernetes.io/tls` as a certificate that can be served, or why it cannot.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use std::sync::Arc;
use tokio_rustls::rustls::{
    self,
    client::verify_server_name,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::ParsedCertificate,
    sign::CertifiedKey,
};

/// A certificate chain with its private key.
#[derive(Clone, Debug)]
pub(super) struct TlsSecret {
    pub(super) key: Arc<CertifiedKey>,
}

impl TlsSecret {
    /// Reads the chain in `tls.crt` and the key (PKCS #8, PKCS #1 or SEC 1) in `tls.key`.
    ///
    /// # Errors
    /// Returns the rest of a sentence that begins with the Secret.
    pub(super) fn read(secret: &Secret) -> Result<Self, String> {
        let data = |key: &str| {
            let value = secret.data.as_ref().and_then(|data| data.get(key));
            value.map(|value| &*value.0).ok_or_else(|| format!("has no {key}"))
        };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(data("tls.crt")?).collect();
        let chain = chain.ok().filter(|chain| !chain.is_empty());
        let chain = chain.ok_or("has no certificate (PEM) in tls.crt")?;
        let key = PrivateKeyDer::from_pem_slice(data("tls.key")?);
        let key = key.map_err(|_| "has no private key (PEM) in tls.key")?;
        let key = CertifiedKey::from_der(chain, key, &ring::default_provider());
        match key {
            Ok(key) => Ok(Self { key: Arc::new(key) }),
            Err(rustls::Error::InconsistentKeys(_)) => {
                Err("has a tls.key that does not match the certificate in tls.crt".into())
            }
            Err(rustls::Error::InvalidCertificate(error)) => {
                Err(format!("has an invalid certificate in tls.crt: {error:?}"))
            }
            Err(error) => Err(format!("has an unusable tls.key: {error}")),
        }
    }

    /// Returns whether one of the subject alternative names covers the host. The common name does not
    /// count, as clients ignore it.
    pub(super) fn covers(&self, host: &str) -> bool {
        // A wildcard is covered if any name under it is.
        let name = match host.strip_prefix("*.") {
            Some(parent) => format!("any.{parent}"),
            None => host.to_owned(),
        };
        let Some(first) = self.key.cert.first() else { return false };
        match (ParsedCertificate::try_from(first), ServerName::try_from(name)) {
            (Ok(parsed), Ok(name)) => verify_server_name(&parsed, &name).is_ok(),
            _ => false,
        }
    }

    /// Returns why clients reject the certificate at this time, if it is expired or not valid yet.
    pub(super) fn validity_problem(&self, now: Timestamp) -> Option<String> {
        let (from, until) = validity(self.key.cert.first()?)?;
        if until < now {
            return Some(format!("has a certificate that expired at {until}"));
        }
        (now < from).then(|| format!("has a certificate that is not valid before {from}"))
    }
}

/// Returns `notBefore` and `notAfter` (RFC 5280, 4.1.2.5).
fn validity(certificate: &[u8]) -> Option<(Timestamp, Timestamp)> {
    let (_, certificate, _) = element(certificate)?;
    let (_, mut fields, _) = element(certificate)?;
    // Skip the version (which may be absent), serial number, signature and issuer.
    let (tag, _, rest) = element(fields)?;
    if tag == 0xa0 {
        fields = rest;
    }
    for _ in 0..3 {
        (_, _, fields) = element(fields)?;
    }
    let (_, validity, _) = element(fields)?;
    let (from_tag, from, rest) = element(validity)?;
    let (until_tag, until, _) = element(rest)?;
    Some((time(from_tag, from)?, time(until_tag, until)?))
}

/// Splits DER into tag and content of the first element, and the rest.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match usize::from(*first) {
        short @ ..=0x7f => (short, rest),
        long @ 0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(long - 0x80)?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// Parses UTCTime (years 1950 to 2049) or GeneralizedTime in the forms that certificates use.
fn time(tag: u8, text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.is_ascii())?;
    let text = match (tag, text.bytes().next()?) {
        (0x17, b'5'..=b'9') => format!("19{text}"),
        (0x17, _) => format!("20{text}"),
        (0x18, _) => text.to_owned(),
        _ => return None,
    };
    let part = |from, to| text.get(from..to);
    let (date, hour) = (format!("{}-{}-{}", part(0, 4)?, part(4, 6)?, part(6, 8)?), part(8, 10)?);
    format!("{date}T{hour}:{}:{}Z", part(10, 12)?, part(12, 14)?).parse().ok()
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
    fn host_is_covered_by_alternative_names_only() {
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
            assert_eq!(certificate.covers(host), covered, "{host}");
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
            assert!(certificate.covers("foo.bar"), "{name}");
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

    #[test]
    fn truncated_or_corrupted_certificate_does_not_panic() {
        let (certificate, _) = generate(params(&["foo.bar"]));
        let whole = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        assert!(validity(&whole).is_some());
        for cut in 0..whole.len() {
            let _ = validity(&whole[..cut]);
            let mut changed = whole.to_vec();
            changed[cut] ^= 0xff;
            let _ = validity(&changed);
        }
    }
}

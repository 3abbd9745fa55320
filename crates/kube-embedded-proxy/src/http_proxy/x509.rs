//! The fields of a certificate (RFC 5280, 4.1) that webpki does not give access to, or gives none of for
//! a certificate of version 1, as `openssl x509 -req` makes them.

use jiff::Timestamp;

const SEQUENCE: u8 = 0x30;
/// `[0]`, the version, and `[3]`, the extensions.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// `id-at-commonName` and `id-ce-subjectAltName`.
const COMMON_NAME: &[u8] = &[0x55, 4, 3];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// The `dNSName` among alternative names.
const DNS_NAME: u8 = 0x82;
/// The `uniformResourceIdentifier` among them.
const URI: u8 = 0x86;

/// A certificate as far as it is parsed here. Its signature is not looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Certificate<'a> {
    pub(super) has_version: bool,
    validity: &'a [u8],
    subject: &'a [u8],
    /// With its tag and length, as keys are compared.
    pub(super) public_key: &'a [u8],
    extensions: &'a [u8],
}

impl<'a> Certificate<'a> {
    pub(super) fn parse(der: &'a [u8]) -> Option<Self> {
        let certificate = expect(SEQUENCE, der)?.0;
        let fields = expect(SEQUENCE, certificate)?.0;
        let (tag, _, rest) = element(fields)?;
        let has_version = tag == VERSION;
        let fields = if has_version { rest } else { fields };
        // The serial number, signature algorithm and issuer.
        let fields = (0..3).try_fold(fields, |fields, _| Some(element(fields)?.2))?;
        let (validity, fields) = expect(SEQUENCE, fields)?;
        let (subject, fields) = expect(SEQUENCE, fields)?;
        let (_, rest) = expect(SEQUENCE, fields)?;
        let public_key = fields.get(..fields.len() - rest.len())?;
        let extensions = elements(rest).find(|(tag, _)| *tag == EXTENSIONS);
        let extensions = extensions.and_then(|(_, list)| Some(expect(SEQUENCE, list)?.0));
        let extensions = extensions.unwrap_or_default();
        Some(Self { has_version, validity, subject, public_key, extensions })
    }

    /// Returns `notBefore` and `notAfter`.
    pub(super) fn validity(&self) -> Option<(Timestamp, Timestamp)> {
        let (from_tag, from, rest) = element(self.validity)?;
        let (until_tag, until, _) = element(rest)?;
        Some((time(from_tag, from)?, time(until_tag, until)?))
    }

    /// Returns whether an alternative name is that of a host.
    pub(super) fn has_alternative_names(&self) -> bool {
        self.alternative_names().any(|(tag, _)| tag == DNS_NAME)
    }

    /// Returns whether an alternative name is this URI.
    pub(super) fn has_uri(&self, uri: &[u8]) -> bool {
        self.alternative_names().any(|(tag, name)| tag == URI && name == uri)
    }

    fn alternative_names(&self) -> impl Iterator<Item = (u8, &'a [u8])> {
        let extension = elements(self.extensions).find_map(|(_, extension)| {
            let (_, name, value) = element(extension)?;
            // There may be a flag before the value.
            (name == SUBJECT_ALT_NAME).then(|| elements(value).last())?
        });
        let names = extension.and_then(|(_, value)| Some(expect(SEQUENCE, value)?.0));
        elements(names.unwrap_or_default())
    }

    /// Returns the common name of the subject.
    pub(super) fn common_name(&self) -> Option<&'a str> {
        let attributes = elements(self.subject).flat_map(|(_, set)| elements(set));
        let names = attributes.filter_map(|(_, attribute)| {
            let (_, name, value) = element(attribute)?;
            (name == COMMON_NAME).then(|| element(value))?
        });
        // The most specific one is the last.
        std::str::from_utf8(names.last()?.1).ok()
    }
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

/// Returns the content of the first element, which has this tag, and the rest.
fn expect(expected: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (tag, content, rest) = element(der)?;
    (tag == expected).then_some((content, rest))
}

/// Iterates over tags and contents.
fn elements(mut der: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (tag, content, rest) = element(der)?;
        der = rest;
        Some((tag, content))
    })
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
    use rcgen::{CertificateParams, DnType, KeyPair};

    #[test]
    fn truncated_or_corrupted_certificate_does_not_panic() {
        let mut params = CertificateParams::new(vec!["foo.bar".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "the name");
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let whole = certificate.der();
        let read = |der: &[u8]| {
            let parsed = Certificate::parse(der)?;
            Some((parsed.validity(), parsed.has_alternative_names(), parsed.common_name()?.len()))
        };
        test_support::corpus_passes("certificates", |der| assert!(read(der).is_some()));
        let (validity, has_names, length) = read(whole).unwrap();
        assert!(validity.is_some() && has_names && length == "the name".len());
        for cut in 0..whole.len() {
            let _ = read(&whole[..cut]);
            for flip in [0x01, 0x80, 0xff] {
                let mut changed = whole.to_vec();
                changed[cut] ^= flip;
                let _ = read(&changed);
            }
        }
    }
}

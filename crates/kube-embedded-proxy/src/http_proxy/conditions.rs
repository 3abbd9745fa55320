//! What a rule of an HTTP route requires of a request besides host and path.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use percent_encoding::percent_decode_str;
use std::borrow::Cow;

/// The parts of a request that conditions are about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestFields<'a> {
    pub(crate) method: &'a Method,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) query: Option<&'a str>,
}

/// Conditions that must all hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conditions {
    pub(crate) method: Option<Method>,
    pub(crate) headers: Vec<(HeaderName, ValueMatch)>,
    pub(crate) query: Vec<(String, ValueMatch)>,
}

/// A value to match.
#[derive(Clone, Debug)]
pub(crate) enum ValueMatch {
    Exact(String),
    /// A regular expression for the whole value.
    Regex(regex::bytes::Regex),
}

impl ValueMatch {
    fn holds(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => exact.as_bytes() == value,
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}

impl Conditions {
    pub(crate) fn is_empty(&self) -> bool {
        self.method.is_none() && self.headers.is_empty() && self.query.is_empty()
    }

    /// Returns what makes one match more specific than another of the same path, most important
    /// first.
    pub(crate) fn specificity(&self) -> (bool, usize, usize) {
        (self.method.is_some(), self.headers.len(), self.query.len())
    }

    pub(crate) fn hold(&self, fields: &RequestFields<'_>) -> bool {
        self.method.as_ref().is_none_or(|method| method == fields.method)
            && self.headers.iter().all(|(name, value)| header_holds(fields.headers, name, value))
            && self.query.iter().all(|(name, value)| {
                // Of a parameter that is repeated, the first one counts.
                let mut parameters = parameters(fields.query.unwrap_or_default());
                let found = parameters.find(|(known, _)| **known == **name);
                found.is_some_and(|(_, sent)| value.holds(sent.as_bytes()))
            })
    }
}

/// Fields of the same name are one list, joined by commas (RFC 9110, 5.2).
fn header_holds(headers: &HeaderMap, name: &HeaderName, value: &ValueMatch) -> bool {
    let mut sent = headers.get_all(name).iter();
    match (sent.next(), sent.next()) {
        (None, _) => false,
        (Some(only), None) => value.holds(only.as_bytes()),
        _ => {
            let all = headers.get_all(name).iter().map(HeaderValue::as_bytes);
            value.holds(&all.collect::<Vec<_>>().join(&b","[..]))
        }
    }
}

fn parameters(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    })
}

fn decode(part: &str) -> Cow<'_, str> {
    match part.contains('+') {
        true => {
            let spaced = part.replace('+', " ");
            Cow::Owned(percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
        }
        false => percent_decode_str(part).decode_utf8_lossy(),
    }
}

//! The fields that describe the client's connection to an endpoint.

use http::{HeaderMap, HeaderName, HeaderValue};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

pub(super) const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The `X-Forwarded-*` values of a client connection.
#[derive(Clone)]
pub(super) struct ForwardedHeaders {
    peer: HeaderValue,
    port: HeaderValue,
    proto: HeaderValue,
    /// The fields as they are written.
    lines: Arc<[u8]>,
}

impl ForwardedHeaders {
    /// Returns the scheme and the port that the client used.
    pub(super) fn origin(&self) -> (&str, u16) {
        let text = |value| HeaderValue::to_str(value).unwrap_or_default();
        (text(&self.proto), text(&self.port).parse().unwrap_or_default())
    }

    pub(super) fn new(peer: SocketAddr, tls: bool, port: HeaderValue) -> Self {
        // An address is always a valid header value.
        let peer = HeaderValue::try_from(address(peer.ip()));
        let peer = peer.unwrap_or_else(|_| HeaderValue::from_static("unknown"));
        let proto = HeaderValue::from_static(if tls { "https" } else { "http" });
        let mut lines = Vec::with_capacity(128);
        for (name, value) in Self::fields(&peer, &port, &proto) {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                lines.extend_from_slice(part);
            }
        }
        Self { peer, port, proto, lines: lines.into() }
    }

    fn fields<'a>(
        peer: &'a HeaderValue,
        port: &'a HeaderValue,
        proto: &'a HeaderValue,
    ) -> [(HeaderName, &'a HeaderValue); 4] {
        [
            (X_REAL_IP, peer),
            (X_FORWARDED_FOR, peer),
            (X_FORWARDED_PORT, port),
            (X_FORWARDED_PROTO, proto),
        ]
    }

    /// Adds the fields in the place of those of the same name.
    pub(super) fn insert(&self, headers: &mut HeaderMap) {
        for (name, value) in Self::fields(&self.peer, &self.port, &self.proto) {
            headers.insert(name, value.clone());
        }
    }

    /// Returns the fields as they are written in HTTP/1.1.
    pub(super) fn lines(&self) -> &[u8] {
        &self.lines
    }
}

/// Formats an address. Each connection needs it, and formatting takes ten times as long as writing digits.
fn address(ip: IpAddr) -> String {
    let ip = match ip.to_canonical() {
        IpAddr::V4(ip) => ip,
        ip @ IpAddr::V6(_) => return ip.to_string(),
    };
    let mut out = String::with_capacity("255.255.255.255".len());
    for (n, octet) in ip.octets().into_iter().enumerate() {
        if n > 0 {
            out.push('.');
        }
        for digit in [octet / 100, octet / 10 % 10, octet % 10].iter().skip(match octet {
            0..10 => 2,
            10..100 => 1,
            _ => 0,
        }) {
            out.push(char::from(b'0' + digit));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_formatted_as_usual() {
        for text in
            ["0.0.0.0", "1.22.133.255", "100.10.9.99", "::1", "2001:db8::7", "::ffff:10.0.200.5"]
        {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(address(ip), ip.to_canonical().to_string());
        }
    }
}

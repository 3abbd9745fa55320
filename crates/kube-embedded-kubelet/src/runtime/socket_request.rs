//! The message that asks a pause process for sockets of its network namespace.

use std::net::Ipv4Addr;

/// The kind of socket that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum SocketKind {
    /// An unbound stream socket, for connecting.
    Stream = 1,
    /// A listener on the address and port of the request.
    Listener = 2,
    /// A datagram socket bound to the address and port of the request.
    Datagram = 3,
}

/// A request for `count` sockets; only streams may be several, and have no address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SocketRequest {
    pub(super) kind: SocketKind,
    pub(super) count: u8,
    pub(super) port: u16,
    pub(super) address: Ipv4Addr,
}

impl SocketRequest {
    pub(super) fn bytes(self) -> [u8; 8] {
        let ([p, q], [a, b, c, d]) = (self.port.to_be_bytes(), self.address.octets());
        [self.kind as u8, self.count, p, q, a, b, c, d]
    }

    pub(super) fn parse([kind, count, p, q, a, b, c, d]: [u8; 8]) -> Self {
        let kind = match kind {
            2 => SocketKind::Listener,
            3 => SocketKind::Datagram,
            _ => SocketKind::Stream,
        };
        Self { kind, count, port: u16::from_be_bytes([p, q]), address: Ipv4Addr::new(a, b, c, d) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_survives_the_trip_as_bytes() {
        for kind in [SocketKind::Stream, SocketKind::Listener, SocketKind::Datagram] {
            let address = Ipv4Addr::new(10, 96, 0, 1);
            let request = SocketRequest { kind, count: 7, port: 443, address };
            assert_eq!(SocketRequest::parse(request.bytes()), request);
        }
    }
}

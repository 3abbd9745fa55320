//! The message that asks a pause process or the router for sockets of its network namespace.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

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
    /// No socket: the network namespace that comes with the request is to be linked to this one. The
    /// address is that of the pod, and the port the block of the cluster.
    Link = 4,
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
    /// A request for one socket that is bound to this address.
    pub(super) fn bound(kind: SocketKind, on: SocketAddr) -> io::Result<Self> {
        let IpAddr::V4(address) = on.ip() else {
            let why = "pods have no IPv6 addresses";
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        };
        Ok(Self { kind, count: 1, port: on.port(), address })
    }

    pub(super) fn bytes(self) -> [u8; 8] {
        let ([p, q], [a, b, c, d]) = (self.port.to_be_bytes(), self.address.octets());
        [self.kind as u8, self.count, p, q, a, b, c, d]
    }

    pub(super) fn parse([kind, count, p, q, a, b, c, d]: [u8; 8]) -> Self {
        let kind = match kind {
            2 => SocketKind::Listener,
            3 => SocketKind::Datagram,
            4 => SocketKind::Link,
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
        for kind in
            [SocketKind::Stream, SocketKind::Listener, SocketKind::Datagram, SocketKind::Link]
        {
            let address = Ipv4Addr::new(10, 96, 0, 1);
            let request = SocketRequest { kind, count: 7, port: 443, address };
            assert_eq!(SocketRequest::parse(request.bytes()), request);
        }
    }
}

//! Binds the ports of a load balancer on an external address.

use super::{address_pool::Candidates, status::PUBLISHED_PORT};
use crate::data_plane::{BoundPort, ListenerError};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

/// Added to a port that cannot be bound.
const FALLBACK_PORT_OFFSET: u16 = 10_000;

/// Binds a host port. Tests replace it.
pub(crate) type Bind = fn(SocketAddr) -> io::Result<BoundPort>;

/// The ports of a load balancer, bound on one address.
#[derive(Debug)]
pub(crate) struct Published<P> {
    pub(crate) address: Ipv4Addr,
    pub(crate) ports: Vec<PortResult<P>>,
}

/// The result of binding one port; `P` is what the caller binds.
#[derive(Debug)]
pub(crate) struct PortResult<P> {
    /// The port of the load balancer.
    pub(crate) port: u16,
    /// Where it is published, and what was bound.
    pub(crate) bound: Option<(SocketAddr, P)>,
    /// Why it is not published as requested.
    pub(crate) warning: Option<String>,
}

/// Binds every port on the first address where none is in use. If there is no such address, the
/// ports in use on the first one are published on fallback ports, as privileged ones always are.
/// Returns `None` if there are no candidates.
pub(crate) fn publish<P>(
    candidates: &Candidates,
    ports: &[u16],
    mut bind: impl FnMut(SocketAddr) -> io::Result<P>,
) -> Option<Published<P>> {
    let addresses = &candidates.addresses;
    let attempts = addresses.iter().map(|address| (*address, false));
    for (address, fall_back_if_used) in
        attempts.chain(addresses.first().map(|address| (*address, true)))
    {
        let mut results = Vec::new();
        for port in ports {
            let requested = SocketAddr::from((address, *port));
            results.push((requested, bind_or_fall_back(requested, fall_back_if_used, &mut bind)));
        }
        let is_used = |bound: &io::Result<_>| matches!(bound, Err(error) if error.kind() == io::ErrorKind::AddrInUse);
        if fall_back_if_used || !results.iter().any(|(_, bound)| is_used(bound)) {
            let ports =
                results.into_iter().map(|(requested, bound)| PortResult::new(requested, bound));
            return Some(Published { address, ports: ports.collect() });
        }
    }
    None
}

impl<P> PortResult<P> {
    fn new(requested: SocketAddr, bound: io::Result<(SocketAddr, P)>) -> Self {
        let port = requested.port();
        match bound {
            Ok((at, bound)) => {
                let warning = (at != requested).then(|| published_elsewhere(requested, at));
                Self { port, bound: Some((at, bound)), warning }
            }
            Err(error) => Self { port, bound: None, warning: Some(not_bound(requested, &error)) },
        }
    }
}

fn bind_or_fall_back<P>(
    requested: SocketAddr,
    fall_back_if_used: bool,
    bind: &mut impl FnMut(SocketAddr) -> io::Result<P>,
) -> io::Result<(SocketAddr, P)> {
    let error = match bind(requested) {
        Ok(bound) => return Ok((requested, bound)),
        Err(error) => error,
    };
    let fallback = match error.kind() {
        io::ErrorKind::PermissionDenied => requested.port().checked_add(FALLBACK_PORT_OFFSET),
        io::ErrorKind::AddrInUse if fall_back_if_used => {
            requested.port().checked_add(FALLBACK_PORT_OFFSET)
        }
        _ => None,
    };
    let fallback = SocketAddr::new(requested.ip(), fallback.ok_or(error)?);
    Ok((fallback, bind(fallback)?))
}

fn published_elsewhere(requested: SocketAddr, at: SocketAddr) -> String {
    format!(
        "{requested} cannot be bound or is in use; published as {at} instead \
         (annotation {PUBLISHED_PORT})"
    )
}

/// Returns the message of the event for a port that is not bound.
pub(crate) fn not_bound(at: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!("{at} is in use by another process; retrying"),
        io::ErrorKind::PermissionDenied => {
            format!("{at} cannot be bound by this user: permission denied")
        }
        _ => format!("failed to bind {at}: {error}"),
    }
}

/// Returns reason and message of the event for an error of a listener.
pub(crate) fn listener_error(at: SocketAddr, error: ListenerError) -> (&'static str, String) {
    match error {
        ListenerError::ConnectionLimit => (
            "ConnectionLimitReached",
            format!("{at}: connection limit reached; new connections are queued"),
        ),
        ListenerError::OutOfDescriptors => (
            "OutOfFileDescriptors",
            format!("{at} accepts slowly: the process has no file descriptors left"),
        ),
        ListenerError::CannotListen => {
            ("PortNotBound", format!("{at} is in use by another process; retrying"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(127, 9, 1, 1);
    const B: Ipv4Addr = Ipv4Addr::new(127, 9, 1, 2);

    fn candidates(addresses: &[Ipv4Addr]) -> Candidates {
        Candidates { addresses: addresses.to_vec(), refused: None }
    }

    fn in_use() -> io::Error {
        io::ErrorKind::AddrInUse.into()
    }

    fn numbers<P>(published: &Published<P>) -> Vec<Option<u16>> {
        let at = |result: &PortResult<P>| result.bound.as_ref().map(|(at, _)| at.port());
        published.ports.iter().map(at).collect()
    }

    #[test]
    fn privileged_port_is_published_on_its_fallback_port() {
        let published = publish(&candidates(&[A, B]), &[80, 8080], |at| match at.port() {
            ..1024 => Err(io::ErrorKind::PermissionDenied.into()),
            _ => Ok(at),
        });
        let published = published.unwrap();
        assert_eq!(published.address, A);
        assert_eq!(numbers(&published), [Some(10_080), Some(8080)]);
        assert!(published.ports[0].warning.as_ref().unwrap().contains("127.9.1.1:10080 instead"));
        assert_eq!(published.ports[1].warning, None);
    }

    #[test]
    fn port_in_use_falls_back_to_next_address_then_to_port_offset() {
        let next = publish(&candidates(&[A, B]), &[8080], |at| match at.ip() == A {
            true => Err(in_use()),
            false => Ok(()),
        });
        assert_eq!(next.unwrap().address, B);
        let everywhere = publish(&candidates(&[A, B]), &[8080], |at| match at.port() {
            8080 => Err(in_use()),
            _ => Ok(()),
        });
        let everywhere = everywhere.unwrap();
        assert_eq!(everywhere.address, A);
        assert_eq!(numbers(&everywhere), [Some(18_080)]);
    }

    #[test]
    fn port_without_a_fallback_is_reported_as_not_bound() {
        let all = publish(&candidates(&[A]), &[60_000, 8080], |at| match at.port() {
            60_000 => Err(in_use()),
            _ => Ok(()),
        });
        let all = all.unwrap();
        assert_eq!(numbers(&all), [None, Some(8080)], "there is no port 70000");
        assert!(all.ports[0].warning.as_ref().unwrap().contains("in use by another process"));
        assert!(publish(&candidates(&[]), &[80], |_| Ok(())).is_none());
    }
}

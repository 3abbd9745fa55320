//! External addresses of load balancers and Ingresses: who has which, on which ports they could be published, and how that is
//! written where people and programs look for it.

use super::plane::Trouble;
use k8s_openapi::api::{
    core::v1::{LoadBalancerIngress, PortStatus, Service},
    networking::v1::{
        Ingress, IngressLoadBalancerIngress, IngressLoadBalancerStatus, IngressPortStatus,
    },
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube_embedded_core::network::BLOCKS;
use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

/// Says which ports are published elsewhere, as `80=10080,443=10443`; absent where none is.
pub const PUBLISHED_PORT: &str = "canary-labs.dev/published-port";

/// Added to a port that may not be bound.
const DETOUR: u16 = 10_000;

/// How many addresses are tried before a port in use is published elsewhere: a program that listens
/// on 0.0.0.0 is in the way on all of them.
const ADDRESSES_TRIED: usize = 4;

/// The addresses of a cluster's load balancers and the Services (by uid) that have them, or those
/// of its Ingresses and the namespaces.
#[derive(Debug)]
pub(super) struct Pool {
    all: Vec<Ipv4Addr>,
    owners: BTreeMap<Ipv4Addr, String>,
}

/// Addresses that a Service may be given, best first.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Candidates {
    pub(super) addresses: Vec<Ipv4Addr>,
    /// Why `spec.loadBalancerIP` is not among them.
    pub(super) refused: Option<String>,
}

/// Where the ports of a Service ended up; `P` is what the caller binds.
#[derive(Debug)]
pub(super) struct Published<P> {
    pub(super) address: Ipv4Addr,
    pub(super) ports: Vec<(u16, io::Result<(u16, P)>)>,
}

/// What is written to the Service, or to each Ingress of a namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Status {
    pub(super) ingress: Vec<LoadBalancerIngress>,
    pub(super) published_port: Option<String>,
}

/// The status that was written last, until it is seen.
#[derive(Debug, Default)]
pub(super) struct Sent {
    status: Option<Status>,
    /// That of the object with it, once the write has ended.
    version: Option<u64>,
}

impl Sent {
    /// Whether the status is to be written. One that was is not seen at once; but where the object is
    /// of a later version, somebody has written over it, perhaps before it could be seen.
    pub(super) fn is_due(&mut self, wanted: &Status, observed: &Status, meta: &ObjectMeta) -> bool {
        if wanted == observed {
            *self = Self::default();
            return false;
        }
        let later = self.version.zip(version(meta)).is_some_and(|(sent, now)| now > sent);
        self.status.as_ref() != Some(wanted) || later
    }

    pub(super) fn begin(&mut self, status: Status) {
        *self = Self { status: Some(status), version: None };
    }

    /// Whether it was taken, and as which version of the object.
    pub(super) fn end(&mut self, taken: bool, version: Option<u64>) {
        match taken {
            true => self.version = version,
            false => *self = Self::default(),
        }
    }
}

/// Versions of an object are numbers that grow.
pub(super) fn version(meta: &ObjectMeta) -> Option<u64> {
    meta.resource_version.as_ref()?.parse().ok()
}

impl Pool {
    pub(super) fn new(all: impl IntoIterator<Item = Ipv4Addr>) -> Self {
        Self { all: all.into_iter().collect(), owners: BTreeMap::new() }
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        matches!(address, IpAddr::V4(v4) if self.all.contains(&v4))
    }

    /// Gives the address to the Service unless another has it; a Service has one at most.
    pub(super) fn take(&mut self, address: Ipv4Addr, uid: &str) -> bool {
        let free = self.owners.get(&address).is_none_or(|owner| owner == uid);
        if free && self.all.contains(&address) {
            self.release(uid);
            self.owners.insert(address, uid.to_owned());
            return true;
        }
        false
    }

    pub(super) fn release(&mut self, uid: &str) {
        self.owners.retain(|_, owner| owner != uid);
    }

    /// The address it has stays, unless `spec.loadBalancerIP` asks for another that is free.
    pub(super) fn candidates(&self, uid: &str, asked: Option<&str>) -> Candidates {
        let free = |a: &Ipv4Addr| self.owners.get(a).is_none_or(|owner| owner == uid);
        let mut refused = None;
        match asked.filter(|asked| !asked.is_empty()).map(|asked| (asked, asked.parse())) {
            Some((_, Ok(address))) if self.all.contains(&address) && free(&address) => {
                return Candidates { addresses: vec![address], refused };
            }
            Some((asked, Ok(address))) if self.all.contains(&address) => {
                refused = Some(format!("spec.loadBalancerIP {asked} belongs to another Service"));
            }
            Some((asked, _)) => {
                let pool = match (self.all.first(), self.all.last()) {
                    (Some(first), Some(last)) => format!("{first} to {last}"),
                    _ => "empty".to_owned(),
                };
                refused = Some(format!("spec.loadBalancerIP {asked} is not of the pool, {pool}"));
            }
            None => {}
        }
        let own = self.owners.iter().find(|(_, owner)| *owner == uid).map(|(a, _)| *a);
        let addresses = match own {
            Some(own) => vec![own],
            None => self.all.iter().copied().filter(free).take(ADDRESSES_TRIED).collect(),
        };
        Candidates { addresses, refused }
    }
}

/// Binds every port on the first address where none is in use. Where there is no such address, the
/// ports in use on the first one are published elsewhere, as privileged ones always are.
pub(super) fn publish<P>(
    candidates: &[Ipv4Addr],
    ports: &[u16],
    mut bind: impl FnMut(SocketAddr) -> io::Result<P>,
) -> Option<Published<P>> {
    for (address, detour_if_used) in candidates
        .iter()
        .map(|address| (*address, false))
        .chain(candidates.first().map(|address| (*address, true)))
    {
        let mut published = Published { address, ports: Vec::new() };
        for port in ports {
            let bound = bind_or_detour(address, *port, detour_if_used, &mut bind);
            published.ports.push((*port, bound));
        }
        let used = |bound: &io::Result<_>| matches!(bound, Err(error) if error.kind() == io::ErrorKind::AddrInUse);
        if detour_if_used || !published.ports.iter().any(|(_, bound)| used(bound)) {
            return Some(published);
        }
    }
    None
}

/// Why a port is not published as it was asked for.
pub(super) fn moved(asked: SocketAddr, at: SocketAddr) -> String {
    format!(
        "{asked} may not be bound or is in use; published as {at} instead \
         (annotation {PUBLISHED_PORT})"
    )
}

/// Why a port is not bound.
pub(super) fn not_bound(at: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("{at} is in use by another program; it is tried again until it is free")
        }
        io::ErrorKind::PermissionDenied => format!("{at} may not be bound by this user"),
        _ => format!("{at} could not be bound: {error}"),
    }
}

/// Reason and message of the event for what a listener has to tell.
pub(super) fn trouble(at: SocketAddr, trouble: Trouble) -> (&'static str, String) {
    match trouble {
        Trouble::Full => (
            "ConnectionLimitReached",
            format!("{at} carries as many connections as it may; others wait"),
        ),
        Trouble::OutOfDescriptors => (
            "OutOfFileDescriptors",
            format!("{at} accepts slowly: the process has no file descriptors left"),
        ),
        Trouble::CannotListen => ("PortNotBound", format!("another program listens on {at}")),
    }
}

fn bind_or_detour<P>(
    address: Ipv4Addr,
    port: u16,
    detour_if_used: bool,
    bind: &mut impl FnMut(SocketAddr) -> io::Result<P>,
) -> io::Result<(u16, P)> {
    let refused = match bind(SocketAddr::from((address, port))) {
        Ok(bound) => return Ok((port, bound)),
        Err(error) => error,
    };
    let detour = match refused.kind() {
        io::ErrorKind::PermissionDenied => port.checked_add(DETOUR),
        io::ErrorKind::AddrInUse if detour_if_used => port.checked_add(DETOUR),
        _ => None,
    };
    match detour {
        Some(detour) => Ok((detour, bind(SocketAddr::from((address, detour)))?)),
        None => Err(refused),
    }
}

impl Status {
    /// The status for an address whose ports (of the Service) are published as given; a port
    /// without a number could not be published.
    pub(super) fn new(
        address: Ipv4Addr,
        ports: &[(u16, Option<u16>)],
        ip_mode: &'static str,
    ) -> Self {
        if ports.iter().all(|(_, published)| published.is_none()) {
            return Self::default();
        }
        let moved: Vec<String> = ports
            .iter()
            .filter_map(|(port, published)| Some((port, (*published)?)))
            .filter(|(port, published)| *port != published)
            .map(|(port, published)| format!("{port}={published}"))
            .collect();
        let as_asked = ports.iter().all(|(port, published)| Some(*port) == *published);
        let ports = ports.iter().map(|(port, published)| PortStatus {
            port: i32::from(published.unwrap_or(*port)),
            protocol: "TCP".into(),
            error: published.is_none().then(|| "PortNotBound".to_owned()),
        });
        Self {
            ingress: vec![LoadBalancerIngress {
                ip: Some(address.to_string()),
                ip_mode: Some(ip_mode.into()),
                hostname: None,
                ports: (!as_asked).then(|| ports.collect()),
            }],
            published_port: (!moved.is_empty()).then(|| moved.join(",")),
        }
    }

    /// Whether there are addresses that no edge has given. Those of another edge are left over: there
    /// is one at a time.
    pub(super) fn is_somebody_elses(&self) -> bool {
        !self.ingress.is_empty() && !self.address().is_some_and(is_of_an_edge)
    }

    /// What the Service says now.
    pub(super) fn of(service: &Service) -> Self {
        let balancer = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
        Self {
            ingress: balancer.and_then(|b| b.ingress.clone()).unwrap_or_default(),
            published_port: annotation(&service.metadata),
        }
    }

    /// What the Ingress says now.
    pub(super) fn of_ingress(ingress: &Ingress) -> Self {
        let balancer = ingress.status.as_ref().and_then(|s| s.load_balancer.as_ref());
        let addresses = balancer.and_then(|b| b.ingress.as_deref()).unwrap_or_default();
        let port = |port: &IngressPortStatus| PortStatus {
            error: port.error.clone(),
            port: port.port,
            protocol: port.protocol.clone(),
        };
        let address = |address: &IngressLoadBalancerIngress| LoadBalancerIngress {
            hostname: address.hostname.clone(),
            ip: address.ip.clone(),
            ip_mode: None,
            ports: address.ports.as_ref().map(|ports| ports.iter().map(port).collect()),
        };
        Self {
            ingress: addresses.iter().map(address).collect(),
            published_port: annotation(&ingress.metadata),
        }
    }

    /// The same in the words of an Ingress, whose addresses have no mode.
    pub(super) fn for_ingress(mut self) -> Self {
        self.ingress.iter_mut().for_each(|address| address.ip_mode = None);
        self
    }

    /// For the status of an Ingress.
    pub(super) fn ingress_status(&self) -> IngressLoadBalancerStatus {
        let port = |port: &PortStatus| IngressPortStatus {
            error: port.error.clone(),
            port: port.port,
            protocol: port.protocol.clone(),
        };
        let address = |address: &LoadBalancerIngress| IngressLoadBalancerIngress {
            hostname: address.hostname.clone(),
            ip: address.ip.clone(),
            ports: address.ports.as_ref().map(|ports| ports.iter().map(port).collect()),
        };
        let addresses = self.ingress.iter().map(address).collect();
        IngressLoadBalancerStatus { ingress: Some(addresses) }
    }

    /// The address that was published before.
    pub(super) fn address(&self) -> Option<Ipv4Addr> {
        self.ingress.first()?.ip.as_ref()?.parse().ok()
    }
}

/// Whether an edge may have given the address, whichever block it had.
pub(super) fn is_of_an_edge(address: Ipv4Addr) -> bool {
    let [loopback, block, range, _] = address.octets();
    loopback == 127 && BLOCKS.contains(&block) && matches!(range, 1 | 2)
}

fn annotation(meta: &ObjectMeta) -> Option<String> {
    meta.annotations.as_ref()?.get(PUBLISHED_PORT).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(127, 9, 1, 1);
    const B: Ipv4Addr = Ipv4Addr::new(127, 9, 1, 2);
    const C: Ipv4Addr = Ipv4Addr::new(127, 9, 1, 3);

    #[test]
    fn a_status_is_written_once_and_again_when_somebody_wrote_over_it() {
        let (ours, theirs) = (Status::new(A, &[(80, Some(80))], "VIP"), Status::default());
        let at = |version: &str| ObjectMeta {
            resource_version: Some(version.into()),
            ..ObjectMeta::default()
        };
        let mut sent = Sent::default();
        assert!(sent.is_due(&ours, &theirs, &at("7")));
        sent.begin(ours.clone());
        assert!(!sent.is_due(&ours, &theirs, &at("8")), "it is on its way");
        sent.end(true, Some(9));
        for seen in ["7", "8", "9", "odd"] {
            assert!(!sent.is_due(&ours, &theirs, &at(seen)), "{seen} is before it, or it itself");
        }
        assert!(sent.is_due(&ours, &theirs, &at("10")), "its own version was never seen");
        assert!(!sent.is_due(&ours, &ours, &at("11")));
        assert!(sent.is_due(&ours, &theirs, &at("11")), "seen, and then gone");
        sent.begin(ours.clone());
        sent.end(false, None);
        assert!(sent.is_due(&ours, &theirs, &at("11")), "it was refused");
    }

    fn in_use() -> io::Error {
        io::ErrorKind::AddrInUse.into()
    }

    #[test]
    fn a_service_keeps_its_address() {
        let mut pool = Pool::new([A, B, C]);
        assert!(pool.take(B, "one"));
        assert!(!pool.take(B, "two"), "somebody else's");
        assert_eq!(pool.candidates("one", None).addresses, [B]);
        assert_eq!(pool.candidates("two", None).addresses, [A, C]);
        pool.release("one");
        assert_eq!(pool.candidates("two", None).addresses, [A, B, C]);
    }

    #[test]
    fn an_asked_address_is_given_if_it_can_be() {
        let mut pool = Pool::new([A, B, C]);
        assert!(pool.take(A, "one"));
        let cases = [
            ("one", "127.9.1.3", vec![C], None),
            ("two", "127.9.1.2", vec![B], None),
            ("two", "127.9.1.1", vec![B, C], Some("belongs to another")),
            ("two", "192.0.2.1", vec![B, C], Some("not of the pool, 127.9.1.1 to 127.9.1.3")),
            ("two", "nonsense", vec![B, C], Some("not of the pool")),
            ("two", "", vec![B, C], None),
        ];
        for (uid, asked, addresses, refused) in cases {
            let got = pool.candidates(uid, Some(asked));
            assert_eq!(got.addresses, addresses, "{asked}");
            match refused {
                Some(part) => assert!(got.refused.unwrap().contains(part), "{asked}"),
                None => assert_eq!(got.refused, None, "{asked}"),
            }
        }
        assert!(pool.take(C, "one"), "moves");
        assert_eq!(pool.candidates("two", None).addresses, [A, B], "and leaves the old one");
    }

    #[test]
    fn privileged_ports_are_published_elsewhere() {
        let published = publish(&[A, B], &[80, 8080], |at| match at.port() {
            ..1024 => Err(io::ErrorKind::PermissionDenied.into()),
            _ => Ok(at),
        });
        let published = published.unwrap();
        assert_eq!(published.address, A);
        let ports: Vec<u16> =
            published.ports.iter().map(|(_, bound)| bound.as_ref().unwrap().0).collect();
        assert_eq!(ports, [10_080, 8080]);
    }

    #[test]
    fn a_port_in_use_leads_to_the_next_address_and_then_to_another_port() {
        let next = publish(&[A, B], &[8080], |at| match at.ip() == A {
            true => Err(in_use()),
            false => Ok(()),
        });
        assert_eq!(next.unwrap().address, B);
        let everywhere = publish(&[A, B], &[8080], |at| match at.port() {
            8080 => Err(in_use()),
            _ => Ok(()),
        });
        let everywhere = everywhere.unwrap();
        assert_eq!(everywhere.address, A);
        assert_eq!(everywhere.ports[0].1.as_ref().unwrap().0, 18_080);
    }

    #[test]
    fn a_port_that_cannot_be_bound_is_an_error_and_no_panic() {
        let all = publish(&[A], &[60_000, 8080], |at| match at.port() {
            60_000 => Err(in_use()),
            _ => Ok(()),
        });
        let all = all.unwrap();
        assert!(all.ports[0].1.is_err(), "70000 is no port");
        assert!(all.ports[1].1.is_ok());
        assert!(publish(&[], &[80], |_| Ok(())).is_none());
    }

    #[test]
    fn the_status_says_which_ports_differ() {
        let plain = Status::new(A, &[(8080, Some(8080))], "VIP");
        assert_eq!(plain.address(), Some(A));
        assert_eq!(plain.ingress[0].ip_mode.as_deref(), Some("VIP"));
        assert_eq!((&plain.ingress[0].ports, &plain.published_port), (&None, &None));

        let moved =
            Status::new(A, &[(80, Some(10_080)), (443, Some(10_443)), (8080, Some(8080))], "VIP");
        assert_eq!(moved.published_port.as_deref(), Some("80=10080,443=10443"));
        let ports = moved.ingress[0].ports.as_ref().unwrap();
        assert_eq!(ports.iter().map(|p| p.port).collect::<Vec<_>>(), [10_080, 10_443, 8080]);

        let failed = Status::new(A, &[(80, Some(10_080)), (81, None)], "VIP");
        let ports = failed.ingress[0].ports.as_ref().unwrap();
        assert_eq!(ports[1].error.as_deref(), Some("PortNotBound"));
        assert_eq!(Status::new(A, &[(81, None)], "VIP"), Status::default());
    }
}

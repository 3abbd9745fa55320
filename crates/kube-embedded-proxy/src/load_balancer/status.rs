//! The load balancer status of a Service or Ingress: `status.loadBalancer`, and an annotation for
//! ports that are published on other numbers.

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        core::v1::{LoadBalancerIngress, PortStatus, Service},
        networking::v1::{
            Ingress, IngressLoadBalancerIngress, IngressLoadBalancerStatus, IngressPortStatus,
        },
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::Resource;
use kube_embedded_core::network::BLOCKS;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::{
    fmt::Debug,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

/// The annotation that lists ports published on other numbers, as `80=10080,443=10443`; absent if
/// there are none.
pub const PUBLISHED_PORT: &str = "canary-labs.dev/published-port";

/// The status of a Service, or of each Ingress of a namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LbStatus {
    pub(crate) ingress: Vec<LoadBalancerIngress>,
    pub(crate) published_port: Option<String>,
}

/// A type of objects with a load balancer status.
pub(crate) trait LoadBalanced:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// Returns the current status.
    fn lb_status(&self) -> LbStatus;

    /// Returns `status.loadBalancer.ingress` in JSON.
    fn ingress_json(status: &LbStatus) -> Value;
}

impl LoadBalanced for Service {
    fn lb_status(&self) -> LbStatus {
        let load_balancer = self.status.as_ref().and_then(|s| s.load_balancer.as_ref());
        LbStatus {
            ingress: load_balancer.and_then(|lb| lb.ingress.clone()).unwrap_or_default(),
            published_port: annotation(&self.metadata),
        }
    }

    fn ingress_json(status: &LbStatus) -> Value {
        json!(status.ingress)
    }
}

impl LoadBalanced for Ingress {
    fn lb_status(&self) -> LbStatus {
        let load_balancer = self.status.as_ref().and_then(|s| s.load_balancer.as_ref());
        let addresses = load_balancer.and_then(|lb| lb.ingress.as_deref()).unwrap_or_default();
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
        LbStatus {
            ingress: addresses.iter().map(address).collect(),
            published_port: annotation(&self.metadata),
        }
    }

    fn ingress_json(status: &LbStatus) -> Value {
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
        let addresses = status.ingress.iter().map(address).collect();
        let status = IngressLoadBalancerStatus { ingress: Some(addresses) };
        json!(status.ingress)
    }
}

impl LbStatus {
    /// Builds the status from the ports of a load balancer and where each is published; a port
    /// without an address could not be bound. `ip_mode` is that of a Service; Ingresses have none.
    pub(crate) fn new(ports: &[(u16, Option<SocketAddr>)], ip_mode: Option<&str>) -> Self {
        let address = ports.iter().find_map(|(_, at)| match at.as_ref()?.ip() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        });
        let Some(address) = address else { return Self::default() };
        let ports: Vec<(u16, Option<u16>)> =
            ports.iter().map(|(port, at)| (*port, at.map(|at| at.port()))).collect();
        let moved: Vec<String> = ports
            .iter()
            .filter_map(|(port, published)| Some((port, (*published)?)))
            .filter(|(port, published)| *port != published)
            .map(|(port, published)| format!("{port}={published}"))
            .collect();
        let as_requested = ports.iter().all(|(port, published)| Some(*port) == *published);
        let ports = ports.iter().map(|(port, published)| PortStatus {
            port: i32::from(published.unwrap_or(*port)),
            protocol: "TCP".into(),
            error: published.is_none().then(|| "PortNotBound".to_owned()),
        });
        Self {
            ingress: vec![LoadBalancerIngress {
                ip: Some(address.to_string()),
                ip_mode: ip_mode.map(str::to_owned),
                hostname: None,
                ports: (!as_requested).then(|| ports.collect()),
            }],
            published_port: (!moved.is_empty()).then(|| moved.join(",")),
        }
    }

    /// Returns whether another controller set the address. An address from an earlier edge is stale
    /// instead: only one edge serves a cluster at a time.
    pub(crate) fn is_foreign(&self) -> bool {
        !self.ingress.is_empty() && !self.address().is_some_and(is_edge_address)
    }

    /// Returns the address if it is an IPv4 one.
    pub(crate) fn address(&self) -> Option<Ipv4Addr> {
        self.ingress.first()?.ip.as_ref()?.parse().ok()
    }
}

/// Returns whether an edge may have assigned the address, whichever block it had claimed.
pub(crate) fn is_edge_address(address: Ipv4Addr) -> bool {
    let [loopback, block, range, _] = address.octets();
    loopback == 127 && BLOCKS.contains(&block) && matches!(range, 1..=3)
}

fn annotation(meta: &ObjectMeta) -> Option<String> {
    meta.annotations.as_ref()?.get(PUBLISHED_PORT).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(127, 9, 1, 1);

    fn status(ports: &[(u16, Option<u16>)]) -> LbStatus {
        let at = |port: &u16| SocketAddr::from((A, *port));
        let ports: Vec<_> = ports.iter().map(|(port, to)| (*port, to.as_ref().map(at))).collect();
        LbStatus::new(&ports, Some("VIP"))
    }

    #[test]
    fn status_lists_ports_only_if_one_differs() {
        let plain = status(&[(8080, Some(8080))]);
        assert_eq!(plain.address(), Some(A));
        assert_eq!(plain.ingress[0].ip_mode.as_deref(), Some("VIP"));
        assert_eq!((&plain.ingress[0].ports, &plain.published_port), (&None, &None));

        let moved = status(&[(80, Some(10_080)), (443, Some(10_443)), (8080, Some(8080))]);
        assert_eq!(moved.published_port.as_deref(), Some("80=10080,443=10443"));
        let ports = moved.ingress[0].ports.as_ref().unwrap();
        assert_eq!(ports.iter().map(|p| p.port).collect::<Vec<_>>(), [10_080, 10_443, 8080]);

        let failed = status(&[(80, Some(10_080)), (81, None)]);
        let ports = failed.ingress[0].ports.as_ref().unwrap();
        assert_eq!(ports[1].error.as_deref(), Some("PortNotBound"));
        assert_eq!(status(&[(81, None)]), LbStatus::default());
    }

    #[test]
    fn address_is_foreign_unless_an_edge_may_have_assigned_it() {
        for (ip, foreign) in [
            ("127.9.1.1", false),
            ("127.250.2.254", false),
            ("127.0.0.1", true),
            ("127.9.4.1", true),
            ("127.251.1.1", true),
            ("203.0.113.7", true),
            ("fd00::1", true),
        ] {
            let address = LoadBalancerIngress { ip: Some(ip.into()), ..Default::default() };
            let status = LbStatus { ingress: vec![address], published_port: None };
            assert_eq!(status.is_foreign(), foreign, "{ip}");
        }
        assert!(!LbStatus::default().is_foreign());
    }
}

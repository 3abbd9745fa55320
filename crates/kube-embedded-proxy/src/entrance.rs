//! How a cluster of somebody else's is entered: by its nodes, as every load balancer does.
//!
//! Its pods have addresses that exist only inside, but each node opens node ports, behind which the
//! cluster's own proxy chooses a ready pod at random for each connection. Where that cannot be used,
//! or would not do what the Service asks for, the pods are the endpoints themselves, and reaching
//! them is for [`Network`](kube_embedded_core::network::Network).

use super::{
    plan::{Aim, Endpoints, affinity, local, port_number},
    route::{Backends, Routing},
};
use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

/// A node that takes connections to node ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entrance {
    /// The node's name.
    pub node: String,
    /// Where it is dialled.
    pub address: IpAddr,
    /// Which of its ports can be reached.
    pub ports: Ports,
}

/// Which ports of a node can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Every one: its address can be reached.
    All,
    /// Those that are published elsewhere.
    Published(BTreeSet<u16>),
}

/// All ways in; none, if every pod has to be reached by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entrances(Vec<Entrance>);

impl FromIterator<Entrance> for Entrances {
    fn from_iter<I: IntoIterator<Item = Entrance>>(entrances: I) -> Self {
        Self(entrances.into_iter().collect())
    }
}

impl Entrances {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Entrance> {
        self.0.iter()
    }

    /// Whether the address is that of a node which can be reached.
    pub(super) fn lead_to(&self, address: IpAddr) -> bool {
        self.iter().any(|entrance| entrance.address == address)
    }

    /// The way to the endpoints of a Service's port.
    pub(super) fn routing(
        &self,
        spec: &ServiceSpec,
        port: &ServicePort,
        endpoints: &Endpoints,
        aim: Aim,
    ) -> Routing {
        let affinity = affinity(spec);
        // Behind a node port all clients would have our address, and so the same pod.
        let relayed = match affinity {
            None => self.through_nodes(spec, port, endpoints, aim),
            Some(_) => None,
        };
        if let Some(backends) = relayed {
            return Routing { backends, affinity, relayed: true };
        }
        let backends = match aim {
            Aim::Nodes if local(&spec.external_traffic_policy) => {
                Backends::grouped(endpoints.nodes().iter().map(|node| endpoints.usable(Some(node))))
            }
            Aim::Nodes | Aim::Pods => Backends::alike(endpoints.usable(None)),
        };
        Routing { backends, affinity, relayed: false }
    }

    /// Node ports that lead to all that is usable, or `None` where they do not.
    fn through_nodes(
        &self,
        spec: &ServiceSpec,
        port: &ServicePort,
        endpoints: &Endpoints,
        aim: Aim,
    ) -> Option<Backends> {
        let typed = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
        let node_port = port.node_port.and_then(port_number).filter(|_| typed)?;
        let open = self.iter().filter(|entrance| entrance.ports.have(node_port));
        let open: Vec<&Entrance> = open.collect();
        if open.is_empty() {
            return None;
        }
        let to = |entrance: &Entrance| SocketAddr::new(entrance.address, node_port);
        if !local(&spec.external_traffic_policy) {
            let any = !endpoints.usable(None).is_empty();
            return Some(Backends::grouped(open.into_iter().filter(|_| any).map(|e| vec![to(e)])));
        }
        // Each node leads to its own pods alone.
        let mut backends = Vec::new();
        for node in endpoints.nodes() {
            let pods = endpoints.usable(Some(node)).len();
            if pods == 0 {
                continue;
            }
            let entrance = open.iter().find(|entrance| entrance.node == node)?;
            let shares = match aim {
                Aim::Nodes => 1,
                Aim::Pods => pods,
            };
            backends.extend(std::iter::repeat_n(to(entrance), shares));
        }
        Some(Backends::alike(backends))
    }
}

impl Ports {
    fn have(&self, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Published(ports) => ports.contains(&port),
        }
    }
}

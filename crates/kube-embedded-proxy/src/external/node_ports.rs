//! Routing into an external cluster through node ports, as a cloud load balancer does.
//!
//! The cluster's pods have addresses that exist only inside it, but each node opens node ports,
//! behind which kube-proxy chooses a ready pod at random for each connection. Where node ports cannot
//! be used, or would not do what the Service asks for, the pods are the endpoints themselves, and
//! [`Network`](kube_embedded_core::network::Network) reaches them.

use crate::{
    route::{Backends, Routing},
    services::endpoints::{Endpoints, Weighting, affinity, is_local, port_number},
};
use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

/// A node that accepts connections to node ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEndpoint {
    /// The node's name.
    pub node: String,
    /// The address to connect to.
    pub address: IpAddr,
    /// The ports that can be reached.
    pub ports: NodePorts,
}

/// The node ports of a node that can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePorts {
    /// Every one: the node's address can be reached.
    All,
    /// Those that are published on the host.
    Published(BTreeSet<u16>),
}

/// The nodes that can be reached; none if every pod has to be reached by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeEndpoints(Vec<NodeEndpoint>);

impl FromIterator<NodeEndpoint> for NodeEndpoints {
    fn from_iter<I: IntoIterator<Item = NodeEndpoint>>(nodes: I) -> Self {
        Self(nodes.into_iter().collect())
    }
}

impl NodeEndpoints {
    /// Iterates over the nodes.
    pub fn iter(&self) -> impl Iterator<Item = &NodeEndpoint> {
        self.0.iter()
    }

    /// Returns whether the address is one of these nodes'.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.iter().any(|node| node.address == address)
    }

    /// Returns the routing to the endpoints of a Service port.
    pub(crate) fn routing(
        &self,
        spec: &ServiceSpec,
        port: &ServicePort,
        endpoints: &Endpoints,
        weighting: Weighting,
    ) -> Routing {
        let affinity = affinity(spec);
        // Behind a node port all clients would have our address, and so the same pod.
        let node_ports = match affinity {
            None => self.node_ports(spec, port, endpoints, weighting),
            Some(_) => None,
        };
        if let Some(backends) = node_ports {
            return Routing { backends, affinity, via_node_port: true };
        }
        let backends = match weighting {
            Weighting::Nodes if is_local(&spec.external_traffic_policy) => {
                Backends::grouped(endpoints.nodes().iter().map(|node| endpoints.usable(Some(node))))
            }
            Weighting::Nodes | Weighting::Pods => Backends::uniform(endpoints.usable(None)),
        };
        Routing { backends, affinity, via_node_port: false }
    }

    /// Returns node ports that reach every usable endpoint, or `None` if there are none.
    fn node_ports(
        &self,
        spec: &ServiceSpec,
        port: &ServicePort,
        endpoints: &Endpoints,
        weighting: Weighting,
    ) -> Option<Backends> {
        let typed = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
        let node_port = port.node_port.and_then(port_number).filter(|_| typed)?;
        let open = self.iter().filter(|node| node.ports.include(node_port));
        let open: Vec<&NodeEndpoint> = open.collect();
        if open.is_empty() {
            return None;
        }
        let on = |node: &NodeEndpoint| SocketAddr::new(node.address, node_port);
        if !is_local(&spec.external_traffic_policy) {
            let any = !endpoints.usable(None).is_empty();
            return Some(Backends::grouped(open.into_iter().filter(|_| any).map(|n| vec![on(n)])));
        }
        // Each node routes to its own pods only.
        let mut backends = Vec::new();
        for name in endpoints.nodes() {
            let pods = endpoints.usable(Some(name)).len();
            if pods == 0 {
                continue;
            }
            let node = open.iter().find(|node| node.node == name)?;
            let shares = match weighting {
                Weighting::Nodes => 1,
                Weighting::Pods => pods,
            };
            backends.extend(std::iter::repeat_n(on(node), shares));
        }
        Some(Backends::uniform(backends))
    }
}

impl NodePorts {
    fn include(&self, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Published(ports) => ports.contains(&port),
        }
    }
}

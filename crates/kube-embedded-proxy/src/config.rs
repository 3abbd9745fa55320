//! What the proxy knows of its cluster.

use crate::external::node_ports::NodeEndpoints;
use kube_embedded_core::network::{Addresses, Network, Sandbox};
use std::{
    future,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};
use tokio::sync::watch;

/// The configuration of the proxy of one cluster.
#[derive(Clone)]
pub struct Config {
    /// Reaches pods, and listens inside their network namespaces.
    pub network: Arc<Network>,
    /// The source of external addresses.
    pub addresses: Addresses,
    /// The kind of cluster that is served.
    pub mode: Mode,
    /// The one namespace that is served in an external cluster; `None` for all.
    pub namespace: Option<String>,
}

/// The part of a cluster's traffic that is proxied.
#[derive(Clone)]
pub enum Mode {
    /// All of it: the cluster is embedded and has no other proxy.
    Embedded {
        /// Node names and their internal addresses, on which node ports are opened.
        nodes: Vec<(String, Ipv4Addr)>,
        /// Whether load balancers and Ingresses get addresses. Without them the cluster is as kind
        /// creates it.
        external: bool,
        /// Whether the CustomResourceDefinitions of the Gateway API are installed.
        gateway_api: bool,
    },
    /// Traffic through load balancers and Ingresses of an external cluster, unless another
    /// controller serves them.
    External(watch::Receiver<Arc<NodeEndpoints>>),
}

/// Where the endpoints of a cluster can be reached, at one moment.
#[derive(Clone, Debug)]
pub(crate) enum Topology {
    /// Pods can be connected to directly, and there is no other proxy.
    Embedded(EmbeddedNodes),
    /// Pods are reached through node ports or the API.
    External(Arc<NodeEndpoints>),
}

/// The nodes of an embedded cluster.
#[derive(Clone, Debug)]
pub(crate) struct EmbeddedNodes {
    /// Names and internal addresses.
    pub(crate) nodes: Vec<(String, Ipv4Addr)>,
    /// The addresses of the cluster, among them those that a pod may have.
    pub(crate) addresses: Addresses,
    /// Whether load balancers get addresses.
    pub(crate) load_balancers: bool,
}

impl EmbeddedNodes {
    /// Returns whether cluster IPs are addresses of the host.
    pub(crate) fn cluster_ips_on_host(&self) -> bool {
        self.addresses.sandbox == Sandbox::Plain
    }

    /// Returns whether a listed endpoint may be connected to: it is at the address of a pod, or it is
    /// a server of the cluster itself.
    fn serves(&self, endpoint: SocketAddr) -> bool {
        self.addresses.is_pod(endpoint.ip()) || self.addresses.servers().contains(&endpoint)
    }
}

impl Config {
    pub(crate) fn topology(&self) -> Topology {
        match &self.mode {
            Mode::Embedded { nodes, external, .. } => Topology::Embedded(EmbeddedNodes {
                nodes: nodes.clone(),
                addresses: self.addresses,
                load_balancers: *external,
            }),
            Mode::External(nodes) => Topology::External(nodes.borrow().clone()),
        }
    }

    /// Returns whether Ingresses are served.
    pub(crate) fn has_ingresses(&self) -> bool {
        !matches!(self.mode, Mode::Embedded { external: false, .. })
    }

    /// Returns whether cluster IPs exist only inside the network namespaces of pods, because there is
    /// none between them.
    pub(crate) fn has_pod_listeners(&self) -> bool {
        matches!(self.mode, Mode::Embedded { .. })
            && self.addresses.sandbox == Sandbox::Namespaced
            && self.network.router().is_none()
    }
}

impl Mode {
    /// Waits until other nodes can be reached; forever in an embedded cluster, whose nodes are fixed.
    pub(crate) async fn nodes_changed(&mut self) {
        if let Self::External(nodes) = self
            && nodes.changed().await.is_ok()
        {
            return;
        }
        future::pending().await
    }
}

impl Topology {
    /// Returns whether a listed endpoint is within the cluster. In an external one, what can be
    /// reached decides that.
    pub(crate) fn is_within(&self, endpoint: SocketAddr) -> bool {
        match self {
            Self::Embedded(embedded) => embedded.serves(endpoint),
            Self::External(_) => true,
        }
    }

    /// Returns the `ipMode` of external addresses: whether kube-proxy may short-circuit them
    /// (`VIP`) or must send traffic to them (`Proxy`), as it would otherwise route it into the
    /// cluster's own Service.
    pub(crate) fn ip_mode(&self) -> &'static str {
        match self {
            Self::Embedded(_) => "VIP",
            Self::External(_) => "Proxy",
        }
    }
}

//! The listeners and routes of a Service, as a pure function of the Service and its EndpointSlices.

use super::endpoints::{Endpoints, Weighting, affinity, is_local, port_number};
use crate::{
    config::{EmbeddedNodes, Topology},
    external::node_ports::NodeEndpoints,
    route::{Backends, Routing},
};
use k8s_openapi::api::{
    core::v1::{Service, ServicePort, ServiceSpec},
    discovery::v1::EndpointSlice,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// One set of endpoints: those of a Service port that clients in a scope reach.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RouteKey {
    /// The port's name; empty if there is only one.
    pub(crate) port: String,
    pub(crate) scope: Scope,
}

/// The endpoints that a client reaches, which depends on the client under traffic policy `Local`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// All endpoints.
    Cluster,
    /// Those of the node of this name.
    Node(String),
    /// Node by node: what a load balancer in front of all nodes reaches.
    Nodes,
}

/// How pods reach a cluster IP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FromPods {
    Anywhere(RouteKey),
    /// `internalTrafficPolicy: Local`: each pod has the endpoints of its own node.
    SameNode {
        port: String,
    },
}

/// One port of a load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LbPort {
    pub(crate) port: u16,
    pub(crate) route: RouteKey,
}

/// Everything that a Service asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServicePlan {
    /// The endpoints of each route.
    pub(crate) routes: BTreeMap<RouteKey, Routing>,
    /// Listeners on the host: node ports, and cluster IPs if they are addresses of the host.
    pub(crate) host: BTreeMap<SocketAddr, RouteKey>,
    /// Cluster IPs that exist only inside pods.
    pub(crate) pods: BTreeMap<SocketAddr, FromPods>,
    /// Ports to publish on an external address; empty unless the Service is a load balancer that is
    /// served here.
    pub(crate) load_balancer: Vec<LbPort>,
    /// The same for UDP: listeners on the host, and cluster IPs that exist only in the network of the pods.
    pub(crate) udp_host: BTreeMap<SocketAddr, RouteKey>,
    pub(crate) udp_pods: BTreeMap<SocketAddr, FromPods>,
    /// UDP ports to publish on the external address, if there is one.
    pub(crate) udp_load_balancer: Vec<LbPort>,
    /// Ports that are accepted and not served, as `name/PROTOCOL`.
    pub(crate) unsupported: Vec<String>,
    /// Endpoints in slices that are outside the cluster, and so are not connected to.
    pub(crate) outside: BTreeSet<SocketAddr>,
}

/// One step from the listeners that exist to the desired ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Close(SocketAddr),
    Open(SocketAddr, RouteKey),
}

/// Plans the listeners and routes of a Service with the endpoints of these slices.
pub(crate) fn plan<'a>(
    service: &Service,
    slices: impl IntoIterator<Item = &'a EndpointSlice> + Clone,
    topology: &Topology,
) -> ServicePlan {
    let mut plan = ServicePlan::default();
    let Some(spec) = &service.spec else { return plan };
    if spec.type_.as_deref() == Some("ExternalName") {
        return plan;
    }
    let affinity = affinity(spec);
    for port in spec.ports.iter().flatten() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let name = port.name.clone().unwrap_or_default();
        let protocol_is_served = match topology {
            Topology::Embedded(_) => matches!(protocol, "TCP" | "UDP"),
            Topology::External(_) => protocol == "TCP",
        };
        if !protocol_is_served {
            let shown = if name.is_empty() { port.port.to_string() } else { name };
            plan.unsupported.push(format!("{shown}/{protocol}"));
            continue;
        }
        let mut endpoints = Endpoints::of_port(slices.clone(), &name, protocol);
        plan.outside.extend(endpoints.remove_unless(|at| topology.is_within(at)));
        let is_udp = protocol == "UDP";
        let mut planner = ListenerPlanner { plan: &mut plan, spec, port, name, is_udp };
        match topology {
            Topology::Embedded(embedded) => {
                planner.node_ports(embedded);
                planner.cluster_ips(embedded);
                if embedded.load_balancers {
                    planner.load_balancer();
                }
                planner.routes(&endpoints, affinity, embedded);
            }
            Topology::External(nodes) => {
                planner.load_balancer();
                planner.routes_through_nodes(&endpoints, nodes);
            }
        }
    }
    plan
}

/// Returns the routing of a Service port for an Ingress, for which traffic policies mean nothing.
pub(crate) fn port_routing<'a>(
    spec: &ServiceSpec,
    port: &ServicePort,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    topology: &Topology,
) -> Routing {
    let name = port.name.as_deref().unwrap_or_default();
    let mut endpoints = Endpoints::of_port(slices, name, port.protocol.as_deref().unwrap_or("TCP"));
    // The reconciler of Services reports them.
    endpoints.remove_unless(|at| topology.is_within(at));
    match topology {
        Topology::Embedded(_) => Routing {
            backends: Backends::uniform(endpoints.usable(None)),
            affinity: affinity(spec),
            ..Routing::default()
        },
        Topology::External(nodes) => nodes.routing(spec, port, &endpoints, Weighting::Pods),
    }
}

/// Returns whether the Service is a load balancer. A class leaves it to another implementation.
pub(crate) fn is_load_balancer(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none()
}

/// Returns what to close and open; a listener whose route stays is not touched.
pub(crate) fn changes(
    desired: &BTreeMap<SocketAddr, RouteKey>,
    bound: &BTreeMap<SocketAddr, RouteKey>,
) -> Vec<Action> {
    let close = bound.iter().filter(|(at, key)| desired.get(at) != Some(key));
    let open = desired.iter().filter(|(at, key)| bound.get(at) != Some(key));
    close
        .map(|(at, _)| Action::Close(*at))
        .chain(open.map(|(at, key)| Action::Open(*at, key.clone())))
        .collect()
}

/// Plans one port of a Service.
struct ListenerPlanner<'a> {
    plan: &'a mut ServicePlan,
    spec: &'a ServiceSpec,
    port: &'a ServicePort,
    name: String,
    is_udp: bool,
}

impl ListenerPlanner<'_> {
    fn host(&mut self) -> &mut BTreeMap<SocketAddr, RouteKey> {
        if self.is_udp { &mut self.plan.udp_host } else { &mut self.plan.host }
    }

    fn pods(&mut self) -> &mut BTreeMap<SocketAddr, FromPods> {
        if self.is_udp { &mut self.plan.udp_pods } else { &mut self.plan.pods }
    }

    fn node_ports(&mut self, embedded: &EmbeddedNodes) {
        let typed = matches!(self.spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
        let Some(node_port) = self.port.node_port.and_then(port_number).filter(|_| typed) else {
            return;
        };
        for (node, address) in &embedded.nodes {
            let scope = match is_local(&self.spec.external_traffic_policy) {
                true => Scope::Node(node.clone()),
                false => Scope::Cluster,
            };
            let at = SocketAddr::from((*address, node_port));
            let key = RouteKey { port: self.name.clone(), scope };
            self.host().insert(at, key);
        }
    }

    fn cluster_ips(&mut self, embedded: &EmbeddedNodes) {
        let Some(port) = port_number(self.port.port) else { return };
        let listed = self.spec.cluster_ips.iter().flatten().chain(&self.spec.cluster_ip);
        let addresses: BTreeSet<IpAddr> = listed.filter_map(|a| a.parse().ok()).collect();
        let anywhere = RouteKey { port: self.name.clone(), scope: Scope::Cluster };
        for address in addresses {
            let at = SocketAddr::new(address, port);
            // A client on the host belongs to no node, so `Local` means nothing for it.
            if embedded.cluster_ips_on_host() {
                self.host().insert(at, anywhere.clone());
            } else if is_local(&self.spec.internal_traffic_policy) {
                let port = self.name.clone();
                self.pods().insert(at, FromPods::SameNode { port });
            } else {
                self.pods().insert(at, FromPods::Anywhere(anywhere.clone()));
            }
        }
    }

    fn load_balancer(&mut self) {
        if !is_load_balancer(self.spec) {
            return;
        }
        let Some(port) = port_number(self.port.port) else { return };
        let scope = match is_local(&self.spec.external_traffic_policy) {
            true => Scope::Nodes,
            false => Scope::Cluster,
        };
        let route = RouteKey { port: self.name.clone(), scope };
        let published = LbPort { port, route };
        match self.is_udp {
            true => self.plan.udp_load_balancer.push(published),
            false => self.plan.load_balancer.push(published),
        }
    }

    /// Plans the endpoints of every scope that a listener of this port has.
    fn routes(
        &mut self,
        endpoints: &Endpoints,
        affinity: Option<Duration>,
        embedded: &EmbeddedNodes,
    ) {
        let nodes = || embedded.nodes.iter().map(|(name, _)| name.as_str());
        let plan = &mut *self.plan;
        let on_host = plan.host.values().chain(plan.udp_host.values());
        let mut keys: BTreeSet<RouteKey> = on_host.cloned().collect();
        let published = plan.load_balancer.iter().chain(&plan.udp_load_balancer);
        keys.extend(published.map(|port| port.route.clone()));
        for from_pods in plan.pods.values().chain(plan.udp_pods.values()) {
            match from_pods {
                FromPods::Anywhere(key) => drop(keys.insert(key.clone())),
                FromPods::SameNode { port } => keys.extend(nodes().map(|node| RouteKey {
                    port: port.clone(),
                    scope: Scope::Node(node.to_owned()),
                })),
            }
        }
        for key in keys.into_iter().filter(|key| key.port == self.name) {
            let backends = match &key.scope {
                Scope::Cluster => Backends::uniform(endpoints.usable(None)),
                Scope::Node(node) => Backends::uniform(endpoints.usable(Some(node))),
                Scope::Nodes => Backends::grouped(nodes().map(|node| endpoints.usable(Some(node)))),
            };
            let routing = Routing { backends, affinity, ..Routing::default() };
            plan.routes.insert(key, routing);
        }
    }

    /// Plans the endpoints of a load balancer in front of the nodes of an external cluster.
    fn routes_through_nodes(&mut self, endpoints: &Endpoints, nodes: &NodeEndpoints) {
        let keys = self.plan.load_balancer.iter().map(|port| &port.route);
        let keys: Vec<RouteKey> = keys.filter(|key| key.port == self.name).cloned().collect();
        for key in keys {
            let routing = nodes.routing(self.spec, self.port, endpoints, Weighting::Nodes);
            self.plan.routes.insert(key, routing);
        }
    }
}

#[cfg(test)]
mod tests;

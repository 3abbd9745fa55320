//! What a Service asks of the edge, as a pure function of the Service and its EndpointSlices. The
//! choice of endpoints is kube-proxy's (`pkg/proxy/topology.go`, v1.36), without zones.

use super::{
    entrance::Entrances,
    route::{Backends, Routing},
};
use k8s_openapi::api::{
    core::v1::{Service, ServicePort, ServiceSpec},
    discovery::v1::{Endpoint, EndpointSlice},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

/// Default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_SECONDS: i32 = 10_800;

/// One set of endpoints: a Service port as seen from somewhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RouteKey {
    /// The port's name; empty where there is only one.
    pub(super) port: String,
    pub(super) scope: Scope,
}

/// From where a Service port is looked at, which matters where a traffic policy is `Local`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    /// All endpoints.
    Cluster,
    /// Those of the node of this name.
    Node(String),
    /// Node by node: what a load balancer in front of all nodes reaches.
    Nodes,
}

/// How pods reach a cluster address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FromPods {
    Anywhere(RouteKey),
    /// `internalTrafficPolicy: Local`: each pod has the endpoints of its own node.
    SameNode {
        port: String,
    },
}

/// One port of a load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Balanced {
    pub(super) port: u16,
    pub(super) route: RouteKey,
}

/// Everything that a Service asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Where to lead connections.
    pub(super) routes: BTreeMap<RouteKey, Routing>,
    /// Listeners on the host: node ports, and cluster addresses where those are the host's.
    pub(super) host: BTreeMap<SocketAddr, RouteKey>,
    /// Cluster addresses that exist only inside pods.
    pub(super) pods: BTreeMap<SocketAddr, FromPods>,
    /// Ports to publish on an external address; empty unless the Service is a load balancer of ours.
    pub(super) balanced: Vec<Balanced>,
    /// Ports that are accepted and not served, as `name/PROTOCOL`.
    pub(super) unsupported: Vec<String>,
}

/// What a plan must know of its cluster.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// The cluster is our own: its endpoints can be dialled, and it has no other proxy.
    Own(Own),
    /// It is somebody else's.
    Outside(Arc<Entrances>),
}

/// A cluster of our own.
#[derive(Clone, Debug)]
pub(super) struct Own {
    pub(super) nodes: Vec<(String, Ipv4Addr)>,
    /// Whether cluster addresses belong to the host.
    pub(super) cluster_addresses_on_host: bool,
    /// Whether load balancers get addresses.
    pub(super) balancers: bool,
}

impl Place {
    /// Whether pods and nodes reach an external address by themselves, past the edge (`VIP`), or have
    /// to go to it (`Proxy`): kube-proxy would lead them into the cluster's own Service.
    pub(super) fn ip_mode(&self) -> &'static str {
        match self {
            Self::Own(_) => "VIP",
            Self::Outside(_) => "Proxy",
        }
    }

    /// Nodes whose node ports are opened here.
    pub(super) fn nodes(&self) -> &[(String, Ipv4Addr)] {
        match self {
            Self::Own(own) => &own.nodes,
            Self::Outside(_) => &[],
        }
    }
}

/// One step from what is bound to what is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Close(SocketAddr),
    Open(SocketAddr, RouteKey),
}

/// What the Service asks for, with the endpoints of these slices.
pub(super) fn plan<'a>(
    service: &Service,
    slices: impl IntoIterator<Item = &'a EndpointSlice> + Clone,
    place: &Place,
) -> Wanted {
    let mut wanted = Wanted::default();
    let Some(spec) = &service.spec else { return wanted };
    if spec.type_.as_deref() == Some("ExternalName") {
        return wanted;
    }
    let affinity = affinity(spec);
    for port in spec.ports.iter().flatten() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let name = port.name.clone().unwrap_or_default();
        if protocol != "TCP" {
            let shown = if name.is_empty() { port.port.to_string() } else { name };
            wanted.unsupported.push(format!("{shown}/{protocol}"));
            continue;
        }
        let endpoints = endpoints(slices.clone(), &name);
        let mut doors = Doors { wanted: &mut wanted, spec, port, name };
        match place {
            Place::Own(own) => {
                doors.node_ports(own);
                doors.cluster_addresses(own);
                if own.balancers {
                    doors.load_balancer();
                }
                doors.routes(&endpoints, affinity, own);
            }
            Place::Outside(entrances) => {
                doors.load_balancer();
                doors.routes_through(&endpoints, entrances);
            }
        }
    }
    wanted
}

/// Where connections to a port of the Service go, wherever they come from.
pub(super) fn routing<'a>(
    spec: &ServiceSpec,
    port: &ServicePort,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    place: &Place,
) -> Routing {
    let endpoints = endpoints(slices, port.name.as_deref().unwrap_or_default());
    match place {
        Place::Own(_) => Routing {
            backends: Backends::alike(endpoints.usable(None)),
            affinity: affinity(spec),
            ..Routing::default()
        },
        Place::Outside(entrances) => entrances.routing(spec, port, &endpoints, Aim::Pods),
    }
}

/// What a choice is to be even over, where a traffic policy is `Local`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// Pods, as an Ingress has it.
    Pods,
    /// Nodes, which are all that a load balancer in front of them knows.
    Nodes,
}

/// What to close and open; a listener whose route stays is not touched.
pub(super) fn changes(
    wanted: &BTreeMap<SocketAddr, RouteKey>,
    bound: &BTreeMap<SocketAddr, RouteKey>,
) -> Vec<Action> {
    let close = bound.iter().filter(|(at, key)| wanted.get(at) != Some(key));
    let open = wanted.iter().filter(|(at, key)| bound.get(at) != Some(key));
    close
        .map(|(at, _)| Action::Close(*at))
        .chain(open.map(|(at, key)| Action::Open(*at, key.clone())))
        .collect()
}

/// The ports on which each pod of these slices serves.
pub(super) fn serving_ports(slice: &EndpointSlice) -> impl Iterator<Item = SocketAddr> {
    let ports = slice.ports.iter().flatten().filter_map(|p| u16::try_from(p.port?).ok());
    let addresses = || slice.endpoints.iter().flatten().flat_map(|e| &e.addresses);
    ports.flat_map(move |port| {
        addresses().filter_map(move |a| Some(SocketAddr::new(a.parse().ok()?, port)))
    })
}

struct Doors<'a> {
    wanted: &'a mut Wanted,
    spec: &'a ServiceSpec,
    port: &'a ServicePort,
    name: String,
}

impl Doors<'_> {
    fn node_ports(&mut self, own: &Own) {
        let typed = matches!(self.spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
        let Some(node_port) = self.port.node_port.and_then(port_number).filter(|_| typed) else {
            return;
        };
        for (node, address) in &own.nodes {
            let scope = match local(&self.spec.external_traffic_policy) {
                true => Scope::Node(node.clone()),
                false => Scope::Cluster,
            };
            let at = SocketAddr::from((*address, node_port));
            self.wanted.host.insert(at, RouteKey { port: self.name.clone(), scope });
        }
    }

    fn cluster_addresses(&mut self, own: &Own) {
        let Some(port) = port_number(self.port.port) else { return };
        let listed = self.spec.cluster_ips.iter().flatten().chain(&self.spec.cluster_ip);
        let addresses: BTreeSet<IpAddr> = listed.filter_map(|a| a.parse().ok()).collect();
        let anywhere = RouteKey { port: self.name.clone(), scope: Scope::Cluster };
        for address in addresses {
            let at = SocketAddr::new(address, port);
            // A client on the host belongs to no node, so `Local` means nothing for it.
            if own.cluster_addresses_on_host {
                self.wanted.host.insert(at, anywhere.clone());
            } else if local(&self.spec.internal_traffic_policy) {
                self.wanted.pods.insert(at, FromPods::SameNode { port: self.name.clone() });
            } else {
                self.wanted.pods.insert(at, FromPods::Anywhere(anywhere.clone()));
            }
        }
    }

    fn load_balancer(&mut self) {
        // A class names somebody else's load balancer.
        if self.spec.type_.as_deref() != Some("LoadBalancer")
            || self.spec.load_balancer_class.is_some()
        {
            return;
        }
        let Some(port) = port_number(self.port.port) else { return };
        let scope = match local(&self.spec.external_traffic_policy) {
            true => Scope::Nodes,
            false => Scope::Cluster,
        };
        let route = RouteKey { port: self.name.clone(), scope };
        self.wanted.balanced.push(Balanced { port, route });
    }

    /// Endpoints for every scope that a listener of this port asks for.
    fn routes(&mut self, endpoints: &Endpoints, affinity: Option<Duration>, own: &Own) {
        let nodes = || own.nodes.iter().map(|(name, _)| name.as_str());
        let wanted = &mut *self.wanted;
        let mut keys: BTreeSet<RouteKey> = wanted.host.values().cloned().collect();
        keys.extend(wanted.balanced.iter().map(|b| b.route.clone()));
        for from_pods in wanted.pods.values() {
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
                Scope::Cluster => Backends::alike(endpoints.usable(None)),
                Scope::Node(node) => Backends::alike(endpoints.usable(Some(node))),
                Scope::Nodes => Backends::grouped(nodes().map(|node| endpoints.usable(Some(node)))),
            };
            let routing = Routing { backends, affinity, ..Routing::default() };
            wanted.routes.insert(key, routing);
        }
    }

    /// The same for what a load balancer in front of somebody else's nodes asks for.
    fn routes_through(&mut self, endpoints: &Endpoints, entrances: &Entrances) {
        let balanced = self.wanted.balanced.iter().map(|balanced| &balanced.route);
        let keys: Vec<RouteKey> = balanced.filter(|key| key.port == self.name).cloned().collect();
        for key in keys {
            let routing = entrances.routing(self.spec, self.port, endpoints, Aim::Nodes);
            self.wanted.routes.insert(key, routing);
        }
    }
}

#[derive(Clone, Debug, Default)]
struct State {
    ready: bool,
    serving: bool,
    terminating: bool,
    node: Option<String>,
}

/// The endpoints of one Service port. A pod that moves between slices may be in two for a moment.
#[derive(Default)]
pub(super) struct Endpoints(BTreeMap<SocketAddr, State>);

impl Endpoints {
    /// The nodes that have any.
    pub(super) fn nodes(&self) -> BTreeSet<&str> {
        self.0.values().filter_map(|state| state.node.as_deref()).collect()
    }

    /// Ready ones, or where there is none, those that end but still serve.
    pub(super) fn usable(&self, node: Option<&str>) -> Vec<SocketAddr> {
        let here = |s: &State| node.is_none() || s.node.as_deref() == node;
        let those = |wanted: fn(&State) -> bool| -> Vec<SocketAddr> {
            self.0.iter().filter(|(_, s)| here(s) && wanted(s)).map(|(at, _)| *at).collect()
        };
        let ready = those(|s| s.ready);
        if ready.is_empty() { those(|s| s.serving && s.terminating) } else { ready }
    }
}

fn endpoints<'a>(
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    port_name: &str,
) -> Endpoints {
    let mut all = Endpoints::default();
    for slice in slices {
        let ports = slice.ports.iter().flatten().filter(|p| {
            p.name.as_deref().unwrap_or_default() == port_name
                && p.protocol.as_deref().unwrap_or("TCP") == "TCP"
        });
        for port in ports.filter_map(|p| p.port.and_then(port_number)) {
            for endpoint in slice.endpoints.iter().flatten() {
                // Kubernetes: all addresses of an endpoint are the same pod, the first is enough.
                let Some(ip) = endpoint.addresses.first().and_then(|a| a.parse().ok()) else {
                    continue;
                };
                let state = state(endpoint);
                let known = all.0.entry(SocketAddr::new(ip, port)).or_default();
                if !known.ready {
                    *known = state;
                }
            }
        }
    }
    all
}

/// Conditions that are not set mean what the API documents for them.
fn state(endpoint: &Endpoint) -> State {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    State {
        ready,
        serving: conditions.serving.unwrap_or(ready),
        terminating: conditions.terminating.unwrap_or(false),
        node: endpoint.node_name.clone(),
    }
}

pub(super) fn affinity(spec: &ServiceSpec) -> Option<Duration> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    let seconds = config.and_then(|c| c.timeout_seconds).unwrap_or(AFFINITY_SECONDS);
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

pub(super) fn local(policy: &Option<String>) -> bool {
    policy.as_deref() == Some("Local")
}

pub(super) fn port_number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|p| *p > 0)
}

#[cfg(test)]
mod tests;

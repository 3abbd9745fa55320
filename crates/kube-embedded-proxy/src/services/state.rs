//! The listeners and routes that one Service has at the moment.

use super::{
    plan::{self, Action, FromPods, LbPort, RouteKey, Scope, ServicePlan},
    pod_listeners::{NodeRoute, PodRoute},
    udp::Side,
};
use crate::{
    config::{EmbeddedNodes, Topology},
    data_plane::{BoundPort, DataPlane, ListenerHandle, TcpProxy},
    load_balancer::{LbStatus, PortResult},
    route::{Affinity, Route},
};
use k8s_openapi::api::core::v1::{ObjectReference, Service};
use kube_embedded_core::{
    events::{self, Recorder},
    network::Network,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

/// Serves traffic and records events for all Services.
pub(super) struct Serving {
    pub(super) recorder: Recorder,
    pub(super) network: Arc<Network>,
    pub(super) data_plane: Arc<DataPlane>,
}

/// What one Service has at the moment.
pub(super) struct ServiceState {
    pub(super) uid: String,
    pub(super) reference: ObjectReference,
    routes: BTreeMap<RouteKey, Arc<Route>>,
    /// By the name of the port.
    affinities: BTreeMap<String, Arc<Affinity>>,
    listeners: BTreeMap<SocketAddr, (RouteKey, ListenerHandle)>,
    /// Addresses inside pods.
    pub(super) pods: BTreeMap<SocketAddr, FromPods>,
    /// UDP ports on the host, inside pods and of the load balancer.
    pub(super) udp: UdpPlan,
    pub(super) load_balancer: Option<LoadBalancer>,
    /// The warnings that were reported, so that each is reported once.
    reported: BTreeSet<String>,
}

/// The UDP ports of a Service.
#[derive(Default)]
pub(super) struct UdpPlan {
    host: BTreeMap<SocketAddr, RouteKey>,
    pods: BTreeMap<SocketAddr, FromPods>,
    load_balancer: Vec<LbPort>,
}

impl UdpPlan {
    pub(super) fn of(plan: &ServicePlan) -> Self {
        Self {
            host: plan.udp_host.clone(),
            pods: plan.udp_pods.clone(),
            load_balancer: plan.udp_load_balancer.clone(),
        }
    }
}

/// The external address of a Service.
#[derive(Default)]
pub(super) struct LoadBalancer {
    /// Ports of the Service and where they are published.
    ports: BTreeMap<u16, SocketAddr>,
    pub(super) status: LbStatus,
}

impl ServiceState {
    pub(super) fn new(service: &Service) -> Self {
        Self {
            uid: service.metadata.uid.clone().unwrap_or_default(),
            reference: events::about(service),
            routes: BTreeMap::new(),
            affinities: BTreeMap::new(),
            listeners: BTreeMap::new(),
            pods: BTreeMap::new(),
            udp: UdpPlan::default(),
            load_balancer: None,
            reported: BTreeSet::new(),
        }
    }

    /// Records a warning event, once in the lifetime of the Service.
    pub(super) fn warn_once(&mut self, serving: &Serving, reason: &str, message: &str) {
        if self.reported.insert(format!("{reason} {message}")) {
            let (namespace, name) = (&self.reference.namespace, &self.reference.name);
            tracing::warn!(?namespace, ?name, reason, "{message}");
            serving.recorder.publish(&self.reference, "Warning", reason, message);
        }
    }

    /// Records a warning event unless one with this reason was recorded: what a client of the API can
    /// change at will must not make any number of events.
    pub(super) fn warn_first(&mut self, serving: &Serving, reason: &str, message: &str) {
        let is_same = |reported: &String| reported.split(' ').next() == Some(reason);
        if !self.reported.iter().any(is_same) {
            self.warn_once(serving, reason, message);
        }
    }

    /// Returns what has to be opened and closed on the host, as far as ports are published already.
    pub(super) fn changes(&self, plan: &ServicePlan) -> Vec<Action> {
        let mut desired = plan.host.clone();
        if let Some(LoadBalancer { ports, .. }) = &self.load_balancer {
            let published = |port: &LbPort| Some((*ports.get(&port.port)?, port.route.clone()));
            desired.extend(plan.load_balancer.iter().filter_map(published));
        }
        let bound = self.listeners.iter().map(|(at, (route, _))| (*at, route.clone())).collect();
        plan::changes(&desired, &bound)
    }

    /// Closes the listeners that the plan no longer has.
    pub(super) async fn close_stale(&mut self, plan: &ServicePlan) {
        for action in self.changes(plan) {
            let Action::Close(at) = action else { continue };
            if let Some((_, listener)) = self.listeners.remove(&at) {
                listener.close().await;
            }
        }
        if let Some(load_balancer) = &mut self.load_balancer {
            let is_planned = |port| plan.load_balancer.iter().any(|p| p.port == port);
            load_balancer.ports.retain(|port, _| is_planned(*port));
        }
    }

    pub(super) async fn close_all(self) {
        for (_, listener) in self.listeners.into_values() {
            listener.close().await;
        }
    }

    /// Routes new connections as planned.
    pub(super) fn sync_routes(&mut self, plan: &ServicePlan) {
        self.routes.retain(|key, _| plan.routes.contains_key(key));
        self.affinities.retain(|port, _| plan.routes.keys().any(|key| key.port == *port));
        for (key, routing) in &plan.routes {
            let endpoints = routing.backends.len();
            let changed = match self.routes.get(key) {
                Some(route) => route.set(routing.clone()),
                None => {
                    let affinity = self.affinities.entry(key.port.clone()).or_default().clone();
                    let route = Arc::new(Route::new(routing.clone(), affinity));
                    self.routes.insert(key.clone(), route);
                    true
                }
            };
            if changed {
                let (namespace, name) = (&self.reference.namespace, &self.reference.name);
                let (port, scope) = (&key.port, &key.scope);
                tracing::debug!(?namespace, ?name, port, ?scope, endpoints, "endpoints changed");
            }
        }
    }

    /// Serves a bound port along a route.
    pub(super) fn serve(
        &mut self,
        serving: &Serving,
        at: SocketAddr,
        port: BoundPort,
        key: RouteKey,
    ) {
        if let Some(route) = self.routes.get(&key) {
            let proxy = TcpProxy::new(serving.network.clone(), route.clone());
            let listener = serving.data_plane.serve(port, Arc::new(proxy));
            self.listeners.insert(at, (key, listener));
        }
    }

    /// Returns whether the address is one of the Service's, on the host or inside pods.
    pub(super) fn has_address(&self, at: &SocketAddr) -> bool {
        self.listeners.contains_key(at) || self.pods.contains_key(at)
    }

    /// Drops a listener that has ended. Returns whether the Service had it.
    pub(super) fn drop_listener(&mut self, at: SocketAddr) -> bool {
        if self.listeners.remove(&at).is_none() {
            return false;
        }
        if let Some(load_balancer) = &mut self.load_balancer {
            load_balancer.ports.retain(|_, published| *published != at);
        }
        true
    }

    /// Returns the route of a cluster IP as seen from pods.
    pub(super) fn pod_route(
        &self,
        from_pods: &FromPods,
        embedded: &EmbeddedNodes,
    ) -> Option<PodRoute> {
        match from_pods {
            FromPods::Anywhere(key) => self.routes.get(key).cloned().map(PodRoute::Anywhere),
            FromPods::SameNode { port } => {
                let of_node = |(index, (node, _)): (u8, &(String, _))| {
                    let scope = Scope::Node(node.clone());
                    let key = RouteKey { port: port.clone(), scope };
                    let (node, pods) = (node.clone(), embedded.addresses.pods(index));
                    Some(NodeRoute { node, pods, route: self.routes.get(&key)?.clone() })
                };
                let nodes = (0..).zip(&embedded.nodes);
                Some(PodRoute::SameNode(nodes.filter_map(of_node).collect()))
            }
        }
    }

    /// Returns the routes of UDP ports. What the host serves, the network of the pods serves too.
    pub(super) fn udp_routes(
        &self,
        embedded: &EmbeddedNodes,
    ) -> Vec<((Side, SocketAddr), PodRoute)> {
        let UdpPlan { host, pods, load_balancer } = &self.udp;
        let mut routes = Vec::new();
        let external = self.load_balancer.iter().flat_map(|balancer| balancer.ports.values());
        let external = external.map(SocketAddr::ip).next();
        let published = load_balancer
            .iter()
            .filter_map(|port| Some((SocketAddr::new(external?, port.port), port.route.clone())));
        for (at, key) in host.iter().map(|(at, key)| (*at, key.clone())).chain(published) {
            let route = self.routes.get(&key).cloned().map(PodRoute::Anywhere);
            routes.extend(route.clone().map(|route| ((Side::Host, at), route)));
            routes.extend(route.map(|route| ((Side::Pods, at), route)));
        }
        for (at, from_pods) in pods {
            let route = self.pod_route(from_pods, embedded);
            routes.extend(route.map(|route| ((Side::Pods, *at), route)));
        }
        routes
    }

    /// Returns the addresses that the host listens on, as pods reach them: a load balancer also at the
    /// ports that the host could not bind.
    pub(super) fn host_routes(&self) -> impl Iterator<Item = (SocketAddr, PodRoute)> {
        let route = |key| self.routes.get(key).cloned().map(PodRoute::Anywhere);
        let bound =
            self.listeners.iter().filter_map(move |(at, (key, _))| Some((*at, route(key)?)));
        let published = self.load_balancer.iter().flat_map(|balancer| &balancer.ports);
        let requested = published.filter_map(move |(port, at)| {
            let (key, _) = self.listeners.get(at)?;
            Some((SocketAddr::new(at.ip(), *port), route(key)?))
        });
        bound.chain(requested)
    }

    /// Unpublishes ports that are on none of these addresses: another one was requested.
    pub(super) fn leave_other_addresses(&mut self, addresses: &[Ipv4Addr]) {
        let is_other =
            |at: &SocketAddr| !addresses.iter().any(|address| IpAddr::V4(*address) == at.ip());
        let LoadBalancer { ports, .. } = self.load_balancer.get_or_insert_default();
        let moved: Vec<SocketAddr> = ports.values().copied().filter(is_other).collect();
        ports.retain(|_, at| !is_other(at));
        for at in moved {
            self.listeners.remove(&at);
        }
    }

    /// Returns the ports of the load balancer that are not published yet.
    pub(super) fn unpublished(&self, plan: &ServicePlan) -> Vec<u16> {
        let is_published = |port| {
            self.load_balancer.as_ref().is_some_and(|balancer| balancer.ports.contains_key(&port))
        };
        let ports = plan.load_balancer.iter().map(|p| p.port);
        ports.filter(|port| !is_published(*port)).collect()
    }

    /// Serves ports of the load balancer. Returns whether all of them are bound.
    pub(super) fn publish(
        &mut self,
        serving: &Serving,
        plan: &ServicePlan,
        results: Vec<PortResult<BoundPort>>,
    ) -> bool {
        let mut complete = true;
        for PortResult { port, bound, warning } in results {
            let Some(planned) = plan.load_balancer.iter().find(|p| p.port == port) else {
                continue;
            };
            match bound {
                Some((at, bound)) => {
                    self.serve(serving, at, bound, planned.route.clone());
                    self.load_balancer.get_or_insert_default().ports.insert(port, at);
                }
                None => complete = false,
            }
            if let Some(warning) = warning {
                self.warn_once(serving, "PortNotBound", &warning);
            }
        }
        complete
    }

    /// Returns the status of the load balancer, and remembers it.
    pub(super) fn lb_status(&mut self, plan: &ServicePlan, topology: &Topology) -> &LbStatus {
        let load_balancer = self.load_balancer.get_or_insert_default();
        let published = |port: u16| (port, load_balancer.ports.get(&port).copied());
        let ports: Vec<_> = plan.load_balancer.iter().map(|p| published(p.port)).collect();
        load_balancer.status = LbStatus::new(&ports, Some(topology.ip_mode()));
        &load_balancer.status
    }
}

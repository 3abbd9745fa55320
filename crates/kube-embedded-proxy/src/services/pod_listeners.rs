//! Listeners for cluster IPs: an address such as 10.96.0.10 exists in the network namespace between the
//! pods, and is listened on there.
//!
//! Where there is none, the address exists nowhere but in the pods' own network namespaces, so the proxy
//! listens on it in each of them. A port that the pod itself serves on is left to the pod: a program
//! that binds 0.0.0.0:8080 needs that port on every address. Such a pod does not reach other Services on
//! the same port number.

use crate::{
    data_plane::{AcceptedConnection, DataPlane, Handler, ListenerHandle, ProxyStream, TcpProxy},
    route::Route,
};
use futures::{
    FutureExt,
    future::{BoxFuture, pending, ready},
};
use kube_embedded_core::{
    descriptors::Shares,
    network::{Network, PodSockets, is_within},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

/// Returns the limit of listeners in all pods together; more would take more memory than a cluster on a
/// laptop has, or the descriptors of others.
pub(crate) fn max_listeners() -> usize {
    Shares::current().pod_listeners.min(8192)
}

/// The route of a cluster IP, which may depend on the client pod's node.
#[derive(Clone)]
pub(crate) enum PodRoute {
    Anywhere(Arc<Route>),
    SameNode(Vec<NodeRoute>),
}

/// The route of the pods of one node.
#[derive(Clone)]
pub(crate) struct NodeRoute {
    pub(crate) node: String,
    /// The first address and prefix length of the addresses of its pods.
    pub(crate) pods: (Ipv4Addr, u8),
    pub(crate) route: Arc<Route>,
}

/// A pod's node and own ports.
pub(crate) struct PodInfo {
    pub(crate) node: String,
    pub(crate) own_ports: BTreeSet<u16>,
}

/// All listeners inside pods.
pub(crate) struct PodListeners {
    network: Arc<Network>,
    open: BTreeMap<(IpAddr, SocketAddr), PodListener>,
}

struct PodListener {
    route: PodRoute,
    sockets: Arc<dyn PodSockets>,
    /// Dropping it closes the listener.
    _handle: ListenerHandle,
}

impl PodRoute {
    /// Returns the route of the pods of this node.
    fn on_node(&self, node: &str) -> Option<Self> {
        match self {
            Self::Anywhere(_) => Some(self.clone()),
            Self::SameNode(routes) => {
                let found = routes.iter().find(|route| route.node == node)?;
                Some(Self::Anywhere(found.route.clone()))
            }
        }
    }

    /// Returns the route of a pod with this address.
    pub(crate) fn of_client(&self, client: IpAddr) -> Option<&Arc<Route>> {
        match (self, client) {
            (Self::Anywhere(route), _) => Some(route),
            (Self::SameNode(routes), IpAddr::V4(client)) => {
                let found = routes.iter().find(|route| is_within(route.pods, client))?;
                Some(&found.route)
            }
            (Self::SameNode(_), IpAddr::V6(_)) => None,
        }
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Anywhere(a), Self::Anywhere(b)) => Arc::ptr_eq(a, b),
            (Self::SameNode(a), Self::SameNode(b)) => {
                let is_same = |(a, b): (&NodeRoute, &NodeRoute)| Arc::ptr_eq(&a.route, &b.route);
                a.len() == b.len() && a.iter().zip(b).all(is_same)
            }
            _ => false,
        }
    }

    fn handler(&self, network: &Arc<Network>) -> Arc<dyn Handler> {
        let network = network.clone();
        match self {
            Self::Anywhere(route) => Arc::new(TcpProxy::new(network, route.clone())),
            Self::SameNode(_) => Arc::new(SameNodeProxy { network, route: self.clone() }),
        }
    }
}

/// Proxies connections along the route of the client's node.
struct SameNodeProxy {
    network: Arc<Network>,
    route: PodRoute,
}

impl Handler for SameNodeProxy {
    fn handle(&self, connection: AcceptedConnection) -> BoxFuture<'static, ()> {
        match self.route.of_client(connection.peer.ip()) {
            Some(route) => TcpProxy::new(self.network.clone(), route.clone()).handle(connection),
            None => {
                connection.stream.reset();
                ready(()).boxed()
            }
        }
    }

    // A client of a node without endpoints is refused by a reset.
    fn available(&self) -> BoxFuture<'_, ()> {
        ready(()).boxed()
    }

    fn unavailable(&self) -> BoxFuture<'_, ()> {
        pending().boxed()
    }
}

impl PodListeners {
    pub(crate) fn new(network: Arc<Network>) -> Self {
        Self { network, open: BTreeMap::new() }
    }

    /// Opens and closes what has changed. A pod that is not known yet gets no listeners: its own
    /// ports are not known either. Returns an address that was left out because of the limit.
    pub(crate) fn sync(
        &mut self,
        data_plane: &DataPlane,
        desired: &BTreeMap<SocketAddr, PodRoute>,
        pods: &BTreeMap<IpAddr, PodInfo>,
    ) -> Option<SocketAddr> {
        if let Some(router) = self.network.router().cloned() {
            return self.sync_router(data_plane, desired, &router);
        }
        let (attached, _) = self.network.attached();
        let mut before = mem::take(&mut self.open);
        let mut left_out = None;
        for (pod_ip, sockets) in attached {
            let Some(pod) = pods.get(&pod_ip) else { continue };
            for (at, route) in desired.iter().filter(|(at, _)| !pod.own_ports.contains(&at.port()))
            {
                let Some(route) = route.on_node(&pod.node) else { continue };
                if self.open.len() >= max_listeners() {
                    left_out = Some(*at);
                    break;
                }
                let before = before.remove(&(pod_ip, *at));
                let listener = self.listen(data_plane, before, *at, route, &sockets);
                self.open.insert((pod_ip, *at), listener);
            }
        }
        left_out
    }

    /// Opens and closes what has changed in the network namespace between the pods.
    fn sync_router(
        &mut self,
        data_plane: &DataPlane,
        desired: &BTreeMap<SocketAddr, PodRoute>,
        router: &Arc<dyn PodSockets>,
    ) -> Option<SocketAddr> {
        let everywhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let mut before = mem::take(&mut self.open);
        for (at, route) in desired.iter().take(max_listeners()) {
            let before = before.remove(&(everywhere, *at));
            let listener = self.listen(data_plane, before, *at, route.clone(), router);
            self.open.insert((everywhere, *at), listener);
        }
        desired.keys().nth(max_listeners()).copied()
    }

    /// Returns the listener that there was before, if it is still right, or else a new one.
    fn listen(
        &self,
        data_plane: &DataPlane,
        before: Option<PodListener>,
        at: SocketAddr,
        route: PodRoute,
        sockets: &Arc<dyn PodSockets>,
    ) -> PodListener {
        let is_same = |listener: &PodListener| {
            listener.route.is_same(&route) && Arc::ptr_eq(&listener.sockets, sockets)
        };
        // An old listener is dropped here, before its successor needs the port.
        before.filter(is_same).unwrap_or_else(|| {
            let handler = route.handler(&self.network);
            let handle = data_plane.serve_in_pod(sockets.clone(), at, handler);
            PodListener { route, sockets: sockets.clone(), _handle: handle }
        })
    }
}

//! Listeners for cluster IPs inside pods: an address such as 10.96.0.10 exists nowhere but in the
//! pods' network namespaces, so the proxy listens on it in each of them.
//!
//! A port that the pod itself serves on is left to the pod: a program that binds 0.0.0.0:8080 needs
//! that port on every address. Such a pod does not reach other Services on the same port number.

use crate::{
    data_plane::{DataPlane, ListenerHandle, TcpProxy},
    route::Route,
};
use kube_embedded_core::{
    descriptors::Shares,
    network::{Network, PodSockets},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::{IpAddr, SocketAddr},
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
    /// By the name of the node.
    SameNode(BTreeMap<String, Arc<Route>>),
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
    route: Arc<Route>,
    sockets: Arc<dyn PodSockets>,
    /// Dropping it closes the listener.
    _handle: ListenerHandle,
}

impl PodRoute {
    fn on_node(&self, node: &str) -> Option<&Arc<Route>> {
        match self {
            Self::Anywhere(route) => Some(route),
            Self::SameNode(routes) => routes.get(node),
        }
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
                let is_same = |listener: &PodListener| {
                    Arc::ptr_eq(&listener.route, route) && Arc::ptr_eq(&listener.sockets, &sockets)
                };
                // An old listener is dropped here, before its successor needs the port.
                let kept = before.remove(&(pod_ip, *at)).filter(is_same);
                let listener = kept.unwrap_or_else(|| {
                    let proxy = TcpProxy::new(self.network.clone(), route.clone());
                    PodListener {
                        route: route.clone(),
                        sockets: sockets.clone(),
                        _handle: data_plane.serve_in_pod(sockets.clone(), *at, Arc::new(proxy)),
                    }
                });
                self.open.insert((pod_ip, *at), listener);
            }
        }
        left_out
    }
}

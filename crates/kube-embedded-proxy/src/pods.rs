//! Cluster addresses inside of pods: an address such as 10.96.0.10 exists nowhere but in the pods'
//! own network namespaces, so the edge listens on it in each of them.
//!
//! A port that the pod itself serves on is left to the pod: a program that binds 0.0.0.0:8080 needs
//! that port on every address. Such a pod does not reach other Services on the same port number.

use super::{
    plane::{Listening, Plane},
    route::Route,
};
use kube_embedded_core::network::{Network, PodSockets};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// Listeners in all pods together; more would cost more memory than a cluster on a laptop has.
pub(super) const LISTENERS: usize = 8192;

/// Where connections to a cluster address go, seen from a pod.
#[derive(Clone)]
pub(super) enum PodRoute {
    Anywhere(Arc<Route>),
    /// By name of the pod's node.
    SameNode(BTreeMap<String, Arc<Route>>),
}

/// A pod's address, node and own ports.
pub(super) struct Inhabitant {
    pub(super) node: String,
    pub(super) own_ports: BTreeSet<u16>,
}

/// All listeners inside of pods.
pub(super) struct PodDoors {
    network: Arc<Network>,
    open: BTreeMap<(IpAddr, SocketAddr), Open>,
}

struct Open {
    route: Arc<Route>,
    sockets: Arc<dyn PodSockets>,
    /// Dropping it closes the listener.
    _listening: Listening,
}

impl PodRoute {
    fn from(&self, node: &str) -> Option<&Arc<Route>> {
        match self {
            Self::Anywhere(route) => Some(route),
            Self::SameNode(routes) => routes.get(node),
        }
    }
}

impl PodDoors {
    pub(super) fn new(network: Arc<Network>) -> Self {
        Self { network, open: BTreeMap::new() }
    }

    /// Opens and closes what has changed. A pod that is not known yet waits: its own ports are not
    /// known either. Returns an address that was left out because there are too many.
    pub(super) fn sync(
        &mut self,
        plane: &Plane,
        wanted: &BTreeMap<SocketAddr, PodRoute>,
        pods: &BTreeMap<IpAddr, Inhabitant>,
    ) -> Option<SocketAddr> {
        let (attached, _) = self.network.attached();
        let mut before = std::mem::take(&mut self.open);
        let mut left_out = None;
        for (address, sockets) in attached {
            let Some(pod) = pods.get(&address) else { continue };
            for (at, route) in wanted.iter().filter(|(at, _)| !pod.own_ports.contains(&at.port())) {
                let Some(route) = route.from(&pod.node) else { continue };
                if self.open.len() >= LISTENERS {
                    left_out = Some(*at);
                    break;
                }
                let same = |open: &Open| {
                    Arc::ptr_eq(&open.route, route) && Arc::ptr_eq(&open.sockets, &sockets)
                };
                // An old listener is dropped here, before its successor needs the port.
                let kept = before.remove(&(address, *at)).filter(same);
                let open = kept.unwrap_or_else(|| Open {
                    route: route.clone(),
                    sockets: sockets.clone(),
                    _listening: plane.serve_inside(sockets.clone(), *at, route.clone()),
                });
                self.open.insert((address, *at), open);
            }
        }
        left_out
    }
}

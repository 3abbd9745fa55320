//! The endpoints of a Service port, and fields of a Service that decide how they are used. The choice
//! of endpoints is kube-proxy's (`pkg/proxy/topology.go`, v1.36), without zones.

use k8s_openapi::api::{
    core::v1::ServiceSpec,
    discovery::v1::{Endpoint, EndpointSlice},
};
use kube_embedded_core::endpoint_slice;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

/// The default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_SECONDS: i32 = 10_800;

/// How the choice of an endpoint is weighted under `externalTrafficPolicy: Local`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weighting {
    /// Each pod has the same share, as behind an Ingress.
    Pods,
    /// Each node has the same share, as behind a load balancer, which knows only nodes.
    Nodes,
}

/// The conditions and the node of an endpoint.
#[derive(Clone, Debug, Default)]
struct EndpointState {
    ready: bool,
    serving: bool,
    terminating: bool,
    node: Option<String>,
}

/// The endpoints of one Service port. A pod that moves between slices may transiently be in two.
#[derive(Default)]
pub(crate) struct Endpoints(BTreeMap<SocketAddr, EndpointState>);

impl Endpoints {
    /// Removes the endpoints for which `keep` is false, and returns them.
    pub(crate) fn remove_unless(&mut self, keep: impl Fn(SocketAddr) -> bool) -> Vec<SocketAddr> {
        self.0.extract_if(.., |at, _| !keep(*at)).map(|(at, _)| at).collect()
    }
}

impl Endpoints {
    /// Returns the nodes that have endpoints.
    pub(crate) fn nodes(&self) -> BTreeSet<&str> {
        self.0.values().filter_map(|state| state.node.as_deref()).collect()
    }

    /// Returns the ready endpoints, of one node if given; if there are none, those that are terminating
    /// but still serve.
    pub(crate) fn usable(&self, node: Option<&str>) -> Vec<SocketAddr> {
        let here = |s: &EndpointState| node.is_none() || s.node.as_deref() == node;
        let those = |accept: fn(&EndpointState) -> bool| -> Vec<SocketAddr> {
            self.0.iter().filter(|(_, s)| here(s) && accept(s)).map(|(at, _)| *at).collect()
        };
        let ready = those(|s| s.ready);
        if ready.is_empty() { those(|s| s.serving && s.terminating) } else { ready }
    }
}

impl Endpoints {
    /// Collects the endpoints of the Service port of this name and protocol.
    pub(crate) fn of_port<'a>(
        slices: impl IntoIterator<Item = &'a EndpointSlice>,
        port_name: &str,
        protocol: &str,
    ) -> Self {
        let mut all = Self::default();
        for slice in slices {
            let ports = slice.ports.iter().flatten().filter(|p| {
                p.name.as_deref().unwrap_or_default() == port_name
                    && p.protocol.as_deref().unwrap_or("TCP") == protocol
            });
            for port in ports.filter_map(|p| p.port.and_then(port_number)) {
                for endpoint in endpoint_slice::endpoints(slice) {
                    // All addresses of an endpoint belong to one pod, so the first is enough.
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
}

/// Conditions that are not set have the meaning that the API documents.
fn state(endpoint: &Endpoint) -> EndpointState {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    EndpointState {
        ready,
        serving: conditions.serving.unwrap_or(ready),
        terminating: conditions.terminating.unwrap_or(false),
        node: endpoint.node_name.clone(),
    }
}

/// Returns the timeout of the session affinity, if the Service has any.
pub(crate) fn affinity(spec: &ServiceSpec) -> Option<Duration> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    let seconds = config.and_then(|c| c.timeout_seconds).unwrap_or(AFFINITY_SECONDS);
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// Returns whether a traffic policy is `Local`.
pub(crate) fn is_local(policy: &Option<String>) -> bool {
    policy.as_deref() == Some("Local")
}

/// Returns the port unless it is out of range.
pub(crate) fn port_number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|p| *p > 0)
}

/// Returns the addresses and ports on which the pods of a slice serve.
pub(crate) fn serving_ports(slice: &EndpointSlice) -> impl Iterator<Item = SocketAddr> {
    let ports = slice.ports.iter().flatten().filter_map(|p| u16::try_from(p.port?).ok());
    let addresses = || endpoint_slice::endpoints(slice).iter().flat_map(|e| &e.addresses);
    ports.flat_map(move |port| {
        addresses().filter_map(move |a| Some(SocketAddr::new(a.parse().ok()?, port)))
    })
}

//! Selects how to reach an external cluster: node ports, published ports or port-forward.

use super::{
    error::{EdgeError, cause},
    node_ports::{NodeEndpoint, NodeEndpoints, NodePorts},
    options::Options,
};
use crate::watches::events;
use futures::{Stream, StreamExt};
use k8s_openapi::api::{core::v1::Node, discovery::v1::EndpointSlice};
use kube::{Api, Client, api::ListParams, runtime::watcher::Event};
use kube_embedded_core::{endpoint_slice, informer::Informer, task::spawn_named};
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::watch, time};

/// The timeout of the TLS reachability probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// The label that excludes nodes from the backends of load balancers, as Kubernetes documents it.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// Stands for the node whose ports are published on the host.
pub(super) const PUBLISHED: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// How traffic enters an external cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reachability {
    /// Through node ports, at the nodes' own addresses.
    NodePorts,
    /// Through node ports that are published on the host, and through the API for ports that are
    /// not.
    Published(BTreeMap<u16, SocketAddr>),
    /// Through the API to each pod, as `kubectl port-forward` does, which is slower.
    PortForward {
        /// Why no node can be reached.
        reason: String,
    },
}

impl fmt::Display for Reachability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodePorts => f.write_str("node ports"),
            Self::Published(ports) => write!(f, "{} published node ports", ports.len()),
            Self::PortForward { reason } => write!(f, "the API, pod by pod ({reason})"),
        }
    }
}

impl Reachability {
    /// Detects the best available kind. A node's address proves nothing by itself: behind a virtual
    /// machine (Docker Desktop) it routes nowhere, or to another machine. So the control plane has to
    /// prove with the cluster's certificate that it listens there.
    pub(super) async fn detect(
        config: &kube::Config,
        client: &Client,
        options: Options,
    ) -> Result<Self, EdgeError> {
        let probed = match options.unreachable {
            true => Err("disabled by --nodes-unreachable".to_owned()),
            false => probe_nodes(config, client).await?,
        };
        match probed {
            Ok(()) => Ok(Self::NodePorts),
            Err(_) if !options.published.is_empty() => Ok(Self::Published(options.published)),
            Err(reason) => Ok(Self::PortForward { reason }),
        }
    }

    /// Returns the nodes that can be reached, updated as nodes are added and removed as long as the
    /// receiver exists.
    pub(super) async fn node_endpoints(
        &self,
        client: &Client,
    ) -> Result<watch::Receiver<Arc<NodeEndpoints>>, EdgeError> {
        match self {
            Self::Published(ports) => {
                let ports = NodePorts::Published(ports.keys().copied().collect());
                let host = NodeEndpoint { node: String::new(), address: PUBLISHED, ports };
                return Ok(watch::Sender::new(Arc::new([host].into_iter().collect())).subscribe());
            }
            Self::PortForward { .. } => return Ok(watch::Sender::default().subscribe()),
            Self::NodePorts => {}
        }
        let mut watch = Box::pin(events::<Node>(client));
        let nodes = Informer::default();
        while !nodes.has_synced() {
            apply_next(&mut watch, &nodes).await;
        }
        let endpoints = watch::Sender::new(Arc::new(node_endpoints(&nodes.list())));
        let receiver = endpoints.subscribe();
        let update = async move {
            loop {
                tokio::select! {
                    () = apply_next(&mut watch, &nodes) => {}
                    () = endpoints.closed() => return,
                }
                let now = node_endpoints(&nodes.list());
                endpoints.send_if_modified(|before| {
                    let changed = **before != now;
                    if changed {
                        tracing::info!(nodes = now.iter().count(), "nodes changed");
                        *before = Arc::new(now);
                    }
                    changed
                });
            }
        };
        spawn_named("node-watch", update).detach();
        Ok(receiver)
    }
}

async fn apply_next(watch: &mut (impl Stream<Item = Event<Node>> + Unpin), nodes: &Informer<Node>) {
    if let Some(event) = watch.next().await {
        nodes.observe(event);
    }
}

/// Returns the ready nodes that are not excluded, or all ready ones if every one is excluded, as in a
/// cluster of one node.
fn node_endpoints(nodes: &[Arc<Node>]) -> NodeEndpoints {
    let is_ready = |node: &&Node| {
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
        let mut conditions = conditions.into_iter().flatten();
        conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    let is_excluded = |node: &Node| {
        node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(EXCLUDED))
    };
    let ready: Vec<&Node> = nodes.iter().map(|node| &**node).filter(is_ready).collect();
    let all_excluded = ready.iter().all(|node| is_excluded(node));
    let endpoint = |node: &&Node| {
        Some(NodeEndpoint {
            node: node.metadata.name.clone()?,
            address: internal_ip(node)?,
            ports: NodePorts::All,
        })
    };
    let included = ready.iter().filter(|node| all_excluded || !is_excluded(node));
    included.filter_map(endpoint).collect()
}

fn internal_ip(node: &Node) -> Option<IpAddr> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let internal = addresses.iter().filter(|address| address.type_ == "InternalIP");
    internal.filter_map(|address| address.address.parse().ok()).next()
}

/// Returns the addresses in a slice; those of the API server inside the cluster.
fn slice_addresses(slice: &EndpointSlice) -> Vec<SocketAddr> {
    let ports = slice.ports.iter().flatten().filter_map(|p| u16::try_from(p.port?).ok());
    let addresses = || endpoint_slice::endpoints(slice).iter().flat_map(|e| &e.addresses);
    let both = |port| addresses().filter_map(move |a| Some(SocketAddr::new(a.parse().ok()?, port)));
    ports.flat_map(both).collect()
}

/// Probes whether nodes can be reached. The inner error is the reason why that is not known.
async fn probe_nodes(
    config: &kube::Config,
    client: &Client,
) -> Result<Result<(), String>, EdgeError> {
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await;
    let nodes = nodes.map_err(EdgeError::api("list nodes"))?;
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");
    let of_the_api = ListParams::default().labels("kubernetes.io/service-name=kubernetes");
    let slices = slices.list(&of_the_api).await;
    let slices = slices.map_err(EdgeError::api("list the endpoints of the API server"))?;
    let nodes: Vec<IpAddr> = nodes.iter().filter_map(internal_ip).collect();
    let api_servers: Vec<SocketAddr> = slices.iter().flat_map(slice_addresses).collect();
    Ok(probe(config, &nodes, &api_servers).await)
}

/// Probes whether the nodes' addresses are theirs on this host as well.
async fn probe(
    config: &kube::Config,
    nodes: &[IpAddr],
    api_servers: &[SocketAddr],
) -> Result<(), String> {
    if nodes.is_empty() {
        return Err("no node has an internal address".to_owned());
    }
    // Those never leave this host.
    if nodes.iter().all(IpAddr::is_loopback) {
        return Ok(());
    }
    let mut reason =
        "no node address could be verified: the API server does not run on a node".to_owned();
    for api in api_servers.iter().filter(|api| nodes.contains(&api.ip())) {
        let mut config = config.clone();
        (config.connect_timeout, config.read_timeout) = (Some(PROBE_TIMEOUT), Some(PROBE_TIMEOUT));
        (config.proxy_url, config.tls_server_name) = (None, None);
        // Whatever the kubeconfig trusts: any machine may be at the address, and would get its token.
        config.accept_invalid_certs = false;
        let request = async {
            config.cluster_url = format!("https://{api}").parse().map_err(|e| format!("{e}"))?;
            let client = Client::try_from(config).map_err(|e| e.to_string())?;
            client.apiserver_version().await.map_err(|error| cause(&error))
        };
        match time::timeout(PROBE_TIMEOUT, request).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => {
                reason = format!("the control plane does not respond at {api}: {error}");
            }
            Err(_) => {
                reason =
                    format!("the control plane does not respond at {api} in {PROBE_TIMEOUT:?}");
            }
        }
        tracing::debug!(reason, "node not reachable");
    }
    Err(reason)
}

#[cfg(test)]
mod tests;

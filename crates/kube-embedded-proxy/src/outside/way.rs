//! How traffic gets into a cluster of somebody else's.

use super::{EdgeError, Options, cause};
use crate::{Entrance, Entrances, Ports, events, objects::Mirror};
use futures::{Stream, StreamExt};
use k8s_openapi::api::{core::v1::Node, discovery::v1::EndpointSlice};
use kube::{Api, Client, api::ListParams, runtime::watcher::Event};
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::watch, time};

/// For a node to prove that it is one.
const PROOF: Duration = Duration::from_secs(3);

/// Keeps nodes out of the sets behind load balancers, as the Kubernetes documentation has it.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// Stands for the node whose ports are published elsewhere.
pub(super) const PUBLISHED: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// How traffic gets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the nodes' own addresses.
    NodePorts,
    /// To where their ports are published, and to each pod through the API where they are not.
    Published(BTreeMap<u16, SocketAddr>),
    /// To each pod through the API, as `kubectl port-forward` does: it takes longer.
    Pods {
        /// Why no node can be reached.
        why: String,
    },
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodePorts => f.write_str("node ports"),
            Self::Published(ports) => write!(f, "{} published node ports", ports.len()),
            Self::Pods { why } => write!(f, "the API, pod by pod ({why})"),
        }
    }
}

impl Way {
    /// The best way there is. An address of a node says nothing by itself: behind a virtual machine
    /// (Docker Desktop) it leads nowhere, or to somebody else's machine. So the control plane has to
    /// prove with the cluster's certificate that it answers there.
    pub(super) async fn find(
        config: &kube::Config,
        client: &Client,
        options: Options,
    ) -> Result<Self, EdgeError> {
        let reached = match options.unreachable {
            true => Err("as was said".to_owned()),
            false => reached(config, client).await?,
        };
        match reached {
            Ok(()) => Ok(Self::NodePorts),
            Err(_) if !options.published.is_empty() => Ok(Self::Published(options.published)),
            Err(why) => Ok(Self::Pods { why }),
        }
    }

    /// The entrances, kept as nodes come and go for as long as the receiver is.
    pub(super) async fn entrances(
        &self,
        client: &Client,
    ) -> Result<watch::Receiver<Arc<Entrances>>, EdgeError> {
        if let Self::Published(ports) = self {
            let ports = Ports::Published(ports.keys().copied().collect());
            let only = Entrance { node: String::new(), address: PUBLISHED, ports };
            return Ok(watch::Sender::new(Arc::new([only].into_iter().collect())).subscribe());
        }
        if let Self::Pods { .. } = self {
            return Ok(watch::Sender::default().subscribe());
        }
        let mut seen = Box::pin(events::<Node>(client));
        let mut nodes = Mirror::default();
        while !nodes.complete {
            step(&mut seen, &mut nodes).await;
        }
        let entrances = watch::Sender::new(Arc::new(through(nodes.items.values())));
        let receiver = entrances.subscribe();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = step(&mut seen, &mut nodes) => {}
                    () = entrances.closed() => return,
                }
                let now = through(nodes.items.values());
                entrances.send_if_modified(|before| {
                    let changed = **before != now;
                    if changed {
                        *before = Arc::new(now);
                    }
                    changed
                });
            }
        });
        Ok(receiver)
    }
}

async fn step(seen: &mut (impl Stream<Item = Event<Node>> + Unpin), nodes: &mut Mirror<Node>) {
    if let Some(event) = seen.next().await {
        nodes.apply(event, |node| node);
    }
}

/// The nodes that take traffic. Where all are kept out, as in a cluster of one, none is.
fn through<'a>(nodes: impl Iterator<Item = &'a Node>) -> Entrances {
    let ready = |node: &&Node| {
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
        let mut conditions = conditions.into_iter().flatten();
        conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    let excluded = |node: &Node| {
        node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(EXCLUDED))
    };
    let ready: Vec<&Node> = nodes.filter(ready).collect();
    let all_excluded = ready.iter().all(|node| excluded(node));
    let entrance = |node: &&Node| {
        Some(Entrance {
            node: node.metadata.name.clone()?,
            address: address(node)?,
            ports: Ports::All,
        })
    };
    let taken = ready.iter().filter(|node| all_excluded || !excluded(node));
    taken.filter_map(entrance).collect()
}

/// A node's own address.
fn address(node: &Node) -> Option<IpAddr> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let internal = addresses.iter().filter(|address| address.type_ == "InternalIP");
    internal.filter_map(|address| address.address.parse().ok()).next()
}

/// Where the API itself listens inside of the cluster.
fn addresses(slice: &EndpointSlice) -> Vec<SocketAddr> {
    let ports = slice.ports.iter().flatten().filter_map(|p| u16::try_from(p.port?).ok());
    let addresses = || slice.endpoints.iter().flatten().flat_map(|e| &e.addresses);
    let both = |port| addresses().filter_map(move |a| Some(SocketAddr::new(a.parse().ok()?, port)));
    ports.flat_map(both).collect()
}

/// Whether the nodes can be reached, or else why that is not known.
async fn reached(config: &kube::Config, client: &Client) -> Result<Result<(), String>, EdgeError> {
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await;
    let nodes = nodes.map_err(EdgeError::api("list nodes"))?;
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");
    let of_the_api = ListParams::default().labels("kubernetes.io/service-name=kubernetes");
    let slices = slices.list(&of_the_api).await;
    let slices = slices.map_err(EdgeError::api("find the API's own addresses"))?;
    let nodes: Vec<IpAddr> = nodes.iter().filter_map(address).collect();
    let apis: Vec<SocketAddr> = slices.iter().flat_map(addresses).collect();
    Ok(proof(config, &nodes, &apis).await)
}

/// Whether the nodes' addresses are theirs here, too, or else why that is not known.
async fn proof(config: &kube::Config, nodes: &[IpAddr], apis: &[SocketAddr]) -> Result<(), String> {
    if nodes.is_empty() {
        return Err("no node has an internal address".to_owned());
    }
    // Those never leave this host.
    if nodes.iter().all(IpAddr::is_loopback) {
        return Ok(());
    }
    let mut why = "the API listens on no node, so no node can prove that it is one".to_owned();
    for api in apis.iter().filter(|api| nodes.contains(&api.ip())) {
        let mut config = config.clone();
        (config.connect_timeout, config.read_timeout) = (Some(PROOF), Some(PROOF));
        (config.proxy_url, config.tls_server_name) = (None, None);
        // Whatever the kubeconfig trusts: anybody may answer there, and would get its token.
        config.accept_invalid_certs = false;
        let asked = async {
            config.cluster_url = format!("https://{api}").parse().map_err(|e| format!("{e}"))?;
            let client = Client::try_from(config).map_err(|e| e.to_string())?;
            client.apiserver_version().await.map_err(|error| cause(&error))
        };
        match time::timeout(PROOF, asked).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => why = format!("the control plane does not answer at {api}: {error}"),
            Err(_) => why = format!("the control plane does not answer at {api} in {PROOF:?}"),
        }
    }
    Err(why)
}

#[cfg(test)]
mod tests;

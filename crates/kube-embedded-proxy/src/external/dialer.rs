//! Connects to nodes and pods of an external cluster.

use super::{
    node_ports::NodeEndpoints,
    port_forward::{self, HALF_CLOSE_TIMEOUT},
    reachability::{PUBLISHED, Reachability},
};
use futures::{FutureExt, future::BoxFuture};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{ListParams, Portforwarder},
};
use kube_embedded_core::{network::Dial, task::spawn_named};
use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Pods that are cached by address.
const MAX_CACHED_PODS: usize = 4096;

/// Connects to endpoints: node ports directly, pods through the API.
pub(super) struct PodDialer {
    client: Client,
    nodes: watch::Receiver<Arc<NodeEndpoints>>,
    published: BTreeMap<u16, SocketAddr>,
    /// Namespace and name by address.
    pods: Mutex<HashMap<IpAddr, (String, String)>>,
}

impl Dial for PodDialer {
    fn dial(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>> {
        if to.ip() == PUBLISHED {
            return match self.published.get(&to.port()) {
                Some(at) => TcpStream::connect(*at).boxed(),
                None => async { Err(io::ErrorKind::AddrNotAvailable.into()) }.boxed(),
            };
        }
        if self.nodes.borrow().contains(to.ip()) {
            return TcpStream::connect(to).boxed();
        }
        self.port_forward(to).boxed()
    }
}

impl PodDialer {
    pub(super) fn new(
        client: Client,
        reachability: &Reachability,
        nodes: watch::Receiver<Arc<NodeEndpoints>>,
    ) -> Self {
        let published = match reachability {
            Reachability::Published(ports) => ports.clone(),
            Reachability::NodePorts | Reachability::PortForward { .. } => BTreeMap::new(),
        };
        Self { client, nodes, published, pods: Mutex::default() }
    }

    /// Connects to a pod as `kubectl port-forward` does.
    async fn port_forward(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let cached = self.pods().get(&to.ip()).cloned();
        let (namespace, name) = match cached {
            Some(pod) if self.has_address(&pod, to.ip()).await => pod,
            _ => self.find(to.ip()).await?,
        };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let forwarder = api.portforward(&name, &[to.port()]).await.map_err(io::Error::other)?;
        as_socket(forwarder, to.port()).await
    }

    /// Returns whether the pod still has the address: a new pod of its name has another one, and the
    /// address may belong to another pod.
    async fn has_address(&self, (namespace, name): &(String, String), address: IpAddr) -> bool {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        matches!(api.get_opt(name).await, Ok(Some(pod)) if runs_at(&pod, address))
    }

    /// Finds the pod that has the address, and caches it.
    async fn find(&self, address: IpAddr) -> io::Result<(String, String)> {
        let params = ListParams::default().fields(&format!("status.podIP={address}"));
        let pods = Api::<Pod>::all(self.client.clone()).list(&params).await;
        let found = pods.map_err(io::Error::other)?.into_iter().find(|pod| runs_at(pod, address));
        let key = found.and_then(|pod| Some((pod.metadata.namespace?, pod.metadata.name?)));
        let key = key.ok_or_else(|| {
            let why = format!("no pod of this cluster has the address {address}");
            io::Error::new(io::ErrorKind::HostUnreachable, why)
        })?;
        let mut pods = self.pods();
        if pods.len() >= MAX_CACHED_PODS {
            pods.clear();
        }
        pods.insert(address, key.clone());
        Ok(key)
    }

    fn pods(&self) -> MutexGuard<'_, HashMap<IpAddr, (String, String)>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whether the pod runs at the address. Terminated pods keep theirs in the status.
fn runs_at(pod: &Pod, address: IpAddr) -> bool {
    let Some(status) = &pod.status else { return false };
    let has_address = status.pod_ip.as_ref().and_then(|ip| ip.parse().ok()) == Some(address);
    has_address && status.phase.as_deref() == Some("Running")
}

/// Returns a socket whose other end is the pod's port: the data plane proxies between sockets.
async fn as_socket(mut forwarder: Portforwarder, port: u16) -> io::Result<TcpStream> {
    let stream = forwarder.take_stream(port);
    let failed = forwarder.take_error(port);
    let (Some(stream), Some(failed)) = (stream, failed) else {
        return Err(io::ErrorKind::NotConnected.into());
    };
    let (near, far) = socket_pair().await?;
    // Ends with either side.
    let copy = port_forward::copy(far, stream, failed, HALF_CLOSE_TIMEOUT);
    spawn_named("port-forward", copy).detach();
    Ok(near)
}

/// Returns both ends of a TCP connection.
pub(super) async fn socket_pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let near = TcpStream::connect(listener.local_addr()?).await?;
    let near_address = near.local_addr()?;
    // Other processes of this host may connect, too.
    loop {
        let (far, peer) = listener.accept().await?;
        if peer == near_address {
            far.set_nodelay(true)?;
            return Ok((near, far));
        }
    }
}

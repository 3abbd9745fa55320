//! Reaches nodes and pods of a cluster of somebody else's.

use super::{
    carry::{QUIET, carry},
    way::{PUBLISHED, Way},
};
use crate::Entrances;
use futures::{FutureExt, future::BoxFuture};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{ListParams, Portforwarder},
};
use kube_embedded_core::network::Dial;
use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// How many pods are remembered by address.
const REMEMBERED: usize = 4096;

/// The way to every endpoint.
pub(super) struct Dialler {
    client: Client,
    entrances: watch::Receiver<Arc<Entrances>>,
    published: BTreeMap<u16, SocketAddr>,
    /// Namespace and name by address.
    pods: Mutex<HashMap<IpAddr, (String, String)>>,
}

impl Dial for Dialler {
    fn dial(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>> {
        if to.ip() == PUBLISHED {
            return match self.published.get(&to.port()) {
                Some(at) => TcpStream::connect(*at).boxed(),
                None => async { Err(io::ErrorKind::AddrNotAvailable.into()) }.boxed(),
            };
        }
        if self.entrances.borrow().lead_to(to.ip()) {
            return TcpStream::connect(to).boxed();
        }
        self.forward(to).boxed()
    }
}

impl Dialler {
    pub(super) fn new(
        client: Client,
        way: &Way,
        entrances: watch::Receiver<Arc<Entrances>>,
    ) -> Self {
        let published = match way {
            Way::Published(ports) => ports.clone(),
            Way::NodePorts | Way::Pods { .. } => BTreeMap::new(),
        };
        Self { client, entrances, published, pods: Mutex::default() }
    }

    /// Connects to a pod as `kubectl port-forward` does.
    async fn forward(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let remembered = self.pods().get(&to.ip()).cloned();
        let pod = match remembered {
            Some(pod) if self.is_at(&pod, to.ip()).await => pod,
            _ => self.find(to.ip()).await?,
        };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.0);
        let forwarder = api.portforward(&pod.1, &[to.port()]).await.map_err(io::Error::other)?;
        as_socket(forwarder, to.port()).await
    }

    /// Whether the pod has the address still: the next one of its name has another, and its own may
    /// be somebody else's by now.
    async fn is_at(&self, (namespace, name): &(String, String), address: IpAddr) -> bool {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        matches!(api.get_opt(name).await, Ok(Some(pod)) if runs_at(&pod, address))
    }

    /// The pod that has the address.
    async fn find(&self, address: IpAddr) -> io::Result<(String, String)> {
        let here = ListParams::default().fields(&format!("status.podIP={address}"));
        let pods = Api::<Pod>::all(self.client.clone()).list(&here).await;
        let found = pods.map_err(io::Error::other)?.into_iter().find(|pod| runs_at(pod, address));
        let named = found.and_then(|pod| Some((pod.metadata.namespace?, pod.metadata.name?)));
        let named = named.ok_or_else(|| {
            let why = format!("no pod of this cluster has the address {address}");
            io::Error::new(io::ErrorKind::HostUnreachable, why)
        })?;
        let mut pods = self.pods();
        if pods.len() >= REMEMBERED {
            pods.clear();
        }
        pods.insert(address, named.clone());
        Ok(named)
    }

    fn pods(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, (String, String)>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Pods that have ended keep their address in their status.
fn runs_at(pod: &Pod, address: IpAddr) -> bool {
    let Some(status) = &pod.status else { return false };
    let here = status.pod_ip.as_ref().and_then(|ip| ip.parse().ok()) == Some(address);
    here && status.phase.as_deref() == Some("Running")
}

/// A socket whose other end is the pod's port: whoever carries connections has sockets on both
/// sides.
async fn as_socket(mut forwarder: Portforwarder, port: u16) -> io::Result<TcpStream> {
    let stream = forwarder.take_stream(port);
    let failed = forwarder.take_error(port);
    let (Some(stream), Some(failed)) = (stream, failed) else {
        return Err(io::ErrorKind::NotConnected.into());
    };
    let (near, far) = pair().await?;
    tokio::spawn(carry(far, stream, failed, QUIET));
    Ok(near)
}

/// Both ends of a connection.
pub(super) async fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let near = TcpStream::connect(listener.local_addr()?).await?;
    let ours = near.local_addr()?;
    // Anybody on this host may connect, too.
    loop {
        let (far, peer) = listener.accept().await?;
        if peer == ours {
            far.set_nodelay(true)?;
            return Ok((near, far));
        }
    }
}

//! Reaches nodes and pods of a cluster of somebody else's.

use super::way::{PUBLISHED, Way};
use crate::{edge::Entrances, network::Dial};
use futures::{FutureExt, future::BoxFuture};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{ListParams, Portforwarder},
};
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
        if let Some(pod) = remembered {
            match self.forward_to(&pod, to.port()).await {
                Ok(stream) => return Ok(stream),
                // Its address may be another pod's by now.
                Err(_) => drop(self.pods().remove(&to.ip())),
            }
        }
        let pod = self.find(to.ip()).await?;
        let stream = self.forward_to(&pod, to.port()).await?;
        let mut pods = self.pods();
        if pods.len() >= REMEMBERED {
            pods.clear();
        }
        pods.insert(to.ip(), pod);
        Ok(stream)
    }

    async fn forward_to(&self, pod: &(String, String), port: u16) -> io::Result<TcpStream> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.0);
        let forwarder = api.portforward(&pod.1, &[port]).await.map_err(io::Error::other)?;
        as_socket(forwarder, port).await
    }

    /// The pod that has the address. Those that have ended keep theirs in their status.
    async fn find(&self, address: IpAddr) -> io::Result<(String, String)> {
        let here = ListParams::default().fields(&format!("status.podIP={address}"));
        let pods = Api::<Pod>::all(self.client.clone()).list(&here).await;
        let runs = |pod: &Pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            phase == Some("Running")
        };
        let found = pods.map_err(io::Error::other)?.into_iter().find(runs);
        let named = found.and_then(|pod| Some((pod.metadata.namespace?, pod.metadata.name?)));
        named.ok_or_else(|| {
            let why = format!("no pod of this cluster has the address {address}");
            io::Error::new(io::ErrorKind::HostUnreachable, why)
        })
    }

    fn pods(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, (String, String)>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket whose other end is the pod's port. Whoever carries connections has sockets on both
/// sides, and passes a reset on as one.
async fn as_socket(mut forwarder: Portforwarder, port: u16) -> io::Result<TcpStream> {
    let stream = forwarder.take_stream(port);
    let refused = forwarder.take_error(port);
    let (Some(mut stream), Some(refused)) = (stream, refused) else {
        return Err(io::ErrorKind::NotConnected.into());
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let near = TcpStream::connect(listener.local_addr()?).await?;
    let ours = near.local_addr()?;
    // Anybody on this host may connect, too.
    let mut far = loop {
        let (far, peer) = listener.accept().await?;
        if peer == ours {
            break far;
        }
    };
    let _ = far.set_nodelay(true);
    tokio::spawn(async move {
        let carried = tokio::io::copy_bidirectional(&mut far, &mut stream).await;
        let failed = refused.now_or_never().flatten().is_some();
        if carried.is_err() || failed {
            // What the pod has not said must not look like the end of what it has.
            let _ = far.set_zero_linger();
        }
    });
    Ok(near)
}

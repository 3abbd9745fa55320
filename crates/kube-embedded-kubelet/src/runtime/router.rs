//! The network between the pods of a cluster, as the cluster sees it.

use super::{
    fd::namespace,
    ids,
    launch::LaunchError,
    pause::{Link, Pause},
    pod_sockets::NamespaceSockets,
};
use futures::future::BoxFuture;
use kube_embedded_core::network::{Addresses, PodSockets};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// The size of the pool of sockets of an idle cluster.
const IDLE_SIZE: usize = 16;

/// The network between the pods of a cluster. It ends with the last handle and the last pod.
pub(crate) struct Router {
    held: Pause,
    sockets: NamespaceSockets,
    link: Link,
    /// `A` of the cluster's addresses `127.A.0.0/16`.
    block: u8,
}

impl Router {
    /// Must be called within a Tokio runtime.
    pub(crate) fn new(held: Pause, addresses: &Addresses) -> Result<Self, LaunchError> {
        let failed = |e: io::Error| LaunchError::Step("reach the network of the cluster", e);
        let own_namespace = !ids::ranges_are_possible();
        let pidfd = held.process.pidfd();
        let user_namespace = own_namespace.then(|| namespace(&pidfd, "user").map(Arc::new));
        let link = Link { user_namespace: user_namespace.transpose().map_err(failed)? };
        let sockets = NamespaceSockets::with_idle_size(&held, IDLE_SIZE).map_err(failed)?;
        Ok(Self { held, sockets, link, block: addresses.block })
    }

    /// Returns what a pod has to be created with.
    pub(crate) fn link(&self) -> Link {
        self.link.clone()
    }

    /// Links a pod to the network, under this address.
    pub(crate) async fn connect_pod(
        &self,
        pod: &Pause,
        address: Ipv4Addr,
    ) -> Result<(), LaunchError> {
        let failed = |e: io::Error| LaunchError::Step("open the network of the pod", e);
        let namespace = namespace(&pod.process.pidfd(), "net").map_err(failed)?;
        self.sockets.link(&namespace, address, self.block).await
    }

    /// Waits until the process that holds the network has died.
    pub(crate) async fn lost(&self) -> io::Result<()> {
        self.held.process.wait().await.map(drop)
    }
}

impl PodSockets for Router {
    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>> {
        self.sockets.connect(to)
    }

    fn listen(&self, on: SocketAddr) -> BoxFuture<'_, io::Result<TcpListener>> {
        self.sockets.listen(on)
    }

    fn bind_udp(&self, on: SocketAddr) -> BoxFuture<'_, io::Result<UdpSocket>> {
        self.sockets.bind_udp(on)
    }
}

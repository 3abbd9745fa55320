//! The addresses of a cluster, and connections to its pods.
//!
//! Every cluster owns one block `127.A.0.0/16` of the host's loopback range, claimed by binding
//! `127.A.0.1:6443`, so any number of clusters run side by side and no traffic leaves the host.
//! Pods with a network namespace have `10.244.N.x` addresses that exist only there: the kubelet
//! attaches a [`PodSockets`] for each, and the other components connect through [`Network`].

use futures::future::BoxFuture;
use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, OnceLock, RwLock},
};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
};

/// The isolation of a pod's processes from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sandbox {
    /// User, mount, pid, uts and network namespaces.
    Namespaced,
    /// Child processes with a loopback address for the pod, which they find in `POD_IP`.
    Plain,
}

/// The port of every embedded API server.
pub const API_PORT: u16 = 6443;
/// The domain of every cluster, below which Services and pods have names.
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// The port of the Service `kube-dns`.
pub const DNS_PORT: u16 = 53;
/// The port of the DNS server on the host, at [`Addresses::dns_server`]: an ordinary user may bind it.
pub const DNS_SERVER_PORT: u16 = 10053;
/// The blocks that a cluster may claim: `127.2.0.0/16` to `127.250.0.0/16`.
pub const BLOCKS: std::ops::RangeInclusive<u8> = 2..=250;

/// The addresses of one cluster.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// `A` of the block `127.A.0.0/16`.
    pub block: u8,
    /// Pods and Services have addresses of the host in the plain sandbox only.
    pub sandbox: Sandbox,
}

impl Addresses {
    /// Returns the address that the API server listens on, at [`API_PORT`].
    pub fn api(&self) -> Ipv4Addr {
        Ipv4Addr::new(127, self.block, 0, 1)
    }

    /// Returns the internal address of a node, counted from 0.
    pub fn node(&self, node: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.block, 0, 11 + node)
    }

    /// Returns the addresses for load balancers, in the order of allocation.
    pub fn load_balancers(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let block = self.block;
        (1..=254).map(move |n| Ipv4Addr::new(127, block, 1, n))
    }

    /// Returns the addresses for Ingresses, one per namespace, in the order of allocation.
    pub fn ingresses(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let block = self.block;
        (1..=254).map(move |n| Ipv4Addr::new(127, block, 2, n))
    }

    /// Returns the addresses for Gateways, one each, in the order of allocation.
    pub fn gateways(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let block = self.block;
        (1..=254).map(move |n| Ipv4Addr::new(127, block, 3, n))
    }

    /// Returns the first address and prefix length of the service CIDR. The first usable address
    /// belongs to the `kubernetes` Service.
    pub fn services(&self) -> (Ipv4Addr, u8) {
        match self.sandbox {
            Sandbox::Namespaced => (Ipv4Addr::new(10, 96, 0, 0), 16),
            Sandbox::Plain => (Ipv4Addr::new(127, self.block, 96, 0), 20),
        }
    }

    /// Returns the cluster IP of the Service `kube-dns`, the tenth of the service CIDR as in clusters
    /// that kubeadm sets up.
    pub fn dns(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.services().0) + 10)
    }

    /// Returns the address of the host that the DNS server listens on, at [`DNS_SERVER_PORT`].
    pub fn dns_server(&self) -> Ipv4Addr {
        Ipv4Addr::new(127, self.block, 0, 10)
    }

    /// Returns the servers of the cluster itself, which pods reach through the Services `kubernetes` and
    /// `kube-dns`.
    pub fn servers(&self) -> [SocketAddr; 2] {
        [(self.api(), API_PORT).into(), (self.dns_server(), DNS_SERVER_PORT).into()]
    }

    /// Returns whether this may be the address of a pod or a Service of the cluster.
    pub fn is_internal(&self, address: Ipv4Addr) -> bool {
        is_within(self.services(), address) || is_within(self.pod_network(), address)
    }

    /// Returns the first address and prefix length of the pod CIDR of a node, counted from 0.
    pub fn pods(&self, node: u8) -> (Ipv4Addr, u8) {
        match self.sandbox {
            Sandbox::Namespaced => (Ipv4Addr::new(10, 244, node, 0), 24),
            Sandbox::Plain => (Ipv4Addr::new(127, self.block, 128 + node, 0), 24),
        }
    }

    /// Returns the first address and prefix length of the network that has the pod CIDRs of all nodes.
    pub fn pod_network(&self) -> (Ipv4Addr, u8) {
        match self.sandbox {
            Sandbox::Namespaced => (Ipv4Addr::new(10, 244, 0, 0), 16),
            Sandbox::Plain => (Ipv4Addr::new(127, self.block, 128, 0), 17),
        }
    }

    /// Returns whether this may be the address of a pod of the cluster.
    pub fn is_pod(&self, address: IpAddr) -> bool {
        matches!(address, IpAddr::V4(v4) if is_within(self.pod_network(), v4))
    }
}

/// Returns whether a network, of which the first address and the prefix length are given, has the address.
pub fn is_within((first, prefix): (Ipv4Addr, u8), address: Ipv4Addr) -> bool {
    let mask = u32::MAX << (32 - prefix);
    u32::from(address) & mask == u32::from(first)
}

/// Claims a block of addresses by binding the address of its API server, which no other process can
/// do then.
///
/// # Errors
/// The last bind error, if every block is taken.
pub fn claim_block() -> io::Result<(TcpListener, u8)> {
    let count = u32::from(BLOCKS.end() - BLOCKS.start()) + 1;
    let start = std::process::id().wrapping_mul(31).wrapping_add(rand::random_range(0..count));
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for n in 0..count {
        let block = (start.wrapping_add(n) % count) as u8 + BLOCKS.start();
        match std::net::TcpListener::bind((Ipv4Addr::new(127, block, 0, 1), API_PORT)) {
            Ok(listener) => {
                listener.set_nonblocking(true)?;
                return Ok((TcpListener::from_std(listener)?, block));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Creates sockets in a pod's network namespace.
pub trait PodSockets: Send + Sync {
    /// Connects to `to` from inside the pod.
    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>>;
    /// Listens on `on` inside the pod, so that it can reach Service addresses.
    fn listen(&self, on: SocketAddr) -> BoxFuture<'_, io::Result<TcpListener>>;
    /// Binds a socket for datagrams to `on` inside the pod.
    fn bind_udp(&self, on: SocketAddr) -> BoxFuture<'_, io::Result<UdpSocket>>;
    /// Returns the socket that receives the pod's DNS queries, if it has one: bound inside the pod
    /// before its first program starts, so that no query is lost.
    fn dns_queries(&self) -> Option<&UdpSocket> {
        None
    }
}

/// The sockets of a pod without a network namespace: its address is one of the host's.
#[derive(Clone, Copy, Debug)]
pub struct HostSockets;

impl PodSockets for HostSockets {
    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>> {
        Box::pin(TcpStream::connect(to))
    }

    fn listen(&self, on: SocketAddr) -> BoxFuture<'_, io::Result<TcpListener>> {
        Box::pin(TcpListener::bind(on))
    }

    fn bind_udp(&self, on: SocketAddr) -> BoxFuture<'_, io::Result<UdpSocket>> {
        Box::pin(UdpSocket::bind(on))
    }
}

/// Connects to the nodes and pods of an external cluster.
pub trait Dial: Send + Sync {
    /// Connects to `to`, an address of that cluster.
    fn dial(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>>;
}

/// The pods of a cluster by address, and how to connect to them.
///
/// Endpoints are objects that every client of the API may write, so an address is never connected to
/// because it is listed: a pod of the cluster must have it at this moment.
pub struct Network {
    pods: RwLock<HashMap<IpAddr, Arc<dyn PodSockets>>>,
    changes: watch::Sender<u64>,
    /// The network namespace between the pods, if they have one.
    router: OnceLock<Arc<dyn PodSockets>>,
    /// The servers of the cluster itself.
    servers: Vec<SocketAddr>,
    /// Set for an external cluster, whose pods are not attached.
    dialer: Option<Arc<dyn Dial>>,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            pods: RwLock::default(),
            changes: watch::Sender::new(0),
            router: OnceLock::new(),
            servers: Vec::new(),
            dialer: None,
        }
    }
}

impl Network {
    /// Creates the network of an embedded cluster, whose pods have yet to be attached.
    pub fn new(addresses: &Addresses) -> Self {
        Self { servers: addresses.servers().into(), ..Self::default() }
    }

    /// Creates the network of an external cluster.
    pub fn with_dialer(dialer: Arc<dyn Dial>) -> Self {
        Self { dialer: Some(dialer), ..Self::default() }
    }

    /// Sets the sockets of the network namespace through which all pods are reached and reach each
    /// other. To be called before a pod is attached, and once.
    pub fn set_router(&self, sockets: Arc<dyn PodSockets>) {
        // Fails if there is one already.
        let _ = self.router.set(sockets);
    }

    /// Returns the sockets of the network namespace between the pods. Without one, each pod is alone
    /// with the listeners that are opened inside it.
    pub fn router(&self) -> Option<&Arc<dyn PodSockets>> {
        self.router.get()
    }

    /// Registers the sockets of a pod under its address.
    pub fn attach(&self, pod: IpAddr, sockets: Arc<dyn PodSockets>) {
        self.pods.write().unwrap_or_else(|e| e.into_inner()).insert(pod, sockets);
        self.changes.send_modify(|n| *n += 1);
    }

    /// Removes the sockets of a pod.
    pub fn detach(&self, pod: IpAddr) {
        self.pods.write().unwrap_or_else(|e| e.into_inner()).remove(&pod);
        self.changes.send_modify(|n| *n += 1);
    }

    /// Returns all attached pods, and a receiver that is notified when they change.
    pub fn attached(&self) -> (Vec<(IpAddr, Arc<dyn PodSockets>)>, watch::Receiver<u64>) {
        let changes = self.changes.subscribe();
        let pods = self.pods.read().unwrap_or_else(|e| e.into_inner());
        (pods.iter().map(|(ip, s)| (*ip, s.clone())).collect(), changes)
    }

    /// Connects to `to` from inside an attached pod.
    pub async fn connect_from(&self, pod: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
        let sockets = self.pods.read().unwrap_or_else(|e| e.into_inner()).get(&pod).cloned();
        match sockets {
            Some(sockets) => sockets.connect(to).await,
            None => Err(unknown_pod(pod)),
        }
    }

    /// Connects to a pod, or to a server of the cluster itself. Refuses every other address: it may be a program of
    /// the host, or belong to another host.
    pub async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        if let Some(dialer) = &self.dialer {
            return dialer.dial(to).await;
        }
        let pod = self.pods.read().unwrap_or_else(|e| e.into_inner()).get(&to.ip()).cloned();
        match pod {
            Some(pod) => self.router().unwrap_or(&pod).connect(to).await,
            None if self.servers.contains(&to) => TcpStream::connect(to).await,
            None => Err(unknown_pod(to.ip())),
        }
    }
}

impl Network {
    /// Returns a socket that exchanges datagrams with a pod, and with no other address.
    ///
    /// # Errors
    /// Fails where the address is no pod's, as [`Network::connect`] does.
    pub async fn connect_udp(&self, to: SocketAddr) -> io::Result<UdpSocket> {
        let pod = self.pods.read().unwrap_or_else(|e| e.into_inner()).get(&to.ip()).cloned();
        let pod = pod.ok_or_else(|| unknown_pod(to.ip()))?;
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let socket = self.router().unwrap_or(&pod).bind_udp(any).await?;
        socket.connect(to).await?;
        Ok(socket)
    }
}

fn unknown_pod(ip: IpAddr) -> io::Error {
    let why = format!("no pod of this cluster has the address {ip}");
    io::Error::new(io::ErrorKind::HostUnreachable, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_addresses_are_those_of_the_nodes_and_no_others() {
        for (sandbox, inside, outside) in [
            (Sandbox::Namespaced, "10.244.255.9", ["10.245.0.1", "127.7.128.2", "127.0.0.1"]),
            (Sandbox::Plain, "127.7.130.2", ["127.7.0.1", "127.8.128.2", "10.244.0.2"]),
        ] {
            let addresses = Addresses { block: 7, sandbox };
            let (first, _) = addresses.pods(2);
            assert!(addresses.is_pod(first.into()));
            assert!(addresses.is_pod(inside.parse().unwrap()), "{inside}");
            for address in
                outside.into_iter().chain(["169.254.169.254", "::1", "::ffff:10.244.0.2"])
            {
                assert!(!addresses.is_pod(address.parse().unwrap()), "{address}");
            }
        }
    }

    #[tokio::test]
    async fn only_attached_pods_and_the_clusters_servers_are_connected_to() {
        let addresses = Addresses { block: 7, sandbox: Sandbox::Plain };
        let mut network = Network::new(&addresses);
        let host = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let on_host = host.local_addr().unwrap();
        let error = network.connect(on_host).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::HostUnreachable, "{error}");
        assert_eq!(error.to_string(), "no pod of this cluster has the address 127.0.0.1");
        network.attach(on_host.ip(), Arc::new(HostSockets));
        network.connect(on_host).await.unwrap();
        network.detach(on_host.ip());
        network.connect(on_host).await.unwrap_err();
        network.servers = vec![on_host];
        network.connect(on_host).await.unwrap();
        let another_port = (on_host.ip(), on_host.port() ^ 1).into();
        let error = network.connect(another_port).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::HostUnreachable, "{error}");
    }

    #[test]
    fn addresses_of_pods_and_services_are_internal() {
        for (sandbox, inside, outside) in [
            (Sandbox::Namespaced, ["10.96.0.10", "10.96.255.1", "10.244.99.7"], "10.97.0.1"),
            (Sandbox::Plain, ["127.7.96.10", "127.7.111.1", "127.7.227.7"], "127.7.0.1"),
        ] {
            let addresses = Addresses { block: 7, sandbox };
            assert!(inside.iter().all(|text| addresses.is_internal(text.parse().unwrap())));
            assert!(!addresses.is_internal(outside.parse().unwrap()), "{outside}");
            assert!(inside.contains(&&*addresses.dns().to_string()));
        }
    }
}

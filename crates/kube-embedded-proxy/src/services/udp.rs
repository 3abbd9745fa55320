//! UDP ports of Services. The first datagram of a client chooses an endpoint, and later ones go there as
//! long as they keep coming and the endpoint stays, as kube-proxy's entries in conntrack do.

use super::pod_listeners::PodRoute;
use kube_embedded_core::{
    backoff::Backoff,
    network::{Network, PodSockets},
    task::{Task, spawn_named},
};
use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::UdpSocket,
    time::{sleep, timeout},
};

/// The time without a datagram after which a client is forgotten (`nf_conntrack_udp_timeout_stream`).
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// Clients of one port that are remembered; the datagrams of others are lost meanwhile.
const MAX_CLIENTS: usize = 1024;
/// The longest datagram.
const MAX_DATAGRAM: usize = 65_536;
/// The time for the first datagram of a client to be sent, which is immediately unless a buffer is full.
const SEND_TIMEOUT: Duration = Duration::from_millis(100);
/// The delays before an address is bound again.
const RETRY: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));

/// Where an address is listened on: on the host or in the network of the pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    Host,
    Pods,
}

/// Where the datagrams of clients go.
pub(crate) trait DatagramRoute: Send + Sync + 'static {
    /// Returns the endpoint of a client that has none.
    fn choose(&self, client: IpAddr) -> Option<SocketAddr>;

    /// Returns whether a client may stay with an endpoint.
    fn keeps(&self, client: IpAddr, endpoint: SocketAddr) -> bool;
}

impl DatagramRoute for PodRoute {
    fn choose(&self, client: IpAddr) -> Option<SocketAddr> {
        self.of_client(client)?.choose(client, &[])
    }

    fn keeps(&self, client: IpAddr, endpoint: SocketAddr) -> bool {
        self.of_client(client).is_some_and(|route| route.may_reuse(endpoint))
    }
}

/// All UDP ports that are served.
#[derive(Default)]
pub(super) struct UdpListeners {
    open: BTreeMap<(Side, SocketAddr), (PodRoute, Task<()>)>,
}

impl UdpListeners {
    /// Opens and closes what has changed.
    pub(super) fn sync(
        &mut self,
        desired: BTreeMap<(Side, SocketAddr), PodRoute>,
        network: &Arc<Network>,
        sockets: impl Fn(Side) -> Option<Arc<dyn PodSockets>>,
    ) {
        let is_desired = |at: &(Side, SocketAddr), route: &PodRoute| {
            desired.get(at).is_some_and(|desired| desired.is_same(route))
        };
        self.open.retain(|at, (route, task)| is_desired(at, route) && !task.is_finished());
        for (key, route) in desired {
            let Some(sockets) = sockets(key.0).filter(|_| !self.open.contains_key(&key)) else {
                continue;
            };
            let serving = serve(sockets, key.1, route.clone(), network.clone());
            self.open.insert(key, (route, spawn_named("udp service", serving)));
        }
    }
}

/// Serves one address until dropped.
pub(crate) async fn serve(
    sockets: Arc<dyn PodSockets>,
    at: SocketAddr,
    route: impl DatagramRoute,
    network: Arc<Network>,
) {
    let socket = bind(&*sockets, at).await;
    tracing::debug!(%at, "serving datagrams");
    let socket = Arc::new(socket);
    let mut clients: HashMap<SocketAddr, Client> = HashMap::new();
    let mut datagram = vec![0; MAX_DATAGRAM];
    loop {
        // An error is that of an earlier datagram, whose client has closed its socket.
        let Ok((length, from)) = socket.recv_from(&mut datagram).await else { continue };
        let Some(datagram) = datagram.get(..length) else { continue };
        let known = clients.get(&from).filter(|client| client.is_served(from.ip(), &route));
        let endpoint = match known {
            Some(client) => client.endpoint.clone(),
            None => {
                if clients.len() >= MAX_CLIENTS {
                    clients.retain(|from, client| client.is_served(from.ip(), &route));
                }
                if clients.len() >= MAX_CLIENTS {
                    continue;
                }
                // No endpoint: lost, as datagrams may be.
                let Some(to) = route.choose(from.ip()) else { continue };
                match Client::new(to, from, &network, &socket).await {
                    Ok(client) => {
                        // A new socket is not known to be writable until the runtime has looked.
                        let _ = timeout(SEND_TIMEOUT, client.endpoint.send(datagram)).await;
                        clients.insert(from, client);
                        continue;
                    }
                    Err(error) => {
                        tracing::debug!(%at, %to, %error, "failed to reach an endpoint");
                        continue;
                    }
                }
            }
        };
        // A full buffer loses datagrams, as in any network.
        let _ = endpoint.try_send(datagram);
    }
}

/// Binds an address, with as many attempts as it takes.
async fn bind(sockets: &dyn PodSockets, at: SocketAddr) -> UdpSocket {
    let mut backoff = RETRY;
    loop {
        match sockets.bind_udp(at).await {
            Ok(socket) => return socket,
            Err(error) => tracing::warn!(%at, %error, "failed to bind a UDP port"),
        }
        sleep(backoff.next_delay()).await;
    }
}

/// A client of a port, and the endpoint that it has.
struct Client {
    to: SocketAddr,
    endpoint: Arc<UdpSocket>,
    /// Ends when the client has been idle.
    responses: Task<()>,
}

impl Client {
    async fn new(
        to: SocketAddr,
        from: SocketAddr,
        network: &Network,
        socket: &Arc<UdpSocket>,
    ) -> io::Result<Self> {
        let endpoint = Arc::new(network.connect_udp(to).await?);
        let responses = respond(endpoint.clone(), socket.clone(), from);
        Ok(Self { to, endpoint, responses: spawn_named("udp client", responses) })
    }

    /// Returns whether the client is to stay with its endpoint.
    fn is_served(&self, from: IpAddr, route: &impl DatagramRoute) -> bool {
        !self.responses.is_finished() && route.keeps(from, self.to)
    }
}

/// Sends what the endpoint responds to the client, until both have been idle.
async fn respond(endpoint: Arc<UdpSocket>, socket: Arc<UdpSocket>, client: SocketAddr) {
    // On the heap only while there is a datagram: most clients are idle most of the time.
    while let Ok(Ok(())) = timeout(IDLE_TIMEOUT, endpoint.readable()).await {
        let mut datagram = vec![0; MAX_DATAGRAM];
        loop {
            match endpoint.try_recv(&mut datagram) {
                Ok(length) => {
                    let Some(datagram) = datagram.get(..length) else { continue };
                    let _ = socket.try_send_to(datagram, client);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The endpoint's program does not listen (any more): the next datagram chooses again.
                Err(_) => return,
            }
        }
    }
}

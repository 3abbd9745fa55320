//! The data plane: listeners and connections, on threads of their own, so that traffic neither
//! waits for the API server's work nor delays it, and so that stopping the threads is enough to
//! close everything.
//!
//! The first thread has all listeners: one that is dropped is closed before any that is opened
//! after it, as the port they share requires. Connections are spread over all threads.

use super::{
    ingress::{
        front::{Front, self_signed},
        proxy::Door as Requests,
        table::{Backend, Table},
    },
    pump::{Pump, Side as _},
    route::Route,
};
use kube_embedded_core::network::{Network, PodSockets};
use std::{
    io,
    mem::MaybeUninit,
    net::{self, Ipv4Addr, SocketAddr},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::Arc,
    thread,
    time::Duration,
};
use threads::{Lanes, Threads};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::JoinHandle,
    time,
};

mod threads;

/// Connections that the kernel keeps for us before they are accepted.
const BACKLOG: u32 = 4096;
/// Connections that one listener carries at a time; more wait in the backlog.
const CONNECTIONS: usize = 8192;
/// An endpoint that does not answer for so long is passed over.
pub(super) const CONNECT: Duration = Duration::from_secs(5);
/// More threads would only take cores from the pods that answer.
const THREADS: usize = 4;

/// A bound port on which nobody listens yet: connections are refused.
#[derive(Debug)]
pub struct Port(TcpSocket);

/// What a listener has to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It carries as many connections as it may; others wait.
    Full,
    /// The process has no file descriptors left; others wait.
    OutOfDescriptors,
    /// It could not listen again.
    CannotListen,
}

/// The threads that carry all traffic.
#[derive(Debug)]
pub struct Plane {
    threads: Threads,
    shared: Shared,
}

/// A running listener. Dropping it closes the port; its connections go on.
#[derive(Debug)]
pub struct Listening(JoinHandle<()>);

#[derive(Clone)]
struct Shared {
    network: Arc<Network>,
    lanes: Lanes,
    troubles: mpsc::Sender<(SocketAddr, Trouble)>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

impl Port {
    /// Binds without listening, so that clients are refused until there is an endpoint.
    ///
    /// # Errors
    /// Those of bind(2): `PermissionDenied` for a privileged port, `AddrInUse`, `AddrNotAvailable`.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // A restarted cluster must get its ports back while old connections are in TIME_WAIT.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Self(socket))
    }

    /// The address, with the port that was chosen if 0 was asked for.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl Plane {
    /// Starts as many threads as there are cores, up to four. Troubles of listeners are sent to
    /// `troubles` with their address, and dropped while it is full.
    ///
    /// # Errors
    /// The process may have no more threads or descriptors.
    pub fn start(
        network: Arc<Network>,
        troubles: mpsc::Sender<(SocketAddr, Trouble)>,
    ) -> io::Result<Self> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self::with_threads(cores.min(THREADS), network, troubles)
    }

    fn with_threads(
        count: usize,
        network: Arc<Network>,
        troubles: mpsc::Sender<(SocketAddr, Trouble)>,
    ) -> io::Result<Self> {
        let (threads, lanes) = Threads::start(count, CONNECT / 2)?;
        Ok(Self { threads, shared: Shared { network, lanes, troubles } })
    }

    /// Carries connections to the port along the route.
    pub fn serve(&self, port: Port, route: Arc<Route>) -> Listening {
        let shared = self.shared.clone();
        Listening(self.threads.first().spawn(async move {
            // Cannot fail for a bound socket; without an address there is nothing to listen on.
            if let Ok(at) = port.address() {
                serve(shared, Door::Host { at, held: Some(port) }, route).await;
            }
        }))
    }

    /// Answers HTTP on the port as the front says. The port listens as long as this does: a host or
    /// path without endpoints is an answer, not a refusal. When it is closed, connections end after
    /// the requests that they are in.
    pub(super) fn serve_http(&self, port: Port, front: Arc<Front>) -> Listening {
        self.serve_requests(port, front, false)
    }

    /// The same over TLS, HTTP/2 if the client can.
    pub(super) fn serve_https(&self, port: Port, front: Arc<Front>) -> Listening {
        self.serve_requests(port, front, true)
    }

    /// Answers HTTP on the port from the endpoints of one route, as for an Ingress that has nothing
    /// but a default backend.
    ///
    /// # Errors
    /// When the TLS library cannot be set up, although nothing here speaks TLS.
    pub fn serve_http_along(&self, port: Port, route: Arc<Route>) -> io::Result<Listening> {
        let front = self_signed().and_then(Front::new).map_err(io::Error::other)?;
        let backend = Backend { name: "default backend".to_owned(), route };
        front.set_table(Table::new([], Some(Arc::new(backend))));
        Ok(self.serve_http(port, Arc::new(front)))
    }

    fn serve_requests(&self, port: Port, front: Arc<Front>, tls: bool) -> Listening {
        let shared = self.shared.clone();
        // At once rather than on its thread: the caller tells the world that the port listens.
        let inside = self.threads.first().enter();
        let listening = port.address().map(|at| (at, port.0.listen(BACKLOG).and_then(listener_of)));
        drop(inside);
        Listening(self.threads.first().spawn(async move {
            // Cannot fail for a bound socket.
            let Ok((at, listener)) = listening else { return };
            // Ends with the listener, whichever way that does.
            let (_open, closing) = watch::channel(());
            let way = Way::Requests(Requests::new(front, tls, at, closing));
            let connections = Arc::new(Semaphore::new(CONNECTIONS));
            match listener {
                Ok(listener) => accept(&shared, at, &listener, &way, &connections).await,
                Err(_) => shared.tell(at, Trouble::CannotListen),
            }
        }))
    }

    /// The same as [`Plane::serve`] on an address inside of a pod. A listener that cannot be had
    /// there (the pod's own program listens on all addresses, say) is reported as a trouble.
    pub(super) fn serve_inside(
        &self,
        pod: Arc<dyn PodSockets>,
        at: SocketAddr,
        route: Arc<Route>,
    ) -> Listening {
        let shared = self.shared.clone();
        Listening(self.threads.first().spawn(serve(shared, Door::Pod { at, pod }, route)))
    }
}

impl Listening {
    /// Closes the port and returns when it is closed.
    pub async fn close(mut self) {
        self.0.abort();
        let _ = (&mut self.0).await;
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Where a listener listens when it does.
enum Door {
    /// While it does not, the port stays bound: nobody else can take it, and clients are refused.
    Host {
        at: SocketAddr,
        held: Option<Port>,
    },
    Pod {
        at: SocketAddr,
        pod: Arc<dyn PodSockets>,
    },
}

impl Door {
    fn address(&self) -> SocketAddr {
        match self {
            Self::Host { at, .. } | Self::Pod { at, .. } => *at,
        }
    }

    async fn open(&mut self) -> io::Result<Listener> {
        let listener = match self {
            Self::Host { at, held } => {
                let port = held.take().map_or_else(|| Port::bind(*at), Ok)?;
                port.0.listen(BACKLOG)?
            }
            Self::Pod { at, pod } => pod.listen(*at).await?,
        };
        listener_of(listener)
    }

    fn close(&mut self, listener: Listener) {
        drop(listener);
        if let Self::Host { at, held } = self {
            // Should somebody be quicker, opening reports it.
            *held = Port::bind(*at).ok();
        }
    }
}

/// Accepts sockets that belong to no runtime yet: the thread that carries one registers it.
type Listener = AsyncFd<net::TcpListener>;

fn listener_of(listener: TcpListener) -> io::Result<Listener> {
    let listener = listener.into_std()?;
    // Without it small answers wait for acknowledgements; where it fails they are only slower.
    // Accepted sockets inherit it, which saves a system call for each.
    let same_socket = net::TcpStream::from(OwnedFd::from(listener.try_clone()?));
    let _ = same_socket.set_nodelay(true);
    // SAFETY: the listener owns its descriptor, and keeps it as long as it is registered.
    let listener = unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE)? };
    Ok(listener)
}

/// Listens while the route leads anywhere, refuses while it does not.
async fn serve(shared: Shared, mut door: Door, route: Arc<Route>) {
    let address = door.address();
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let mut routing = route.changes();
    let way = Way::Route(route);
    loop {
        if routing.wait_for(|routing| !routing.backends.is_empty()).await.is_err() {
            return;
        }
        let Ok(listener) = door.open().await else {
            shared.tell(address, Trouble::CannotListen);
            return;
        };
        tokio::select! {
            biased;
            () = accept(&shared, address, &listener, &way, &connections) => {}
            _ = routing.wait_for(|routing| routing.backends.is_empty()) => {}
        }
        door.close(listener);
    }
}

async fn accept(
    shared: &Shared,
    address: SocketAddr,
    listener: &Listener,
    way: &Way,
    connections: &Arc<Semaphore>,
) {
    loop {
        let permit = match connections.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                shared.tell(address, Trouble::Full);
                match connections.clone().acquire_owned().await {
                    Ok(permit) => permit,
                    Err(_) => return,
                }
            }
        };
        match listener.async_io(Interest::READABLE, accept_one).await {
            Ok((client, peer)) => {
                let (network, way) = (shared.network.clone(), way.clone());
                shared.lanes.put(Arrival { client, peer, network, way, _permit: permit });
            }
            Err(error) => {
                let starved = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
                // Otherwise the client left before it was accepted.
                if error.raw_os_error().is_some_and(|code| starved.contains(&code)) {
                    shared.tell(address, Trouble::OutOfDescriptors);
                    // Nothing tells when a descriptor is free again.
                    time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }
}

/// As the standard library accepts, but with a socket that does not block, which saves a call.
fn accept_one(listener: &net::TcpListener) -> io::Result<(net::TcpStream, SocketAddr)> {
    let mut peer = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: the kernel writes at most `length` bytes to `peer`, which has as many.
    let accepted = unsafe {
        libc::accept4(listener.as_raw_fd(), peer.as_mut_ptr().cast(), &mut length, flags)
    };
    if accepted < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let stream = unsafe { net::TcpStream::from_raw_fd(accepted) };
    // SAFETY: it was zeroed first, and zeroes are an address of no family.
    let peer = unsafe { peer.assume_init() };
    let peer = match i32::from(peer.ss_family) {
        libc::AF_INET => {
            // SAFETY: that is what this family has, and it is no larger and no more aligned.
            let v4 = unsafe { &*(&raw const peer).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            SocketAddr::from((ip, u16::from_be(v4.sin_port)))
        }
        // All others are rare.
        _ => stream.peer_addr()?,
    };
    Ok((stream, peer))
}

/// A connection that was accepted, and what carrying it takes.
struct Arrival {
    client: net::TcpStream,
    peer: SocketAddr,
    network: Arc<Network>,
    way: Way,
    _permit: OwnedSemaphorePermit,
}

/// What becomes of the connections of a listener.
#[derive(Clone)]
enum Way {
    /// Each goes to an endpoint as it is.
    Route(Arc<Route>),
    /// Each brings requests of HTTP.
    Requests(Requests),
}

impl Arrival {
    async fn carry(self) {
        // Fails only where descriptors or memory are short; the client sees the connection end.
        let Ok(client) = TcpStream::from_std(self.client) else { return };
        let route = match self.way {
            Way::Requests(requests) => {
                return requests.carry(client, self.peer, self.network).await;
            }
            Way::Route(route) => route,
        };
        let Some(endpoint) = connect(&self.network, &route, self.peer).await else {
            client.reset();
            return;
        };
        let _ = endpoint.set_nodelay(true);
        Pump::new(client, endpoint).await;
    }
}

/// Connects to a random endpoint. Nothing has been sent yet, so where one went away between the
/// choice and the connect, another is as good.
async fn connect(network: &Network, route: &Route, peer: SocketAddr) -> Option<TcpStream> {
    let mut tried = Vec::new();
    loop {
        let to = route.choose(peer.ip(), &tried)?;
        match time::timeout(route.patience(), network.connect(to)).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(_)) => route.failed(&mut tried, to, false),
            Err(_) => route.failed(&mut tried, to, true),
        }
    }
}

impl Shared {
    fn tell(&self, address: SocketAddr, trouble: Trouble) {
        // A full channel has told enough.
        let _ = self.troubles.try_send((address, trouble));
    }
}

#[cfg(test)]
mod tests;

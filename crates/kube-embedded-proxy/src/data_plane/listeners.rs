//! Listeners: they accept connections and assign them to workers.
//!
//! The first worker owns all listeners, so one that is dropped closes before any that is opened
//! after it, as the port that they share requires.

use super::{
    handler::Handler,
    slots::Slots,
    workers::{Assignment, WorkerHandles, Workers},
};
use crate::route::CONNECT_TIMEOUT;
use futures::FutureExt;
use kube_embedded_core::{descriptors::Shares, network::PodSockets, task::catch};
use rustix::{
    io::Errno,
    net::{SocketFlags, acceptfrom_with},
};
use std::{
    fmt, io,
    net::{self, SocketAddr},
    os::fd::OwnedFd,
    sync::Arc,
    thread,
    time::Duration,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::{TcpListener, TcpSocket},
    sync::{Semaphore, mpsc},
    task::JoinHandle,
    time,
};

/// Connections that the kernel queues before they are accepted.
const BACKLOG: u32 = 4096;
/// Connections of one listener at a time; more wait in the backlog.
pub(super) const MAX_CONNECTIONS: usize = 8192;
/// More workers would only take cores from the pods that respond.
const MAX_WORKERS: usize = 4;
/// The interval in which a listener at its limit looks for idle connections.
const LIMIT_RETRY: Duration = Duration::from_millis(50);
/// Pause before accepting again without free descriptors: nothing notifies when one is free.
const DESCRIPTORS_RETRY: Duration = Duration::from_millis(20);

/// A port that is bound but does not listen yet: connections are refused.
#[derive(Debug)]
pub struct BoundPort(TcpSocket);

/// A problem of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerError {
    /// The connection limit is reached; further connections wait.
    ConnectionLimit,
    /// The process has no file descriptors left; further connections wait.
    OutOfDescriptors,
    /// The listener could not listen, and has ended.
    CannotListen,
}

/// The threads that serve all traffic.
#[derive(Debug)]
pub struct DataPlane {
    workers: Workers,
    shared: Shared,
    /// Of all listeners.
    connections: usize,
}

/// A running listener. Dropping it closes the port; its connections stay.
#[derive(Debug)]
pub struct ListenerHandle(JoinHandle<()>);

#[derive(Clone)]
struct Shared {
    workers: WorkerHandles,
    slots: Arc<Slots>,
    errors: mpsc::Sender<(SocketAddr, ListenerError)>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl BoundPort {
    /// Binds without listening, so that clients are refused until there is an endpoint.
    ///
    /// # Errors
    /// Returns those of bind(2): `PermissionDenied` for a privileged port, `AddrInUse`,
    /// `AddrNotAvailable`.
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

    /// Returns the address, with the port that the kernel chose if 0 was bound.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn listen(self) -> io::Result<AcceptSocket> {
        accept_socket(self.0.listen(BACKLOG)?)
    }
}

impl DataPlane {
    /// Starts as many workers as there are cores, up to four. Errors of listeners are sent to
    /// `errors` with the listener's address, and dropped while that is full.
    ///
    /// # Errors
    /// Fails if the process can have no more threads or descriptors.
    pub fn start(errors: mpsc::Sender<(SocketAddr, ListenerError)>) -> io::Result<Self> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self::with_workers(cores.min(MAX_WORKERS), Shares::current().clients, errors)
    }

    pub(super) fn with_workers(
        count: usize,
        connections: usize,
        errors: mpsc::Sender<(SocketAddr, ListenerError)>,
    ) -> io::Result<Self> {
        let (workers, handles) = Workers::start(count, CONNECT_TIMEOUT / 2)?;
        let slots = Slots::new(connections);
        Ok(Self { workers, shared: Shared { workers: handles, slots, errors }, connections })
    }

    /// Serves connections to the port by the handler. If the handler is available already, the port
    /// listens when this returns.
    pub fn serve(&self, port: BoundPort, handler: Arc<dyn Handler>) -> ListenerHandle {
        // Cannot fail for a bound socket; without an address there is nothing to listen on.
        let Ok(at) = port.address() else {
            return ListenerHandle(self.workers.first().spawn(async {}));
        };
        let (port, listening) = match handler.available().now_or_never() {
            None => (Some(port), None),
            Some(()) => {
                // The socket is to be registered with the first worker.
                let _first = self.workers.first().enter();
                (None, Some(port.listen()))
            }
        };
        self.spawn(ListenAddr::Host { at, port }, listening, handler)
    }

    /// Serves connections to an address inside a pod's network namespace. Where the pod's own
    /// program listens on all addresses, the result is [`ListenerError::CannotListen`].
    pub(crate) fn serve_in_pod(
        &self,
        pod: Arc<dyn PodSockets>,
        at: SocketAddr,
        handler: Arc<dyn Handler>,
    ) -> ListenerHandle {
        self.spawn(ListenAddr::Pod { at, pod }, None, handler)
    }

    /// Resolves if the data plane has failed as a whole: no listener is left.
    pub async fn failed(&self) {
        self.workers.failed().await;
    }

    fn spawn(
        &self,
        addr: ListenAddr,
        listening: Option<io::Result<AcceptSocket>>,
        handler: Arc<dyn Handler>,
    ) -> ListenerHandle {
        // One listener leaves some to the others.
        let limit = MAX_CONNECTIONS.min(self.connections * 3 / 4);
        let listener = Listener { at: addr.address(), shared: self.shared.clone(), limit };
        ListenerHandle(self.workers.first().spawn(async move {
            let running = listener.run(addr, listening, handler);
            if catch("proxy-listener", running).await.is_err() {
                // The owner of the listener opens it again.
                listener.report(ListenerError::CannotListen);
            }
        }))
    }

    #[cfg(test)]
    pub(super) fn worker_handles(&self) -> &WorkerHandles {
        &self.shared.workers
    }
}

impl ListenerHandle {
    /// Closes the port and returns when it is closed.
    pub async fn close(mut self) {
        self.0.abort();
        // Cancelled; the task itself catches panics.
        let _ = (&mut self.0).await;
    }
}

impl Drop for ListenerHandle {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Where a listener listens while its handler is available.
enum ListenAddr {
    /// While the handler is not available, the port stays bound: no other process can take it, and
    /// clients are refused.
    Host { at: SocketAddr, port: Option<BoundPort> },
    /// An address inside a pod's network namespace.
    Pod { at: SocketAddr, pod: Arc<dyn PodSockets> },
}

impl ListenAddr {
    fn address(&self) -> SocketAddr {
        match self {
            Self::Host { at, .. } | Self::Pod { at, .. } => *at,
        }
    }

    async fn open(&mut self) -> io::Result<AcceptSocket> {
        match self {
            Self::Host { at, port } => {
                port.take().map_or_else(|| BoundPort::bind(*at), Ok)?.listen()
            }
            Self::Pod { at, pod } => accept_socket(pod.listen(*at).await?),
        }
    }

    fn close(&mut self, socket: AcceptSocket) {
        drop(socket);
        if let Self::Host { at, port } = self {
            // If another process binds it first, the next `open` reports the error.
            *port = BoundPort::bind(*at).ok();
        }
    }
}

/// Accepts sockets that no runtime knows: the worker that serves one registers it.
type AcceptSocket = AsyncFd<net::TcpListener>;

fn accept_socket(listener: TcpListener) -> io::Result<AcceptSocket> {
    let listener = listener.into_std()?;
    // Without it small responses wait for acknowledgements. Accepted sockets inherit the option,
    // which saves a system call for each; where it cannot be set they are only slower.
    let _ = rustix::net::sockopt::set_tcp_nodelay(&listener, true);
    // SAFETY: the `AsyncFd` owns the listener, so the descriptor stays open and the same until it is
    // deregistered.
    let socket = unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE)? };
    Ok(socket)
}

/// A listener's task. Its end closes the port.
struct Listener {
    at: SocketAddr,
    shared: Shared,
    /// Connections at a time.
    limit: usize,
}

impl Listener {
    /// Listens while the handler is available, and refuses clients while it is not.
    async fn run(
        &self,
        mut addr: ListenAddr,
        mut listening: Option<io::Result<AcceptSocket>>,
        handler: Arc<dyn Handler>,
    ) {
        let at = self.at;
        let connections = Arc::new(Semaphore::new(self.limit));
        loop {
            let opened = match listening.take() {
                Some(opened) => opened,
                None => {
                    handler.available().await;
                    addr.open().await
                }
            };
            let socket = match opened {
                Ok(socket) => socket,
                Err(error) => {
                    tracing::warn!(%at, %error, "failed to listen");
                    return self.report(ListenerError::CannotListen);
                }
            };
            tracing::debug!(%at, "listening");
            tokio::select! {
                biased;
                () = self.accept(&socket, &handler, &connections) => {}
                () = handler.unavailable() => {}
            }
            tracing::debug!(%at, "refusing connections: no endpoints");
            addr.close(socket);
        }
    }

    /// Accepts until dropped.
    async fn accept(
        &self,
        socket: &AcceptSocket,
        handler: &Arc<dyn Handler>,
        connections: &Arc<Semaphore>,
    ) {
        loop {
            let permit = match connections.clone().try_acquire_owned() {
                Ok(permit) => permit,
                Err(_) => {
                    // Idle connections to other listeners are closed as well, which does no harm.
                    if !self.shared.slots.shed() {
                        self.report(ListenerError::ConnectionLimit);
                    }
                    let acquired = connections.clone().acquire_owned();
                    match time::timeout(LIMIT_RETRY, acquired).await {
                        Ok(Ok(permit)) => permit,
                        Ok(Err(_)) => return,
                        Err(_) => continue,
                    }
                }
            };
            match socket.async_io(Interest::READABLE, accept_one).await {
                Ok((stream, peer)) => {
                    let wait = || self.report(ListenerError::ConnectionLimit);
                    let slot = self.shared.slots.take(wait).await;
                    let handler = handler.clone();
                    self.shared.workers.assign(Assignment { stream, peer, handler, permit, slot });
                }
                Err(error) if is_shortage(&error) => {
                    self.report(ListenerError::OutOfDescriptors);
                    self.shared.slots.shed();
                    time::sleep(DESCRIPTORS_RETRY).await;
                }
                // The client left before it was accepted.
                Err(error) => tracing::debug!(at = %self.at, %error, "failed to accept"),
            }
        }
    }

    fn report(&self, error: ListenerError) {
        // Dropping it is fine: a full channel already holds earlier reports.
        let _ = self.shared.errors.try_send((self.at, error));
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        tracing::debug!(at = %self.at, "listener closed");
    }
}

/// Accepts as the standard library does, but a socket that does not block, which saves a call.
fn accept_one(listener: &net::TcpListener) -> io::Result<(net::TcpStream, SocketAddr)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (accepted, peer): (OwnedFd, _) = acceptfrom_with(listener, flags)?;
    let stream = net::TcpStream::from(accepted);
    let peer = match peer.and_then(|peer| SocketAddr::try_from(peer).ok()) {
        Some(peer) => peer,
        None => stream.peer_addr()?,
    };
    Ok((stream, peer))
}

/// Returns whether accepting failed because descriptors or memory are short.
fn is_shortage(error: &io::Error) -> bool {
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|error| shortages.contains(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn accepted_socket_does_not_block_and_does_not_delay() {
        let port = BoundPort::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = port.address().unwrap();
        let socket = port.listen().unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        let (accepted, peer) = socket.async_io(Interest::READABLE, accept_one).await.unwrap();
        assert!(accepted.nodelay().unwrap());
        assert_eq!(peer, client.local_addr().unwrap());
        let error = io::Read::read(&mut &accepted, &mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}

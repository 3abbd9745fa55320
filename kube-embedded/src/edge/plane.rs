//! The data plane: listeners and connections, on a thread of their own, so that traffic neither
//! waits for the API server's work nor delays it, and so that stopping the thread is enough to
//! close everything.

use super::{
    pump::{self, Pump},
    route::Route,
};
use crate::network::{Network, PodSockets};
use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    os::fd::{AsRawFd, FromRawFd, IntoRawFd},
    sync::Arc,
    thread,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::{Builder, Handle},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinHandle,
    time,
};

/// Connections that the kernel keeps for us before they are accepted.
const BACKLOG: u16 = 4096;
/// Connections that one listener carries at a time; more wait in the backlog.
const CONNECTIONS: usize = 8192;
/// An endpoint that does not answer for so long is passed over.
const CONNECT: Duration = Duration::from_secs(5);

/// A bound port on which nobody listens yet: connections are refused.
#[derive(Debug)]
pub struct Port(StdListener);

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

/// The thread that carries all traffic.
#[derive(Debug)]
pub struct Plane {
    handle: Handle,
    network: Shared,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// A running listener. Dropping it closes the port; its connections go on.
#[derive(Debug)]
pub struct Listening(JoinHandle<()>);

#[derive(Clone)]
struct Shared {
    network: Arc<Network>,
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
        // SAFETY: the descriptor was just given up by `socket`, and is a TCP socket.
        Ok(Self(unsafe { StdListener::from_raw_fd(socket.into_raw_fd()) }))
    }

    /// The address, with the port that was chosen if 0 was asked for.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn open(self) -> io::Result<TcpListener> {
        // SAFETY: a call on a descriptor that `self` owns.
        if unsafe { libc::listen(self.0.as_raw_fd(), BACKLOG.into()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        TcpListener::from_std(self.0)
    }

    /// Linux keeps the port bound when a listening socket is shut down, and refuses from then on.
    fn close(listener: TcpListener) -> io::Result<Self> {
        let listener = listener.into_std()?;
        // SAFETY: a call on a descriptor that `listener` owns.
        if unsafe { libc::shutdown(listener.as_raw_fd(), libc::SHUT_RD) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(listener))
    }
}

impl Plane {
    /// Starts the thread. Troubles of listeners are sent to `troubles` with their address, and
    /// dropped while it is full.
    ///
    /// # Errors
    /// The process may have no more threads or descriptors.
    pub fn start(
        network: Arc<Network>,
        troubles: mpsc::Sender<(SocketAddr, Trouble)>,
    ) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name("edge".into()).spawn(move || {
            // Ends when the sender is dropped; all tasks, and so all sockets, end with the runtime.
            let _ = runtime.block_on(stopped);
        })?;
        let network = Shared { network, troubles };
        Ok(Self { handle, network, stop: Some(stop), thread: Some(thread) })
    }

    /// Carries connections to the port along the route.
    pub fn serve(&self, port: Port, route: Arc<Route>) -> Listening {
        let shared = self.network.clone();
        Listening(self.handle.spawn(async move { serve(shared, port, route).await }))
    }

    /// The same on an address inside of a pod. A listener that cannot be had there (the pod's own
    /// program listens on all addresses, say) is reported as a trouble.
    pub(super) fn serve_inside(
        &self,
        pod: Arc<dyn PodSockets>,
        at: SocketAddr,
        route: Arc<Route>,
    ) -> Listening {
        let shared = self.network.clone();
        Listening(self.handle.spawn(async move {
            match pod.listen(at).await.and_then(Port::close) {
                Ok(port) => serve(shared, port, route).await,
                Err(_) => shared.tell(at, Trouble::CannotListen),
            }
        }))
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It only panics if a task did in a way that tokio could not catch.
            let _ = thread.join();
        }
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

/// Listens while the route leads anywhere, refuses while it does not.
async fn serve(shared: Shared, mut port: Port, route: Arc<Route>) {
    let Ok(address) = port.address() else { return };
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let mut routing = route.changes();
    loop {
        if routing.wait_for(|routing| !routing.backends.is_empty()).await.is_err() {
            return;
        }
        let Ok(listener) = port.open() else {
            shared.tell(address, Trouble::CannotListen);
            return;
        };
        tokio::select! {
            biased;
            () = accept(&shared, address, &listener, &route, &connections) => {}
            _ = routing.wait_for(|routing| routing.backends.is_empty()) => {}
        }
        match Port::close(listener) {
            Ok(closed) => port = closed,
            Err(_) => return,
        }
    }
}

async fn accept(
    shared: &Shared,
    address: SocketAddr,
    listener: &TcpListener,
    route: &Arc<Route>,
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
        match listener.accept().await {
            Ok((client, peer)) => {
                tokio::spawn(carry(shared.network.clone(), client, peer, route.clone(), permit));
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                    shared.tell(address, Trouble::OutOfDescriptors);
                    // Nothing tells when a descriptor is free again.
                    time::sleep(Duration::from_millis(20)).await;
                }
                // The client left before it was accepted.
                _ => {}
            },
        }
    }
}

async fn carry(
    network: Arc<Network>,
    client: TcpStream,
    peer: SocketAddr,
    route: Arc<Route>,
    _permit: OwnedSemaphorePermit,
) {
    let Some(endpoint) = connect(&network, &route, peer).await else {
        pump::reset(&client);
        return;
    };
    // Without it small answers wait for acknowledgements; where it fails they are only slower.
    let _ = client.set_nodelay(true);
    let _ = endpoint.set_nodelay(true);
    Pump::new(client, endpoint).await;
}

/// Connects to a random endpoint. Nothing has been sent yet, so where one went away between the
/// choice and the connect, another is as good.
async fn connect(network: &Network, route: &Route, peer: SocketAddr) -> Option<TcpStream> {
    let mut tried = Vec::new();
    loop {
        let to = route.choose(peer.ip(), &tried)?;
        match time::timeout(CONNECT, network.connect(to)).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(_)) | Err(_) => tried.push(to),
        }
    }
}

impl Shared {
    fn tell(&self, address: SocketAddr, trouble: Trouble) {
        // A full channel has told enough.
        let _ = self.troubles.try_send((address, trouble));
    }
}

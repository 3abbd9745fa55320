//! The data plane: listeners and connections, on a thread of their own, so that traffic neither
//! waits for the API server's work nor delays it, and so that stopping the thread is enough to
//! close everything.

use super::{
    pump::{self, Pump},
    route::Route,
};
use crate::network::{Network, PodSockets};
use std::{io, net::SocketAddr, sync::Arc, thread, time::Duration};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::{Builder, Handle},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinHandle,
    time,
};

/// Connections that the kernel keeps for us before they are accepted.
const BACKLOG: u32 = 4096;
/// Connections that one listener carries at a time; more wait in the backlog.
const CONNECTIONS: usize = 8192;
/// An endpoint that does not answer for so long is passed over.
const CONNECT: Duration = Duration::from_secs(5);

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
        Ok(Self(socket))
    }

    /// The address, with the port that was chosen if 0 was asked for.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
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
        // While a sooner timer is pending, the deadline of a connect is set without waking the
        // thread from within, which costs a system call each time.
        handle.spawn(async {
            loop {
                time::sleep(CONNECT / 2).await;
            }
        });
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
        Listening(self.handle.spawn(async move {
            // Cannot fail for a bound socket; without an address there is nothing to listen on.
            if let Ok(at) = port.address() {
                serve(shared, Door::Host { at, held: Some(port) }, route).await;
            }
        }))
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
        Listening(self.handle.spawn(serve(shared, Door::Pod { at, pod }, route)))
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

    async fn open(&mut self) -> io::Result<TcpListener> {
        match self {
            Self::Host { at, held } => {
                let port = held.take().map_or_else(|| Port::bind(*at), Ok)?;
                port.0.listen(BACKLOG)
            }
            Self::Pod { at, pod } => pod.listen(*at).await,
        }
    }

    fn close(&mut self, listener: TcpListener) {
        drop(listener);
        if let Self::Host { at, held } = self {
            // Should somebody be quicker, opening reports it.
            *held = Port::bind(*at).ok();
        }
    }
}

/// Listens while the route leads anywhere, refuses while it does not.
async fn serve(shared: Shared, mut door: Door, route: Arc<Route>) {
    let address = door.address();
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let mut routing = route.changes();
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
            () = accept(&shared, address, &listener, &route, &connections) => {}
            _ = routing.wait_for(|routing| routing.backends.is_empty()) => {}
        }
        door.close(listener);
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

#[cfg(test)]
mod tests;

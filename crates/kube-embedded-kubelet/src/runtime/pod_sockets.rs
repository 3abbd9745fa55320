//! Sockets of the network namespace of a pod or of the router, created in advance: a load balancer opens thousands of
//! connections a second, and asking the pause process for each would cost a round trip.

use super::{
    launch::LaunchError,
    pause::Pause,
    scm_rights::MAX_FDS,
    socket_client::SocketClient,
    socket_request::{SocketKind, SocketRequest},
    syscalls,
};
use futures::future::BoxFuture;
use kube_embedded_core::{
    network::PodSockets,
    task::{Task, spawn_named},
};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    sync::Notify,
};

/// The size of the pool of an idle pod. Small, because each socket is an open file.
pub(super) const IDLE_SIZE: usize = 4;
/// The largest size of a pool; a refill of that many fits into one message.
const MAX_SIZE: usize = 192;
/// The pool shrinks again after this long without a connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// The sockets of one network namespace.
pub(crate) struct NamespaceSockets {
    shared: Arc<Shared>,
    dns_queries: Option<UdpSocket>,
    /// Keeps the pool filled; aborted when dropped.
    _refill: Task<()>,
}

struct Shared {
    pool: Mutex<Vec<OwnedFd>>,
    /// The size of the pool while there are no connections.
    idle_size: usize,
    /// The size that the pool is refilled to; doubles whenever the pool ran dry.
    target: AtomicUsize,
    low: Notify,
    /// Requests sockets of the pause process.
    client: tokio::sync::Mutex<SocketClient>,
}

impl NamespaceSockets {
    /// Must be called within a Tokio runtime.
    pub(crate) fn new(pause: &Pause, is_linked: bool) -> io::Result<Self> {
        // Others connect to a pod with a link from outside of it.
        Self::with_idle_size(pause, if is_linked { 0 } else { IDLE_SIZE })
    }

    pub(super) fn with_idle_size(pause: &Pause, idle_size: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            pool: Mutex::default(),
            idle_size,
            target: AtomicUsize::new(idle_size),
            low: Notify::new(),
            client: tokio::sync::Mutex::new(SocketClient::new(pause.socket.clone())?),
        });
        let refill = spawn_named("pod socket pool", refill(shared.clone()));
        Ok(Self { shared, dns_queries: None, _refill: refill })
    }

    /// Binds the socket for the pod's DNS queries.
    pub(crate) async fn receive_dns_queries(&mut self, on: SocketAddrV4) -> io::Result<()> {
        self.dns_queries = Some(self.bind_udp(on.into()).await?);
        Ok(())
    }

    /// Has the router link this network namespace of a pod to its own.
    pub(super) async fn link(
        &self,
        namespace: &OwnedFd,
        pod: Ipv4Addr,
        block: u8,
    ) -> Result<(), LaunchError> {
        let request =
            SocketRequest { kind: SocketKind::Link, count: 0, port: block.into(), address: pod };
        let mut client = self.shared.client.lock().await;
        let answer = client.exchange(request, &[namespace.as_raw_fd()]).await;
        match answer.map_err(|e| LaunchError::Step("connect the pod to the network", e))? {
            (_, (syscalls::READY, _)) => Ok(()),
            (_, (step, errno)) => Err(LaunchError::from_report(step, errno, "connect the pod")),
        }
    }
}

impl PodSockets for NamespaceSockets {
    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>> {
        Box::pin(async move {
            let socket = self.shared.take().await?;
            TcpSocket::from_std_stream(socket.into()).connect(to).await
        })
    }

    fn listen(&self, on: SocketAddr) -> BoxFuture<'_, io::Result<TcpListener>> {
        Box::pin(async move {
            let request = SocketRequest::bound(SocketKind::Listener, on)?;
            TcpListener::from_std(self.shared.one(request).await?.into())
        })
    }

    fn bind_udp(&self, on: SocketAddr) -> BoxFuture<'_, io::Result<UdpSocket>> {
        Box::pin(async move {
            let request = SocketRequest::bound(SocketKind::Datagram, on)?;
            UdpSocket::from_std(self.shared.one(request).await?.into())
        })
    }

    fn dns_queries(&self) -> Option<&UdpSocket> {
        self.dns_queries.as_ref()
    }
}

impl Shared {
    async fn take(&self) -> io::Result<OwnedFd> {
        loop {
            let (socket, left) = {
                let mut pool = self.lock();
                let socket = pool.pop();
                (socket, pool.len())
            };
            let target = self.target.load(Ordering::Relaxed);
            if let Some(socket) = socket {
                if left * 2 < target {
                    self.low.notify_one();
                }
                return Ok(socket);
            }
            self.target.store((target * 2).clamp(1, MAX_SIZE), Ordering::Relaxed);
            self.fill().await?;
        }
    }

    /// Fills the pool up to its target. A caller that had to wait for others finds it filled.
    async fn fill(&self) -> io::Result<()> {
        let mut client = self.client.lock().await;
        let missing = self.target.load(Ordering::Relaxed).saturating_sub(self.lock().len());
        if missing == 0 {
            return Ok(());
        }
        let count = missing.min(MAX_FDS) as u8;
        let address = Ipv4Addr::UNSPECIFIED;
        let request = SocketRequest { kind: SocketKind::Stream, count, port: 0, address };
        let sockets = client.sockets(request).await?;
        self.lock().extend(sockets);
        Ok(())
    }

    /// Requests one socket.
    async fn one(&self, request: SocketRequest) -> io::Result<OwnedFd> {
        let sockets = self.client.lock().await.sockets(request).await?;
        sockets.into_iter().next().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<OwnedFd>> {
        self.pool.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Keeps the pool filled, and shrinks it when the pod is idle, until the pod is removed.
async fn refill(shared: Arc<Shared>) {
    loop {
        if shared.fill().await.is_err() {
            return; // The pause process has exited; `connect` returns the error.
        }
        loop {
            match tokio::time::timeout(IDLE_TIMEOUT, shared.low.notified()).await {
                Ok(()) => break,
                Err(_) if shared.target.load(Ordering::Relaxed) > shared.idle_size => {
                    shared.target.store(shared.idle_size, Ordering::Relaxed);
                    shared.lock().truncate(shared.idle_size);
                }
                Err(_) => {
                    shared.low.notified().await;
                    break;
                }
            }
        }
    }
}

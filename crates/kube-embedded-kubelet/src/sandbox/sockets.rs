//! Sockets of a pod's network namespace, made ahead: a load balancer opens thousands of
//! connections a second, and asking the pause process for each would cost a round trip.

use super::{
    pause::{CONNECTING, LISTENING, Pause, Request},
    rights::{self, BATCH},
    spawner::owned,
    sys,
};
use futures::future::BoxFuture;
use kube_embedded_core::network::PodSockets;
use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd, RawFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Notify,
    task::JoinHandle,
};

/// Sockets kept for a pod that nobody talks to. Few, because each is an open file.
const IDLE: usize = 4;
/// As many as one message holds, less what a single one might bring on top.
const MOST: usize = 192;
/// After so long without a connection a pod's pool shrinks again.
const QUIET: Duration = Duration::from_secs(5);

/// The sockets of one pod.
pub(crate) struct Sockets {
    shared: Arc<Shared>,
    refill: JoinHandle<()>,
}

struct Shared {
    pool: Mutex<Vec<OwnedFd>>,
    /// How many the pool should hold; doubles whenever it ran dry.
    target: AtomicUsize,
    low: Notify,
    channel: tokio::sync::Mutex<AsyncFd<Arc<OwnedFd>>>,
}

impl Sockets {
    /// Must be called within a Tokio runtime.
    pub(crate) fn new(pause: &Pause) -> io::Result<Self> {
        let both = Interest::READABLE | Interest::WRITABLE;
        // SAFETY: the descriptor stays open and the same as long as the Arc is held.
        let channel = unsafe { AsyncFd::register_with_interest(pause.socket.clone(), both)? };
        let shared = Arc::new(Shared {
            pool: Mutex::default(),
            target: AtomicUsize::new(IDLE),
            low: Notify::new(),
            channel: tokio::sync::Mutex::new(channel),
        });
        let refill = tokio::spawn(refill(shared.clone()));
        Ok(Self { shared, refill })
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.refill.abort();
    }
}

impl PodSockets for Sockets {
    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>> {
        Box::pin(async move {
            let socket = self.shared.take().await?;
            TcpSocket::from_std_stream(socket.into()).connect(to).await
        })
    }

    fn listen(&self, on: SocketAddr) -> BoxFuture<'_, io::Result<TcpListener>> {
        Box::pin(async move {
            let IpAddr::V4(address) = on.ip() else {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "pods have no IPv6 addresses",
                ));
            };
            let request = Request { what: LISTENING, count: 1, port: on.port(), address };
            let made = self.shared.request(request).await?;
            let listener = made.into_iter().next().ok_or(io::ErrorKind::UnexpectedEof)?;
            TcpListener::from_std(listener.into())
        })
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
            self.target.store((target * 2).min(MOST), Ordering::Relaxed);
            self.fill().await?;
        }
    }

    /// Brings the pool up to its target. Who waits for the channel finds the pool filled.
    async fn fill(&self) -> io::Result<()> {
        let channel = self.channel.lock().await;
        let missing = self.target.load(Ordering::Relaxed).saturating_sub(self.lock().len());
        if missing == 0 {
            return Ok(());
        }
        let count = missing.min(BATCH) as u8;
        let request = Request { what: CONNECTING, count, port: 0, address: Ipv4Addr::UNSPECIFIED };
        let made = ask(&channel, request).await?;
        self.lock().extend(made);
        Ok(())
    }

    async fn request(&self, request: Request) -> io::Result<Vec<OwnedFd>> {
        ask(&*self.channel.lock().await, request).await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<OwnedFd>> {
        self.pool.lock().unwrap_or_else(|e| e.into_inner())
    }
}

async fn refill(shared: Arc<Shared>) {
    loop {
        if shared.fill().await.is_err() {
            return; // The pod is gone; who connects is told so.
        }
        loop {
            match tokio::time::timeout(QUIET, shared.low.notified()).await {
                Ok(()) => break,
                Err(_) if shared.target.load(Ordering::Relaxed) > IDLE => {
                    shared.target.store(IDLE, Ordering::Relaxed);
                    shared.lock().truncate(IDLE);
                }
                Err(_) => {
                    shared.low.notified().await;
                    break;
                }
            }
        }
    }
}

async fn ask(channel: &AsyncFd<Arc<OwnedFd>>, request: Request) -> io::Result<Vec<OwnedFd>> {
    let bytes = request.bytes();
    channel
        .async_io(Interest::WRITABLE, |fd| {
            // SAFETY: the buffer lives through the call.
            let sent = unsafe {
                libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL)
            };
            if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        })
        .await
        .map_err(gone)?;
    let (made, error) =
        channel.async_io(Interest::READABLE, |fd| receive(fd.as_raw_fd())).await.map_err(gone)?;
    if made.is_empty() { Err(io::Error::from_raw_os_error(error)) } else { Ok(made) }
}

fn gone(error: io::Error) -> io::Error {
    io::Error::new(io::ErrorKind::HostUnreachable, format!("the pod is gone: {error}"))
}

fn receive(channel: RawFd) -> io::Result<(Vec<OwnedFd>, i32)> {
    let (mut text, mut fds) = ([0u8; 8], [-1; BATCH]);
    let received = rights::receive(channel, &mut text, &mut fds);
    let (read, count) = received.map_err(io::Error::from_raw_os_error)?;
    if read == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let made = fds.iter().take(count).map(|fd| owned(*fd)).collect::<io::Result<_>>()?;
    Ok((made, sys::parse(text).1))
}

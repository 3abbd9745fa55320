//! Connections to endpoints that wait for another request.
//!
//! Each thread of the data plane has its own, so nothing is locked and a request never leaves its
//! thread. What is in here is alive as far as anybody knows: an endpoint that closes takes its
//! connection out by itself, one that is no longer ready is swept out.

use super::{BUFFER, upload::Upload};
use crate::route::Route;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    mem,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpStream, runtime::Handle, time};

/// Idle connections of a thread: to one endpoint, and in all.
const IDLE_OF_ENDPOINT: usize = 64;
const IDLE: usize = 1024;
/// Connections of a thread, idle or not, so that requests that hang do not take all descriptors.
const OPEN: usize = 4096;
/// How often it is looked which connections are too old or lead to an endpoint that is not ready.
const SWEEP: Duration = Duration::from_secs(1);
/// After how many sweeps an idle connection is too old: as many seconds as with nginx.
const OLD: u64 = 60;
/// How long an endpoint may take to read the rest of a request that it has answered already.
const REST: Duration = Duration::from_secs(5);

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
    static OPENED: Cell<usize> = const { Cell::new(0) };
}

#[derive(Default)]
struct Pool {
    idle: HashMap<SocketAddr, Vec<Idle>>,
    count: usize,
    sweeps: u64,
    sweeping: bool,
}

struct Idle {
    lease: Lease,
    since: u64,
}

/// A connection to an endpoint, for one request at a time.
pub(super) struct Lease {
    pub(super) sender: SendRequest<Upload>,
    pub(super) endpoint: SocketAddr,
    route: Arc<Route>,
}

impl Lease {
    /// An idle connection to the endpoint, the one used last.
    pub(super) fn idle(endpoint: SocketAddr, route: &Arc<Route>) -> Option<Self> {
        let mut lease = POOL.try_with(|pool| pool.borrow_mut().take(endpoint)).ok().flatten()?;
        if !Arc::ptr_eq(&lease.route, route) {
            lease.route = route.clone();
        }
        Some(lease)
    }

    /// A connection for this stream, carried by a task of its own.
    ///
    /// # Errors
    /// Without a stream: the thread has as many connections as it may.
    pub(super) async fn new(
        stream: TcpStream,
        endpoint: SocketAddr,
        route: &Arc<Route>,
    ) -> Option<Self> {
        let _ = stream.set_nodelay(true);
        let opened = Opened::new()?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(BUFFER);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(async move {
            let _opened = opened;
            // Who waits for an answer learns how it ended.
            let _ = connection.with_upgrades().await;
        });
        Some(Self { sender, endpoint, route: route.clone() })
    }

    /// Keeps the connection for the next request if it can take one.
    pub(super) fn give_back(mut self) {
        if self.sender.is_ready() {
            keep(self);
        } else if !self.sender.is_closed()
            && let Ok(runtime) = Handle::try_current()
        {
            // The endpoint answered before it had read all of the request.
            runtime.spawn(async move {
                if let Ok(Ok(())) = time::timeout(REST, self.sender.ready()).await {
                    keep(self);
                }
            });
        }
    }
}

/// Whether this thread may connect to one more endpoint.
pub(super) fn may_open() -> bool {
    OPENED.try_with(Cell::get).is_ok_and(|opened| opened < OPEN)
}

fn keep(lease: Lease) {
    if !lease.route.may_reuse(lease.endpoint) {
        return;
    }
    let (refused, sweep) = POOL
        .try_with(|pool| {
            let mut pool = pool.borrow_mut();
            (pool.put(lease), !mem::replace(&mut pool.sweeping, true))
        })
        .unwrap_or_default();
    drop(refused);
    if sweep && let Ok(runtime) = Handle::try_current() {
        runtime.spawn(sweep_while_any());
    }
}

async fn sweep_while_any() {
    loop {
        time::sleep(SWEEP).await;
        let swept = POOL.try_with(|pool| pool.borrow_mut().sweep());
        match swept {
            // Connections are closed here, when nobody borrows the pool.
            Ok((out, more)) => {
                drop(out);
                if !more {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

impl Pool {
    fn take(&mut self, endpoint: SocketAddr) -> Option<Lease> {
        let idle = self.idle.get_mut(&endpoint)?;
        loop {
            let Idle { lease, .. } = idle.pop()?;
            self.count -= 1;
            if lease.sender.is_ready() {
                return Some(lease);
            }
        }
    }

    /// Gives the lease back where there is no room.
    fn put(&mut self, lease: Lease) -> Option<Lease> {
        let since = self.sweeps;
        let idle = self.idle.entry(lease.endpoint).or_default();
        if idle.len() >= IDLE_OF_ENDPOINT || self.count >= IDLE {
            return Some(lease);
        }
        idle.push(Idle { lease, since });
        self.count += 1;
        None
    }

    /// What is too old, closed or not to be used again, and whether anything is left.
    fn sweep(&mut self) -> (Vec<Idle>, bool) {
        self.sweeps += 1;
        let now = self.sweeps;
        let mut out = Vec::new();
        self.idle.retain(|_, idle| {
            out.extend(idle.extract_if(.., |idle| {
                now - idle.since > OLD
                    || idle.lease.sender.is_closed()
                    || !idle.lease.route.may_reuse(idle.lease.endpoint)
            }));
            !idle.is_empty()
        });
        self.count -= out.len();
        self.sweeping = !self.idle.is_empty();
        (out, self.sweeping)
    }
}

/// Counts as a connection of this thread, on which it is made and dropped.
struct Opened;

impl Opened {
    fn new() -> Option<Self> {
        may_open().then(|| {
            let _ = OPENED.try_with(|opened| opened.set(opened.get() + 1));
            Self
        })
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let _ = OPENED.try_with(|opened| opened.set(opened.get().saturating_sub(1)));
    }
}

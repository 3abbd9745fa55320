//! A pool of idle connections to endpoints.
//!
//! Each worker of the data plane has its own, so nothing is locked and a request never leaves its
//! worker. A connection that its endpoint has closed is recognized when it is taken; one whose
//! endpoint is no longer ready is swept out.

use super::{
    backend::Backend,
    direct::DirectConnection,
    limits::{CONNECTION_WINDOW, HEAD_BYTES, STREAM_WINDOW},
    request_body::RequestBody,
    upstream_io::{Http1Sender, OpenCount},
};
use crate::{data_plane::ProxyStream, route::Route};
use http::{Method, Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube_embedded_core::{descriptors::Shares, task::spawn_named};
use std::{cell::RefCell, collections::BTreeMap, mem, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpStream, runtime::Handle, time};

/// Idle connections of a worker to one endpoint.
const MAX_IDLE_PER_ENDPOINT: usize = 64;
/// Idle connections of a worker.
const MAX_IDLE: usize = 1024;
/// Connections of a worker, idle or not, so that requests that hang do not take all descriptors.
const MAX_OPEN: usize = 4096;
/// Workers among which the descriptors for upstream connections are divided.
const WORKERS: usize = 4;
/// The interval of sweeps for connections that are too old or whose endpoint is not ready.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Sweeps after which an idle connection is too old: as many seconds as with nginx.
const MAX_AGE: u64 = 60;
/// The time for an endpoint to read the rest of a request that it has responded to already.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

#[derive(Default)]
struct Pool {
    idle: BTreeMap<PoolKey, Vec<Idle>>,
    count: usize,
    sweeps: u64,
    sweeping: bool,
}

/// An endpoint, and the way it is spoken to.
type PoolKey = (SocketAddr, u64);

struct Idle {
    connection: PooledConnection,
    since: u64,
}

/// A connection to an endpoint, for one request at a time.
pub(super) struct PooledConnection {
    pub(super) sender: Sender,
    pub(super) endpoint: SocketAddr,
    pool: u64,
    route: Arc<Route>,
    /// Whether another request may follow.
    pub(super) reusable: bool,
}

/// The response to a request, or why there is none, and the request if nothing of it was written.
pub(super) type Sent = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>;

/// Sends requests over a connection.
pub(super) enum Sender {
    /// HTTP/1.1 that needed nothing of hyper so far.
    Direct(Box<DirectConnection>),
    Http1(Http1Sender),
    /// Also for one request at a time: an endpoint that closes a connection ends one response.
    Http2(http2::SendRequest<RequestBody>),
}

impl Sender {
    pub(super) fn direct(&mut self) -> Option<&mut DirectConnection> {
        match self {
            Self::Direct(direct) => Some(direct),
            _ => None,
        }
    }

    fn is_ready(&mut self) -> bool {
        match self {
            Self::Direct(direct) => direct.is_ready(),
            Self::Http1(http1) => http1.sender.is_ready(),
            Self::Http2(sender) => sender.is_ready(),
        }
    }

    fn is_closed(&mut self) -> bool {
        match self {
            Self::Direct(direct) => !direct.is_ready(),
            Self::Http1(http1) => http1.sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }

    async fn ready(&mut self) -> hyper::Result<()> {
        match self {
            Self::Direct(_) => Ok(()),
            Self::Http1(http1) => http1.sender.ready().await,
            Self::Http2(sender) => sender.ready().await,
        }
    }
}

impl PooledConnection {
    /// Takes the most recently used idle connection to the endpoint.
    pub(super) fn take_idle(endpoint: SocketAddr, backend: &Backend) -> Option<Self> {
        let key = (endpoint, backend.pool);
        let mut connection = POOL.try_with(|pool| pool.borrow_mut().take(key)).ok().flatten()?;
        if !Arc::ptr_eq(&connection.route, &backend.route) {
            connection.route = backend.route.clone();
        }
        Some(connection)
    }

    /// Returns a connection for HTTP/1.1 without TLS.
    pub(super) fn direct(
        stream: TcpStream,
        endpoint: SocketAddr,
        backend: &Backend,
        opened: OpenCount,
    ) -> Self {
        let sender = Sender::Direct(Box::new(DirectConnection::new(stream, opened)));
        let (route, pool) = (backend.route.clone(), backend.pool);
        Self { sender, endpoint, pool, route, reusable: true }
    }

    /// Starts HTTP on a stream, driven by a task of its own. Returns `None` if that fails.
    pub(super) async fn new<S: ProxyStream>(
        stream: S,
        endpoint: SocketAddr,
        backend: &Backend,
        opened: OpenCount,
    ) -> Option<Self> {
        let sender = match backend.upstream.http2 {
            false => Sender::Http1(Http1Sender::start(stream, endpoint, opened).await?),
            true => Self::http2(stream, endpoint, opened).await?,
        };
        let (route, pool) = (backend.route.clone(), backend.pool);
        Some(Self { sender, endpoint, pool, route, reusable: true })
    }

    async fn http2<S: ProxyStream>(
        stream: S,
        endpoint: SocketAddr,
        opened: OpenCount,
    ) -> Option<Sender> {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .max_header_list_size(HEAD_BYTES as u32)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(TokioIo::new(stream))
            .await
            .ok()?;
        let drive = async move {
            let _opened = opened;
            if let Err(error) = connection.await {
                tracing::debug!(%endpoint, %error, "upstream connection failed");
            }
        };
        spawn_named("upstream-connection", drive).detach();
        Some(Sender::Http2(sender))
    }

    /// Sends a request by hyper, which takes the connection over, and reads first what has arrived: the response, if the
    /// request was sent already. Returns `None` if hyper cannot.
    pub(super) async fn send(mut self, request: Request<RequestBody>) -> Option<(Self, Sent)> {
        self.sender = match self.sender {
            Sender::Direct(direct) => {
                let (stream, opened, arrived) = direct.into_parts();
                Sender::Http1(Http1Sender::resume(stream, self.endpoint, opened, &arrived).await?)
            }
            other => other,
        };
        let sent = match &mut self.sender {
            Sender::Http1(http1) => http1.send(request).await,
            Sender::Http2(sender) => sender.try_send_request(request).await,
            Sender::Direct(_) => return None,
        };
        Some((self, sent))
    }

    /// Sends the request that was sent again, if that has ended the connection because the response has more
    /// fields than usual, and returns that response; nothing is written. It does not matter what the request is
    /// but for its method.
    pub(super) async fn read_larger(&mut self, method: &Method) -> Option<Sent> {
        let Sender::Http1(http1) = &self.sender else { return None };
        self.sender = Sender::Http1(http1.take_larger()?.await?);
        let mut request = Request::new(RequestBody::empty());
        *request.method_mut() = method.clone();
        let Sender::Http1(http1) = &mut self.sender else { return None };
        Some(http1.send(request).await.map_err(|mut error| {
            // It is not the client's.
            error.take_message();
            error
        }))
    }

    /// Returns the connection to the pool if it can take another request.
    pub(super) fn release(mut self) {
        if !self.reusable {
            return;
        }
        if let Sender::Direct(direct) = &mut self.sender {
            // Whether it is still open counts when it is taken.
            if direct.finish() {
                put(self);
            }
        } else if self.sender.is_ready() {
            put(self);
        } else if !self.sender.is_closed() && Handle::try_current().is_ok() {
            // The endpoint responded before it had read all of the request.
            let drain = async move {
                if let Ok(Ok(())) = time::timeout(DRAIN_TIMEOUT, self.sender.ready()).await {
                    put(self);
                }
            };
            spawn_named("upstream-drain", drain).detach();
        }
    }
}

/// Counts a connection that is about to be opened. An idle one is closed for it if the worker has
/// reached its limit; returns `None` if there is none.
pub(super) fn reserve() -> Option<OpenCount> {
    let limit = MAX_OPEN.min(Shares::current().upstreams / WORKERS);
    if OpenCount::current().is_none_or(|opened| opened >= limit) {
        let evicted = POOL.try_with(|pool| pool.borrow_mut().evict());
        // Dropped here, as that runs code which may borrow the pool.
        drop(evicted.ok().flatten()?);
    }
    Some(OpenCount::new())
}

fn put(connection: PooledConnection) {
    if !connection.route.may_reuse(connection.endpoint) {
        return;
    }
    let (refused, sweep) = POOL
        .try_with(|pool| {
            let mut pool = pool.borrow_mut();
            (pool.put(connection), !mem::replace(&mut pool.sweeping, true))
        })
        .unwrap_or_default();
    drop(refused);
    if sweep && Handle::try_current().is_ok() {
        spawn_named("upstream-sweep", sweep_until_empty()).detach();
    }
}

async fn sweep_until_empty() {
    loop {
        time::sleep(SWEEP_INTERVAL).await;
        let swept = POOL.try_with(|pool| pool.borrow_mut().sweep());
        match swept {
            // Dropping connections runs code that may borrow the pool.
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
    fn take(&mut self, key: PoolKey) -> Option<PooledConnection> {
        let idle = self.idle.get_mut(&key)?;
        loop {
            let Idle { mut connection, .. } = idle.pop()?;
            self.count -= 1;
            if connection.sender.is_ready() {
                return Some(connection);
            }
        }
    }

    /// Adds an idle connection, or returns it if there is no room.
    fn put(&mut self, connection: PooledConnection) -> Option<PooledConnection> {
        let since = self.sweeps;
        let idle = self.idle.entry((connection.endpoint, connection.pool)).or_default();
        if idle.len() >= MAX_IDLE_PER_ENDPOINT || self.count >= MAX_IDLE {
            return Some(connection);
        }
        idle.push(Idle { connection, since });
        self.count += 1;
        None
    }

    /// Removes the connection that is idle for the longest time.
    fn evict(&mut self) -> Option<Idle> {
        let idle = self.idle.values_mut().filter(|idle| !idle.is_empty());
        let oldest = idle.min_by_key(|idle| idle.first().map(|idle| idle.since))?.remove(0);
        self.count -= 1;
        Some(oldest)
    }

    /// Removes connections that are too old, closed or not to be reused. Returns them, and whether any
    /// is left.
    fn sweep(&mut self) -> (Vec<Idle>, bool) {
        self.sweeps += 1;
        let now = self.sweeps;
        let mut out = Vec::new();
        self.idle.retain(|_, idle| {
            out.extend(idle.extract_if(.., |idle| {
                now - idle.since > MAX_AGE
                    || idle.connection.sender.is_closed()
                    || !idle.connection.route.may_reuse(idle.connection.endpoint)
            }));
            !idle.is_empty()
        });
        self.count -= out.len();
        self.sweeping = !self.idle.is_empty();
        (out, self.sweeping)
    }
}

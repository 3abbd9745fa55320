//! The open connections, and how long each may stay open. A client without credentials keeps one that
//! no other client needs; it is the first that is closed when connections are short.
//!
//! The timeouts are those of kube-apiserver (`http.Server` in `pkg/server/secure_serving.go`, v1.36).

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

/// Connections without credentials at a time, if the limit on all is not lower: each may have sent a
/// head that is incomplete.
const MAX_ANONYMOUS: usize = 1024;

/// How long a client may keep the server waiting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    /// A TLS handshake. Go allows as much as for a head; a client of this server is on the same host.
    pub(super) handshake: Duration,
    /// The head of a request, from its first byte; that of the first one, from the handshake.
    pub(super) head: Duration,
    /// The time between two requests.
    pub(super) idle: Duration,
    /// A client that has requests in flight and reads nothing: Go has no limit. The watches of a
    /// suspended kubectl must survive a while.
    pub(super) stalled: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let [handshake, head, idle, stalled] = [10, 32, 90, 300].map(Duration::from_secs);
        Self { handshake, head, idle, stalled }
    }
}

/// All connections of a server.
#[derive(Debug)]
pub(super) struct Connections {
    open: Mutex<BTreeMap<u64, Arc<Connection>>>,
    limit: usize,
    /// Notified when a connection has ended.
    ended: Notify,
    epoch: Instant,
}

/// The state of one connection.
#[derive(Debug)]
pub(super) struct Connection {
    epoch: Instant,
    /// A request had valid credentials, or the connection itself has.
    authenticated: AtomicBool,
    requests: AtomicU64,
    in_flight: AtomicUsize,
    /// When the last request ended, in milliseconds since the epoch.
    idle_since: AtomicU64,
    /// When the first byte came after that; 0 if none has.
    read_since: AtomicU64,
    /// Writes that the client accepted.
    writes: AtomicU64,
    /// The client does not read what there is to write.
    blocked: AtomicBool,
    evicted: Notify,
}

/// Keeps a connection among the open ones.
#[derive(Debug)]
pub(super) struct Registration {
    pub(super) connection: Arc<Connection>,
    id: u64,
    all: Weak<Connections>,
}

/// Counts as a request in flight while it exists.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Connection>);

impl Connections {
    /// Creates an empty set, for at most `limit` connections.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        let (open, ended) = Default::default();
        Arc::new(Self { open, limit, ended, epoch: Instant::now() })
    }

    /// Registers a connection that was accepted. If there are too many now, the one is closed that is
    /// idle for the longest time, and first one without credentials.
    pub(super) fn register(self: &Arc<Self>) -> Registration {
        let connection = Arc::new(Connection::new(self.epoch));
        let mut open = self.lock();
        let id = open.last_key_value().map_or(0, |(last, _)| last + 1);
        let anonymous = open.values().filter(|connection| !connection.is_authenticated()).count();
        if open.len() >= self.limit || anonymous >= MAX_ANONYMOUS.min(self.limit / 2) {
            evict(&mut open);
        }
        open.insert(id, connection.clone());
        Registration { connection, id, all: Arc::downgrade(self) }
    }

    /// Waits until another connection may be accepted: there is room, or one that can be closed.
    pub(super) async fn room(&self) {
        loop {
            let ended = self.ended.notified();
            {
                let open = self.lock();
                if open.len() < self.limit || open.values().any(|c| c.idle_since().is_some()) {
                    return;
                }
            }
            // A connection may also become idle, of which nothing notifies.
            tokio::select! {
                () = ended => {}
                () = sleep(Duration::from_millis(100)) => {}
            }
        }
    }

    /// Closes a connection because the process has no descriptors left.
    pub(super) fn shed(&self) {
        evict(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes the connection that is idle for the longest time, and first one without credentials.
fn evict(open: &mut BTreeMap<u64, Arc<Connection>>) {
    let idle = open.iter().filter_map(|(id, connection)| {
        Some((connection.is_authenticated(), connection.idle_since()?, *id))
    });
    if let Some((_, _, id)) = idle.min()
        && let Some(connection) = open.remove(&id)
    {
        connection.evicted.notify_one();
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(all) = self.all.upgrade() {
            all.lock().remove(&self.id);
            all.ended.notify_one();
        }
    }
}

impl Connection {
    fn new(epoch: Instant) -> Self {
        let connection = Self {
            epoch,
            authenticated: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            idle_since: AtomicU64::new(0),
            read_since: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            blocked: AtomicBool::new(false),
            evicted: Notify::new(),
        };
        connection.idle_since.store(connection.now(), Relaxed);
        connection
    }

    /// Returns milliseconds since the epoch, and never 0, which means never.
    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }

    fn is_authenticated(&self) -> bool {
        self.authenticated.load(Relaxed)
    }

    /// Records valid credentials.
    pub(super) fn authenticate(&self) {
        self.authenticated.store(true, Relaxed);
    }

    /// Records the begin of a request.
    pub(super) fn request(self: &Arc<Self>) -> InFlight {
        self.requests.fetch_add(1, Relaxed);
        self.in_flight.fetch_add(1, Relaxed);
        InFlight(self.clone())
    }

    /// Records that the connection became a stream, which ends with it.
    pub(super) fn upgrade(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// Records bytes from the client.
    pub(super) fn read(&self) {
        let _ = self.read_since.compare_exchange(0, self.now(), Relaxed, Relaxed);
    }

    /// Records a write, and whether the client did not accept it.
    pub(super) fn wrote(&self, blocked: bool) {
        self.blocked.store(blocked, Relaxed);
        if !blocked {
            self.writes.fetch_add(1, Relaxed);
        }
    }

    /// Returns since when no request is in flight; `None` if one is.
    fn idle_since(&self) -> Option<u64> {
        (self.in_flight.load(Relaxed) == 0).then(|| self.idle_since.load(Relaxed))
    }

    /// Returns when the connection is evicted.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// Returns when the client has kept the server waiting for too long, and the reason.
    pub(super) async fn expired(&self, timeouts: &Timeouts, http1: bool) -> &'static str {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        // The writes when the client was first seen not to read, and the time.
        let mut stall: Option<(u64, u64)> = None;
        loop {
            let now = self.now();
            let deadline = match self.idle_since() {
                Some(since) => {
                    let partial = self.read_since.load(Relaxed);
                    let (end, why) = if self.requests.load(Relaxed) == 0 {
                        (since + millis(timeouts.head), "no request within the timeout of its head")
                    } else if http1 && partial > 0 {
                        (partial + millis(timeouts.head), "no complete head of a request in time")
                    } else {
                        (since + millis(timeouts.idle), "idle")
                    };
                    if end <= now {
                        return why;
                    }
                    end
                }
                None => {
                    let writes = self.writes.load(Relaxed);
                    stall = match stall.filter(|(before, _)| *before == writes) {
                        _ if !self.blocked.load(Relaxed) => None,
                        Some((_, since)) if now >= since + millis(timeouts.stalled) => {
                            return "the client reads nothing";
                        }
                        unchanged => unchanged.or(Some((writes, now))),
                    };
                    u64::MAX
                }
            };
            // A head may begin, or a request end, before the deadline.
            let next =
                deadline.saturating_sub(now).min(millis(timeouts.head.min(timeouts.stalled)));
            sleep(Duration::from_millis(next.max(1))).await;
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.idle_since.store(self.0.now(), Relaxed);
        self.0.read_since.store(0, Relaxed);
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn ids(all: &Connections) -> Vec<u64> {
        all.lock().keys().copied().collect()
    }

    #[tokio::test(start_paused = true)]
    async fn anonymous_and_idle_connection_is_evicted_first() {
        let all = Connections::new(4);
        let mut registered = Vec::new();
        for n in 0..4 {
            registered.push(all.register());
            registered[n].connection.authenticate();
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let busy = registered[0].connection.request();
        let used = registered[1].connection.request();
        drop(used);
        tokio::time::advance(Duration::from_secs(1)).await;
        registered.push(all.register());
        assert_eq!(ids(&all), [0, 1, 3, 4], "2 is idle for the longest time");
        registered[2].connection.evicted().now_or_never().unwrap();
        registered.push(all.register());
        assert_eq!(ids(&all), [0, 1, 3, 5], "4 has no credentials");
        drop(registered.remove(1));
        assert_eq!(ids(&all), [0, 3, 5]);
        all.room().now_or_never().unwrap();
        drop(busy);
    }

    #[tokio::test(start_paused = true)]
    async fn server_without_an_idle_connection_accepts_no_more() {
        let all = Connections::new(2);
        let register = |_| {
            let registration = all.register();
            registration.connection.authenticate();
            registration
        };
        let registered = [0, 1].map(register);
        let mut requests: Vec<_> = registered.iter().map(|r| r.connection.request()).collect();
        assert!(all.room().now_or_never().is_none());
        requests.pop();
        all.room().await;
    }

    #[tokio::test(start_paused = true)]
    async fn anonymous_connections_take_half_of_the_limit() {
        let all = Connections::new(8);
        let registered: Vec<_> = (0..20).map(|_| all.register()).collect();
        assert_eq!(ids(&all), [16, 17, 18, 19]);
        drop(registered);
        assert!(ids(&all).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn connection_expires_by_what_it_waits_for() {
        let timeouts = Timeouts::default();
        let start = Instant::now();
        let elapsed = || start.elapsed().as_secs();
        let connection = Arc::new(Connection::new(start));
        let expired = connection.expired(&timeouts, true);
        tokio::pin!(expired);
        assert_eq!(
            (expired.as_mut().await, elapsed()),
            ("no request within the timeout of its head", 32)
        );
        drop(connection.request());
        assert_eq!((connection.expired(&timeouts, true).await, elapsed()), ("idle", 32 + 90));
        drop(connection.request());
        tokio::time::advance(Duration::from_secs(60)).await;
        connection.read();
        // A frame of HTTP/2 is no request.
        assert_eq!((connection.expired(&timeouts, false).await, elapsed()), ("idle", 122 + 90));
        drop(connection.request());
        tokio::time::advance(Duration::from_secs(60)).await;
        connection.read();
        let slow = "no complete head of a request in time";
        assert_eq!((connection.expired(&timeouts, true).await, elapsed()), (slow, 212 + 60 + 32));
        let watch = connection.request();
        let quiet =
            tokio::time::timeout(Duration::from_secs(3600), connection.expired(&timeouts, true));
        assert!(quiet.await.is_err(), "a watch may be silent");
        connection.wrote(true);
        let blocked = Instant::now();
        assert_eq!(connection.expired(&timeouts, true).await, "the client reads nothing");
        assert!((300..=332).contains(&blocked.elapsed().as_secs()));
        drop(watch);
    }
}

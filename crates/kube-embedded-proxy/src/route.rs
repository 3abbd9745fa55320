//! Endpoint selection: a uniform random choice for each new connection, as kube-proxy makes it,
//! unless the Service has `sessionAffinity: ClientIP`.

use rand::{Rng, RngExt};
use std::{
    collections::HashMap,
    iter,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// The timeout of a connect to an endpoint, after which another endpoint is tried.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Clients that a Service port remembers for `sessionAffinity: ClientIP`. Beyond that the older half
/// is dropped, so the table is bounded whatever clients do.
const REMEMBERED_CLIENTS: usize = 1 << 16;

/// Connection attempts per node port. kube-proxy lags the API, so an attempt may hit a pod that has
/// been removed; it chooses again for each connection. If half of the pods are removed, this many
/// attempts in a row miss the others once in 65,536 connections.
const NODE_PORT_ATTEMPTS: usize = 16;

/// Rounds through all nodes: a packet may be lost anywhere.
const NODE_PORT_ROUNDS: usize = 3;

/// Endpoints in groups: a choice picks a group, then an endpoint in it. There is one group, except
/// behind a load balancer with `externalTrafficPolicy: Local`, which knows only nodes. Node ports are
/// listed in the order in which they are tried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backends {
    groups: Vec<Vec<SocketAddr>>,
}

impl Backends {
    /// Returns endpoints with the same probability each.
    pub fn uniform(endpoints: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self::grouped([endpoints.into_iter().collect()])
    }

    /// Returns groups with the same probability each, whatever their sizes; empty ones are left out.
    pub fn grouped(groups: impl IntoIterator<Item = Vec<SocketAddr>>) -> Self {
        Self { groups: groups.into_iter().filter(|g| !g.is_empty()).collect() }
    }

    /// Returns a node port of the first group, or of a later one once the earlier ones have had their
    /// attempts; then starts over with the first.
    fn next_node_port(&self, rng: &mut impl Rng, tried: &[SocketAddr]) -> Option<SocketAddr> {
        let times = |at: &SocketAddr| tried.iter().filter(|t| *t == at).count();
        (1..=NODE_PORT_ROUNDS).find_map(|round| {
            self.groups.iter().find_map(|group| {
                let left = group.iter().filter(|at| times(at) < NODE_PORT_ATTEMPTS * round);
                pick(rng, &left.copied().collect::<Vec<_>>()).copied()
            })
        })
    }

    /// Returns whether there are no endpoints.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Returns whether the endpoint is one of these.
    pub fn contains(&self, endpoint: SocketAddr) -> bool {
        self.groups.iter().any(|g| g.contains(&endpoint))
    }

    /// Returns the number of endpoints.
    pub(crate) fn len(&self) -> usize {
        self.groups.iter().map(Vec::len).sum()
    }

    /// Returns a random endpoint that was not tried yet.
    pub fn choose(&self, rng: &mut impl Rng, tried: &[SocketAddr]) -> Option<SocketAddr> {
        if tried.is_empty() {
            let group = pick(rng, &self.groups)?;
            return pick(rng, group).copied();
        }
        let untried = self.groups.iter().map(|g| g.iter().filter(|e| !tried.contains(e)));
        let left = Self::grouped(untried.map(|group| group.copied().collect()));
        left.choose(rng, &[])
    }
}

/// The endpoints of a route and how one is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routing {
    /// Endpoints of new connections.
    pub backends: Backends,
    /// How long a client stays with its endpoint after its last new connection, if it does at all.
    pub affinity: Option<Duration>,
    /// Whether the endpoints are node ports, behind which kube-proxy chooses a pod for each
    /// connection. The first group gets all of them, because the proxies of several nodes do not learn
    /// of a change at the same time; the other groups are for when it cannot be reached.
    pub via_node_port: bool,
}

/// The endpoint of each client, shared by all listeners of a Service port.
#[derive(Debug, Default)]
pub struct Affinity {
    clients: Mutex<HashMap<IpAddr, (SocketAddr, Instant)>>,
}

/// The current endpoints of a Service port, read for each connection and replaced as a whole.
#[derive(Debug)]
pub struct Route {
    current: watch::Sender<Arc<Routing>>,
    affinity: Arc<Affinity>,
}

impl Route {
    /// Creates a route with these endpoints.
    pub fn new(routing: Routing, affinity: Arc<Affinity>) -> Self {
        Self { current: watch::Sender::new(Arc::new(routing)), affinity }
    }

    /// Replaces the endpoints of new connections; established ones stay. Returns whether anything
    /// changed.
    pub fn set(&self, routing: Routing) -> bool {
        self.current.send_if_modified(|current| {
            let changed = **current != routing;
            if changed {
                *current = Arc::new(routing);
            }
            changed
        })
    }

    /// Returns whether a connection to the endpoint may serve another request: the endpoint is still
    /// one of the route's, and is no node port, behind which each connection is a choice.
    pub fn may_reuse(&self, endpoint: SocketAddr) -> bool {
        let current = self.current.borrow();
        !current.via_node_port && current.backends.contains(endpoint)
    }

    /// Returns the endpoint if new connections may go to it: one of the route's, and no node port,
    /// behind which the pod is another one each time.
    pub(crate) fn pinned(&self, endpoint: SocketAddr, tried: &[SocketAddr]) -> Option<SocketAddr> {
        (self.may_reuse(endpoint) && !tried.contains(&endpoint)).then_some(endpoint)
    }

    /// Returns the endpoint for which `is_it` holds.
    pub(crate) fn find(&self, is_it: impl Fn(SocketAddr) -> bool) -> Option<SocketAddr> {
        let routing = self.current.borrow().clone();
        routing.backends.groups.iter().flatten().copied().find(|endpoint| is_it(*endpoint))
    }

    /// Records a failed connect. A node that timed out is given up sooner than one that refused,
    /// behind which the next pod may accept.
    pub(crate) fn record_failure(
        &self,
        tried: &mut Vec<SocketAddr>,
        endpoint: SocketAddr,
        timed_out: bool,
    ) {
        let times = if timed_out && self.current.borrow().via_node_port {
            NODE_PORT_ATTEMPTS / 2
        } else {
            1
        };
        tried.extend(iter::repeat_n(endpoint, times));
    }

    /// Returns the timeout of a connect. It is shorter for a node port, which may route to a removed
    /// pod that never responds, while the next attempt finds another pod.
    pub(crate) fn connect_timeout(&self) -> Duration {
        match self.current.borrow().via_node_port {
            true => CONNECT_TIMEOUT / 10,
            false => CONNECT_TIMEOUT,
        }
    }

    /// Subscribes to changes of the endpoints.
    pub fn changes(&self) -> watch::Receiver<Arc<Routing>> {
        self.current.subscribe()
    }

    /// Returns the number of those who wait for changes.
    #[cfg(test)]
    pub(crate) fn subscribers(&self) -> usize {
        self.current.receiver_count()
    }

    /// Returns the endpoint of a new connection of `client`, other than those `tried` for it already.
    pub fn choose(&self, client: IpAddr, tried: &[SocketAddr]) -> Option<SocketAddr> {
        let routing = self.current.borrow().clone();
        match routing.affinity {
            _ if routing.via_node_port => routing.backends.next_node_port(&mut rand::rng(), tried),
            None => routing.backends.choose(&mut rand::rng(), tried),
            Some(timeout) => {
                self.affinity.choose(client, Instant::now(), timeout, |pinned| match pinned {
                    Some(e) if routing.backends.contains(e) && !tried.contains(&e) => Some(e),
                    _ => routing.backends.choose(&mut rand::rng(), tried),
                })
            }
        }
    }
}

impl Affinity {
    /// Calls `decide` with the client's endpoint within `timeout`, and remembers the result.
    fn choose(
        &self,
        client: IpAddr,
        now: Instant,
        timeout: Duration,
        decide: impl FnOnce(Option<SocketAddr>) -> Option<SocketAddr>,
    ) -> Option<SocketAddr> {
        let mut clients = self.clients();
        let fresh = |at: Instant| now.saturating_duration_since(at) < timeout;
        let pinned = clients.get(&client).filter(|(_, at)| fresh(*at)).map(|(e, _)| *e);
        let endpoint = decide(pinned)?;
        if clients.len() >= REMEMBERED_CLIENTS && !clients.contains_key(&client) {
            clients.retain(|_, (_, at)| fresh(*at));
            if clients.len() >= REMEMBERED_CLIENTS {
                let mut times: Vec<Instant> = clients.values().map(|(_, at)| *at).collect();
                let (_, median, _) = times.select_nth_unstable(REMEMBERED_CLIENTS / 2);
                let median = *median;
                clients.retain(|_, (_, at)| *at > median);
            }
        }
        clients.insert(client, (endpoint, now));
        Some(endpoint)
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<IpAddr, (SocketAddr, Instant)>> {
        self.clients.lock().unwrap_or_else(|e| e.into_inner())
    }
}

fn pick<'a, T>(rng: &mut impl Rng, from: &'a [T]) -> Option<&'a T> {
    match from {
        [] => None,
        [only] => Some(only),
        many => many.get(rng.random_range(0..many.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::StdRng};

    fn endpoint(n: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], n))
    }

    fn count(backends: &Backends, rng: &mut StdRng, n: usize) -> HashMap<SocketAddr, f64> {
        let mut counts = HashMap::new();
        for _ in 0..n {
            *counts.entry(backends.choose(rng, &[]).unwrap()).or_insert(0.0) += 1.0;
        }
        counts
    }

    #[test]
    fn uniform_endpoints_are_chosen_evenly() {
        let backends = Backends::uniform((1..=7).map(endpoint));
        let counts = count(&backends, &mut StdRng::seed_from_u64(1), 70_000);
        let chi: f64 = counts.values().map(|o| (o - 10_000.0).powi(2) / 10_000.0).sum();
        assert_eq!(counts.len(), 7);
        // 6 degrees of freedom: beyond 38.3 once in a million.
        assert!(chi < 38.3, "chi-squared {chi} of {counts:?}");
    }

    #[test]
    fn groups_of_different_sizes_are_chosen_evenly() {
        let backends =
            Backends::grouped([vec![endpoint(1)], vec![], vec![endpoint(2), endpoint(3)]]);
        let counts = count(&backends, &mut StdRng::seed_from_u64(2), 40_000);
        assert!((counts[&endpoint(1)] - 20_000.0).abs() < 500.0, "{counts:?}");
        assert!((counts[&endpoint(2)] - 10_000.0).abs() < 500.0, "{counts:?}");
    }

    #[test]
    fn tried_endpoint_is_not_chosen_again() {
        let backends = Backends::uniform((1..=3).map(endpoint));
        let rng = &mut StdRng::seed_from_u64(3);
        for _ in 0..50 {
            let chosen = backends.choose(rng, &[endpoint(1), endpoint(3)]);
            assert_eq!(chosen, Some(endpoint(2)));
        }
        assert_eq!(backends.choose(rng, &[endpoint(1), endpoint(2), endpoint(3)]), None);
        assert_eq!(Backends::default().choose(rng, &[]), None);
    }

    #[test]
    fn node_port_is_retried_before_the_next_node() {
        let via_node_port = true;
        let backends = Backends::grouped([vec![endpoint(1)], vec![endpoint(2)]]);
        let route =
            Route::new(Routing { backends, via_node_port, ..<_>::default() }, Arc::default());
        let client = IpAddr::from([127, 0, 0, 1]);
        let mut tried = Vec::new();
        while let Some(next) = route.choose(client, &tried) {
            tried.push(next);
        }
        let round = [[endpoint(1); NODE_PORT_ATTEMPTS], [endpoint(2); NODE_PORT_ATTEMPTS]].concat();
        assert_eq!(tried, round.repeat(NODE_PORT_ROUNDS));
        let mut tried = Vec::new();
        let mut order = Vec::new();
        while let Some(next) = route.choose(client, &tried) {
            order.push(next);
            route.record_failure(&mut tried, next, next == endpoint(1));
        }
        let expected = [&[endpoint(1); 2][..], &[endpoint(2); NODE_PORT_ATTEMPTS]].concat();
        assert_eq!(
            order,
            expected.repeat(NODE_PORT_ROUNDS),
            "a node that times out is given up after two attempts"
        );
        assert!(!route.may_reuse(endpoint(1)), "another connection may reach another pod");
        assert!(route.connect_timeout() < CONNECT_TIMEOUT);
    }

    #[test]
    fn affinity_expires_after_the_last_connection() {
        let affinity = Affinity::default();
        let client = IpAddr::from([127, 0, 0, 1]);
        let timeout = Duration::from_secs(10);
        let start = Instant::now();
        let ask = |seconds, otherwise| {
            affinity.choose(client, start + Duration::from_secs(seconds), timeout, |pinned| {
                pinned.or(Some(endpoint(otherwise)))
            })
        };
        assert_eq!(ask(0, 1), Some(endpoint(1)));
        assert_eq!(ask(9, 2), Some(endpoint(1)));
        assert_eq!(ask(18, 2), Some(endpoint(1)), "each connection restarts the timeout");
        assert_eq!(ask(28, 2), Some(endpoint(2)));
    }

    #[test]
    fn affinity_ends_with_removed_or_failed_endpoint() {
        let affinity = Arc::new(Affinity::default());
        let pinned = |endpoints: &[u16]| Routing {
            backends: Backends::uniform(endpoints.iter().copied().map(endpoint)),
            affinity: Some(Duration::from_secs(10)),
            ..Routing::default()
        };
        let route = Route::new(pinned(&[1]), affinity.clone());
        let client = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(route.choose(client, &[]), Some(endpoint(1)));
        route.set(pinned(&[1, 2, 3, 4, 5, 6, 7, 8]));
        for _ in 0..20 {
            assert_eq!(route.choose(client, &[]), Some(endpoint(1)));
        }
        route.set(pinned(&[2]));
        assert_eq!(route.choose(client, &[]), Some(endpoint(2)));
        assert_eq!(route.choose(client, &[endpoint(2)]), None);
    }

    #[test]
    fn affinity_table_is_bounded() {
        let affinity = Affinity::default();
        let start = Instant::now();
        for n in 0..(REMEMBERED_CLIENTS as u32 + 10) {
            let client = IpAddr::from(n.to_be_bytes());
            let now = start + Duration::from_micros(n.into());
            affinity.choose(client, now, Duration::from_secs(60), |_| Some(endpoint(1)));
        }
        assert!(affinity.clients().len() <= REMEMBERED_CLIENTS);
        assert!(affinity.clients().len() > REMEMBERED_CLIENTS / 4);
    }
}

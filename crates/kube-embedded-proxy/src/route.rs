//! To which endpoint a connection goes: a uniform random choice for each new connection, as
//! kube-proxy makes it, unless the Service asks that a client stays with its endpoint.

use super::plane::CONNECT;
use rand::{Rng, RngExt};
use std::{
    collections::HashMap,
    iter,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// How many clients a Service port remembers for `sessionAffinity: ClientIP`. The older half is
/// forgotten beyond that, so the table is bounded whatever clients do.
const REMEMBERED_CLIENTS: usize = 1 << 16;

/// How often a node port is tried that leads to pods which are gone: its proxy learns that a moment
/// after the API, and chooses anew for each connection. Where half of the pods are gone, so many
/// tries in a row find none of the others once in 65,536 connections.
const TRIES: usize = 16;

/// How often all nodes are gone through.
const ROUNDS: usize = 3;

/// Endpoints in groups: first a group is chosen, then an endpoint in it. There is one group, except
/// behind a load balancer with `externalTrafficPolicy: Local`, which knows only nodes. Node ports are
/// in the order in which they are tried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backends {
    groups: Vec<Vec<SocketAddr>>,
}

impl Backends {
    /// All endpoints alike.
    pub fn alike(endpoints: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self::grouped([endpoints.into_iter().collect()])
    }

    /// Groups alike, whatever their sizes; empty ones are left out.
    pub fn grouped(groups: impl IntoIterator<Item = Vec<SocketAddr>>) -> Self {
        Self { groups: groups.into_iter().filter(|g| !g.is_empty()).collect() }
    }

    /// One endpoint of the first group, or of a later one once those of the ones before were tried
    /// often; then from the first again, as a packet may be lost anywhere.
    fn relay(&self, rng: &mut impl Rng, tried: &[SocketAddr]) -> Option<SocketAddr> {
        let times = |at: &SocketAddr| tried.iter().filter(|t| *t == at).count();
        (1..=ROUNDS).find_map(|round| {
            self.groups.iter().find_map(|group| {
                let left = group.iter().filter(|at| times(at) < TRIES * round);
                pick(rng, &left.copied().collect::<Vec<_>>()).copied()
            })
        })
    }

    /// Whether there is nowhere to go.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Whether the endpoint is among them.
    pub fn contains(&self, endpoint: SocketAddr) -> bool {
        self.groups.iter().any(|g| g.contains(&endpoint))
    }

    /// One endpoint at random that was not tried yet.
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

/// What decides the choice at this moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routing {
    /// Where connections may go.
    pub backends: Backends,
    /// How long a client stays with its endpoint after its last new connection.
    pub affinity: Option<Duration>,
    /// Whether the endpoints are node ports, behind which somebody else chooses a pod for each
    /// connection: the first group takes all, since the proxies of several nodes do not learn of a
    /// change at the same moment, and the others are for when it cannot be reached.
    pub relayed: bool,
}

/// Which endpoint each client was given, shared by all listeners of a Service port.
#[derive(Debug, Default)]
pub struct Affinity {
    clients: Mutex<HashMap<IpAddr, (SocketAddr, Instant)>>,
}

/// The changing answer to "where does this connection go", read by listeners without a lock that
/// anybody holds for longer than a copy of a pointer.
#[derive(Debug)]
pub struct Route {
    current: watch::Sender<Arc<Routing>>,
    affinity: Arc<Affinity>,
}

impl Route {
    /// A route that starts with these endpoints.
    pub fn new(routing: Routing, affinity: Arc<Affinity>) -> Self {
        Self { current: watch::Sender::new(Arc::new(routing)), affinity }
    }

    /// Connections from now on choose among these; those that exist stay where they are.
    pub fn set(&self, routing: Routing) {
        self.current.send_if_modified(|current| {
            let changed = **current != routing;
            if changed {
                *current = Arc::new(routing);
            }
            changed
        });
    }

    /// Whether a connection to the endpoint may carry another request: new ones may go there, and
    /// it is the endpoint that is chosen at random each time, not what is behind it.
    pub fn may_reuse(&self, endpoint: SocketAddr) -> bool {
        let current = self.current.borrow();
        !current.relayed && current.backends.contains(endpoint)
    }

    /// Remembers that the endpoint could not be connected to. A node that says nothing is left for
    /// another one sooner than one that refuses, behind which the next pod may accept.
    pub(super) fn failed(&self, tried: &mut Vec<SocketAddr>, endpoint: SocketAddr, silent: bool) {
        let times = if silent && self.current.borrow().relayed { TRIES / 2 } else { 1 };
        tried.extend(iter::repeat_n(endpoint, times));
    }

    /// How long an endpoint may take to answer a connection before another is tried. A node port that
    /// leads to a pod which is gone may never answer, and the next try finds another pod.
    pub(super) fn patience(&self) -> Duration {
        match self.current.borrow().relayed {
            true => CONNECT / 10,
            false => CONNECT,
        }
    }

    /// Tells when the endpoints are others.
    pub fn changes(&self) -> watch::Receiver<Arc<Routing>> {
        self.current.subscribe()
    }

    /// The endpoint for a new connection of `client`, other than those already `tried` for it.
    pub fn choose(&self, client: IpAddr, tried: &[SocketAddr]) -> Option<SocketAddr> {
        let routing = self.current.borrow().clone();
        match routing.affinity {
            _ if routing.relayed => routing.backends.relay(&mut rand::rng(), tried),
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
    /// Runs `decide` with what the client had within `timeout`, and remembers what it decides.
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
    fn endpoints_are_chosen_evenly() {
        let backends = Backends::alike((1..=7).map(endpoint));
        let counts = count(&backends, &mut StdRng::seed_from_u64(1), 70_000);
        let chi: f64 = counts.values().map(|o| (o - 10_000.0).powi(2) / 10_000.0).sum();
        assert_eq!(counts.len(), 7);
        // 6 degrees of freedom: beyond 38.3 once in a million.
        assert!(chi < 38.3, "chi-squared {chi} of {counts:?}");
    }

    #[test]
    fn groups_are_chosen_evenly_whatever_their_sizes() {
        let backends =
            Backends::grouped([vec![endpoint(1)], vec![], vec![endpoint(2), endpoint(3)]]);
        let counts = count(&backends, &mut StdRng::seed_from_u64(2), 40_000);
        assert!((counts[&endpoint(1)] - 20_000.0).abs() < 500.0, "{counts:?}");
        assert!((counts[&endpoint(2)] - 10_000.0).abs() < 500.0, "{counts:?}");
    }

    #[test]
    fn what_was_tried_is_not_chosen_again() {
        let backends = Backends::alike((1..=3).map(endpoint));
        let rng = &mut StdRng::seed_from_u64(3);
        for _ in 0..50 {
            let chosen = backends.choose(rng, &[endpoint(1), endpoint(3)]);
            assert_eq!(chosen, Some(endpoint(2)));
        }
        assert_eq!(backends.choose(rng, &[endpoint(1), endpoint(2), endpoint(3)]), None);
        assert_eq!(Backends::default().choose(rng, &[]), None);
    }

    #[test]
    fn a_node_port_is_tried_again_before_that_of_another_node_is() {
        let relayed = true;
        let backends = Backends::grouped([vec![endpoint(1)], vec![endpoint(2)]]);
        let route = Route::new(Routing { backends, relayed, ..<_>::default() }, Arc::default());
        let client = IpAddr::from([127, 0, 0, 1]);
        let mut tried = Vec::new();
        while let Some(next) = route.choose(client, &tried) {
            tried.push(next);
        }
        let round = [[endpoint(1); TRIES], [endpoint(2); TRIES]].concat();
        assert_eq!(tried, round.repeat(ROUNDS));
        let mut tried = Vec::new();
        let mut order = Vec::new();
        while let Some(next) = route.choose(client, &tried) {
            order.push(next);
            route.failed(&mut tried, next, next == endpoint(1));
        }
        let expected = [&[endpoint(1); 2][..], &[endpoint(2); TRIES]].concat();
        assert_eq!(
            order,
            expected.repeat(ROUNDS),
            "a node that says nothing is left after two tries"
        );
        assert!(!route.may_reuse(endpoint(1)), "another connection may lead to another pod");
        assert!(route.patience() < CONNECT);
    }

    #[test]
    fn affinity_lasts_until_the_timeout_after_the_last_connection() {
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
        assert_eq!(ask(18, 2), Some(endpoint(1)), "each connection counts anew");
        assert_eq!(ask(28, 2), Some(endpoint(2)));
    }

    #[test]
    fn affinity_ends_with_its_endpoint_and_yields_to_a_failed_one() {
        let affinity = Arc::new(Affinity::default());
        let pinned = |endpoints: &[u16]| Routing {
            backends: Backends::alike(endpoints.iter().copied().map(endpoint)),
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
    fn remembered_clients_are_bounded() {
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

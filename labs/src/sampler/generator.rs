//! The sampler itself: samples of a fixed size, with a number of requests in flight.

use super::http1;
use super::response::{Failure, Reply, Response};
use super::sample::{Counts, Observation, Sample};
use super::session::Session;
use super::target::Target;
use super::tls::Tls;
use anyhow::Context as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// The interval between two progress reports of a sample.
pub(super) const REPORT_INTERVAL: Duration = Duration::from_millis(100);

/// A target and the way it is sampled.
#[derive(Clone, Debug)]
pub struct Sampler {
    target: Target,
    /// The bytes of [`Target::request`].
    request: Vec<u8>,
    pub(super) timeout: Duration,
    pub(super) in_flight: usize,
}

impl Sampler {
    /// Samples `GET path` at `address` under the host name `host`, with eight requests in flight; each
    /// request must end within `timeout`.
    pub fn new(address: SocketAddr, host: &str, path: &str, timeout: Duration) -> Self {
        let (host, path) = (Some(host.to_owned()), path.to_owned());
        let target = Target { address, host, path, tls: None, headers: Vec::new() };
        Self { request: target.request(false), target, timeout, in_flight: 8 }
    }

    /// Samples a plain `http://host[:port]/path`. The name is resolved here, once.
    pub(crate) async fn to(url: &str, timeout: Duration) -> anyhow::Result<Self> {
        let invalid = || format!("`{url}` is not of the form http://host[:port]/path");
        let uri: http::Uri = url.parse().with_context(invalid)?;
        let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http"));
        let authority = authority.with_context(invalid)?;
        let (host, port) = (authority.host(), authority.port_u16().unwrap_or(80));
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let mut found = tokio::net::lookup_host((bare, port)).await;
        let address = found.as_mut().ok().and_then(Iterator::next);
        let address = address.with_context(|| format!("failed to resolve `{host}`"))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self::new(address, authority.as_str(), path, timeout))
    }

    /// Uses another host name for the same address.
    #[must_use]
    pub fn host(self, host: &str) -> Self {
        let target = Target { host: Some(host.to_owned()), ..self.target };
        Self { request: target.request(false), target, ..self }
    }

    /// Sends no host name, which only HTTP/1.0 permits.
    #[must_use]
    pub(crate) fn without_host(self) -> Self {
        let target = Target { host: None, ..self.target };
        Self { request: target.request(false), target, ..self }
    }

    /// Returns true if the requests are for that host, on any port, and path.
    pub(crate) fn requests(&self, host: &str, path: &str) -> bool {
        let own = self.target.host.as_deref().unwrap_or_default();
        own.split(':').next() == Some(host) && self.target.path == path
    }

    /// Uses another path.
    #[must_use]
    pub(crate) fn path(self, path: &str) -> Self {
        let target = Target { path: path.to_owned(), ..self.target };
        Self { request: target.request(false), target, ..self }
    }

    /// Adds a header.
    #[must_use]
    pub(crate) fn header(self, name: &str, value: &str) -> Self {
        let mut target = self.target;
        target.headers.push((name.to_owned(), value.to_owned()));
        Self { request: target.request(false), target, ..self }
    }

    /// Uses TLS.
    #[must_use]
    pub(crate) fn over(self, tls: Tls) -> Self {
        Self { target: Target { tls: Some(tls), ..self.target }, ..self }
    }

    /// Keeps this many requests in flight, at least one.
    #[must_use]
    pub(crate) fn in_flight(mut self, in_flight: usize) -> Self {
        self.in_flight = in_flight.max(1);
        self
    }

    /// Returns a client of the same target that keeps its connection.
    pub(crate) fn session(&self) -> Session {
        Session::new(self.target.clone(), self.timeout)
    }

    /// Sends one request and returns what a sample counts of its response.
    pub(crate) async fn request(&self) -> Result<Reply, Failure> {
        http1::request_reply(&self.target, &self.request, self.timeout).await
    }

    /// Sends one request and returns the whole response, whatever its status.
    pub async fn fetch(&self) -> Result<Response, Failure> {
        http1::request_response(&self.target, &self.request, self.timeout).await
    }

    /// Sends `n` requests and calls `progress` ten times a second. Failed requests count among the `n`
    /// and are never retried.
    pub async fn take(&self, n: u64, mut progress: impl FnMut(&Counts)) -> anyhow::Result<Sample> {
        let capacity = usize::try_from(n).context("the sample is too large")?;
        let mut observations = Vec::with_capacity(capacity);
        let shared = Arc::new(Shared {
            sampler: self.clone(),
            started: Instant::now(),
            left: AtomicU64::new(n),
            counts: Mutex::default(),
        });
        // One task per request in flight keeps all cores busy; dropping the set aborts them.
        let mut tasks = JoinSet::new();
        for _ in 0..n.min(self.in_flight as u64) {
            tasks.spawn(shared.clone().send_remaining());
        }
        let mut report = tokio::time::interval(REPORT_INTERVAL);
        report.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                ended = tasks.join_next() => match ended {
                    Some(part) => observations.extend(part.context("a traffic task panicked")?),
                    None => break,
                },
                _ = report.tick() => progress(&shared.report()),
            }
        }
        let seconds = shared.started.elapsed().as_secs_f64();
        progress(&shared.report());
        observations.sort_by(|one: &Observation, other| one.ended().total_cmp(&other.ended()));
        let sample = Sample { observations, seconds };
        tracing::debug!(
            host = self.target.host,
            address = %self.target.address,
            requests = n,
            failures = sample.failures().count(),
            seconds,
            "sample taken"
        );
        sample.check_local()
    }

    pub(super) async fn observe(&self, started: Instant) -> Observation {
        let sent = Instant::now();
        let result = self.request().await;
        let at = sent.duration_since(started).as_secs_f64();
        Observation { at, latency: sent.elapsed().as_secs_f64(), result }
    }
}

/// State shared by the tasks of one sample.
struct Shared {
    sampler: Sampler,
    started: Instant,
    /// Requests not yet sent.
    left: AtomicU64,
    counts: Mutex<Counts>,
}

impl Shared {
    /// Sends one request after another until all of the sample's have been sent.
    async fn send_remaining(self: Arc<Self>) -> Vec<Observation> {
        let mut observations = Vec::new();
        let take_one = |left: u64| left.checked_sub(1);
        while self.left.try_update(Ordering::Relaxed, Ordering::Relaxed, take_one).is_ok() {
            let observation = self.sampler.observe(self.started).await;
            self.lock().add(&observation);
            observations.push(observation);
        }
        observations
    }

    fn report(&self) -> Counts {
        self.lock().report()
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Traffic that opens a new connection for every request, because a load balancer chooses a pod per
//! connection: only then is a split a binomial sample. Plain TCP (or TLS) and a small strict HTTP/1.1
//! client, since a pooling client would do the one thing that must not happen here. Only a
//! [`Session`] keeps its connection, on purpose.

use crate::event::{Band, Event, SampleProgress};
use anyhow::Context as _;
use futures::stream::{FuturesUnordered, StreamExt};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use target::Target;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;

mod http1;
mod session;
mod target;
mod tls;

pub use http1::{Failure, Reply, Response};
pub use session::Session;
pub use tls::{Certificate, Tls};

/// Where and how to ask.
#[derive(Clone, Debug)]
pub struct Sampler {
    target: Target,
    /// What [`Target::request`] makes.
    request: Vec<u8>,
    deadline: Duration,
    in_flight: usize,
}

/// One request and what came of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Seconds from the start of the sample to the start of this request.
    pub at: f64,
    /// Seconds it took.
    pub latency: f64,
    /// The answer, or why there was none.
    #[serde(flatten)]
    pub result: Result<Reply, Failure>,
}

/// All requests of a sample, in the order they ended.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Every request.
    pub answers: Vec<Answer>,
    /// Seconds from the first request to the last answer.
    pub seconds: f64,
}

/// Counts so far.
#[derive(Clone, Debug, Default)]
pub struct State {
    counts: BTreeMap<String, u64>,
    failures: u64,
}

impl Sampler {
    /// Asks `GET path` of the server at `address`, by the name `host`, eight requests at a time; each
    /// must end within `deadline`.
    pub fn new(address: SocketAddr, host: &str, path: &str, deadline: Duration) -> Self {
        let (host, path) = (Some(host.to_owned()), path.to_owned());
        let target = Target { address, host, path, tls: None };
        Self { request: target.request(false), target, deadline, in_flight: 8 }
    }

    /// The same server by another name, looked up nowhere.
    #[must_use]
    pub fn host(self, host: &str) -> Self {
        let target = Target { host: Some(host.to_owned()), ..self.target };
        Self { request: target.request(false), target, ..self }
    }

    /// The same server with no name in the request, which only HTTP/1.0 may leave out.
    #[must_use]
    pub fn without_host(self) -> Self {
        let target = Target { host: None, ..self.target };
        Self { request: target.request(false), target, ..self }
    }

    /// Another path.
    #[must_use]
    pub fn path(self, path: &str) -> Self {
        let target = Target { path: path.to_owned(), ..self.target };
        Self { request: target.request(false), target, ..self }
    }

    /// The same over TLS.
    #[must_use]
    pub fn over(self, tls: Tls) -> Self {
        Self { target: Target { tls: Some(tls), ..self.target }, ..self }
    }

    /// A client that keeps its connection.
    pub fn session(&self) -> Session {
        Session::new(self.target.clone(), self.deadline)
    }

    /// The same for a plain `http://host[:port]/path`; the name is looked up here, once.
    pub async fn to(url: &str, deadline: Duration) -> anyhow::Result<Self> {
        let wrong = || format!("`{url}` is not of the form http://host[:port]/path");
        let uri: http::Uri = url.parse().with_context(wrong)?;
        let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http"));
        let authority = authority.with_context(wrong)?;
        let (host, port) = (authority.host(), authority.port_u16().unwrap_or(80));
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let mut found = tokio::net::lookup_host((bare, port)).await;
        let address = found.as_mut().ok().and_then(Iterator::next);
        let address = address.with_context(|| format!("`{host}` has no address"))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self::new(address, authority.as_str(), path, deadline))
    }

    /// As many requests at a time as given, at least one.
    #[must_use]
    pub fn in_flight(mut self, in_flight: usize) -> Self {
        self.in_flight = in_flight.max(1);
        self
    }

    /// One request on a connection of its own.
    pub async fn ask(&self) -> Result<Reply, Failure> {
        http1::ask(&self.target, &self.request, self.deadline).await
    }

    /// The same, with all of the answer, whatever its status.
    pub async fn fetch(&self) -> Result<Response, Failure> {
        http1::fetch(&self.target, &self.request, self.deadline).await
    }

    /// Sends `n` requests and tells `progress` ten times a second how far it is. Failed requests
    /// count among the `n` and are never sent again.
    pub async fn take(&self, n: u64, mut progress: impl FnMut(&State)) -> anyhow::Result<Sample> {
        let mut answers = Vec::with_capacity(usize::try_from(n).context("sample too large")?);
        let common = Arc::new(Common {
            sampler: self.clone(),
            started: Instant::now(),
            left: AtomicU64::new(n),
            state: Mutex::default(),
        });
        // A task for each request in flight keeps all cores busy; dropping the set ends them.
        let mut tasks = JoinSet::new();
        for _ in 0..n.min(self.in_flight as u64) {
            tasks.spawn(common.clone().ask_what_is_left());
        }
        let mut tell = tokio::time::interval(TELL_EVERY);
        tell.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                ended = tasks.join_next() => match ended {
                    Some(part) => answers.extend(part.context("the traffic broke down")?),
                    None => break,
                },
                _ = tell.tick() => progress(&common.state()),
            }
        }
        let seconds = common.started.elapsed().as_secs_f64();
        progress(&common.state());
        answers.sort_by(|one: &Answer, other| one.ended().total_cmp(&other.ended()));
        Ok(Sample { answers, seconds })
    }

    /// Traffic until it is stopped or dropped: as much as is answered, eight requests at a time, but
    /// no more than `per_second`.
    pub fn background(
        &self,
        per_second: u32,
        mut progress: impl FnMut(&State) + Send + 'static,
    ) -> Background {
        let (stop, mut stopped) = oneshot::channel::<usize>();
        let (begin, begun) = oneshot::channel();
        let sampler = self.clone();
        let task = tokio::spawn(async move {
            let started = Instant::now();
            let mut told = started;
            let mut state = State::default();
            let mut answers = Vec::new();
            let mut running = FuturesUnordered::new();
            let mut allowance = Allowance::new(per_second, sampler.in_flight);
            // The finest that timers are here; a tick may allow several requests.
            let mut pace = tokio::time::interval(Duration::from_millis(1));
            pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
            let mut begin = Some(begin);
            // How many requests are enough; at first none are.
            let mut enough = None;
            loop {
                let sent = answers.len() + running.len();
                // After a failure more of them show nothing more.
                let ends = enough.is_some_and(|enough| sent >= enough || state.failures > 0);
                tokio::select! {
                    stop = &mut stopped, if enough.is_none() => enough = Some(stop.unwrap_or(0)),
                    _ = pace.tick(), if !ends => {
                        let free = sampler.in_flight - running.len();
                        for _ in 0..allowance.take(started.elapsed(), free) {
                            running.push(sampler.answer(started));
                        }
                    }
                    Some(answer) = running.next() => {
                        state.count(&answer);
                        answers.push(answer);
                        // Whether anybody waits for that is not this task's business.
                        _ = begin.take().map(|begin| begin.send(()));
                    }
                    else => break,
                }
                if told.elapsed() >= TELL_EVERY {
                    told = Instant::now();
                    progress(&state);
                }
            }
            Sample { answers, seconds: started.elapsed().as_secs_f64() }
        });
        // Every request ends within the deadline, so the first answer has no excuse after two.
        Background { stop: Some(stop), task: Some(task), begun, patience: self.deadline * 2 }
    }

    async fn answer(&self, started: Instant) -> Answer {
        let begun = Instant::now();
        let result = self.ask().await;
        let at = begun.duration_since(started).as_secs_f64();
        Answer { at, latency: begun.elapsed().as_secs_f64(), result }
    }
}

impl Answer {
    /// Seconds from the start of the sample to the end of this request.
    fn ended(&self) -> f64 {
        self.at + self.latency
    }
}

/// What the tasks of one sample share.
struct Common {
    sampler: Sampler,
    started: Instant,
    /// Requests that nobody has begun.
    left: AtomicU64,
    state: Mutex<State>,
}

impl Common {
    /// One request after another, until all of the sample's are begun.
    async fn ask_what_is_left(self: Arc<Self>) -> Vec<Answer> {
        let mut answers = Vec::new();
        let begin = |left: u64| left.checked_sub(1);
        while self.left.try_update(Ordering::Relaxed, Ordering::Relaxed, begin).is_ok() {
            let answer = self.sampler.answer(self.started).await;
            self.lock().count(&answer);
            answers.push(answer);
        }
        answers
    }

    fn state(&self) -> State {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sample {
    /// Requests sent.
    pub fn total(&self) -> u64 {
        self.answers.len() as u64
    }

    /// Good answers by the version they name. An answer that names none counts as `?`.
    pub fn by_version(&self) -> BTreeMap<String, u64> {
        self.tally(|reply| reply.version.as_deref())
    }

    /// Good answers by the pod they name. An answer that names none counts as `?`.
    pub fn by_pod(&self) -> BTreeMap<String, u64> {
        self.tally(|reply| reply.pod.as_deref())
    }

    /// Good answers that name that version.
    pub fn hits(&self, version: &str) -> u64 {
        self.by_version().get(version).copied().unwrap_or(0)
    }

    /// Requests that had no good answer, with the time of each.
    pub fn failures(&self) -> impl Iterator<Item = (f64, &Failure)> {
        self.answers.iter().filter_map(|a| Some((a.at, a.result.as_ref().err()?)))
    }

    /// Requests a second.
    pub fn per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.total() as f64 / self.seconds } else { 0.0 }
    }

    fn tally<'a>(&'a self, of: impl Fn(&'a Reply) -> Option<&'a str>) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for reply in self.answers.iter().filter_map(|answer| answer.result.as_ref().ok()) {
            let key = of(reply).unwrap_or("?");
            match counts.get_mut(key) {
                Some(count) => *count += 1,
                None => _ = counts.insert(key.to_owned(), 1),
            }
        }
        counts
    }
}

impl State {
    /// This state as an event. `planned` is 0 where the sample has no planned end.
    pub fn event(&self, what: &str, planned: u64, band: &Option<Band>) -> Event {
        Event::SampleProgress(SampleProgress {
            what: what.to_owned(),
            planned,
            counts: self.counts.clone(),
            failures: self.failures,
            band: band.clone(),
        })
    }

    fn count(&mut self, answer: &Answer) {
        let Ok(reply) = &answer.result else {
            self.failures += 1;
            return;
        };
        let version = reply.version.as_deref().unwrap_or("?");
        match self.counts.get_mut(version) {
            Some(count) => *count += 1,
            None => _ = self.counts.insert(version.to_owned(), 1),
        }
    }
}

/// How many requests a rate allows as time goes by.
struct Allowance {
    per_second: f64,
    /// Since the start, used or forfeited.
    used: f64,
    /// What may be made up for at most: a machine that is busy gets less traffic, never a flood.
    burst: f64,
}

impl Allowance {
    fn new(per_second: u32, burst: usize) -> Self {
        Self { per_second: per_second.into(), used: 0.0, burst: burst as f64 }
    }

    /// So many of `wanted` may be sent now.
    fn take(&mut self, elapsed: Duration, wanted: usize) -> usize {
        let due = elapsed.as_secs_f64() * self.per_second;
        self.used = self.used.max(due - self.burst);
        let taken = wanted.min((due - self.used) as usize);
        self.used += taken as f64;
        taken
    }
}

/// Traffic that goes on beside something else.
#[derive(Debug)]
pub struct Background {
    stop: Option<oneshot::Sender<usize>>,
    task: Option<JoinHandle<Sample>>,
    begun: oneshot::Receiver<()>,
    patience: Duration,
}

impl Background {
    /// Waits until the first request has ended, well or not: what changes after that changes under
    /// load.
    pub async fn begun(mut self) -> anyhow::Result<Self> {
        let first = tokio::time::timeout(self.patience, &mut self.begun).await;
        first
            .with_context(|| format!("the traffic had not begun after {:?}", self.patience))?
            .context("the background traffic broke down")?;
        Ok(self)
    }

    /// Sends no more once `enough` were sent in all or one has failed, waits for the answers under
    /// way, and hands over every one.
    pub async fn stop_after(mut self, enough: usize) -> anyhow::Result<Sample> {
        // A task that is gone shows below.
        _ = self.stop.take().map(|stop| stop.send(enough));
        let task = self.task.take().context("the traffic was stopped before")?;
        task.await.context("the background traffic broke down")
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

const TELL_EVERY: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    #[test]
    fn a_rate_allows_what_it_says_and_no_flood() {
        let mut allowance = Allowance::new(4000, 8);
        // Milliseconds, requests wanted, requests allowed.
        for (at, wanted, allowed) in [
            (0, 8, 0),
            (1, 8, 4),
            (2, 3, 3),
            (3, 8, 5),
            (3, 8, 0),
            (4, 0, 0),
            (500, 8, 8),
            (500, 8, 0),
            (501, 8, 4),
        ] {
            let taken = allowance.take(Duration::from_millis(at), wanted);
            assert_eq!(taken, allowed, "after {at} ms");
        }
    }

    /// Resets every fifth connection, and tells how many there were and the most at a time.
    async fn server() -> (SocketAddr, Arc<AtomicUsize>, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (all, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (counted, highest) = (all.clone(), most.clone());
        tokio::spawn(async move {
            let now = Arc::new(AtomicUsize::new(0));
            while let Ok((mut stream, _)) = listener.accept().await {
                let nth = counted.fetch_add(1, Ordering::SeqCst);
                highest.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let now = now.clone();
                tokio::spawn(async move {
                    let _ = stream.read(&mut [0; 1024]).await;
                    tokio::task::yield_now().await;
                    now.fetch_sub(1, Ordering::SeqCst);
                    match nth % 5 {
                        0 => drop(stream.set_zero_linger()),
                        _ => {
                            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n1.0\n";
                            let _ = stream.write_all(answer).await;
                        }
                    }
                });
            }
        });
        (address, all, most)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_sample_has_exactly_as_many_requests_as_asked_for() {
        for (n, in_flight) in [(0, 8), (1, 8), (7, 1), (250, 8), (251, 3)] {
            let (address, all, most) = server().await;
            let deadline = Duration::from_secs(10);
            let sampler = Sampler::new(address, "host", "/", deadline).in_flight(in_flight);
            let mut told = State::default();
            let sample = sampler.take(n, |state| told = state.clone()).await.unwrap();
            assert_eq!(sample.total(), n);
            assert_eq!(all.load(Ordering::SeqCst) as u64, n, "none is sent again");
            assert!(most.load(Ordering::SeqCst) <= in_flight, "{most:?} at a time");
            assert_eq!(sample.failures().count() as u64, n.div_ceil(5));
            assert_eq!(sample.hits("1.0"), n - n.div_ceil(5));
            assert_eq!(told.failures, n.div_ceil(5), "the last progress is complete");
            assert_eq!(told.counts, sample.by_version());
            assert!(sample.answers.is_sorted_by(|one, other| one.ended() <= other.ended()));
        }
    }

    #[tokio::test]
    async fn traffic_has_begun_at_its_first_answer_even_a_bad_one() {
        let (address, all, _) = server().await;
        let sampler = Sampler::new(address, "host", "/", Duration::from_secs(10)).in_flight(1);
        let load = sampler.background(1000, |_| {}).begun().await.unwrap();
        assert!(all.load(Ordering::SeqCst) > 0, "the first connection, which is reset");
        assert!(load.stop_after(0).await.unwrap().total() > 0);
    }

    #[tokio::test]
    async fn traffic_without_requests_never_begins() {
        let (address, ..) = server().await;
        let sampler = Sampler::new(address, "host", "/", Duration::from_millis(50));
        let error = sampler.background(0, |_| {}).begun().await.unwrap_err();
        assert!(error.to_string().contains("had not begun"), "{error}");
    }
}

//! Traffic that opens a new connection for every request, because a load balancer chooses a pod per
//! connection: only then is a split a binomial sample. Plain TCP and a small strict HTTP/1.1 client,
//! since a pooling client would do the one thing that must not happen here.

use crate::event::{Band, Event, SampleProgress};
use anyhow::Context as _;
use futures::stream::{FuturesUnordered, StreamExt};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

mod http1;

pub use http1::{Failure, Reply, Response};

/// Where and how to ask.
#[derive(Clone, Debug)]
pub struct Sampler {
    address: SocketAddr,
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
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        Self { address, request: request.into_bytes(), deadline, in_flight: 8 }
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
        http1::ask(self.address, &self.request, self.deadline).await
    }

    /// The same, with all of the answer, whatever its status.
    pub async fn fetch(&self) -> Result<Response, Failure> {
        http1::fetch(self.address, &self.request, self.deadline).await
    }

    /// Sends `n` requests and tells `progress` ten times a second how far it is. Failed requests
    /// count among the `n` and are never sent again.
    pub async fn take(&self, n: u64, mut progress: impl FnMut(&State)) -> anyhow::Result<Sample> {
        let started = Instant::now();
        let mut left = n;
        let mut state = State::default();
        let mut answers = Vec::with_capacity(usize::try_from(n).context("sample too large")?);
        let mut told = started;
        let mut running = FuturesUnordered::new();
        loop {
            while left > 0 && running.len() < self.in_flight {
                left -= 1;
                running.push(self.answer(started));
            }
            let Some(answer) = running.next().await else { break };
            state.count(&answer);
            answers.push(answer);
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                progress(&state);
            }
        }
        progress(&state);
        Ok(Sample { answers, seconds: started.elapsed().as_secs_f64() })
    }

    /// Traffic until it is stopped or dropped: as much as is answered, eight requests at a time, but
    /// no more than `per_second`.
    pub fn background(
        &self,
        per_second: u32,
        mut progress: impl FnMut(&State) + Send + 'static,
    ) -> Background {
        let (stop, mut stopped) = oneshot::channel::<usize>();
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
        Background { stop: Some(stop), task: Some(task) }
    }

    async fn answer(&self, started: Instant) -> Answer {
        let begun = Instant::now();
        let result = self.ask().await;
        let at = begun.duration_since(started).as_secs_f64();
        Answer { at, latency: begun.elapsed().as_secs_f64(), result }
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
}

impl Background {
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
}

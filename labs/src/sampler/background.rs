//! Traffic that continues in the background while something else changes.

use super::deadline::within;
use super::generator::{REPORT_INTERVAL, Sampler};
use super::sample::{Counts, Sample};
use anyhow::Context as _;
use futures::stream::{FuturesUnordered, StreamExt};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// Traffic in the background; dropping it aborts it.
#[derive(Debug)]
pub struct BackgroundTraffic {
    stop: Option<oneshot::Sender<usize>>,
    task: Option<JoinHandle<Sample>>,
    started: oneshot::Receiver<()>,
    start_timeout: Duration,
}

impl Sampler {
    /// Starts traffic that continues until it is stopped or dropped: as much as gets a response with the
    /// sampler's requests in flight, but no more than `per_second`.
    pub(crate) fn background(
        &self,
        per_second: u32,
        progress: impl FnMut(&Counts) + Send + 'static,
    ) -> BackgroundTraffic {
        let (stop, stopped) = oneshot::channel();
        let (first, started) = oneshot::channel();
        let task = tokio::spawn(run(self.clone(), per_second, progress, stopped, first));
        // Every request ends within the timeout, so twice that is ample for the first one.
        let start_timeout = self.timeout * 2;
        BackgroundTraffic { stop: Some(stop), task: Some(task), started, start_timeout }
    }
}

/// Sends requests until `stopped` yields a number and as many were sent in all, or one failed.
async fn run(
    sampler: Sampler,
    per_second: u32,
    mut progress: impl FnMut(&Counts),
    mut stopped: oneshot::Receiver<usize>,
    first: oneshot::Sender<()>,
) -> Sample {
    let started = Instant::now();
    let mut reported = started;
    let mut counts = Counts::default();
    let mut observations = Vec::new();
    let mut in_flight = FuturesUnordered::new();
    let mut limiter = RateLimiter::new(per_second, sampler.in_flight);
    // The finest granularity of tokio's timer; one tick may permit several requests.
    let mut pace = tokio::time::interval(Duration::from_millis(1));
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut first = Some(first);
    let mut target: Option<usize> = None;
    loop {
        let sent = observations.len() + in_flight.len();
        // One failure decides the verdict; more of them would add nothing.
        let done = target.is_some_and(|target| sent >= target || counts.failures > 0);
        tokio::select! {
            stop = &mut stopped, if target.is_none() => target = Some(stop.unwrap_or(0)),
            _ = pace.tick(), if !done => {
                let free = sampler.in_flight - in_flight.len();
                for _ in 0..limiter.take(started.elapsed(), free) {
                    in_flight.push(sampler.observe(started));
                }
            }
            Some(observation) = in_flight.next() => {
                counts.add(&observation);
                observations.push(observation);
                // The receiver may be gone; the traffic continues regardless.
                _ = first.take().map(|first| first.send(()));
            }
            else => break,
        }
        if reported.elapsed() >= REPORT_INTERVAL {
            reported = Instant::now();
            progress(&counts.report());
        }
    }
    Sample { observations, seconds: started.elapsed().as_secs_f64() }
}

impl BackgroundTraffic {
    /// Waits until the first request has ended, successfully or not: later changes then happen under
    /// load.
    pub(crate) async fn wait_started(mut self) -> anyhow::Result<Self> {
        let first = within(self.start_timeout, &mut self.started).await;
        first
            .with_context(|| format!("no request ended within {:?}", self.start_timeout))?
            .context("the traffic task panicked")?;
        Ok(self)
    }

    /// Sends no more requests once `n` were sent in all or one has failed, waits for those in flight,
    /// and returns all of them.
    pub async fn stop_after(mut self, n: usize) -> anyhow::Result<Sample> {
        // If the task has ended, awaiting it shows why.
        _ = self.stop.take().map(|stop| stop.send(n));
        let task = self.task.take().context("the traffic was stopped before")?;
        task.await.context("the traffic task panicked")?.check_local()
    }
}

impl Drop for BackgroundTraffic {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

/// A token bucket.
struct RateLimiter {
    per_second: f64,
    /// Tokens since the start that were used or have expired.
    used: f64,
    /// The capacity: a busy machine sends less traffic and never a flood to catch up.
    burst: f64,
}

impl RateLimiter {
    fn new(per_second: u32, burst: usize) -> Self {
        Self { per_second: per_second.into(), used: 0.0, burst: burst as f64 }
    }

    /// Takes up to `wanted` tokens and returns the number taken.
    fn take(&mut self, elapsed: Duration, wanted: usize) -> usize {
        let due = elapsed.as_secs_f64() * self.per_second;
        self.used = self.used.max(due - self.burst);
        let taken = wanted.min((due - self.used) as usize);
        self.used += taken as f64;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_limiter_caps_rate_and_burst() {
        let mut limiter = RateLimiter::new(4000, 8);
        // Milliseconds, tokens wanted, tokens taken.
        for (at, wanted, taken) in [
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
            let found = limiter.take(Duration::from_millis(at), wanted);
            assert_eq!(found, taken, "after {at} ms");
        }
    }
}

//! Samples: every request of one, its counts so far, and tallies of the responses.

use super::response::{Failure, Reply};
use crate::event::{Band, Event, Latency, SampleEnded, SampleProgress};
use anyhow::bail;
use std::collections::BTreeMap;

/// One request and its result.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Seconds from the start of the sample to the start of this request.
    pub at: f64,
    /// Seconds the request took.
    pub latency: f64,
    /// The response, or why there was none.
    pub result: Result<Reply, Failure>,
}

impl Observation {
    /// Seconds from the start of the sample to the end of this request.
    pub(super) fn ended(&self) -> f64 {
        self.at + self.latency
    }
}

/// All requests of a sample, in the order they ended.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Every request.
    pub observations: Vec<Observation>,
    /// Seconds from the first request to the last response.
    pub seconds: f64,
}

impl Sample {
    /// The number of requests sent.
    pub fn total(&self) -> u64 {
        self.observations.len() as u64
    }

    /// Counts good responses by version. A response without one counts as `?`.
    pub fn by_version(&self) -> BTreeMap<String, u64> {
        self.tally(|reply| reply.version.as_deref())
    }

    /// Counts good responses by pod. A response without one counts as `?`.
    pub fn by_pod(&self) -> BTreeMap<String, u64> {
        self.tally(|reply| reply.pod.as_deref())
    }

    /// The number of good responses of that version.
    pub fn hits(&self, version: &str) -> u64 {
        self.by_version().get(version).copied().unwrap_or(0)
    }

    /// The requests without a good response, with the time of each.
    pub fn failures(&self) -> impl Iterator<Item = (f64, &Failure)> {
        self.observations.iter().filter_map(|o| Some((o.at, o.result.as_ref().err()?)))
    }

    /// Returns an error if a request failed for want of something on this machine: the sample then says
    /// nothing about the cluster.
    pub(super) fn check_local(self) -> anyhow::Result<Self> {
        let local = self.failures().find_map(|(_, failure)| match failure {
            Failure::Local(why) => Some(why.clone()),
            _ => None,
        });
        match local {
            Some(why) => bail!(why),
            None => Ok(self),
        }
    }

    /// Returns the whole sample as an event.
    pub(crate) fn event(&self, what: &str) -> Event {
        Event::SampleEnded(SampleEnded {
            what: what.to_owned(),
            seconds: self.seconds,
            counts: self.by_version(),
            failures: self.failures().count() as u64,
            latency: Latency::of(self.observations.iter().map(|o| o.latency).collect()),
        })
    }

    /// Requests per second.
    pub fn per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.total() as f64 / self.seconds } else { 0.0 }
    }

    /// The good responses, in order.
    pub(crate) fn replies(&self) -> impl Iterator<Item = &Reply> {
        self.observations.iter().filter_map(|observation| observation.result.as_ref().ok())
    }

    fn tally<'a>(&'a self, of: impl Fn(&'a Reply) -> Option<&'a str>) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for reply in self.replies() {
            increment(&mut counts, of(reply));
        }
        counts
    }
}

/// The counts of a sample so far.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub(super) by_version: BTreeMap<String, u64>,
    by_pod: BTreeMap<String, u64>,
    pub(super) failures: u64,
    /// The latencies since the last report.
    recent: Vec<f64>,
}

impl Counts {
    /// Returns these counts as an event. `planned` is 0 if the sample has no planned size.
    pub(crate) fn event(&self, what: &str, planned: u64, band: &Option<Band>) -> Event {
        Event::SampleProgress(SampleProgress {
            what: what.to_owned(),
            planned,
            counts: self.by_version.clone(),
            failures: self.failures,
            band: band.clone(),
            pods: self.by_pod.clone(),
            latency: Latency::of(self.recent.clone()),
        })
    }

    /// Returns the counts for a report, and begins a new interval of latencies.
    pub(super) fn report(&mut self) -> Self {
        let recent = std::mem::take(&mut self.recent);
        Self { recent, ..self.clone() }
    }

    pub(super) fn add(&mut self, observation: &Observation) {
        self.recent.push(observation.latency);
        match &observation.result {
            Ok(reply) => {
                increment(&mut self.by_version, reply.version.as_deref());
                if let Some(pod) = reply.pod.as_deref() {
                    increment(&mut self.by_pod, Some(pod));
                }
            }
            Err(_) => self.failures += 1,
        }
    }
}

/// Allocates a key only when it is new.
fn increment(counts: &mut BTreeMap<String, u64>, key: Option<&str>) {
    let key = key.unwrap_or("?");
    match counts.get_mut(key) {
        Some(count) => *count += 1,
        None => _ = counts.insert(key.to_owned(), 1),
    }
}

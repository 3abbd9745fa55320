//! What was measured over the time of a run, in a bounded size.

use crate::event::{Band, Event, PodState, Stamped};
use crate::increments::{Increments, Tally, thin};
use std::collections::{BTreeMap, BTreeSet};

/// The largest number of intervals of the timeline; beyond it, each becomes twice as long.
const BINS: usize = 300;
/// The largest number of points of a curve.
const POINTS: usize = 240;
/// The largest number of samples whose curve is kept.
const SPLITS: usize = 40;

/// A sample that is judged by its share.
pub(super) struct Split {
    pub(super) what: String,
    pub(super) planned: u64,
    pub(super) band: Band,
    /// Requests and hits so far.
    pub(super) points: Vec<(u64, u64)>,
}

/// The course of a run.
pub(super) struct History {
    increments: Increments,
    /// Seconds of each bin.
    pub(super) width: f64,
    pub(super) bins: Vec<Tally>,
    splits: Vec<Split>,
    /// Time, median and 99th percentile.
    pub(super) latencies: Vec<(f64, f64, f64)>,
    /// The start of each step.
    pub(super) steps: Vec<(f64, String)>,
    ready: BTreeMap<String, String>,
    /// The number of ready pods of each version from a time on.
    pub(super) pods: Vec<(f64, BTreeMap<String, u64>)>,
    pub(super) end: f64,
}

impl Default for History {
    fn default() -> Self {
        Self {
            increments: Increments::default(),
            width: 0.1,
            bins: Vec::new(),
            splits: Vec::new(),
            latencies: Vec::new(),
            steps: Vec::new(),
            ready: BTreeMap::new(),
            pods: Vec::new(),
            end: 0.0,
        }
    }
}

impl History {
    pub(super) fn event(&mut self, Stamped { at, event, .. }: &Stamped) {
        self.end = self.end.max(*at);
        match event {
            Event::StepStarted { step } => self.steps.push((*at, step.clone())),
            Event::SampleProgress(sample) => {
                let added = self.increments.progress(sample);
                self.add(*at, &added);
                if let Some(latency) = sample.latency {
                    self.latencies.push((*at, latency.p50, latency.p99));
                    thin(&mut self.latencies, POINTS);
                }
                if let Some(band) = sample.band.as_ref().filter(|_| sample.planned > 0) {
                    let point = (sample.total(), sample.hits());
                    self.split(&sample.what, sample.planned, band, point);
                }
            }
            Event::SampleEnded(sample) => {
                let added = self.increments.end(&sample.what, &sample.counts, sample.failures);
                self.add(*at, &added);
            }
            Event::PodObserved(pod) => {
                let version = pod.version.clone().filter(|_| pod.state == PodState::Ready);
                match version {
                    Some(version) => _ = self.ready.insert(pod.pod.clone(), version),
                    None => _ = self.ready.remove(&pod.pod),
                }
                let mut counts = BTreeMap::new();
                for version in self.ready.values() {
                    *counts.entry(version.clone()).or_default() += 1;
                }
                if self.pods.last().is_none_or(|(_, last)| *last != counts) {
                    self.pods.push((*at, counts));
                }
            }
            _ => {}
        }
    }

    fn split(&mut self, what: &str, planned: u64, band: &Band, point: (u64, u64)) {
        let full = self.splits.len() >= SPLITS;
        let continued = self.splits.last_mut().filter(|split| {
            let before = split.points.last().map_or(0, |(total, _)| *total);
            split.what == what && split.planned == planned && before <= point.0
        });
        if let Some(split) = continued {
            split.points.push(point);
            thin(&mut split.points, POINTS);
        } else if !full {
            let (what, band) = (what.to_owned(), band.clone());
            self.splits.push(Split { what, planned, band, points: vec![point] });
        }
    }

    /// Adds responses to the bin of that time.
    fn add(&mut self, at: f64, added: &Tally) {
        if added.total() == 0 {
            return;
        }
        while at / self.width >= BINS as f64 {
            self.width *= 2.0;
            let merged = self.bins.chunks(2).map(|pair| {
                let mut sum = Tally::default();
                pair.iter().for_each(|bin| sum.add(bin));
                sum
            });
            self.bins = merged.collect();
        }
        let bin = (at.max(0.0) / self.width) as usize;
        if self.bins.len() <= bin {
            self.bins.resize(bin + 1, Tally::default());
        }
        if let Some(bin) = self.bins.get_mut(bin) {
            bin.add(added);
        }
    }

    /// The samples that are judged by a share, with at least one response.
    pub(super) fn splits(&self) -> impl Iterator<Item = &Split> {
        self.splits.iter().filter(|split| split.points.iter().any(|(total, _)| *total > 0))
    }

    /// All versions that responded or were ready.
    pub(super) fn versions(&self) -> Vec<&str> {
        let responded = self.bins.iter().flat_map(|bin| bin.counts.keys());
        let ready = self.pods.iter().flat_map(|(_, counts)| counts.keys());
        let all: BTreeSet<&str> = responded.chain(ready).map(String::as_str).collect();
        all.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::SampleProgress;
    use crate::fixture;

    #[test]
    fn timeline_is_bounded_and_keeps_every_request() {
        let mut history = History::default();
        let frames = 20_000;
        for frame in 1..=frames {
            let counts = [("1.0".to_owned(), 375 * frame), ("2.0".to_owned(), 125 * frame)].into();
            let sample = SampleProgress { counts, failures: 0, ..fixture::sample_progress() };
            let event = Event::SampleProgress(sample);
            history.event(&Stamped { at: frame as f64 / 10.0, lab: None, event });
        }
        assert!(history.bins.len() <= BINS, "{}", history.bins.len());
        let mut sum = Tally::default();
        history.bins.iter().for_each(|bin| sum.add(bin));
        assert_eq!(sum.total(), 500 * frames);
        assert!(history.latencies.len() <= POINTS);
        assert!(history.splits().all(|split| split.points.len() <= POINTS));
    }
}

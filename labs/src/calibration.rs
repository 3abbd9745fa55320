//! How often rules for canaries are wrong, measured on simulated releases: `labs calibrate`.

use crate::analysis::{Counts, Requests};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rules::Rule;
use std::fmt::Write as _;
use std::thread;

mod rules;

/// A pair of error rates, each from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rates {
    stable: f64,
    canary: f64,
}

/// Releases that are no worse, then releases that are.
const RELEASES: [Rates; 8] = [
    Rates { stable: 0.001, canary: 0.001 },
    Rates { stable: 0.008, canary: 0.008 },
    Rates { stable: 0.04, canary: 0.04 },
    Rates { stable: 0.0, canary: 0.04 },
    Rates { stable: 0.001, canary: 0.02 },
    Rates { stable: 0.008, canary: 0.016 },
    Rates { stable: 0.008, canary: 0.04 },
    Rates { stable: 0.04, canary: 0.08 },
];

/// What a rule made of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Promoted,
    RolledBack,
    Undecided,
}

/// The end of a simulated release.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Outcome {
    verdict: Verdict,
    /// Requests to either version until then.
    requests: u64,
    /// Failed responses of the canary until then.
    failures: u64,
}

/// The simulated traffic of a release: each request fails by chance, with the rate of its version.
struct Traffic {
    rng: StdRng,
    rates: Rates,
    requests: u64,
    failures: u64,
}

impl Traffic {
    fn new(seed: u64, rates: Rates) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), rates, requests: 0, failures: 0 }
    }

    /// Sends this many requests to each version.
    fn send(&mut self, canary: u64, stable: u64) -> (Counts, Counts) {
        let canary = Counts { requests: canary, failures: self.hits(canary, self.rates.canary) };
        let stable = Counts { requests: stable, failures: self.hits(stable, self.rates.stable) };
        self.requests += canary.requests + stable.requests;
        self.failures += canary.failures;
        (canary, stable)
    }

    /// Sends `total` requests through a router that gives the canary this share.
    fn route(&mut self, total: u64, share: f64) -> Requests {
        let canary = self.hits(total, share);
        let (canary, stable) = self.send(canary, total - canary);
        Requests { share, canary, stable }
    }

    /// Tosses a coin `n` times. Skips from hit to hit, which is quick for rare ones.
    fn hits(&mut self, n: u64, probability: f64) -> u64 {
        if probability <= 0.0 {
            return 0;
        }
        let per_toss = (1.0 - probability).ln();
        let (mut hits, mut position) = (0, 0.0);
        loop {
            // 1 - u is never 0, so the logarithm is finite.
            position += ((1.0 - self.rng.random::<f64>()).ln() / per_toss).floor() + 1.0;
            if position > n as f64 {
                return hits;
            }
            hits += 1;
        }
    }

    fn end(&self, verdict: Verdict) -> Outcome {
        Outcome { verdict, requests: self.requests, failures: self.failures }
    }
}

/// Sums over simulated releases.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    streams: u64,
    promoted: u64,
    rolled_back: u64,
    requests: u64,
    failures: u64,
}

impl Totals {
    fn add(&mut self, outcome: Outcome) {
        self.streams += 1;
        self.promoted += u64::from(outcome.verdict == Verdict::Promoted);
        self.rolled_back += u64::from(outcome.verdict == Verdict::RolledBack);
        self.requests += outcome.requests;
        self.failures += outcome.failures;
    }

    fn plus(self, other: Self) -> Self {
        Self {
            streams: self.streams + other.streams,
            promoted: self.promoted + other.promoted,
            rolled_back: self.rolled_back + other.rolled_back,
            requests: self.requests + other.requests,
            failures: self.failures + other.failures,
        }
    }
}

/// Simulates `streams` releases for each pair of error rates and each rule, and formats a table in Markdown. The same
/// seed gives the same table.
pub(crate) fn table(streams: u64, seed: u64) -> String {
    let mut table = format!(
        "{streams} releases a row, seed {seed}.\n\n\
         | stable, canary fail | rule | promoted | rolled back | undecided | requests | failures of the canary |\n\
         |---|---|---|---|---|---|---|\n"
    );
    for rates in RELEASES {
        for rule in rules::ALL {
            let totals = simulate(rule, rates, streams, seed);
            let share = |count: u64| 100.0 * count as f64 / totals.streams.max(1) as f64;
            let mean = |sum: u64| sum as f64 / totals.streams.max(1) as f64;
            let undecided = totals.streams - totals.promoted - totals.rolled_back;
            // Writing to a String cannot fail.
            _ = writeln!(
                table,
                "| {}%, {}% | {} | {:.2}% | {:.2}% | {:.2}% | {:.0} | {:.1} |",
                percent(rates.stable),
                percent(rates.canary),
                rule.name,
                share(totals.promoted),
                share(totals.rolled_back),
                share(undecided),
                mean(totals.requests),
                mean(totals.failures),
            );
        }
    }
    table
}

/// The share in percent, without the rounding errors of binary fractions.
fn percent(share: f64) -> f64 {
    (share * 1e5).round() / 1e3
}

/// Simulates on all cores.
fn simulate(rule: &Rule, rates: Rates, streams: u64, seed: u64) -> Totals {
    let threads = thread::available_parallelism().map_or(1, |n| n.get() as u64);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|worker| {
                scope.spawn(move || {
                    let mut totals = Totals::default();
                    for stream in (worker..streams).step_by(threads as usize) {
                        // Streams of neighboring seeds have nothing in common: StdRng hashes its seed.
                        let mut traffic = Traffic::new(seed.wrapping_add(stream), rates);
                        totals.add((rule.judge)(&mut traffic));
                    }
                    totals
                })
            })
            .collect();
        // A panic of a worker is one of this function.
        let join = |worker: thread::ScopedJoinHandle<'_, Totals>| {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        workers.into_iter().map(join).fold(Totals::default(), Totals::plus)
    })
}

#[cfg(test)]
mod tests;

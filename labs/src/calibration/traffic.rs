//! Simulated traffic.

use crate::analysis::{Counts, Requests};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// A pair of error rates, each from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rates {
    pub stable: f64,
    pub canary: f64,
}

/// What a rule made of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Promoted,
    RolledBack,
    Undecided,
}

/// The end of a simulated release.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Outcome {
    pub verdict: Verdict,
    /// Requests to either version until then.
    pub requests: u64,
    /// Failed responses of the canary until then.
    pub failures: u64,
}

/// The simulated traffic of a release: each request fails by chance, with the rate of its version.
pub(super) struct Traffic {
    rng: StdRng,
    rates: Rates,
    pub requests: u64,
    pub failures: u64,
}

impl Traffic {
    pub(super) fn new(seed: u64, rates: Rates) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), rates, requests: 0, failures: 0 }
    }

    /// Sends this many requests to each version.
    pub(super) fn send(&mut self, canary: u64, stable: u64) -> (Counts, Counts) {
        let canary = Counts { requests: canary, failures: self.hits(canary, self.rates.canary) };
        let stable = Counts { requests: stable, failures: self.hits(stable, self.rates.stable) };
        self.requests += canary.requests + stable.requests;
        self.failures += canary.failures;
        (canary, stable)
    }

    /// Sends `total` requests through a router that gives the canary this share.
    pub(super) fn route(&mut self, total: u64, share: f64) -> Requests {
        let canary = self.hits(total, share);
        let (canary, stable) = self.send(canary, total - canary);
        Requests { share, canary, stable }
    }

    /// Tosses a coin `n` times. Skips from hit to hit, which is quick for rare ones.
    pub(super) fn hits(&mut self, n: u64, probability: f64) -> u64 {
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

    pub(super) fn end(&self, verdict: Verdict) -> Outcome {
        Outcome { verdict, requests: self.requests, failures: self.failures }
    }
}

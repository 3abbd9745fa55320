//! Compares error rates, without assuming any.

use super::evidence::{Evidence, log_likelihood_ratio, requests_until};
use super::observation::{Counts, Decision, Requests};
use super::plan::{InvalidInput, Plan, check};

/// Ratios of error rates, canary to stable, that evidence for a worse canary is sought for.
const WORSE: [f64; 12] = [1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0, 20.0, 50.0, 200.0, 10_000.0];
/// Ratios that evidence for a canary that is not worse is sought for, as shares of the ratio that matters.
const BETTER: [f64; 5] = [0.0, 0.25, 0.5, 0.6, 0.75];
/// Error rates that evidence for a tolerable canary is sought for, as shares of the tolerated rate.
const RARE: [f64; 5] = [0.0, 0.1, 0.25, 0.5, 0.75];

/// A comparison of error rates.
///
/// Given that a request failed, it was the canary's with a probability that depends only on the router's share and on
/// the *ratio* of the two error rates: if the rates are equal, with the share itself. So failures alone are judged, no
/// base rate is needed, and it may change during the analysis, as long as it does so for both versions.
#[derive(Clone, Debug)]
pub struct ErrorRates {
    plan: Plan,
    /// Against “the canary fails no more often than stable”.
    worse: Evidence,
    /// Against “it fails `ratio` times as often, or more”.
    better: Evidence,
    /// Against “`tolerated` of its requests fail, or more”: without failures, nothing else can be learned.
    rare: Evidence,
    canary: Counts,
    stable: Counts,
}

impl ErrorRates {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            plan: *plan,
            worse: Evidence::new(WORSE.len()),
            better: Evidence::new(BETTER.len()),
            rare: Evidence::new(RARE.len()),
            canary: Counts::default(),
            stable: Counts::default(),
        }
    }

    pub(super) fn record(&mut self, requests: &Requests) -> Result<(), InvalidInput> {
        let Requests { share, canary, stable } = *requests;
        check(share > 0.0 && share < 1.0, "the canary's share", share, "between 0 and 1")?;
        for (name, counts) in [("canary", canary), ("stable", stable)] {
            let failures = counts.failures as f64;
            let range = format!("at most its {} requests", counts.requests);
            let name = format!("the number of failures of {name}");
            check(counts.failures <= counts.requests, &name, failures, &range)?;
        }
        let of_failures = |alternative: f64, hypothesis: f64| {
            let alternative = share_of_failures(share, alternative);
            let hypothesis = share_of_failures(share, hypothesis);
            log_likelihood_ratio(canary.failures, stable.failures, alternative, hypothesis)
        };
        let Plan { ratio, tolerated, .. } = self.plan;
        self.worse.update(|index| of_failures(WORSE[index], 1.0));
        self.better.update(|index| of_failures(BETTER[index] * ratio, ratio));
        let successes = canary.requests - canary.failures;
        self.rare.update(|index| {
            log_likelihood_ratio(canary.failures, successes, RARE[index] * tolerated, tolerated)
        });
        self.canary = self.canary.plus(canary);
        self.stable = self.stable.plus(stable);
        Ok(())
    }

    pub(super) fn counts(&self) -> (Counts, Counts) {
        (self.canary, self.stable)
    }

    /// The logarithm of the evidence that the canary fails more often than stable.
    pub fn evidence_of_worse(&self) -> f64 {
        self.worse.log()
    }

    pub(super) fn decision(&self) -> Decision {
        // Two ways to be promoted falsely, so each gets half of the accepted probability.
        let Plan { alpha, beta, .. } = self.plan;
        let beta = beta / 2.0;
        if self.worse.reaches(alpha) {
            return Decision::RollBack;
        }
        if self.better.reaches(beta) || self.rare.reaches(beta) {
            return Decision::Promote;
        }
        let requests = self.canary.requests + self.stable.requests;
        let all = [(&self.worse, alpha), (&self.better, beta), (&self.rare, beta)];
        let more = all.map(|(evidence, level)| requests_until(level, evidence.log(), requests));
        Decision::Continue { more: more.into_iter().flatten().min() }
    }
}

/// The share of failures that are the canary's, if it fails `ratio` times as often as stable.
fn share_of_failures(share: f64, ratio: f64) -> f64 {
    share * ratio / (share * ratio + 1.0 - share)
}

//! Canary analysis: is the canary as good as stable? Sequential tests that may be looked at after every request.
//!
//! A threshold on a metric (“at least 95% succeed, three measurements may miss it”) has no known error rate, and a
//! test that is planned for one sample size is wrong as soon as somebody looks early. The tests here are *e-processes*:
//! a bet against a hypothesis whose expected gain is at most one as long as that hypothesis is true, at any time. By
//! Ville's inequality the gain ever reaches `1 / alpha` with probability `alpha` at most, however often one looks and
//! whenever one stops. So an [`Analysis`] has three answers, [`Decision::Promote`], [`Decision::RollBack`] and
//! [`Decision::Continue`], with guaranteed error probabilities: those of its [`Plan`].
//!
//! Pure: no I/O, clock or randomness. `labs calibrate` measures the error rates on simulated streams, beside the rules
//! of other tools.
//!
//! ```
//! use labs::analysis::{Analysis, Counts, Decision, Plan, Requests};
//!
//! let mut analysis = Analysis::new(Plan::DEFAULT)?;
//! // The router sends a quarter of the requests to the canary. A canary that fails 40 times as often as stable:
//! for _ in 0..100 {
//!     let canary = Counts { requests: 25, failures: 10 };
//!     let stable = Counts { requests: 75, failures: 1 };
//!     analysis.record(&Requests { share: 0.25, canary, stable })?;
//!     if analysis.decision() != (Decision::Continue { more: None }) {
//!         break;
//!     }
//! }
//! assert_eq!(analysis.decision(), Decision::RollBack);
//! # Ok::<(), labs::analysis::InvalidInput>(())
//! ```

pub use errors::ErrorRates;
pub use latency::Latencies;
pub use share::{ShareDecision, ShareTest};

use std::fmt;

mod errors;
mod evidence;
mod latency;
mod share;

/// What an analysis is planned for: its error probabilities, and the smallest effects that matter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// The largest accepted probability of rolling back a canary that is no worse than stable.
    pub alpha: f64,
    /// The largest accepted probability of promoting a canary that is worse by an effect that matters.
    pub beta: f64,
    /// The smallest ratio of error rates, canary to stable, that matters.
    pub ratio: f64,
    /// The error rate up to which a canary is acceptable whatever stable's is, 0 to 1.
    pub tolerated: f64,
    /// The quantile of the latency that is compared, 0 to 1.
    pub quantile: f64,
    /// The smallest ratio of this quantile, canary to stable, that matters.
    pub slower: f64,
}

impl Plan {
    /// A false rollback in a thousand releases and a false promotion in a thousand; a doubled error rate matters
    /// above 1%, and a 95th percentile that is a half longer.
    pub const DEFAULT: Self =
        Self { alpha: 1e-3, beta: 1e-3, ratio: 2.0, tolerated: 0.01, quantile: 0.95, slower: 1.5 };

    /// Returns the plan if every number is in its range.
    fn checked(self) -> Result<Self, InvalidInput> {
        let Self { alpha, beta, ratio, tolerated, quantile, slower } = self;
        for (name, value) in
            [("alpha", alpha), ("beta", beta), ("tolerated", tolerated), ("quantile", quantile)]
        {
            check(value > 0.0 && value < 1.0, name, value, "between 0 and 1")?;
        }
        for (name, value) in [("ratio", ratio), ("slower", slower)] {
            check(value > 1.0 && value.is_finite(), name, value, "above 1")?;
        }
        Ok(self)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { alpha, beta, ratio, tolerated, quantile, slower } = self;
        write!(
            f,
            "false rollback {alpha:e}, false promotion {beta:e}; what matters: {ratio} times stable's errors and \
             more than {}%, or {slower} times its p{}",
            100.0 * tolerated,
            100.0 * quantile,
        )
    }
}

/// A number outside of its range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidInput(String);

impl fmt::Display for InvalidInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidInput {}

fn check(holds: bool, name: &str, value: f64, range: &str) -> Result<(), InvalidInput> {
    if holds { Ok(()) } else { Err(InvalidInput(format!("{name} is {value}, not {range}"))) }
}

/// What an analysis says so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The canary is not worse than stable by an effect that matters.
    Promote,
    /// The canary is worse than stable.
    RollBack,
    /// Not enough yet.
    Continue {
        /// About how many more requests it takes if things go on as they did; `None` where nothing points
        /// to either decision yet.
        more: Option<u64>,
    },
}

/// Requests to one version, and how many of them failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All requests.
    pub requests: u64,
    /// Those that failed.
    pub failures: u64,
}

impl Counts {
    fn plus(self, other: Self) -> Self {
        Self { requests: self.requests + other.requests, failures: self.failures + other.failures }
    }
}

/// Requests that were sent while the canary had one share of the traffic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Requests {
    /// The probability with which the router sends a request to the canary: its weight, or its share of the
    /// endpoints. Not the measured share.
    pub share: f64,
    /// Requests to the canary.
    pub canary: Counts,
    /// Requests to stable.
    pub stable: Counts,
}

/// The analysis of a release: error rates, and latencies where they are recorded. The first decision stands.
#[derive(Clone, Debug)]
pub struct Analysis {
    errors: ErrorRates,
    latencies: Option<Latencies>,
    decided: Option<Decision>,
}

impl Analysis {
    /// Judges by error rates alone.
    ///
    /// # Errors
    /// If a number of the plan is out of its range.
    pub fn new(plan: Plan) -> Result<Self, InvalidInput> {
        Ok(Self { errors: ErrorRates::new(&plan.checked()?), latencies: None, decided: None })
    }

    /// Judges by error rates and by latencies: promotes when both allow it, rolls back when either demands it.
    ///
    /// # Errors
    /// If a number of the plan is out of its range.
    pub fn with_latencies(plan: Plan) -> Result<Self, InvalidInput> {
        // Either may roll back, so each gets half of the accepted probability of doing so falsely.
        let half = Plan { alpha: plan.alpha / 2.0, ..plan.checked()? };
        let latencies = Some(Latencies::new(&half));
        Ok(Self { errors: ErrorRates::new(&half), latencies, decided: None })
    }

    /// Records responses. How they are grouped does not matter, as long as the share was the same for all of a group.
    ///
    /// # Errors
    /// If the share is not between 0 and 1, or more requests failed than were sent. Nothing is recorded then.
    pub fn record(&mut self, requests: &Requests) -> Result<(), InvalidInput> {
        self.errors.record(requests)?;
        self.decide();
        Ok(())
    }

    /// Records the latencies of canary and stable, in seconds. Ignored if the analysis is one of error rates alone.
    pub fn record_latencies(&mut self, canary: &[f64], stable: &[f64]) {
        if let Some(latencies) = &mut self.latencies {
            latencies.record(canary, stable);
            self.decide();
        }
    }

    /// The decision so far.
    pub fn decision(&self) -> Decision {
        self.decided.unwrap_or_else(|| self.current())
    }

    /// The requests of canary and stable until now.
    pub fn counts(&self) -> (Counts, Counts) {
        self.errors.counts()
    }

    fn decide(&mut self) {
        if self.decided.is_none() {
            let current = self.current();
            self.decided = (!matches!(current, Decision::Continue { .. })).then_some(current);
        }
    }

    fn current(&self) -> Decision {
        let errors = self.errors.decision();
        let Some(latencies) = &self.latencies else { return errors };
        match (errors, latencies.decision()) {
            (Decision::RollBack, _) | (_, Decision::RollBack) => Decision::RollBack,
            (Decision::Promote, other) | (other, Decision::Promote) => other,
            (Decision::Continue { more: a }, Decision::Continue { more: b }) => {
                Decision::Continue { more: a.max(b) }
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! Canary analysis: is the canary as good as stable? Sequential tests that may be looked at after every request.
//!
//! A threshold on a metric (“at least 95% succeed, three measurements may miss it”) has no known error rate, and a
//! test that is planned for one sample size is wrong as soon as one looks early. The tests here are *e-processes*:
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
pub use observation::{Counts, Decision, Requests};
pub use plan::{InvalidInput, Plan};
pub use share::{ShareDecision, ShareTest};

mod errors;
mod evidence;
mod latency;
mod observation;
mod plan;
mod share;

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

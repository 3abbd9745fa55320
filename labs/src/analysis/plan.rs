//! What an analysis is planned for.

use std::fmt;

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
    pub(super) fn checked(self) -> Result<Self, InvalidInput> {
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

/// An error that names the number unless `holds`.
pub(super) fn check(holds: bool, name: &str, value: f64, range: &str) -> Result<(), InvalidInput> {
    if holds { Ok(()) } else { Err(InvalidInput(format!("{name} is {value}, not {range}"))) }
}

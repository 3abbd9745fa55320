//! From a share claimed to a number of requests, and from counts to a verdict. Pure: no I/O, no clock
//! and no randomness, so that it can be tested with any split, right or wrong.

use serde::Serialize;
use statrs::distribution::{Binomial, DiscreteCDF};

/// How sure a verdict is to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Certainty {
    /// The probability that a correct split is called wrong.
    pub false_alarm: f64,
    /// The probability that the nearest wrong split is caught.
    pub power: f64,
}

impl Certainty {
    /// What the labs use: one false alarm in a million, the wrong split caught 999 times of 1000.
    pub const USUAL: Self = Self { false_alarm: 1e-6, power: 0.999 };
}

/// How a share is judged, decided before the first request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The share claimed, 0 to 1.
    pub share: f64,
    /// The nearest wrong share, which must be caught.
    pub wrong: f64,
    /// Requests to send.
    pub n: u64,
    /// Fewest hits that are accepted.
    pub low: u64,
    /// Most hits that are accepted.
    pub high: u64,
    /// The certainty that was asked for.
    pub certainty: Certainty,
}

impl Plan {
    /// The smallest sample whose exact two-sided binomial test tells `share` from `wrong` with that
    /// certainty. `None` unless both lie between 0 and 1, differ, and some sample of at most ten
    /// million can tell them apart.
    pub fn new(share: f64, wrong: f64, certainty: Certainty) -> Option<Self> {
        let valid = |p: f64| p > 0.0 && p < 1.0;
        if !valid(share) || !valid(wrong) || share == wrong {
            return None;
        }
        let mut n = 1;
        while n <= MOST {
            let plan = Self::of_size(share, wrong, n, certainty)?;
            if plan.catches() >= certainty.power {
                return Some(plan);
            }
            n += 1;
        }
        None
    }

    /// The test with a sample of exactly `n`, whatever its power.
    pub fn of_size(share: f64, wrong: f64, n: u64, certainty: Certainty) -> Option<Self> {
        let right = Binomial::new(share, n).ok()?;
        let tail = certainty.false_alarm / 2.0;
        let low = (0..=n).find(|&k| right.cdf(k) > tail)?;
        let high = (0..=n).rev().find(|&k| k == 0 || right.sf(k - 1) > tail)?;
        Some(Self { share, wrong, n, low, high, certainty })
    }

    /// Whether `hits` of [`Plan::n`] requests agree with the share claimed.
    pub fn accepts(&self, hits: u64) -> bool {
        (self.low..=self.high).contains(&hits)
    }

    /// The probability that the nearest wrong split is caught.
    pub fn catches(&self) -> f64 {
        let Ok(wrong) = Binomial::new(self.wrong, self.n) else { return 0.0 };
        let below = self.low.checked_sub(1).map_or(0.0, |k| wrong.cdf(k));
        below + wrong.sf(self.high)
    }
}

/// The exact upper bound, with 95% confidence, on a share of which `n` requests have shown nothing:
/// about `3 / n`. 1 if there were no requests.
pub fn upper_bound_of_none(n: u64) -> f64 {
    if n == 0 { 1.0 } else { 1.0 - 0.05_f64.powf(1.0 / n as f64) }
}

const MOST: u64 = 10_000_000;

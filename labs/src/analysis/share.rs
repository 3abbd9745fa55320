//! Wald's sequential probability ratio test of the canary's share, for requests that are dear.

use super::evidence::log_likelihood_ratio;
use super::plan::{InvalidInput, check};

/// What a [`ShareTest`] says so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareDecision {
    /// The share is the one claimed.
    Holds,
    /// It is the alternative.
    Fails,
    /// Not enough yet.
    Continue,
}

/// A test of one share against another, that stops as soon as the responses are enough: it distinguishes a share of 3:1 from
/// 4:1 after 936 responses on average, where a sample that is planned beforehand takes 4,460.
///
/// ```
/// use labs::analysis::{ShareDecision, ShareTest};
///
/// let mut test = ShareTest::new(0.25, 0.2, 1e-6, 1e-3)?;
/// assert_eq!(test.expected_requests().round(), 936.0);
/// while test.decision() == ShareDecision::Continue {
///     test.record(25, 100);
/// }
/// assert_eq!(test.decision(), ShareDecision::Holds);
/// # Ok::<(), labs::analysis::InvalidInput>(())
/// ```
#[derive(Clone, Debug)]
pub struct ShareTest {
    share: f64,
    alternative: f64,
    /// The logarithm of the likelihood ratio of the alternative to the claim.
    log_ratio: f64,
    holds_at: f64,
    fails_at: f64,
    decided: Option<ShareDecision>,
}

impl ShareTest {
    /// Tests `share` against `alternative`. A right share is rejected with probability `alpha` at most (Wald's bound),
    /// the alternative accepted with `beta`.
    ///
    /// # Errors
    /// If a number is not between 0 and 1, or the shares are equal.
    pub fn new(share: f64, alternative: f64, alpha: f64, beta: f64) -> Result<Self, InvalidInput> {
        let all =
            [("share", share), ("alternative", alternative), ("alpha", alpha), ("beta", beta)];
        for (name, value) in all {
            check(value > 0.0 && value < 1.0, name, value, "between 0 and 1")?;
        }
        check(share != alternative, "alternative", alternative, "another share")?;
        let (holds_at, fails_at) = ((beta / (1.0 - alpha)).ln(), ((1.0 - beta) / alpha).ln());
        Ok(Self { share, alternative, log_ratio: 0.0, holds_at, fails_at, decided: None })
    }

    /// Records that `hits` of `total` responses were the canary's. At most `total` count.
    pub fn record(&mut self, hits: u64, total: u64) {
        let hits = hits.min(total);
        let (alternative, share) = (self.alternative, self.share);
        self.log_ratio += log_likelihood_ratio(hits, total - hits, alternative, share);
        if self.decided.is_none() {
            self.decided = match self.log_ratio {
                log if log <= self.holds_at => Some(ShareDecision::Holds),
                log if log >= self.fails_at => Some(ShareDecision::Fails),
                _ => None,
            };
        }
    }

    /// The decision so far; the first stands.
    pub fn decision(&self) -> ShareDecision {
        self.decided.unwrap_or(ShareDecision::Continue)
    }

    /// The expected number of responses until the test accepts a right share (Wald's approximation).
    pub fn expected_requests(&self) -> f64 {
        let (p, q) = (self.share, self.alternative);
        let per_response = p * (q / p).ln() + (1.0 - p) * ((1.0 - q) / (1.0 - p)).ln();
        self.holds_at / per_response
    }
}

//! The delay before a failed pod of a job is replaced.

use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// As in Kubernetes: doubles with each failure in a row, up to the limit.
const INITIAL_DELAY: SignedDuration = SignedDuration::from_secs(10);
const MAX_DELAY: SignedDuration = SignedDuration::from_secs(600);

/// Failures since the last success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodFailures {
    pub(crate) count: u32,
    /// The time of the last failure.
    pub(crate) last: Option<Timestamp>,
}

impl PodFailures {
    /// Returns the rest of the delay; `None` if a pod may be created now.
    pub(crate) fn remaining_delay(self, now: Timestamp) -> Option<Duration> {
        let last = self.last.filter(|_| self.count > 0)?;
        let factor = 1_i32.checked_shl(self.count - 1).filter(|factor| *factor > 0);
        let delay = factor.and_then(|factor| INITIAL_DELAY.checked_mul(factor));
        let delay = delay.unwrap_or(MAX_DELAY).min(MAX_DELAY);
        let left = delay - now.duration_since(last);
        left.is_positive().then(|| left.unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_doubles_with_each_failure_up_to_ten_minutes() {
        let now = Timestamp::from_second(1_763_000_000).unwrap();
        let delay = |count| {
            let failures = PodFailures { count, last: Some(now) };
            failures.remaining_delay(now).map(|delay| delay.as_secs())
        };
        assert_eq!(delay(0), None);
        let delays = [1, 2, 3, 6, 7, 40, u32::MAX].map(|count| delay(count).unwrap());
        assert_eq!(delays, [10, 20, 40, 320, 600, 600, 600]);
        let earlier = now - SignedDuration::from_secs(11);
        assert_eq!(PodFailures { count: 1, last: Some(earlier) }.remaining_delay(now), None);
    }
}

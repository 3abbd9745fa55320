//! The time that a response may take.

use std::pin::pin;
use std::time::Duration;

/// The longest time without running that a deadline counts.
const SLICE: Duration = Duration::from_millis(100);

/// Waits for `future`, at most for `limit` of the time in which this process ran: where the machine or this
/// process stood still, the cluster is not at fault, and what it sent meanwhile is still to be read. Returns
/// `None` if the future has not ended by then.
pub(super) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = limit;
    while !left.is_zero() {
        let slice = left.min(SLICE);
        if let Ok(value) = tokio::time::timeout(slice, future.as_mut()).await {
            return Some(value);
        }
        left -= slice;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{Instant, advance, sleep};

    /// A response that needs this many steps, each of which waits.
    async fn steps(n: u32) -> u32 {
        for _ in 0..n {
            sleep(Duration::from_millis(10)).await;
        }
        n
    }

    #[tokio::test(start_paused = true)]
    async fn standstill_is_not_counted() {
        let limit = Duration::from_secs(2);
        let (response, ()) = tokio::join!(within(limit, steps(3)), advance(limit * 2));
        assert_eq!(response, Some(3));
    }

    #[tokio::test(start_paused = true)]
    async fn limit_is_the_time_that_passes_otherwise() {
        for (steps_of_10_ms, limit) in [(19, 200), (1000, 250), (1, 0)] {
            let begin = Instant::now();
            let response = within(Duration::from_millis(limit), steps(steps_of_10_ms)).await;
            let passed = u64::try_from(begin.elapsed().as_millis()).unwrap();
            if u64::from(steps_of_10_ms) * 10 < limit {
                assert_eq!(response, Some(steps_of_10_ms));
            } else {
                assert_eq!(response, None);
                assert!((limit..=limit + 5).contains(&passed), "{passed} of {limit} ms");
            }
        }
    }
}

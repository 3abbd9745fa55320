//! Exponential back-off: the delay doubles with each failure in a row, up to a limit.

use std::{fmt::Display, time::Duration};
use tokio::time::sleep;

/// The delays after failures in a row.
#[derive(Clone, Debug)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    immediate_first: bool,
    /// `None` before the first failure.
    last: Option<Duration>,
}

impl Backoff {
    /// Starts at `initial` and doubles up to `max`.
    pub const fn new(initial: Duration, max: Duration) -> Self {
        Self { initial, max, immediate_first: false, last: None }
    }

    /// Makes the first delay zero, as the kubelet does for the first restart of a container.
    #[must_use]
    pub const fn with_immediate_first(self) -> Self {
        Self { immediate_first: true, ..self }
    }

    /// Returns the delay after one more failure.
    pub fn next_delay(&mut self) -> Duration {
        let delay = match self.last {
            None if self.immediate_first => Duration::ZERO,
            None => self.initial.min(self.max),
            Some(Duration::ZERO) => self.initial.min(self.max),
            Some(last) => last.saturating_mul(2).min(self.max),
        };
        self.last = Some(delay);
        delay
    }

    /// Starts over, after a success.
    pub fn reset(&mut self) {
        self.last = None;
    }

    /// Returns the limit of the delays.
    pub const fn max_delay(&self) -> Duration {
        self.max
    }
}

/// Repeats `attempt` until it succeeds; cancel by dropping the future. Each failure is logged as one
/// to do `what`.
pub async fn retry<T, E: Display, F>(
    what: &str,
    mut backoff: Backoff,
    mut attempt: impl FnMut() -> F,
) -> T
where
    F: Future<Output = Result<T, E>>,
{
    loop {
        match attempt().await {
            Ok(output) => return output,
            Err(error) => {
                let delay = backoff.next_delay();
                tracing::warn!(%error, ?delay, "failed to {what}; retrying");
                sleep(delay).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn delays_double_up_to_the_limit_and_start_over_after_reset() {
        let mut backoff = Backoff::new(millis(1), millis(10));
        let mut delays = || [(); 6].map(|()| backoff.next_delay().as_millis());
        assert_eq!(delays(), [1, 2, 4, 8, 10, 10]);
        assert_eq!(delays(), [10; 6]);
        backoff.reset();
        assert_eq!(backoff.next_delay(), millis(1));
    }

    #[test]
    fn immediate_first_delay_is_zero_and_the_next_initial() {
        let mut backoff = Backoff::new(millis(10), millis(300)).with_immediate_first();
        let delays = [(); 8].map(|()| backoff.next_delay().as_millis());
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
        backoff.reset();
        assert_eq!(backoff.next_delay(), Duration::ZERO);
    }

    #[test]
    fn limit_below_initial_delay_wins() {
        let mut backoff = Backoff::new(millis(10), millis(3));
        assert_eq!([(); 2].map(|()| backoff.next_delay()), [millis(3); 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn retry_waits_longer_after_each_failure() {
        let mut attempts = Vec::new();
        let output = retry("try", Backoff::new(millis(1), millis(40)), || {
            attempts.push(Instant::now());
            let result = if attempts.len() < 9 { Err("too early") } else { Ok(attempts.len()) };
            async move { result }
        });
        assert_eq!(output.await, 9);
        let delays: Vec<u128> =
            attempts.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 40, 40]);
    }
}

//! The back-off of a crashing container (`CrashLoopBackOff`).

use std::time::Duration;

const INITIAL: Duration = Duration::from_secs(10);
const MAX: Duration = Duration::from_secs(300);
/// The back-off is reset after a container has run this long.
const RESET: Duration = Duration::from_secs(600);

/// The kubelet's delays: the first restart is immediate, then 10 s, doubling up to 300 s.
#[derive(Debug, Default)]
pub(crate) struct CrashLoopBackoff {
    next: Option<Duration>,
}

impl CrashLoopBackoff {
    /// Returns the delay before the restart that follows a run of this duration.
    pub(crate) fn after(&mut self, ran: Duration) -> Duration {
        if ran >= RESET {
            self.next = None;
        }
        let delay = self.next.unwrap_or(Duration::ZERO);
        self.next = Some(if delay.is_zero() { INITIAL } else { (delay * 2).min(MAX) });
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_doubles_up_to_five_minutes_and_resets_after_a_long_run() {
        let mut backoff = CrashLoopBackoff::default();
        let delays: Vec<u64> = (0..8).map(|_| backoff.after(Duration::ZERO).as_secs()).collect();
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff.after(RESET).as_secs(), 0);
    }
}

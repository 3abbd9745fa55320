//! How long a container that ended waits before it is started again.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(10);
const MOST: Duration = Duration::from_secs(300);
/// A container that ran this long is no longer thought of as crashing.
const HEALTHY: Duration = Duration::from_secs(600);

/// The first restart is immediate, then 10 s doubling to 300 s, as the kubelet does it.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    next: Option<Duration>,
}

impl Backoff {
    /// The wait after a run that took `ran`.
    pub(crate) fn after(&mut self, ran: Duration) -> Duration {
        if ran >= HEALTHY {
            self.next = None;
        }
        let wait = self.next.unwrap_or(Duration::ZERO);
        self.next = Some(if wait.is_zero() { FIRST } else { (wait * 2).min(MOST) });
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_five_minutes_and_forgets() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> = (0..8).map(|_| backoff.after(Duration::ZERO).as_secs()).collect();
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff.after(HEALTHY).as_secs(), 0);
    }
}

//! The deadline that the waits of one step share.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The least time that a wait gets: a condition that holds already is always seen.
const LEAST: Duration = Duration::from_secs(2);

/// A deadline, shared by clones. None until it is first restarted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deadline(Arc<Mutex<Option<Instant>>>);

impl Deadline {
    /// Sets the deadline to `timeout` from now.
    pub(crate) fn restart(&self, timeout: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
            Instant::now().checked_add(timeout);
    }

    /// Returns the timeout of one wait: at most `own`, and no longer than what is left for the step.
    pub(crate) fn timeout(&self, own: Duration) -> Duration {
        let deadline = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        left.map_or(own, |left| own.min(left.max(LEAST)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_of_a_step_share_what_is_left_of_it() {
        let hour = Duration::from_secs(3600);
        let deadline = Deadline::default();
        assert_eq!(deadline.timeout(hour), hour, "no step");
        deadline.clone().restart(hour * 2);
        assert_eq!(deadline.timeout(hour), hour, "its own is shorter");
        assert!(deadline.timeout(hour * 3) <= hour * 2);
        deadline.restart(Duration::ZERO);
        assert_eq!(deadline.timeout(hour), LEAST);
    }
}

//! When a reconciler retries what failed.

use std::{future, time::Duration};
use tokio::time::{self, Instant};

/// The delay before failed binds and status writes are retried. There is no notification when
/// another process frees a port.
const RETRY_DELAY: Duration = Duration::from_secs(3);

/// A retry timer that runs while anything is unfinished.
#[derive(Default)]
pub(crate) struct Retry(Option<Instant>);

impl Retry {
    /// Waits until the retry is due, counted from when something was first unfinished; forever while
    /// nothing is.
    pub(crate) async fn due(&mut self, unfinished: bool) {
        if !unfinished {
            self.0 = None;
            return future::pending().await;
        }
        time::sleep_until(*self.0.get_or_insert_with(|| Instant::now() + RETRY_DELAY)).await;
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test(start_paused = true)]
    async fn retry_is_due_once_after_its_delay_however_often_it_is_polled() {
        let (mut retry, start) = (Retry::default(), Instant::now());
        assert_eq!(retry.due(false).now_or_never(), None);
        for _ in 0..3 {
            // As in a `select!` loop where another branch wins.
            let second = time::timeout(Duration::from_millis(900), retry.due(true)).await;
            assert!(second.is_err());
        }
        retry.due(true).await;
        assert!(start.elapsed() >= RETRY_DELAY && start.elapsed() < RETRY_DELAY * 2);
        assert_eq!(retry.due(true).now_or_never(), None, "the next delay begins");
        assert_eq!(retry.due(false).now_or_never(), None);
        let again = Instant::now();
        retry.due(true).await;
        assert!(again.elapsed() >= RETRY_DELAY, "nothing unfinished resets the timer");
    }
}

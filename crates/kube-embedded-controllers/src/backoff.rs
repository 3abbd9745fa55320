//! How long to wait before trying again what failed: longer each time in a row, up to a limit.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(1);

/// The pauses after failures in a row.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    pub(crate) fn up_to(longest: Duration) -> Self {
        Self { next: FIRST.min(longest), longest }
    }

    /// How long to wait after one more failure.
    pub(crate) fn failed(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        pause
    }

    /// What failed before went well.
    pub(crate) fn succeeded(&mut self) {
        self.next = FIRST.min(self.longest);
    }
}

/// Tries until it goes well, or until whoever waits for it gives up.
pub(crate) async fn until_well<T, E, F>(longest: Duration, mut attempt: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, E>>,
{
    let mut backoff = Backoff::up_to(longest);
    loop {
        match attempt().await {
            Ok(result) => return result,
            Err(_) => tokio::time::sleep(backoff.failed()).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn pauses_grow_up_to_the_longest_and_start_anew() {
        let mut backoff = Backoff::up_to(Duration::from_millis(10));
        let mut pauses = || [(); 6].map(|()| backoff.failed().as_millis());
        assert_eq!(pauses(), [1, 2, 4, 8, 10, 10]);
        assert_eq!(pauses(), [10; 6]);
        backoff.succeeded();
        assert_eq!(backoff.failed().as_millis(), 1);
    }

    #[tokio::test]
    async fn what_fails_is_tried_again_after_longer_and_longer() {
        let mut tried = Vec::new();
        let result = until_well(Duration::from_millis(40), || {
            tried.push(Instant::now());
            let result = if tried.len() < 9 { Err(()) } else { Ok(tried.len()) };
            async move { result }
        });
        assert_eq!(result.await, 9);
        // A sleep may last longer, but never less.
        let pauses = tried.iter().zip(&tried[1..]).map(|(one, next)| *next - *one);
        for (pause, least) in pauses.zip([1, 2, 4, 8, 16, 32, 40, 40]) {
            assert!(pause >= Duration::from_millis(least), "{pause:?} instead of {least} ms");
        }
    }
}

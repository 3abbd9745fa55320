//! The request to stop: the deadline by which containers must have exited.

use tokio::{sync::watch, time::Instant};

/// A request to stop, with a deadline that may still move closer.
pub(crate) struct StopSignal(watch::Sender<Option<Instant>>);

impl Default for StopSignal {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl StopSignal {
    /// Requires everything to have exited by this time. Returns false if an earlier deadline is set
    /// already.
    pub(crate) fn stop_by(&self, deadline: Instant) -> bool {
        self.0.send_if_modified(|at| {
            let sooner = at.is_none_or(|at| deadline < at);
            if sooner {
                *at = Some(deadline);
            }
            sooner
        })
    }

    /// Returns the deadline, once there is one.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        *self.0.borrow()
    }

    /// Returns a receiver of the deadline.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Instant>> {
        self.0.subscribe()
    }

    /// Waits for the request, and returns its deadline.
    pub(crate) async fn requested(&self) -> Instant {
        let mut deadline = self.0.subscribe();
        let deadline = deadline.wait_for(Option::is_some).await;
        deadline.ok().and_then(|at| *at).unwrap_or_else(Instant::now)
    }

    /// Passes every deadline of `source` on to this signal. Never returns.
    pub(crate) async fn follow(&self, source: &Self) {
        let mut deadlines = source.subscribe();
        loop {
            if let Some(at) = *deadlines.borrow_and_update() {
                self.stop_by(at);
            }
            if deadlines.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

//! A future that is rarely ready beside one that is polled often.

use futures::task::AtomicWaker;
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

/// Polls a future only after it was woken itself: a connection is polled several times for each request, and what may
/// end it are timers and notifications, each of which would look at its state every time.
pub(super) struct OnWake<F> {
    future: F,
    woken: Arc<Woken>,
    waker: Waker,
}

struct Woken {
    woken: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl<F: Future + Unpin> OnWake<F> {
    pub(super) fn new(future: F) -> Self {
        let woken = Arc::new(Woken { woken: AtomicBool::new(true), task: AtomicWaker::new() });
        let waker = Waker::from(woken.clone());
        Self { future, woken, waker }
    }
}

impl<F: Future + Unpin> Future for OnWake<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        // Before the flag is read, so that no wake-up is lost.
        this.woken.task.register(cx.waker());
        if !this.woken.woken.load(Ordering::Relaxed)
            || !this.woken.woken.swap(false, Ordering::AcqRel)
        {
            return Poll::Pending;
        }
        Pin::new(&mut this.future).poll(&mut Context::from_waker(&this.waker))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::{cell::Cell, future, pin::pin};
    use tokio::sync::Notify;

    #[tokio::test]
    async fn future_is_polled_once_for_each_wake_up() {
        let (notify, polls) = (Notify::new(), Cell::new(0));
        let mut notified = pin!(notify.notified());
        let future = future::poll_fn(|cx| {
            polls.set(polls.get() + 1);
            notified.as_mut().poll(cx)
        });
        let mut rare = OnWake::new(future);
        for _ in 0..3 {
            assert!((&mut rare).now_or_never().is_none());
        }
        assert_eq!(polls.get(), 1);
        let waiter = async {
            (&mut rare).await;
            "woken"
        };
        let (woken, ()) = tokio::join!(waiter, async { notify.notify_waiters() });
        assert_eq!((woken, polls.get()), ("woken", 2));
    }
}

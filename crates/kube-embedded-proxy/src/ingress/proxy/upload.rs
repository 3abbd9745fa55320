//! The body of a request on its way to an endpoint.

use super::Signs;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

/// Passes frames on as they come; an empty one can be sent again.
pub(super) struct Upload(Option<(Incoming, Arc<Progress>)>);

/// Tells who is waited for.
pub(super) struct Progress {
    signs: Arc<Signs>,
    moved: AtomicBool,
    /// The endpoint would take more than the client has sent.
    awaited: AtomicBool,
}

impl Progress {
    /// Whether anything moved since this was last asked.
    pub(super) fn moved(&self) -> bool {
        self.moved.swap(false, Ordering::Relaxed)
    }

    pub(super) fn awaits_client(&self) -> bool {
        self.awaited.load(Ordering::Relaxed)
    }
}

impl Upload {
    pub(super) fn empty() -> Self {
        Self(None)
    }

    pub(super) fn of(body: Incoming, signs: Arc<Signs>) -> (Self, Arc<Progress>) {
        let (moved, awaited) = Default::default();
        let progress = Arc::new(Progress { signs, moved, awaited });
        (Self(Some((body, progress.clone()))), progress)
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some((body, progress)) = &mut self.get_mut().0 else { return Poll::Ready(None) };
        progress.awaited.store(true, Ordering::Relaxed);
        let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
        progress.signs.frames.fetch_add(1, Ordering::Relaxed);
        if body.is_end_stream() || frame.is_none() {
            progress.signs.unread.store(false, Ordering::Relaxed);
        }
        progress.awaited.store(false, Ordering::Relaxed);
        progress.moved.store(true, Ordering::Relaxed);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|(body, _)| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), |(body, _)| body.size_hint())
    }
}

//! The body of a request on its way to an endpoint.

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
#[derive(Default)]
pub(super) struct Progress {
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

    pub(super) fn of(body: Incoming) -> (Self, Arc<Progress>) {
        let progress = Arc::<Progress>::default();
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
        let frame = ready!(Pin::new(body).poll_frame(cx));
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

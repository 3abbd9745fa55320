//! The body of a request, on its way to an endpoint.

use super::signals::ConnectionSignals;
use bytes::Bytes;
use http::Request;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::{
    mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

/// Passes frames on as they arrive. Without a body the request can be sent again.
pub(super) struct RequestBody(Option<(Incoming, Arc<UploadProgress>)>);

/// The progress of a body, which decides whether the client or the endpoint has timed out.
pub(super) struct UploadProgress {
    signals: Arc<ConnectionSignals>,
    moved: AtomicBool,
    /// The endpoint would accept more than the client has sent.
    awaited: AtomicBool,
    /// The client sent something that is no body, or went away.
    broken: AtomicBool,
}

impl UploadProgress {
    /// Returns whether anything moved since the last call.
    pub(super) fn moved(&self) -> bool {
        self.moved.swap(false, Ordering::Relaxed)
    }

    /// Returns whether the body could not be read to its end.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Returns whether the client is waited for.
    pub(super) fn awaits_client(&self) -> bool {
        self.awaited.load(Ordering::Relaxed)
    }
}

impl RequestBody {
    pub(super) fn empty() -> Self {
        Self(None)
    }

    /// Returns whether there is no body.
    pub(super) fn is_none(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn new(
        body: Incoming,
        signals: Arc<ConnectionSignals>,
    ) -> (Self, Arc<UploadProgress>) {
        let (moved, awaited, broken) = Default::default();
        let progress = Arc::new(UploadProgress { signals, moved, awaited, broken });
        (Self(Some((body, progress.clone()))), progress)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some((body, progress)) = &mut self.get_mut().0 else { return Poll::Ready(None) };
        progress.awaited.store(true, Ordering::Relaxed);
        let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
        progress.signals.frames.fetch_add(1, Ordering::Relaxed);
        if body.is_end_stream() || frame.is_none() {
            progress.signals.unread.store(false, Ordering::Relaxed);
        }
        if matches!(frame, Some(Err(_))) {
            progress.broken.store(true, Ordering::Relaxed);
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

/// A request on its way to an endpoint.
pub(super) struct Outgoing {
    pub(super) request: Request<RequestBody>,
    /// That of its body, if it has one.
    pub(super) progress: Option<Arc<UploadProgress>>,
    /// Whether the fields about the client are still to be added. Most rules change no fields, so that these can be written
    /// as they are, and need no place in the map.
    pub(super) lacks_forwarded: bool,
    /// Whether the client may get informational responses.
    pub(super) takes_hints: bool,
}

impl Outgoing {
    /// Takes the request; an empty one remains.
    pub(super) fn take(&mut self) -> Request<RequestBody> {
        mem::replace(&mut self.request, Request::new(RequestBody::empty()))
    }

    /// Copies it without a body, as far as an endpoint sees it.
    pub(super) fn copy(&self) -> Self {
        let Self { lacks_forwarded, takes_hints, .. } = *self;
        Self { request: head_of(&self.request), progress: None, lacks_forwarded, takes_hints }
    }
}

/// Copies a request without a body, as far as an endpoint sees it.
pub(super) fn head_of(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

//! The body of a response: an endpoint's as it arrives, or a line of the proxy's own.

use super::{
    direct::DirectConnection, pool::PooledConnection, request_body::UploadProgress,
    signals::InFlight,
};
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::{
    error::Error,
    future::Future,
    io, mem,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{self, Instant, Sleep};

/// The body of an endpoint's response.
pub(super) enum UpstreamBody {
    /// One that hyper reads.
    Incoming(Incoming),
    /// So many bytes are to come on the connection, which the proxy itself reads.
    Arriving(u64),
    /// The rest of one whose end has arrived.
    Arrived(Bytes),
    /// The error that ended it.
    Failed(Option<io::Error>),
}

impl UpstreamBody {
    /// Creates a body of so many bytes of a connection, or without one if all of it has arrived.
    pub(super) fn of(connection: &mut DirectConnection, length: u64) -> Self {
        connection.whole_body(length).map_or(Self::Arriving(length), Self::Arrived)
    }

    /// Returns the next frame, from the connection unless the end has arrived.
    pub(super) fn poll_frame(
        &mut self,
        connection: Option<&mut PooledConnection>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Box<dyn Error + Send + Sync>>>> {
        let left = match self {
            Self::Incoming(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
            }
            Self::Arrived(bytes) if bytes.is_empty() => return Poll::Ready(None),
            Self::Arrived(bytes) => return Poll::Ready(Some(Ok(Frame::data(mem::take(bytes))))),
            Self::Arriving(left) => left,
            Self::Failed(error) => return Poll::Ready(error.take().map(|error| Err(error.into()))),
        };
        let Some(connection) = connection.and_then(|connection| connection.sender.direct()) else {
            return Poll::Ready(Some(Err("the connection of the response is gone".into())));
        };
        let bytes = match ready!(connection.poll_body(*left, cx)) {
            Ok(bytes) => bytes,
            Err(error) => {
                // Next time: an error at once would drop what came before it, and is not written yet.
                *self = Self::Failed(Some(error));
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        };
        *left = left.saturating_sub(bytes.len() as u64);
        if *left == 0 {
            *self = Self::Arrived(Bytes::new());
        }
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    /// Returns whether the end was returned already, or there is nothing before it.
    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Incoming(body) => body.is_end_stream(),
            Self::Arriving(_) => false,
            Self::Failed(error) => error.is_none(),
            Self::Arrived(bytes) => bytes.is_empty(),
        }
    }

    /// Returns whether nothing of it is to come on its connection.
    fn has_arrived(&self) -> bool {
        matches!(self, Self::Arrived(_)) || self.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Incoming(body) => body.size_hint(),
            Self::Arriving(left) => SizeHint::with_exact(*left),
            Self::Failed(_) => SizeHint::default(),
            Self::Arrived(bytes) => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}

/// The body of a response.
pub(super) enum ResponseBody {
    Text(Option<Bytes>),
    Proxied {
        body: UpstreamBody,
        /// Held until the body has ended; then the connection is free for another request.
        connection: Option<PooledConnection>,
        /// Whether the end of the connection ends the response (HTTP/1.0), so that the client cannot
        /// tell a truncated response from a complete one unless its connection is reset.
        until_close: bool,
        /// Runs while the endpoint is waited for.
        silence: Option<Pin<Box<Sleep>>>,
        /// That of the request's body, which may still be in transit.
        progress: Option<Arc<UploadProgress>>,
        in_flight: InFlight,
        /// The time that the endpoint may be silent.
        timeout: Duration,
    },
}

impl ResponseBody {
    pub(super) fn new(
        body: UpstreamBody,
        connection: PooledConnection,
        until_close: bool,
        progress: Option<Arc<UploadProgress>>,
        in_flight: InFlight,
        timeout: Duration,
    ) -> Self {
        let connection = match body.has_arrived() {
            true => {
                connection.release();
                None
            }
            false => Some(connection),
        };
        let silence = None;
        Self::Proxied { body, connection, until_close, silence, progress, in_flight, timeout }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let (body, connection, until_close, silence, progress, in_flight, timeout) =
            match self.get_mut() {
                Self::Text(text) => {
                    return Poll::Ready(text.take().map(|text| Ok(Frame::data(text))));
                }
                Self::Proxied {
                    body,
                    connection,
                    until_close,
                    silence,
                    progress,
                    in_flight,
                    timeout,
                } => (body, connection, until_close, silence, progress, in_flight, timeout),
            };
        let frame = match body.poll_frame(connection.as_mut(), cx) {
            Poll::Ready(frame) => {
                *silence = None;
                in_flight.signals().frames.fetch_add(1, Ordering::Relaxed);
                frame
            }
            Poll::Pending => {
                ready!(poll_silence(silence, progress.as_deref(), *timeout, cx));
                Some(Err("timed out waiting for the endpoint".into()))
            }
        };
        match &frame {
            Some(Err(error)) => {
                tracing::debug!(%error, "response truncated");
                *connection = None;
                if *until_close {
                    in_flight.signals().truncated.store(true, Ordering::Relaxed);
                }
            }
            Some(Ok(_)) if !body.is_end_stream() => {}
            _ => {
                if let Some(connection) = connection.take() {
                    connection.release();
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_none(),
            Self::Proxied { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => {
                SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len).try_into().unwrap_or(0))
            }
            Self::Proxied { body, .. } => body.size_hint(),
        }
    }
}

/// Resolves when nothing has moved for the timeout, the request's body included.
fn poll_silence(
    silence: &mut Option<Pin<Box<Sleep>>>,
    progress: Option<&UploadProgress>,
    timeout: Duration,
    cx: &mut Context<'_>,
) -> Poll<()> {
    let silence = silence.get_or_insert_with(|| Box::pin(time::sleep(timeout)));
    loop {
        ready!(silence.as_mut().poll(cx));
        if !progress.is_some_and(UploadProgress::moved) {
            return Poll::Ready(());
        }
        silence.as_mut().reset(Instant::now() + timeout);
    }
}

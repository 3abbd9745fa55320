//! What goes back to the client: an endpoint's answer as it comes, or a line that says why there is
//! none.

use super::{Counted, Signs, pool::Lease, upload::Progress};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::{
    borrow::Cow,
    error::Error,
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{self, Instant, Sleep};

/// The body of an answer.
pub(super) enum Answer {
    Text(Option<Bytes>),
    Passed {
        body: Incoming,
        /// Until the body has ended; then the connection is free for another request.
        lease: Option<Lease>,
        /// Where a client cannot tell a broken answer from a whole one unless its connection is
        /// reset.
        truncated: Option<Arc<Signs>>,
        /// There while the endpoint is waited for.
        silence: Option<Pin<Box<Sleep>>>,
        /// Of the request's body, which may still be on its way.
        progress: Option<Arc<Progress>>,
        counted: Counted,
    },
}

impl Answer {
    pub(super) fn of(
        body: Incoming,
        lease: Lease,
        truncated: Option<Arc<Signs>>,
        progress: Option<Arc<Progress>>,
        counted: Counted,
    ) -> Self {
        let lease = match body.is_end_stream() {
            true => {
                lease.give_back();
                None
            }
            false => Some(lease),
        };
        Self::Passed { body, lease, truncated, silence: None, progress, counted }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Passed { body, lease, truncated, silence, progress, counted } => {
                let frame = match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Ready(frame) => {
                        *silence = None;
                        counted.0.signs.frames.fetch_add(1, Ordering::Relaxed);
                        frame.map(|frame| frame.map_err(Self::Error::from))
                    }
                    Poll::Pending => {
                        let limit = counted.0.front.limits.response;
                        ready!(poll_silence(silence, progress.as_deref(), limit, cx));
                        Some(Err("the endpoint fell silent".into()))
                    }
                };
                match &frame {
                    Some(Err(_)) => {
                        *lease = None;
                        if let Some(signs) = truncated {
                            signs.truncated.store(true, Ordering::Relaxed);
                        }
                    }
                    Some(Ok(_)) if !body.is_end_stream() => {}
                    _ => {
                        if let Some(lease) = lease.take() {
                            lease.give_back();
                        }
                    }
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_none(),
            Self::Passed { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => {
                SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len).try_into().unwrap_or(0))
            }
            Self::Passed { body, .. } => body.size_hint(),
        }
    }
}

/// Ready when nothing has moved for the limit, the request's body included.
fn poll_silence(
    silence: &mut Option<Pin<Box<Sleep>>>,
    progress: Option<&Progress>,
    limit: Duration,
    cx: &mut Context<'_>,
) -> Poll<()> {
    let silence = silence.get_or_insert_with(|| Box::pin(time::sleep(limit)));
    loop {
        ready!(silence.as_mut().poll(cx));
        if !progress.is_some_and(Progress::moved) {
            return Poll::Ready(());
        }
        silence.as_mut().reset(Instant::now() + limit);
    }
}

/// After these nothing more is read from a client of HTTP/1.1.
const ENDS_CONNECTION: [StatusCode; 3] =
    [StatusCode::BAD_REQUEST, StatusCode::REQUEST_TIMEOUT, StatusCode::NOT_IMPLEMENTED];

/// A request that is not answered by an endpoint, and why.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) text: Cow<'static, str>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, text: impl Into<Cow<'static, str>>) -> Self {
        Self { status, text: text.into() }
    }

    pub(super) fn bad(text: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    pub(super) fn response(self) -> Response<Answer> {
        let text = format!("{}: {}\n", self.status, self.text);
        let mut response = Response::new(Answer::Text(Some(text.into())));
        *response.status_mut() = self.status;
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, plain);
        // Whoever frames requests like that is not trusted with another on the same connection.
        if ENDS_CONNECTION.contains(&self.status) {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
    }
}

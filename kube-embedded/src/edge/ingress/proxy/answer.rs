//! What goes back to the client: an endpoint's answer as it comes, or a line that says why there is
//! none.

use super::{Counted, Signs, pool::Lease};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::{
    borrow::Cow,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
};

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
        _counted: Counted,
    },
}

impl Answer {
    pub(super) fn of(
        body: Incoming,
        lease: Lease,
        truncated: Option<Arc<Signs>>,
        counted: Counted,
    ) -> Self {
        let lease = match body.is_end_stream() {
            true => {
                lease.give_back();
                None
            }
            false => Some(lease),
        };
        Self::Passed { body, lease, truncated, _counted: counted }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Passed { body, lease, truncated, .. } => {
                let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
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

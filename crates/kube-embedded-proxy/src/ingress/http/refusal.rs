//! Responses of the proxy itself.

use super::response::ResponseBody;
use http::{HeaderValue, Response, StatusCode, header};
use std::borrow::Cow;

/// Statuses after which nothing more is read from an HTTP/1.1 client.
const ENDS_CONNECTION: [StatusCode; 3] =
    [StatusCode::BAD_REQUEST, StatusCode::REQUEST_TIMEOUT, StatusCode::NOT_IMPLEMENTED];

/// Why a request gets no response from an endpoint.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) text: Cow<'static, str>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, text: impl Into<Cow<'static, str>>) -> Self {
        Self { status, text: text.into() }
    }

    pub(super) fn bad_request(text: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    pub(super) fn into_response(self) -> Response<ResponseBody> {
        let text = format!("{}: {}\n", self.status, self.text);
        let mut response = Response::new(ResponseBody::Text(Some(text.into())));
        *response.status_mut() = self.status;
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, plain);
        // Close the connection: a client that sends such framing may attempt request smuggling.
        if ENDS_CONNECTION.contains(&self.status) {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
    }
}

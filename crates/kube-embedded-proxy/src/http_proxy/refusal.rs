//! Responses of the proxy itself.

use super::{
    limits::{HEAD_BYTES, HEAD_FIELDS},
    response::ResponseBody,
};
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

    /// Returns the refusal for one that hyper wrote itself, without a text.
    pub(super) fn by_hyper(bytes: &[u8]) -> Option<Self> {
        let head = std::str::from_utf8(bytes).ok()?;
        if !head.ends_with("\r\n\r\n") || !head.contains("\r\ncontent-length: 0\r\n") {
            return None;
        }
        let (status, _) = head.strip_prefix("HTTP/1.1 ")?.split_once(' ')?;
        let text = match StatusCode::from_bytes(status.as_bytes()).ok()? {
            StatusCode::BAD_REQUEST => "the request line or a header field is invalid".to_owned(),
            StatusCode::URI_TOO_LONG => "the path is too long".to_owned(),
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => format!(
                "the head of the request has more than {} KiB or {HEAD_FIELDS} fields",
                HEAD_BYTES / 1024
            ),
            _ => return None,
        };
        Some(Self::new(StatusCode::from_bytes(status.as_bytes()).ok()?, text))
    }

    /// Returns the bytes of the response, after which the connection ends.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        let text = self.body();
        let (status, length) = (self.status, text.len());
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\n\
             content-length: {length}\r\nconnection: close\r\n\r\n{text}"
        )
        .into_bytes()
    }

    fn body(&self) -> String {
        format!("{}: {}\n", self.status, self.text)
    }

    pub(super) fn into_response(self) -> Response<ResponseBody> {
        let text = self.body();
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

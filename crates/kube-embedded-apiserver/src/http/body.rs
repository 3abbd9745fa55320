//! Responses and their bodies: all at once, or a stream of chunks.

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use serde_json::Value;
use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

/// The body of a response.
pub struct Body(Inner);

enum Inner {
    Whole(Option<Bytes>),
    Stream(BoxStream<'static, Bytes>),
}

impl Body {
    /// A body that is sent chunk by chunk, as they come.
    pub(crate) fn stream(chunks: BoxStream<'static, Bytes>) -> Self {
        Self(Inner::Stream(chunks))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(Inner::Whole(Some(bytes).filter(|bytes| !bytes.is_empty())))
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Inner::Whole(bytes) => f.debug_tuple("Whole").field(bytes).finish(),
            Inner::Stream(_) => f.write_str("Stream"),
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.0 {
            Inner::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Inner::Stream(chunks) => {
                chunks.poll_next_unpin(context).map(|chunk| chunk.map(|c| Ok(Frame::data(c))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Inner::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Inner::Stream(_) => SizeHint::default(),
        }
    }
}

/// A response that is not cached.
pub(crate) fn respond(code: StatusCode, media_type: &'static str, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// Returns a response of JSON as one of YAML. Streams stay as they are.
pub(crate) fn into_yaml(response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let is_json = parts.headers.get(header::CONTENT_TYPE).is_some_and(|t| t == "application/json");
    let yaml = match &body.0 {
        Inner::Whole(Some(bytes)) if is_json => serde_json::from_slice::<Value>(bytes)
            .ok()
            .and_then(|value| serde_saphyr::to_string(&value).ok()),
        _ => None,
    };
    let Some(yaml) = yaml else { return Response::from_parts(parts, body) };
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/yaml"));
    Response::from_parts(parts, Body::from(Bytes::from(yaml)))
}

/// Returns a response of JSON as one that is indented, with its fields in their order.
pub(crate) fn into_indented(response: Response<Body>) -> Response<Body> {
    let (parts, body) = response.into_parts();
    let is_json = parts.headers.get(header::CONTENT_TYPE).is_some_and(|t| t == "application/json");
    let body = match body.0 {
        Inner::Whole(Some(bytes)) if is_json => Body::from(indented(&bytes)),
        other => Body(other),
    };
    Response::from_parts(parts, body)
}

/// Indents JSON that has no spaces of its own.
fn indented(json: &[u8]) -> Bytes {
    let (mut out, mut depth, mut in_string, mut is_escaped) = (Vec::new(), 0, false, false);
    let line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(b' ', 2 * depth));
    };
    let json = json.trim_ascii_end();
    for (at, byte) in json.iter().copied().enumerate() {
        if in_string {
            out.push(byte);
            in_string = is_escaped || byte != b'"';
            is_escaped = !is_escaped && byte == b'\\';
            continue;
        }
        let is_empty = |closing| json.get(at + 1) == Some(&closing);
        match byte {
            b'{' | b'[' if !is_empty(byte + 2) => {
                depth += 1;
                out.push(byte);
                line(&mut out, depth);
            }
            b'}' | b']' if !matches!(out.last(), Some(b'{' | b'[')) => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(&mut out, depth);
            }
            b':' => out.extend(b": "),
            _ => {
                out.push(byte);
                in_string = byte == b'"';
            }
        }
    }
    Bytes::from(out)
}

/// A response of JSON.
pub(crate) fn respond_json(code: StatusCode, value: &Value) -> Response<Body> {
    respond(code, "application/json", Bytes::from(value.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_indented_as_by_go() {
        let json = br#"{"a":"x:{\",","b":[],"c":{},"d":[1,{"e":null}]}"#;
        let expected = r#"{
  "a": "x:{\",",
  "b": [],
  "c": {},
  "d": [
    1,
    {
      "e": null
    }
  ]
}"#;
        assert_eq!(indented(json), expected);
    }
}

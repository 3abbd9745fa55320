//! HTTP/1.1 with an endpoint as most of it goes: a request without a body, and a response with a length.
//!
//! hyper drives a connection in a task of its own, and requests, responses and bodies reach the task of the client through
//! channels. For short messages that is more work than the messages are, so the proxy itself writes such a request, and
//! reads the head of its response with the parser that hyper has, too. It refuses nothing: a response that is not of this
//! kind, in whatever way, is left to hyper from its first byte.

use super::{
    forwarded_headers::ForwardedHeaders,
    limits::{BODY_BUFFER, USUAL_FIELDS},
    request_body::RequestBody,
    upstream_io::OpenCount,
};
use bytes::{Buf, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header,
    uri::PathAndQuery,
};
use hyper::ext::ReasonPhrase;
use std::{
    future::{self, Future},
    io, mem,
    mem::MaybeUninit,
    pin::{Pin, pin},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{self, Instant, Sleep},
};

/// Bytes for which there is room before each read of a head.
const READ: usize = 4096;
/// Bytes that an idle connection may keep for either direction.
const KEPT: usize = 2 * READ;

/// A connection that is not driven by hyper yet.
pub(super) struct DirectConnection {
    stream: TcpStream,
    opened: OpenCount,
    /// The head of a request.
    written: Vec<u8>,
    /// What has arrived and was not passed on.
    arrived: BytesMut,
    /// A map without fields, for those of the next response.
    fields: HeaderMap,
    wait: WaitTimer,
}

/// A timer for one wait after the other, most of which are over soon: it is set again only once it has run out.
#[derive(Default)]
struct WaitTimer {
    until: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// What has come of a request.
pub(super) enum ExchangeResult {
    /// The head of a response, and the length of its body. The fields of the request are gone.
    Usual(UsualHead),
    /// A response that hyper has to read.
    Unusual,
    /// The connection has ended before anything of the request was written.
    Unsent,
    /// It has ended before the end of the response's head.
    Lost,
    /// The endpoint was silent for too long.
    TimedOut,
}

/// The head of a usual response.
#[derive(Debug)]
pub(super) struct UsualHead {
    pub(super) response: Response<()>,
    /// The bytes of its body.
    pub(super) length: u64,
    /// Whether another request may follow it.
    pub(super) keep_alive: bool,
}

impl DirectConnection {
    pub(super) fn new(stream: TcpStream, opened: OpenCount) -> Self {
        let (written, arrived, fields, wait) = Default::default();
        Self { stream, opened, written, arrived, fields, wait }
    }

    /// Returns whether the proxy can send the request itself.
    pub(super) fn takes(request: &Request<RequestBody>) -> bool {
        request.body().is_none() && !request.headers().contains_key(header::UPGRADE)
    }

    /// Returns the socket and what hyper has to read before anything else.
    pub(super) fn into_parts(self) -> (TcpStream, OpenCount, BytesMut) {
        (self.stream, self.opened, self.arrived)
    }

    /// Returns whether the endpoint has neither ended the connection nor sent anything unasked, as far as the runtime
    /// knows: there is no system call unless something has arrived.
    pub(super) fn is_ready(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let mut unasked = [0];
        let read = Pin::new(&mut self.stream).poll_read(&mut cx, &mut ReadBuf::new(&mut unasked));
        read.is_pending() && self.arrived.is_empty()
    }

    /// Frees memory that one large message needed. Returns whether nothing has arrived after it.
    pub(super) fn finish(&mut self) -> bool {
        let is_done = self.arrived.is_empty();
        if self.written.capacity() > KEPT {
            self.written = Vec::new();
        }
        if self.arrived.capacity() > KEPT {
            self.arrived = BytesMut::new();
        }
        is_done
    }

    /// Sends a request with more fields about its client, and reads the head of its response, all of it within `limit`.
    pub(super) async fn exchange(
        &mut self,
        request: &mut Request<RequestBody>,
        forwarded: Option<&ForwardedHeaders>,
        limit: Duration,
    ) -> ExchangeResult {
        self.written.clear();
        write_head(request, forwarded, &mut self.written);
        self.wait.until = Some(Instant::now() + limit);
        let mut sent = 0;
        future::poll_fn(|cx| match self.poll_exchange(request, &mut sent, cx) {
            Poll::Pending => self.wait.poll(cx).map(|()| ExchangeResult::TimedOut),
            result => result,
        })
        .await
    }

    /// Continues after the bytes of the request that were sent.
    fn poll_exchange(
        &mut self,
        request: &mut Request<RequestBody>,
        sent: &mut usize,
        cx: &mut Context<'_>,
    ) -> Poll<ExchangeResult> {
        while *sent < self.written.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.written[*sent..])) {
                Ok(0) | Err(_) if *sent == 0 => return Poll::Ready(ExchangeResult::Unsent),
                Ok(0) | Err(_) => return Poll::Ready(ExchangeResult::Lost),
                Ok(more) => *sent += more,
            }
        }
        loop {
            if let Ok(0) | Err(_) = ready!(self.poll_arrive(READ, cx)) {
                return Poll::Ready(ExchangeResult::Lost);
            }
            match self.take_head(request) {
                Ok(Some(head)) => return Poll::Ready(ExchangeResult::Usual(head)),
                Ok(None) if self.arrived.len() <= BODY_BUFFER => {}
                Ok(None) | Err(Unusual) => return Poll::Ready(ExchangeResult::Unusual),
            }
        }
    }

    /// Returns the next bytes of a body of which `left` are to come.
    pub(super) fn poll_body(&mut self, left: u64, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        if self.arrived.is_empty() && ready!(self.poll_arrive(left.min(BODY_BUFFER), cx))? == 0 {
            let text = "the endpoint ended the connection within a response";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, text)));
        }
        Poll::Ready(Ok(self.take_body(left)))
    }

    /// Returns the whole body if it has arrived.
    pub(super) fn whole_body(&mut self, length: u64) -> Option<Bytes> {
        let length = usize::try_from(length).ok().filter(|length| *length <= self.arrived.len())?;
        if length > READ {
            return Some(self.take_body(length));
        }
        // A copy of a short one costs less than a buffer that the next response cannot use.
        let body = Bytes::copy_from_slice(&self.arrived[..length]);
        self.arrived.advance(length);
        Some(body)
    }

    fn take_body(&mut self, most: usize) -> Bytes {
        self.arrived.split_to(most.min(self.arrived.len())).freeze()
    }

    fn poll_arrive(&mut self, room: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.arrived.reserve(room);
        pin!(self.stream.read_buf(&mut self.arrived)).poll(cx)
    }

    /// Takes the head of the response once all of it has arrived.
    fn take_head(
        &mut self,
        request: &mut Request<RequestBody>,
    ) -> Result<Option<UsualHead>, Unusual> {
        let parsed = read_head(&self.arrived, request.method(), &mut self.fields)?;
        let Some((head, end)) = parsed else { return Ok(None) };
        self.arrived.advance(end);
        // Only now, as hyper would need them.
        self.fields = mem::take(request.headers_mut());
        self.fields.clear();
        Ok(Some(head))
    }
}

impl WaitTimer {
    /// Resolves at the end of the current wait.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(until) = self.until else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(time::sleep_until(until)));
        if timer.deadline() > until {
            timer.as_mut().reset(until);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if timer.deadline() >= until {
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
        Poll::Pending
    }
}

/// Reads a head into an empty map. Returns it and where it ends, or `None` if more has to arrive.
fn read_head(
    arrived: &[u8],
    method: &Method,
    map: &mut HeaderMap,
) -> Result<Option<(UsualHead, usize)>, Unusual> {
    let mut fields = [const { MaybeUninit::uninit() }; USUAL_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let mut config = httparse::ParserConfig::default();
    // A proxy removes such spaces (RFC 9112, 5.1).
    config.allow_spaces_after_header_name_in_responses(true);
    let end = config.parse_response_with_uninit_headers(&mut parsed, arrived, &mut fields);
    let httparse::Status::Complete(end) = end.map_err(|_| Unusual)? else { return Ok(None) };
    let Framing { status, length, keep_alive } = framing(&parsed, end, method)?;
    // A copy, so that values neither hold the body nor keep the buffer from being used again.
    let bytes = Bytes::copy_from_slice(&arrived[..end]);
    let mut response = Response::new(());
    *response.status_mut() = status;
    if let Some(reason) = parsed.reason.filter(|it| Some(*it) != status.canonical_reason()) {
        let reason = ReasonPhrase::try_from(reason.as_bytes()).map_err(|_| Unusual)?;
        response.extensions_mut().insert(reason);
    }
    let mut map = mem::take(map);
    map.reserve(parsed.headers.len());
    for field in &*parsed.headers {
        let value = match field.value {
            [] => Bytes::new(),
            value => {
                let from = value.as_ptr().addr() - arrived.as_ptr().addr();
                bytes.slice(from..from + value.len())
            }
        };
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Unusual)?;
        map.append(name, HeaderValue::from_maybe_shared(value).map_err(|_| Unusual)?);
    }
    *response.headers_mut() = map;
    Ok(Some((UsualHead { response, length, keep_alive }, end)))
}

/// A head that is for hyper to judge.
#[derive(Debug)]
struct Unusual;

struct Framing {
    status: StatusCode,
    length: u64,
    keep_alive: bool,
}

/// Returns where the body of a response ends if it has one length or cannot have a body (RFC 9112, 6.3).
fn framing(
    parsed: &httparse::Response<'_, '_>,
    end: usize,
    method: &Method,
) -> Result<Framing, Unusual> {
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Unusual)?;
    if end > BODY_BUFFER || parsed.version != Some(1) || status.is_informational() {
        return Err(Unusual);
    }
    let (mut length, mut keep_alive) = (None, true);
    for field in &*parsed.headers {
        // Other names have other lengths.
        match field.name.len() {
            10 if field.name.eq_ignore_ascii_case("connection") => {
                let value = std::str::from_utf8(field.value).map_err(|_| Unusual)?;
                let closes = |option: &str| option.trim().eq_ignore_ascii_case("close");
                keep_alive &= !value.split(',').any(closes);
            }
            14 if field.name.eq_ignore_ascii_case("content-length") => {
                if length.is_some() {
                    return Err(Unusual);
                }
                length = Some(digits(field.value).ok_or(Unusual)?);
            }
            17 if field.name.eq_ignore_ascii_case("transfer-encoding") => return Err(Unusual),
            _ => {}
        }
    }
    let has_none = *method == Method::HEAD
        || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status);
    let length = if has_none { 0 } else { length.ok_or(Unusual)? };
    Ok(Framing { status, length, keep_alive })
}

/// Parses a length of digits alone, of which there are not too many.
fn digits(value: &[u8]) -> Option<u64> {
    let valid = (1..=18).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    valid.then(|| value.iter().fold(0, |length, digit| length * 10 + u64::from(digit - b'0')))
}

/// Writes the head of a request without a body.
fn write_head(
    request: &Request<RequestBody>,
    forwarded: Option<&ForwardedHeaders>,
    out: &mut Vec<u8>,
) {
    let path = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
    out.extend_from_slice(request.method().as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(path.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in request.headers() {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(forwarded.map_or(b"", ForwardedHeaders::lines));
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;

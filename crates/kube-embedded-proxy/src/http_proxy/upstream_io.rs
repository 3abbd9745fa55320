//! The endpoint's end of an HTTP/1.1 connection, as hyper reads and writes it.
//!
//! With a limit of fields other than its own, hyper fills two arrays of that length for every head. So
//! connections have hyper's own limit, and a head with more fields ends them: another one with the limit of the
//! proxy reads it, from its first byte. Lines are counted here, and nothing is changed: what a head is, hyper decides.

use super::{
    limits::{BODY_BUFFER, HEAD_FIELDS, USUAL_FIELDS},
    request_body::RequestBody,
};
use crate::data_plane::ProxyStream;
use futures::{FutureExt, future::BoxFuture};
use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};
use hyper_util::rt::TokioIo;
use kube_embedded_core::task::spawn_named;
use std::{
    cell::Cell,
    io::{self, IoSlice},
    mem,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What the two ends of hyper's connection tell each other: the socket and the sender of requests.
#[derive(Default)]
struct Exchange {
    /// A request was sent, so that the next bytes are the head of a response.
    awaited: AtomicBool,
    /// Starts the connection for a response with more fields.
    larger: Mutex<Option<BoxFuture<'static, Option<Http1Sender>>>>,
}

/// Sends requests over HTTP/1.1.
pub(super) struct Http1Sender {
    pub(super) sender: http1::SendRequest<RequestBody>,
    exchange: Arc<Exchange>,
}

impl Http1Sender {
    /// Starts HTTP/1.1 with hyper's own limit of fields.
    pub(super) async fn start<S: ProxyStream>(
        stream: S,
        endpoint: SocketAddr,
        opened: OpenCount,
    ) -> Option<Self> {
        Self::resume(stream, endpoint, opened, &[]).await
    }

    /// Starts it where the first request was sent already if anything of its response has `arrived`.
    pub(super) async fn resume<S: ProxyStream>(
        stream: S,
        endpoint: SocketAddr,
        opened: OpenCount,
        arrived: &[u8],
    ) -> Option<Self> {
        let exchange = Arc::<Exchange>::default();
        let mut io = UpstreamIo::new(stream, endpoint, exchange.clone());
        io.replay = (!arrived.is_empty()).then(|| Replay::new(arrived.to_vec()));
        let sender = start(&http1_builder(), io, endpoint, opened).await?;
        Some(Self { sender, exchange })
    }

    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        self.exchange.awaited.store(true, Ordering::Relaxed);
        self.sender.try_send_request(request).await
    }

    /// Returns the start of the connection that reads the response, if that has ended this one.
    pub(super) fn take_larger(&self) -> Option<BoxFuture<'static, Option<Self>>> {
        self.exchange.larger.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    // A proxy removes such spaces (RFC 9112, 5.1).
    builder.allow_spaces_after_header_name_in_responses(true);
    builder.max_buf_size(BODY_BUFFER).max_header_size(BODY_BUFFER);
    builder
}

/// Starts HTTP/1.1, driven by a task of its own.
async fn start<S: ProxyStream>(
    builder: &http1::Builder,
    io: UpstreamIo<S>,
    endpoint: SocketAddr,
    opened: OpenCount,
) -> Option<http1::SendRequest<RequestBody>> {
    let (sender, connection) = builder.handshake(TokioIo::new(io)).await.ok()?;
    let drive = async move {
        let _opened = opened;
        // The request in flight gets the error as well.
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%endpoint, %error, "upstream connection failed");
        }
    };
    spawn_named("upstream-connection", drive).detach();
    Some(sender)
}

/// Starts HTTP/1.1 on a connection whose responses may have as many fields as the proxy accepts.
async fn start_larger<S: ProxyStream>(
    io: UpstreamIo<S>,
    endpoint: SocketAddr,
    exchange: Arc<Exchange>,
    opened: OpenCount,
) -> Option<Http1Sender> {
    let mut builder = http1_builder();
    builder.max_headers(HEAD_FIELDS);
    let sender = start(&builder, io, endpoint, opened).await?;
    Some(Http1Sender { sender, exchange })
}

/// The stream to an endpoint.
pub(super) struct UpstreamIo<S> {
    /// `None` once another connection has it.
    stream: Option<S>,
    endpoint: SocketAddr,
    exchange: Arc<Exchange>,
    head: ResponseHead,
    /// What has arrived of a head that is not complete.
    partial: Vec<u8>,
    /// The begin of a head with more fields; what came before it is read first.
    held: Option<Vec<u8>>,
    /// Of the connection that reads such a head, or one that the proxy itself did not read.
    replay: Option<Replay>,
    /// While hyper has its own limit of fields.
    usual: bool,
}

/// A response that is there already, to a request that was sent already: what hyper writes is discarded.
struct Replay {
    response: Vec<u8>,
    asked: bool,
    reader: Option<Waker>,
}

impl Replay {
    fn new(response: Vec<u8>) -> Self {
        Self { response, asked: false, reader: None }
    }

    /// Reads what there is.
    fn read(&mut self, buffer: &mut ReadBuf<'_>) {
        let room = buffer.remaining().min(self.response.len());
        buffer.put_slice(&self.response[..room]);
        self.response.drain(..room);
    }
}

impl<S: ProxyStream> UpstreamIo<S> {
    fn new(stream: S, endpoint: SocketAddr, exchange: Arc<Exchange>) -> Self {
        let (stream, head, partial) = (Some(stream), ResponseHead::default(), Vec::new());
        let (held, replay) = (None, None);
        Self { stream, endpoint, exchange, head, partial, held, replay, usual: true }
    }

    pub(super) fn into_inner(self) -> Option<S> {
        self.stream
    }

    fn stream(&mut self) -> io::Result<Pin<&mut S>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Follows what has arrived, and returns how much of it is for this connection.
    fn follow(&mut self, read: &[u8]) -> usize {
        self.head.follow(read);
        let Some(begin) = self.head.open() else {
            self.partial.clear();
            return read.len();
        };
        if begin > 0 {
            self.partial.clear();
        }
        self.partial.extend_from_slice(&read[begin..]);
        if self.head.is_large() {
            self.held = Some(mem::take(&mut self.partial));
            return begin;
        }
        read.len()
    }

    /// Leaves the stream to a connection for more fields, and ends this one.
    fn hand_over(&mut self, mut response: Vec<u8>) -> io::Error {
        response.extend(self.replay.take().map(|replay| replay.response).unwrap_or_default());
        if let Some(stream) = self.stream.take() {
            let replay = Some(Replay::new(response));
            let (endpoint, exchange) = (self.endpoint, Arc::default());
            let io = Self::new(stream, endpoint, Arc::clone(&exchange));
            let larger = Self { replay, usual: false, ..io };
            let start = start_larger(larger, endpoint, exchange, OpenCount::new()).boxed();
            *self.exchange.larger.lock().unwrap_or_else(PoisonError::into_inner) = Some(start);
        }
        io::Error::other("the head of the response has many fields")
    }
}

impl<S: ProxyStream> AsyncRead for UpstreamIo<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(replay) = this.replay.as_mut().filter(|replay| !replay.asked) {
            replay.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if let Some(response) = this.held.take() {
            return Poll::Ready(Err(this.hand_over(response)));
        }
        if this.usual && this.exchange.awaited.load(Ordering::Relaxed) {
            this.exchange.awaited.store(false, Ordering::Relaxed);
            this.head = ResponseHead::awaited();
            this.partial.clear();
        }
        let before = buffer.filled().len();
        let read = match &mut this.replay {
            Some(replay) => {
                replay.read(buffer);
                Poll::Ready(Ok(()))
            }
            None => this.stream()?.poll_read(cx, buffer),
        };
        if this.replay.as_ref().is_some_and(|replay| replay.response.is_empty()) {
            this.replay = None;
        }
        if read.is_pending() || this.head.is_over() {
            return read;
        }
        let ours = this.follow(&buffer.filled()[before..]);
        match this.held.take() {
            Some(response) if ours == 0 => return Poll::Ready(Err(this.hand_over(response))),
            held => this.held = held,
        }
        buffer.set_filled(before + ours);
        read
    }
}

impl<S: ProxyStream> AsyncWrite for UpstreamIo<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(replay) = &mut this.replay {
            replay.asked = true;
            if let Some(reader) = replay.reader.take() {
                reader.wake();
            }
            return Poll::Ready(Ok(bytes.iter().map(|bytes| bytes.len()).sum()));
        }
        this.stream()?.poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Some(stream) => Pin::new(stream).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

/// Bytes of a status line that say which response it is: `HTTP/1.1 103`.
const STATUS: usize = 12;

/// Counts the fields in the head of a response.
#[derive(Default)]
struct ResponseHead {
    state: State,
    /// The begin of the status line.
    status: [u8; STATUS],
    /// Bytes of the current line, without a carriage return.
    line: usize,
    fields: usize,
    /// Where the head begins in the bytes that were followed last.
    begin: usize,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// Before the first byte of a head; empty lines are allowed there.
    Start,
    Status,
    Fields,
    /// There are too many fields.
    Large,
    #[default]
    Over,
}

impl ResponseHead {
    fn awaited() -> Self {
        Self { state: State::Start, ..Self::default() }
    }

    fn is_over(&self) -> bool {
        self.state == State::Over
    }

    fn is_large(&self) -> bool {
        self.state == State::Large
    }

    /// Returns where the head begins that has not ended.
    fn open(&self) -> Option<usize> {
        (![State::Start, State::Over].contains(&self.state)).then_some(self.begin)
    }

    fn follow(&mut self, bytes: &[u8]) {
        self.begin = 0;
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            match self.state {
                State::Large | State::Over => return,
                State::Start => {
                    let blank = rest.iter().take_while(|byte| b"\r\n".contains(byte)).count();
                    at += blank;
                    if blank < rest.len() {
                        *self = Self { state: State::Status, begin: at, ..Self::default() };
                    }
                    continue;
                }
                State::Status | State::Fields => {}
            }
            let end = rest.iter().position(|byte| *byte == b'\n');
            let part = &rest[..end.unwrap_or(rest.len())];
            if self.state == State::Status {
                let into = self.status.iter_mut().skip(self.line);
                into.zip(part).for_each(|(into, byte)| *into = *byte);
            }
            self.line += part.iter().filter(|byte| **byte != b'\r').count();
            at += part.len() + 1;
            if end.is_some() {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let is_blank = mem::take(&mut self.line) == 0;
        self.state = match self.state {
            State::Fields if !is_blank => {
                self.fields += 1;
                if self.fields > USUAL_FIELDS { State::Large } else { State::Fields }
            }
            // An informational response, but for 101, precedes the one that is awaited.
            State::Fields if self.status[9] == b'1' && self.status[9..] != *b"101" => State::Start,
            State::Fields => State::Over,
            State::Status => State::Fields,
            other => other,
        };
    }
}

thread_local! {
    static OPEN: Cell<usize> = const { Cell::new(0) };
}

/// Counts as a connection of this worker, on which it is created and dropped.
pub(super) struct OpenCount;

impl OpenCount {
    /// Returns the connections of this worker.
    pub(super) fn current() -> Option<usize> {
        OPEN.try_with(Cell::get).ok()
    }

    /// Counts a connection even at the limit.
    pub(super) fn new() -> Self {
        let _ = OPEN.try_with(|opened| opened.set(opened.get() + 1));
        Self
    }
}

impl Drop for OpenCount {
    fn drop(&mut self) {
        let _ = OPEN.try_with(|opened| opened.set(opened.get().saturating_sub(1)));
    }
}

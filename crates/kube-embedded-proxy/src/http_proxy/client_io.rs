//! The client's end of a connection, as hyper reads and writes it.

use super::{refusal::Refusal, signals::ConnectionSignals, target_encoder::TargetEncoder};
use crate::data_plane::ProxyStream;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use std::{
    future::Future,
    io::{self, IoSlice},
    mem,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, ReadBuf},
    time::{self, Sleep},
};

/// The time and the bytes for which the input of a client is drained that still sends a body.
const LINGER: (Duration, usize) = (Duration::from_secs(5), 16 << 20);
/// The bytes that are drained after a head that was refused, which may have no end.
const LINGER_AFTER_HEAD: usize = 256 << 10;

/// Where a connection is left that needs a larger limit of fields.
type Larger<S> = Arc<Mutex<Option<ClientIo<S>>>>;

/// A stream that ends in a reset if a response on it was cut short: a response to an HTTP/1.0 client
/// ends with its connection, and an orderly end would make it look complete.
pub(super) struct ClientIo<S: ProxyStream> {
    /// `None` only once taken.
    stream: Option<TokioIo<S>>,
    signals: Arc<ConnectionSignals>,
    linger: Linger,
    linger_bytes: usize,
    targets: TargetEncoder,
    /// Bytes from the client for which there was no room yet, as encoding made them more.
    encoded: Vec<u8>,
    /// While hyper has its own limit of fields.
    usual: Option<Usual<S>>,
}

/// The state of a connection for heads with [`USUAL_FIELDS`](super::limits::USUAL_FIELDS). One with more fields, or after which
/// it would not be known where the next one begins, is held back until hyper has finished what came before. Then
/// the stream is left to a connection with a larger limit, to which such a head is as good as the first.
struct Usual<S: ProxyStream> {
    larger: Larger<S>,
    /// What hyper has of a head that is not complete.
    partial: Vec<u8>,
    held: Option<Vec<u8>>,
    /// Whether hyper has nothing to write.
    flushed: bool,
}

/// The state of a lingering close: after the response is sent, input is drained for a while, because
/// closing a socket with unread bytes resets it, and the client may lose its response.
enum Linger {
    No,
    Reading { until: Pin<Box<Sleep>>, left: usize },
}

impl<S: ProxyStream> ClientIo<S> {
    /// Creates it for a connection with hyper's own limit of fields, and the place where it is left if that is not
    /// enough.
    pub(super) fn http1(stream: S, signals: Arc<ConnectionSignals>) -> (Self, Larger<S>) {
        let larger = Larger::default();
        let (partial, held, flushed) = (Vec::new(), None, true);
        let usual = Some(Usual { larger: larger.clone(), partial, held, flushed });
        (Self::new(stream, signals, TargetEncoder::default(), Vec::new(), usual), larger)
    }

    pub(super) fn http2(stream: S, signals: Arc<ConnectionSignals>) -> Self {
        Self::new(stream, signals, TargetEncoder::off(), Vec::new(), None)
    }

    fn new(
        stream: S,
        signals: Arc<ConnectionSignals>,
        targets: TargetEncoder,
        encoded: Vec<u8>,
        usual: Option<Usual<S>>,
    ) -> Self {
        let stream = Some(TokioIo::new(stream));
        let (linger, linger_bytes) = (Linger::No, LINGER.1);
        Self { stream, signals, linger, linger_bytes, targets, encoded, usual }
    }

    pub(super) fn into_inner(mut self) -> Option<S> {
        self.stream.take().map(TokioIo::into_inner)
    }

    /// Follows what hyper is about to read, and returns how much of it is for the connection with the usual limit.
    fn follow(&mut self, read: &[u8]) -> usize {
        let Some(usual) = &mut self.usual else { return read.len() };
        let Some(begin) = self.targets.open_head() else {
            usual.partial.clear();
            return read.len();
        };
        if begin > 0 {
            usual.partial.clear();
        }
        usual.partial.extend_from_slice(&read[begin..]);
        if self.targets.large_head().is_none() {
            return read.len();
        }
        usual.held = Some(mem::take(&mut usual.partial));
        begin
    }

    /// Leaves the stream to a connection with a larger limit if a head waits for one and hyper has responded to
    /// everything before it. Returns whether it waits.
    fn poll_hand_over(&mut self) -> bool {
        let Some(usual) = &mut self.usual else { return false };
        if usual.held.is_none() {
            return self.stream.is_none();
        }
        let idle = self.signals.in_flight.load(Ordering::Relaxed) == 0
            && self.targets.large_head() == Some(self.signals.requests.load(Ordering::Relaxed) + 1);
        if usual.flushed
            && idle
            && let Some((stream, held)) = self.stream.take().zip(usual.held.take())
        {
            let targets = mem::take(&mut self.targets);
            let (stream, signals) = (stream.into_inner(), self.signals.clone());
            let larger = Self::new(stream, signals, targets, held, None);
            *usual.larger.lock().unwrap_or_else(PoisonError::into_inner) = Some(larger);
        }
        true
    }

    fn record(&mut self, written: &Poll<io::Result<usize>>) {
        if let Some(usual) = &mut self.usual {
            usual.flushed = false;
        }
        self.signals.blocked.store(written.is_pending(), Ordering::Relaxed);
        if written.is_ready() {
            self.signals.writes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes what is not hyper's to write.
    fn poll_outbox(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(stream) = self.stream.as_mut().map(Pin::new) else { return Poll::Ready(Ok(())) };
        let written = self.signals.outbox.poll_write(stream, cx);
        self.signals.blocked.store(written.is_pending(), Ordering::Relaxed);
        if ready!(written)? {
            self.signals.writes.fetch_add(1, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }

    /// Returns whether the bytes are hyper's own refusal of a request, which has no text, and puts one
    /// with the reason into the outbox.
    fn explain(&mut self, bytes: &[u8]) -> bool {
        // Once a request was understood, everything is a response to it.
        if self.targets.heads() <= self.signals.requests.load(Ordering::Relaxed)
            || self.signals.in_flight.load(Ordering::Relaxed) > 0
        {
            return false;
        }
        let Some(refusal) = Refusal::by_hyper(bytes) else { return false };
        self.signals.outbox.put(&refusal.into_bytes());
        // It may send more, and would lose the response to a reset.
        self.linger_bytes = LINGER_AFTER_HEAD;
        self.signals.unread.store(true, Ordering::Relaxed);
        true
    }

    fn stream(self: Pin<&mut Self>) -> io::Result<Pin<&mut TokioIo<S>>> {
        let stream = self.get_mut().stream.as_mut().map(Pin::new);
        stream.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<S: ProxyStream> Drop for ClientIo<S> {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream
            && self.signals.truncated.load(Ordering::Relaxed)
        {
            stream.inner().reset();
        }
    }
}

impl<S: ProxyStream> Read for ClientIo<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut TokioIo::new(Reader(self.get_mut()))).poll_read(cx, buffer)
    }
}

/// Reads from a client, with the targets of requests encoded.
struct Reader<'a, S: ProxyStream>(&'a mut ClientIo<S>);

impl<S: ProxyStream> AsyncRead for Reader<'_, S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self.get_mut().0;
        if this.encoded.is_empty() {
            if this.poll_hand_over() {
                return Poll::Pending;
            }
            let before = buffer.filled().len();
            let Some(stream) = &mut this.stream else {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            };
            ready!(Pin::new(stream.inner_mut()).poll_read(cx, buffer))?;
            let read = &buffer.filled()[before..];
            let any = !read.is_empty();
            let ours = match this.targets.encode(read) {
                None => {
                    let ours = this.follow(read);
                    buffer.set_filled(before + ours);
                    ours
                }
                Some(mut encoded) => {
                    let ours = this.follow(&encoded);
                    encoded.truncate(ours);
                    this.encoded = encoded;
                    buffer.set_filled(before);
                    ours
                }
            };
            if any && ours == 0 {
                this.poll_hand_over();
                return Poll::Pending;
            }
        }
        let room = buffer.remaining().min(this.encoded.len());
        buffer.put_slice(&this.encoded[..room]);
        this.encoded.drain(..room);
        Poll::Ready(Ok(()))
    }
}

impl<S: ProxyStream> Write for ClientIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.explain(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = self.as_mut().stream()?.poll_write(cx, bytes);
        self.record(&written);
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_outbox(cx))?;
        ready!(Pin::new(&mut *this).stream()?.poll_flush(cx))?;
        if let Some(usual) = &mut this.usual {
            usual.flushed = true;
            this.poll_hand_over();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // An orderly end would precede the reset.
        if self.signals.truncated.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let this = self.get_mut();
        ready!(this.poll_outbox(cx))?;
        let Some(stream) = this.stream.as_mut().map(TokioIo::inner_mut) else {
            return Poll::Ready(Ok(()));
        };
        if !this.signals.unread.load(Ordering::Relaxed) {
            // hyper drops the stream next, which ends a bare socket as well and saves a call.
            return stream.poll_close(cx);
        }
        if let Linger::No = this.linger {
            ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
            this.linger =
                Linger::Reading { until: Box::pin(time::sleep(LINGER.0)), left: this.linger_bytes };
        }
        if let Linger::Reading { until, left } = &mut this.linger {
            let mut drained = [0; 8 * 1024];
            while *left > 0 && until.as_mut().poll(cx).is_pending() {
                let mut read = ReadBuf::new(&mut drained);
                match ready!(Pin::new(&mut *stream).poll_read(cx, &mut read)) {
                    Ok(()) if !read.filled().is_empty() => {
                        *left = left.saturating_sub(read.filled().len());
                    }
                    _ => break,
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(Write::is_write_vectored)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [only] = bytes
            && self.explain(only)
        {
            return Poll::Ready(Ok(only.len()));
        }
        let written = self.as_mut().stream()?.poll_write_vectored(cx, bytes);
        self.record(&written);
        written
    }
}

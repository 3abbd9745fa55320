//! The client's end of a connection, as hyper reads and writes it.

use super::{refusal::Refusal, signals::ConnectionSignals, target_encoder::TargetEncoder};
use crate::data_plane::ProxyStream;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, atomic::Ordering},
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
}

/// The state of a lingering close: after the response is sent, input is drained for a while, because
/// closing a socket with unread bytes resets it, and the client may lose its response.
enum Linger {
    No,
    Reading { until: Pin<Box<Sleep>>, left: usize },
}

impl<S: ProxyStream> ClientIo<S> {
    pub(super) fn http1(stream: S, signals: Arc<ConnectionSignals>) -> Self {
        Self::new(stream, signals, TargetEncoder::default())
    }

    pub(super) fn http2(stream: S, signals: Arc<ConnectionSignals>) -> Self {
        Self::new(stream, signals, TargetEncoder::off())
    }

    fn new(stream: S, signals: Arc<ConnectionSignals>, targets: TargetEncoder) -> Self {
        let stream = Some(TokioIo::new(stream));
        let (linger, linger_bytes, encoded) = (Linger::No, LINGER.1, Vec::new());
        Self { stream, signals, linger, linger_bytes, targets, encoded }
    }

    pub(super) fn into_inner(mut self) -> Option<S> {
        self.stream.take().map(TokioIo::into_inner)
    }

    fn record(&self, written: &Poll<io::Result<usize>>) {
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
        let this = self.get_mut();
        let Some(stream) = &mut this.stream else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let (stream, targets, pending) = (stream.inner_mut(), &mut this.targets, &mut this.encoded);
        Pin::new(&mut TokioIo::new(EncodedTargets { stream, targets, pending }))
            .poll_read(cx, buffer)
    }
}

/// The stream of a client with its request targets encoded.
struct EncodedTargets<'a, S> {
    stream: &'a mut S,
    targets: &'a mut TargetEncoder,
    pending: &'a mut Vec<u8>,
}

impl<S: ProxyStream> AsyncRead for EncodedTargets<'_, S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.pending.is_empty() {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut *this.stream).poll_read(cx, buffer))?;
            match this.targets.encode(&buffer.filled()[before..]) {
                None => return Poll::Ready(Ok(())),
                Some(encoded) => *this.pending = encoded,
            }
            buffer.set_filled(before);
        }
        let room = buffer.remaining().min(this.pending.len());
        buffer.put_slice(&this.pending[..room]);
        this.pending.drain(..room);
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
        Pin::new(this).stream()?.poll_flush(cx)
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

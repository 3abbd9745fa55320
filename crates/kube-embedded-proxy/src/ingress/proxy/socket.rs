//! The client's end of a connection, as hyper reads and writes it.

use super::Signs;
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
    io::ReadBuf,
    time::{self, Sleep},
};

/// How long, and how much, is read of a client that is still sending what nobody wants.
const LINGER: (Duration, usize) = (Duration::from_secs(5), 16 << 20);

pub(super) use crate::pump::Side;

/// A stream that ends with a reset if an answer on it was cut short: what ends an answer to a client
/// of HTTP/1.0 is the end of its connection, and an orderly one would say that the answer is whole.
pub(super) struct ClientIo<S: Side> {
    /// None only once taken.
    stream: Option<TokioIo<S>>,
    signs: Arc<Signs>,
    linger: Linger,
}

/// How far the end has come where the client still sends: the answer goes out, then what comes is
/// thrown away for a while, because a socket that is closed with unread bytes is reset, and the
/// client may lose its answer.
enum Linger {
    No,
    Reading { until: Pin<Box<Sleep>>, left: usize },
}

impl<S: Side> ClientIo<S> {
    pub(super) fn new(stream: S, signs: Arc<Signs>) -> Self {
        Self { stream: Some(TokioIo::new(stream)), signs, linger: Linger::No }
    }

    pub(super) fn into_inner(mut self) -> Option<S> {
        self.stream.take().map(TokioIo::into_inner)
    }

    fn note(&self, written: &Poll<io::Result<usize>>) {
        self.signs.blocked.store(written.is_pending(), Ordering::Relaxed);
        if written.is_ready() {
            self.signs.writes.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn stream(self: Pin<&mut Self>) -> io::Result<Pin<&mut TokioIo<S>>> {
        let stream = self.get_mut().stream.as_mut().map(Pin::new);
        stream.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<S: Side> Drop for ClientIo<S> {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream
            && self.signs.truncated.load(Ordering::Relaxed)
        {
            stream.inner().reset();
        }
    }
}

impl<S: Side> Read for ClientIo<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream()?.poll_read(cx, buffer)
    }
}

impl<S: Side> Write for ClientIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = self.as_mut().stream()?.poll_write(cx, bytes);
        self.note(&written);
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // An orderly end would come before the reset.
        if self.signs.truncated.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let this = self.get_mut();
        let Some(stream) = this.stream.as_mut().map(TokioIo::inner_mut) else {
            return Poll::Ready(Ok(()));
        };
        if !this.signs.unread.load(Ordering::Relaxed) {
            // hyper drops it next, which ends a bare socket as well and costs one call.
            return stream.poll_goodbye(cx);
        }
        if let Linger::No = this.linger {
            ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
            this.linger =
                Linger::Reading { until: Box::pin(time::sleep(LINGER.0)), left: LINGER.1 };
        }
        if let Linger::Reading { until, left } = &mut this.linger {
            let mut thrown = [0; 8 * 1024];
            while *left > 0 && until.as_mut().poll(cx).is_pending() {
                let mut read = ReadBuf::new(&mut thrown);
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
        let written = self.as_mut().stream()?.poll_write_vectored(cx, bytes);
        self.note(&written);
        written
    }
}

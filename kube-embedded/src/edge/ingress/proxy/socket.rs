//! The client's end of a connection, as hyper reads and writes it.

use super::Signs;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

pub(super) use crate::edge::pump::Side;

/// A stream that ends with a reset if an answer on it was cut short: what ends an answer to a client
/// of HTTP/1.0 is the end of its connection, and an orderly one would say that the answer is whole.
pub(super) struct ClientIo<S: Side> {
    /// None only once taken.
    stream: Option<TokioIo<S>>,
    signs: Arc<Signs>,
}

impl<S: Side> ClientIo<S> {
    pub(super) fn new(stream: S, signs: Arc<Signs>) -> Self {
        Self { stream: Some(TokioIo::new(stream)), signs }
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
        // hyper drops it next, which ends a bare socket as well and costs one call.
        self.stream()?.inner_mut().poll_goodbye(cx)
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

//! Copies bytes between a client and its endpoint until both directions have ended, as
//! `tokio::io::copy_bidirectional` does.
//!
//! Unlike that, it holds no buffer for an idle connection (all connections of a worker share one)
//! and passes a reset on as a reset: to a client, a lost endpoint must not look like a complete
//! response.

use std::{
    cell::Cell,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

/// The size of one read, and so what a connection holds while its receiver is slow.
const CHUNK: usize = 64 * 1024;

thread_local! {
    static SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// Resolves when both directions have ended. Changes of the Service's endpoints do not affect it.
pub(crate) struct BidirectionalCopy<C, E> {
    client: C,
    endpoint: E,
    upload: Direction,
    download: Direction,
    /// The endpoint closed without reading all that the client sent.
    unread: bool,
}

/// One end of a proxied connection.
pub(crate) trait ProxyStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Makes the connection end in a reset, so that the peer learns that it was cut short.
    fn reset(&self);

    /// Sends the end of the stream where dropping it would not (TLS).
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

impl ProxyStream for TcpStream {
    fn reset(&self) {
        // Fails for a socket that is closed already, which needs no reset.
        let _ = self.set_zero_linger();
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl ProxyStream for TlsStream<TcpStream> {
    fn reset(&self) {
        self.get_ref().0.reset();
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self).poll_shutdown(cx)
    }
}

impl ProxyStream for tokio_rustls::client::TlsStream<TcpStream> {
    fn reset(&self) {
        self.get_ref().0.reset();
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self).poll_shutdown(cx)
    }
}

impl<C: ProxyStream, E: ProxyStream> BidirectionalCopy<C, E> {
    pub(crate) fn new(client: C, endpoint: E) -> Self {
        let (upload, download) = Default::default();
        Self { client, endpoint, upload, download, unread: false }
    }

    /// Starts with bytes that were already read from the client and from the endpoint.
    pub(crate) fn with_read(mut self, client: Vec<u8>, endpoint: Vec<u8>) -> Self {
        self.upload.left = client;
        self.download.left = endpoint;
        self
    }

    fn reset(&self) -> Poll<()> {
        self.client.reset();
        self.endpoint.reset();
        Poll::Ready(())
    }
}

impl<C: ProxyStream, E: ProxyStream> Future for BidirectionalCopy<C, E> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let last = this.download.is_done();
        match this.upload.poll(cx, &mut this.client, &mut this.endpoint, last) {
            Ok(()) => {}
            Err(Failure::Read) => return this.reset(),
            // An endpoint may respond and close before it has read everything: the response counts.
            Err(Failure::Write) => {
                this.upload.state = State::Done;
                this.unread = true;
            }
        }
        let last = this.upload.is_done();
        if this.download.poll(cx, &mut this.endpoint, &mut this.client, last).is_err() {
            return this.reset();
        }
        match this.upload.is_done() && this.download.is_done() {
            true if this.unread => this.reset(),
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

#[derive(Default)]
struct Direction {
    state: State,
    /// Read but not yet written; empty while the receiver keeps up.
    left: Vec<u8>,
    sent: usize,
}

#[derive(Default, PartialEq)]
enum State {
    #[default]
    Open,
    /// The sender has ended: what is left is written, then the end is passed on.
    Ending,
    Done,
}

enum Failure {
    /// The sender was cut off.
    Read,
    /// The receiver accepts no more.
    Write,
}

impl Direction {
    fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Copies until it would block or is done. If the other direction is done already (`last`),
    /// closing both sockets passes the end on and saves a call.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl ProxyStream,
        to: &mut impl ProxyStream,
        last: bool,
    ) -> Result<(), Failure> {
        while !self.is_done() {
            while let Some(rest) = self.left.get(self.sent..).filter(|rest| !rest.is_empty()) {
                match Pin::new(&mut *to).poll_write(cx, rest) {
                    Poll::Ready(Ok(n)) if n > 0 => self.sent += n,
                    Poll::Ready(_) => return Err(Failure::Write),
                    Poll::Pending => return Ok(()),
                }
            }
            (self.left, self.sent) = (Vec::new(), 0);
            // TLS accepts more than its socket does.
            match Pin::new(&mut *to).poll_flush(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Err(Failure::Write),
                Poll::Pending => return Ok(()),
            }
            if self.state == State::Ending {
                let ended = match last {
                    true => to.poll_close(cx),
                    false => Pin::new(&mut *to).poll_shutdown(cx),
                };
                if ended.is_ready() {
                    self.state = State::Done;
                }
                return Ok(());
            }
            match with_scratch(|scratch| self.copy_once(cx, from, to, scratch)) {
                Poll::Ready(result) => result?,
                Poll::Pending => return Ok(()),
            }
        }
        Ok(())
    }

    /// Reads once and writes what was read.
    fn copy_once(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl ProxyStream,
        to: &mut impl ProxyStream,
        scratch: &mut [u8],
    ) -> Poll<Result<(), Failure>> {
        let mut read = ReadBuf::new(scratch);
        if ready!(Pin::new(from).poll_read(cx, &mut read)).is_err() {
            return Poll::Ready(Err(Failure::Read));
        }
        let data = read.filled();
        if data.is_empty() {
            self.state = State::Ending;
            return Poll::Ready(Ok(()));
        }
        let taken = match Pin::new(to).poll_write(cx, data) {
            Poll::Ready(Ok(n)) if n > 0 => n,
            Poll::Ready(_) => return Poll::Ready(Err(Failure::Write)),
            Poll::Pending => 0,
        };
        self.left.extend_from_slice(data.get(taken..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

/// Lends the worker's buffer. A poll never suspends while it has it.
fn with_scratch<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with(|slot| {
        let mut scratch = slot.take().unwrap_or_else(|| vec![0; CHUNK].into_boxed_slice());
        let result = work(&mut scratch);
        slot.set(Some(scratch));
        result
    })
}

#[cfg(test)]
mod tests;

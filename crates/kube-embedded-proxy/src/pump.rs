//! Carries bytes between a client and its endpoint until both sides are done.
//!
//! Beside `tokio::io::copy_bidirectional` it keeps no buffer for an idle connection (all
//! connections of a thread share one) and passes a reset on as a reset: to a client, a lost
//! endpoint must not look like a complete answer.

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

/// What one read takes at most, and so what a connection holds while its receiver is slow.
const CHUNK: usize = 64 * 1024;

thread_local! {
    static SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// Resolves when both directions have ended; an established connection knows nothing of endpoints
/// that come and go.
pub(super) struct Pump<C, E> {
    client: C,
    endpoint: E,
    upward: Direction,
    downward: Direction,
    /// The endpoint ended without reading all that the client sent.
    unread: bool,
}

/// One end of what is carried.
pub(super) trait Side: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Makes the connection end so that the peer learns it did not end well.
    fn reset(&self);

    /// Says that nothing more comes, where dropping it would not say so.
    fn poll_goodbye(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

impl Side for TcpStream {
    fn reset(&self) {
        // A socket that is gone already needs no reset.
        let _ = self.set_zero_linger();
    }

    fn poll_goodbye(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Side for TlsStream<TcpStream> {
    fn reset(&self) {
        self.get_ref().0.reset();
    }

    fn poll_goodbye(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self).poll_shutdown(cx)
    }
}

impl<C: Side, E: Side> Pump<C, E> {
    pub(super) fn new(client: C, endpoint: E) -> Self {
        let (upward, downward) = Default::default();
        Self { client, endpoint, upward, downward, unread: false }
    }

    /// With what has been read already, of the client and of the endpoint.
    pub(super) fn with_read(mut self, client: Vec<u8>, endpoint: Vec<u8>) -> Self {
        self.upward.left = client;
        self.downward.left = endpoint;
        self
    }

    fn reset(&self) -> Poll<()> {
        self.client.reset();
        self.endpoint.reset();
        Poll::Ready(())
    }
}

impl<C: Side, E: Side> Future for Pump<C, E> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let last = this.downward.is_done();
        match this.upward.poll(cx, &mut this.client, &mut this.endpoint, last) {
            Ok(()) => {}
            Err(Failure::Read) => return this.reset(),
            // An endpoint may answer and close before it has read all: the answer still counts.
            Err(Failure::Write) => {
                this.upward.state = State::Done;
                this.unread = true;
            }
        }
        let last = this.upward.is_done();
        if this.downward.poll(cx, &mut this.endpoint, &mut this.client, last).is_err() {
            return this.reset();
        }
        match this.upward.is_done() && this.downward.is_done() {
            true if this.unread => this.reset(),
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

#[derive(Default)]
struct Direction {
    state: State,
    /// Read but not yet taken by the receiver; empty while the receiver keeps up.
    left: Vec<u8>,
    sent: usize,
}

#[derive(Default, PartialEq)]
enum State {
    #[default]
    Open,
    /// The sender has ended; what is left goes out, then the end is passed on.
    Ending,
    Done,
}

enum Failure {
    /// No proper end came.
    Read,
    /// The receiver takes no more.
    Write,
}

impl Direction {
    fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Goes on until it would wait or is done. Where the other direction is done already, closing
    /// both sockets passes the end on and saves the call.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl Side,
        to: &mut impl Side,
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
            // TLS takes more than the socket does.
            match Pin::new(&mut *to).poll_flush(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Err(Failure::Write),
                Poll::Pending => return Ok(()),
            }
            if self.state == State::Ending {
                let ended = match last {
                    true => to.poll_goodbye(cx),
                    false => Pin::new(&mut *to).poll_shutdown(cx),
                };
                if ended.is_ready() {
                    self.state = State::Done;
                }
                return Ok(());
            }
            match with_scratch(|scratch| self.pass(cx, from, to, scratch)) {
                Poll::Ready(result) => result?,
                Poll::Pending => return Ok(()),
            }
        }
        Ok(())
    }

    /// One read, and a write of what came.
    fn pass(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl Side,
        to: &mut impl Side,
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

/// Lends the thread's buffer; a poll never waits while it has it.
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

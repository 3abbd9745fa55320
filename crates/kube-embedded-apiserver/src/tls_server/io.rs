//! The socket of a connection, which records when its client reads and writes.

use super::connections::{Connection, Registration};
use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

/// A TLS stream that is registered until it is dropped, also after an upgrade.
pub(super) struct RegisteredStream {
    stream: TlsStream<TcpStream>,
    registration: Registration,
}

impl RegisteredStream {
    pub(super) fn new(stream: TlsStream<TcpStream>, registration: Registration) -> Self {
        Self { stream, registration }
    }

    fn parts(self: Pin<&mut Self>) -> (Pin<&mut TlsStream<TcpStream>>, &Arc<Connection>) {
        let this = self.get_mut();
        (Pin::new(&mut this.stream), &this.registration.connection)
    }
}

impl AsyncRead for RegisteredStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (stream, connection) = self.parts();
        let before = buffer.filled().len();
        let read = stream.poll_read(context, buffer);
        if buffer.filled().len() > before {
            connection.read();
        }
        read
    }
}

impl AsyncWrite for RegisteredStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let (stream, connection) = self.parts();
        let written = stream.poll_write(context, bytes);
        connection.wrote(written.is_pending());
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let (stream, connection) = self.parts();
        let written = stream.poll_write_vectored(context, bytes);
        connection.wrote(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (stream, connection) = self.parts();
        let flushed = stream.poll_flush(context);
        connection.wrote(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.parts().0.poll_shutdown(context)
    }
}

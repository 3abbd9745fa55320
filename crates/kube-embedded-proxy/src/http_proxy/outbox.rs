//! Bytes for a client that hyper has no way to write: informational responses, and the reason why it
//! refused a request itself.

use hyper::rt::Write;
use std::{
    io,
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};
use tokio::sync::Notify;

/// Written whenever hyper has nothing left to write, so never within a message.
#[derive(Default)]
pub(super) struct Outbox {
    bytes: Mutex<Vec<u8>>,
    drained: Notify,
}

impl Outbox {
    pub(super) fn put(&self, bytes: &[u8]) {
        self.bytes().extend_from_slice(bytes);
    }

    /// Waits until everything is written.
    pub(super) async fn drained(&self) {
        while !self.bytes().is_empty() {
            self.drained.notified().await;
        }
    }

    /// Writes as much as the stream accepts. Resolves to whether there was anything to write.
    pub(super) fn poll_write(
        &self,
        mut stream: Pin<&mut impl Write>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<bool>> {
        let mut bytes = self.bytes();
        let any = !bytes.is_empty();
        while !bytes.is_empty() {
            match ready!(stream.as_mut().poll_write(cx, &bytes))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => drop(bytes.drain(..written)),
            }
        }
        if any {
            self.drained.notify_one();
        }
        Poll::Ready(Ok(any))
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Informational responses (RFC 9110, 15.2) such as 103, which a proxy passes on. Clients of HTTP/2 get
//! none: hyper cannot send them.

use super::{client::Client, head};
use http::{HeaderMap, StatusCode};
use std::{
    collections::VecDeque,
    io::Write,
    pin::pin,
    sync::{Mutex, PoisonError},
};
use tokio::sync::Notify;

/// Informational responses that wait to be passed on; more are dropped.
const MAX_WAITING: usize = 16;

/// Those that have arrived on behalf of one client connection.
#[derive(Default)]
pub(super) struct Hints {
    waiting: Mutex<VecDeque<Vec<u8>>>,
    arrived: Notify,
}

impl Hints {
    /// Adds an informational response of an endpoint. The proxy itself confirms `Expect: 100-continue`.
    pub(super) fn add(&self, status: StatusCode, headers: &HeaderMap) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if status != StatusCode::CONTINUE && waiting.len() < MAX_WAITING {
            waiting.push_back(encode(status, headers.clone()));
            self.arrived.notify_one();
        }
    }

    async fn next(&self) -> Vec<u8> {
        loop {
            let next = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            match next {
                Some(next) => return next,
                None => self.arrived.notified().await,
            }
        }
    }
}

impl Client {
    /// Passes informational responses on while the response is waited for.
    pub(super) async fn pass_hints<T>(&self, response: impl Future<Output = T>) -> T {
        let mut response = pin!(response);
        let outbox = &self.signals.outbox;
        loop {
            tokio::select! {
                biased;
                hint = self.signals.hints.next() => {
                    outbox.put(&hint);
                    // Before the response, so it is not looked at until then.
                    outbox.drained().await;
                }
                response = response.as_mut() => return response,
            }
        }
    }
}

fn encode(status: StatusCode, mut headers: HeaderMap) -> Vec<u8> {
    head::strip_hop_by_hop(&mut headers);
    headers.remove(http::header::CONTENT_LENGTH);
    let mut out = Vec::with_capacity(128);
    let reason = status.canonical_reason().unwrap_or_default();
    // Writing to a vector cannot fail.
    let _ = write!(out, "HTTP/1.1 {} {reason}\r\n", status.as_u16());
    for (name, value) in &headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out
}

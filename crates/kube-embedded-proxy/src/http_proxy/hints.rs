//! Informational responses (RFC 9110, 15.2) such as 103, which a proxy passes on. Clients of HTTP/2 get
//! none: hyper cannot send them.

use std::{
    collections::VecDeque,
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
    /// Adds one as it is to be written.
    pub(super) fn add(&self, hint: Vec<u8>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < MAX_WAITING {
            waiting.push_back(hint);
            self.arrived.notify_one();
        }
    }

    /// Waits for the next one.
    pub(super) async fn next(&self) -> Vec<u8> {
        loop {
            let next = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            match next {
                Some(next) => return next,
                None => self.arrived.notified().await,
            }
        }
    }
}

//! Signals between the parts of a client connection that hyper keeps apart: its socket, its requests
//! and their bodies.

use super::{hints::Hints, outbox::Outbox};
use crate::data_plane::ConnectionSlot;
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

/// The signals of one client connection.
pub(super) struct ConnectionSignals {
    /// Idle while no request is in flight.
    pub(super) slot: Arc<ConnectionSlot>,
    /// A response was cut short that has no other way to show it.
    pub(super) truncated: AtomicBool,
    /// The client does not read what there is to write.
    pub(super) blocked: AtomicBool,
    /// Writes that the client's socket accepted.
    pub(super) writes: AtomicUsize,
    /// Frames of bodies that moved, to the client or to an endpoint.
    pub(super) frames: AtomicUsize,
    /// The client may still be sending a body that will not be read.
    pub(super) unread: AtomicBool,
    /// Requests in flight.
    pub(super) in_flight: AtomicUsize,
    /// Requests received.
    pub(super) requests: AtomicU64,
    pub(super) hints: Hints,
    pub(super) outbox: Outbox,
}

impl ConnectionSignals {
    pub(super) fn new(slot: Arc<ConnectionSlot>) -> Self {
        Self {
            slot,
            truncated: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            writes: AtomicUsize::new(0),
            frames: AtomicUsize::new(0),
            unread: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            requests: AtomicU64::new(0),
            hints: Hints::default(),
            outbox: Outbox::default(),
        }
    }
}

/// Counts as a request in flight while it exists.
pub(super) struct InFlight(Arc<ConnectionSignals>);

impl InFlight {
    pub(super) fn new(signals: Arc<ConnectionSignals>) -> Self {
        signals.in_flight.fetch_add(1, Ordering::Relaxed);
        signals.slot.set_busy();
        signals.requests.fetch_add(1, Ordering::Relaxed);
        Self(signals)
    }

    pub(super) fn signals(&self) -> &Arc<ConnectionSignals> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.slot.set_idle();
        }
    }
}

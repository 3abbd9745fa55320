//! The connections that clients of all listeners may have together. When there are no more, the one
//! is closed that is idle for the longest time: descriptors that nobody uses must not keep others out.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time,
};

/// The interval in which a listener that waits looks for idle connections: nothing notifies of them.
const RETRY: Duration = Duration::from_millis(50);

/// The slots of a data plane.
#[derive(Debug)]
pub(super) struct Slots {
    permits: Arc<Semaphore>,
    taken: Mutex<BTreeMap<u64, Arc<ConnectionSlot>>>,
    epoch: Instant,
}

/// The slot of one connection.
#[derive(Debug)]
pub struct ConnectionSlot {
    id: u64,
    epoch: Instant,
    /// Milliseconds since the epoch, and never 0, which means busy.
    idle_since: AtomicU64,
    shed: Notify,
}

/// Keeps a slot taken.
#[derive(Debug)]
pub(super) struct SlotGuard {
    pub(super) slot: Arc<ConnectionSlot>,
    slots: Arc<Slots>,
    _permit: OwnedSemaphorePermit,
}

impl Slots {
    pub(super) fn new(count: usize) -> Arc<Self> {
        let (permits, taken) = (Arc::new(Semaphore::new(count)), Mutex::default());
        Arc::new(Self { permits, taken, epoch: Instant::now() })
    }

    /// Takes a slot for an accepted connection. If there is none, closes an idle connection for it;
    /// calls `wait` if there is no such connection either, and waits.
    pub(super) async fn take(self: &Arc<Self>, wait: impl Fn()) -> SlotGuard {
        let mut reported = false;
        let permit = loop {
            if let Ok(permit) = self.permits.clone().try_acquire_owned() {
                break permit;
            }
            if !self.shed() && !reported {
                wait();
                reported = true;
            }
            let acquired = time::timeout(RETRY, self.permits.clone().acquire_owned()).await;
            // The semaphore is never closed.
            if let Ok(Ok(permit)) = acquired {
                break permit;
            }
        };
        let mut taken = self.taken();
        let id = taken.last_key_value().map_or(0, |(last, _)| last + 1);
        let (idle_since, shed) = Default::default();
        let slot = Arc::new(ConnectionSlot { id, epoch: self.epoch, idle_since, shed });
        taken.insert(id, slot.clone());
        SlotGuard { slot, slots: self.clone(), _permit: permit }
    }

    /// Closes the connection that is idle for the longest time. Returns whether there is one.
    pub(super) fn shed(&self) -> bool {
        let mut taken = self.taken();
        let idle = taken.values().filter_map(|slot| Some((slot.idle_since()?, slot.id)));
        let Some(slot) = idle.min().and_then(|(_, id)| taken.remove(&id)) else { return false };
        slot.shed.notify_one();
        true
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<ConnectionSlot>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionSlot {
    /// Records that nothing would be lost if the connection were closed.
    pub(crate) fn set_idle(&self) {
        let now = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.idle_since.store(now.max(1), Relaxed);
    }

    /// Records the opposite, which is also so at first.
    pub(crate) fn set_busy(&self) {
        self.idle_since.store(0, Relaxed);
    }

    /// Returns when the connection is to be closed for another one.
    pub(crate) async fn shed(&self) {
        self.shed.notified().await;
    }

    fn idle_since(&self) -> Option<u64> {
        Some(self.idle_since.load(Relaxed)).filter(|since| *since != 0)
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        self.slots.taken().remove(&self.slot.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::cell::Cell;

    #[tokio::test]
    async fn idle_connection_gives_its_slot_to_another() {
        let slots = Slots::new(3);
        let waits = Cell::new(0);
        let take = async || slots.take(|| waits.set(waits.get() + 1)).await;
        let (busy, idle, later) = (take().await, take().await, take().await);
        idle.slot.set_idle();
        time::sleep(Duration::from_millis(2)).await;
        later.slot.set_idle();
        let mut fourth = Box::pin(take());
        assert!(fourth.as_mut().now_or_never().is_none(), "the idle one is not closed yet");
        idle.slot.shed().now_or_never().unwrap();
        drop(idle);
        let fourth = fourth.await;
        assert!(busy.slot.shed().now_or_never().is_none());
        assert!(later.slot.shed().now_or_never().is_none());
        assert_eq!(waits.get(), 0);
        later.slot.set_busy();
        let mut fifth = Box::pin(take());
        assert!(fifth.as_mut().now_or_never().is_none());
        assert_eq!(waits.get(), 1, "no connection is idle");
        drop(fourth);
        fifth.await;
    }
}

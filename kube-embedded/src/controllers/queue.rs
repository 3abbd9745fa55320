//! Which objects a controller has to look at. Asking twice for the same before it is looked at is
//! asking once; what failed comes back after a pause that grows.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    wake: Notify,
}

struct State<T> {
    ready: VecDeque<T>,
    waiting: BTreeSet<T>,
    later: BTreeMap<T, Instant>,
    failures: BTreeMap<T, u32>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                ready: VecDeque::new(),
                waiting: BTreeSet::new(),
                later: BTreeMap::new(),
                failures: BTreeMap::new(),
            }),
            wake: Notify::new(),
        }
    }
}

impl<T: Ord + Clone> Queue<T> {
    /// To be looked at now.
    pub(crate) fn add(&self, item: T) {
        let mut state = self.lock();
        if state.waiting.insert(item.clone()) {
            state.ready.push_back(item);
            self.wake.notify_one();
        }
    }

    /// To be looked at in a while, or earlier if something else asks for it earlier.
    pub(crate) fn add_after(&self, item: T, pause: Duration) {
        let at = Instant::now() + pause;
        let mut state = self.lock();
        let earliest = state.later.entry(item).or_insert(at);
        *earliest = at.min(*earliest);
        self.wake.notify_one();
    }

    /// To be tried again, later each time in a row.
    pub(crate) fn failed(&self, item: T) {
        let failures = {
            let mut state = self.lock();
            let failures = state.failures.entry(item.clone()).or_default();
            *failures = (*failures + 1).min(16);
            *failures
        };
        self.add_after(item, pause(failures));
    }

    /// What failed before went well.
    pub(crate) fn succeeded(&self, item: &T) {
        self.lock().failures.remove(item);
    }

    /// The next item. Only one task may ask, so that no item is looked at twice at a time.
    pub(crate) async fn next(&self) -> T {
        loop {
            let due = {
                let mut state = self.lock();
                let now = Instant::now();
                let due: Vec<T> = state
                    .later
                    .iter()
                    .filter(|(_, at)| **at <= now)
                    .map(|(item, _)| item.clone())
                    .collect();
                for item in due {
                    state.later.remove(&item);
                    if state.waiting.insert(item.clone()) {
                        state.ready.push_back(item);
                    }
                }
                if let Some(item) = state.ready.pop_front() {
                    state.waiting.remove(&item);
                    return item;
                }
                state.later.values().min().copied()
            };
            match due {
                None => self.wake.notified().await,
                Some(at) => tokio::select! {
                    () = self.wake.notified() => {}
                    () = sleep_until(at) => {}
                },
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// How long to leave alone what failed so many times in a row.
fn pause(failures: u32) -> Duration {
    let factor = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    FIRST_PAUSE.saturating_mul(factor).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn items_come_once_in_order_and_late_ones_when_due() {
        let queue = Queue::default();
        queue.add_after("late", Duration::from_secs(3600));
        queue.add_after("late", Duration::from_millis(5));
        queue.add("a");
        queue.add("b");
        queue.add("a");
        for expected in ["a", "b", "late"] {
            assert_eq!(queue.next().await, expected);
        }
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        assert!(queue.lock().later.is_empty());
    }

    #[test]
    fn failures_in_a_row_wait_longer() {
        let millis = [1, 2, 3, 40].map(|failures| pause(failures).as_millis());
        assert_eq!(millis, [1, 2, 4, 5000]);
        let queue = Queue::default();
        queue.failed("a");
        queue.failed("a");
        assert_eq!(queue.lock().failures["a"], 2);
        queue.succeeded(&"a");
        assert!(queue.lock().failures.is_empty());
    }
}

//! Which objects a controller has to look at. Asking twice for the same before it is looked at is
//! asking once; what failed comes back after a pause that grows.

use super::{backoff::Backoff, write};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    wake: Notify,
}

struct State<T> {
    ready: VecDeque<T>,
    waiting: BTreeSet<T>,
    later: BTreeMap<T, Instant>,
    failing: BTreeMap<T, Backoff>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                ready: VecDeque::new(),
                waiting: BTreeSet::new(),
                later: BTreeMap::new(),
                failing: BTreeMap::new(),
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
        let pause = {
            let mut state = self.lock();
            let backoff = state.failing.entry(item.clone());
            backoff.or_insert_with(|| Backoff::up_to(LONGEST_PAUSE)).failed()
        };
        self.add_after(item, pause);
    }

    /// What failed before went well.
    pub(crate) fn succeeded(&self, item: &T) {
        self.lock().failing.remove(item);
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

    /// How a look at an item went: it may have to come back later, or after a failure.
    pub(crate) fn looked(&self, item: T, outcome: kube::Result<Option<Duration>>) {
        match outcome {
            Ok(again) => {
                self.succeeded(&item);
                if let Some(again) = again {
                    self.add_after(item, again);
                }
            }
            Err(error) if write::is_namespace_leaving(&error) => {}
            Err(_) => self.failed(item),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
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
        let queue = Queue::default();
        for least in [1, 2, 4, 8] {
            let before = Instant::now();
            queue.failed("a");
            let pause = queue.lock().later.remove("a").unwrap() - before;
            assert!(pause >= Duration::from_millis(least), "{pause:?} instead of {least} ms");
        }
        queue.succeeded(&"a");
        assert!(queue.lock().failing.is_empty());
    }
}

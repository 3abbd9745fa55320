//! A rate-limited workqueue as in client-go: a key that is added twice before a worker takes it is
//! processed once, a key that is added while it is processed comes back afterwards, and no key is
//! processed by two workers at a time.

use crate::backoff::Backoff;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Deref,
    sync::{Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

/// The delays of keys that fail in a row.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(1), Duration::from_secs(5));

/// Keys to process, shared by event handlers and workers.
#[derive(Debug)]
pub struct Workqueue<T: Ord> {
    state: Mutex<State<T>>,
    /// Signals that there is something to take or a new earliest deadline.
    changed: Notify,
    backoff: Backoff,
}

#[derive(Debug)]
struct State<T> {
    /// Keys to hand out, in the order they were added.
    ready: VecDeque<T>,
    /// Keys that have to be processed: all of `ready`, and those added while being processed.
    dirty: BTreeSet<T>,
    processing: BTreeSet<T>,
    delayed: BTreeMap<T, Instant>,
    failing: BTreeMap<T, Backoff>,
}

/// A key that a worker processes; dropping it ends the processing.
#[derive(Debug)]
#[must_use = "dropping it ends the processing"]
pub struct InProcess<'a, T: Ord> {
    queue: &'a Workqueue<T>,
    key: T,
}

impl<T: Ord> Deref for InProcess<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.key
    }
}

impl<T: Ord> Drop for InProcess<'_, T> {
    fn drop(&mut self) {
        self.queue.done(&self.key);
    }
}

impl<T: Ord> Default for Workqueue<T> {
    fn default() -> Self {
        Self::new(BACKOFF)
    }
}

impl<T: Ord> Workqueue<T> {
    /// Creates a queue that delays failing keys by `backoff`.
    pub fn new(backoff: Backoff) -> Self {
        Self {
            state: Mutex::new(State {
                ready: VecDeque::new(),
                dirty: BTreeSet::new(),
                processing: BTreeSet::new(),
                delayed: BTreeMap::new(),
                failing: BTreeMap::new(),
            }),
            changed: Notify::new(),
            backoff,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Each change leaves a consistent state.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn done(&self, key: &T) {
        let mut state = self.lock();
        // Returned by the set, so that keys need not be cloned to be moved.
        let Some(key) = state.processing.take(key) else { return };
        if state.dirty.contains(&key) {
            state.ready.push_back(key);
            self.changed.notify_one();
        }
    }
}

impl<T: Ord + Clone> Workqueue<T> {
    /// Adds a key to process now.
    pub fn add(&self, key: T) {
        if self.lock().add(key) {
            self.changed.notify_one();
        }
    }

    /// Adds a key to process after a delay; the earliest of several deadlines counts.
    pub fn add_after(&self, key: T, delay: Duration) {
        let deadline = Instant::now() + delay;
        let mut state = self.lock();
        let earliest = state.delayed.entry(key).or_insert(deadline);
        *earliest = deadline.min(*earliest);
        self.changed.notify_one();
    }

    /// Adds a key that failed, and returns its delay, which grows with each failure in a row.
    pub fn add_rate_limited(&self, key: T) -> Duration {
        let delay = {
            let mut state = self.lock();
            let backoff = state.failing.entry(key.clone());
            backoff.or_insert_with(|| self.backoff.clone()).next_delay()
        };
        self.add_after(key, delay);
        delay
    }

    /// Resets the back-off of a key, after a success.
    pub fn forget(&self, key: &T) {
        self.lock().failing.remove(key);
    }

    /// Waits for the next key to process. It may be dropped and called again without losing one.
    pub async fn next(&self) -> InProcess<'_, T> {
        loop {
            let deadline = {
                let mut state = self.lock();
                state.add_due(Instant::now());
                if let Some(key) = state.take() {
                    // The worker that knew the earliest deadline may be this one, which is busy now.
                    if !state.ready.is_empty() || !state.delayed.is_empty() {
                        self.changed.notify_one();
                    }
                    return InProcess { queue: self, key };
                }
                state.delayed.values().min().copied()
            };
            match deadline {
                None => self.changed.notified().await,
                Some(deadline) => tokio::select! {
                    () = self.changed.notified() => {}
                    () = sleep_until(deadline) => {}
                },
            }
        }
    }
}

impl<T: Ord + Clone> State<T> {
    /// Returns `true` if there is one more key to hand out.
    fn add(&mut self, key: T) -> bool {
        if !self.dirty.insert(key.clone()) || self.processing.contains(&key) {
            return false;
        }
        self.ready.push_back(key);
        true
    }

    fn add_due(&mut self, now: Instant) {
        let due = self.delayed.iter().filter(|(_, deadline)| **deadline <= now);
        let due: Vec<T> = due.map(|(key, _)| key.clone()).collect();
        for key in due {
            self.delayed.remove(&key);
            self.add(key);
        }
    }

    fn take(&mut self) -> Option<T> {
        let key = self.ready.pop_front()?;
        self.dirty.remove(&key);
        self.processing.insert(key.clone());
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use proptest::prelude::*;
    use tokio::time::{advance, timeout};

    fn is_idle(queue: &Workqueue<&str>) -> bool {
        queue.next().now_or_never().is_none()
    }

    #[tokio::test(start_paused = true)]
    async fn keys_come_once_in_order_and_delayed_ones_when_due() {
        let (queue, started) = (Workqueue::default(), Instant::now());
        queue.add_after("late", Duration::from_secs(3600));
        queue.add_after("late", Duration::from_secs(5));
        queue.add("a");
        queue.add("b");
        queue.add("a");
        for expected in ["a", "b"] {
            assert_eq!(*queue.next().await, expected);
        }
        assert_eq!(started.elapsed(), Duration::ZERO);
        assert_eq!(*queue.next().await, "late");
        assert_eq!(started.elapsed(), Duration::from_secs(5));
        assert!(timeout(Duration::from_secs(7200), queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn key_added_while_in_process_comes_back_afterwards() {
        let queue = Workqueue::default();
        queue.add("a");
        let first = queue.next().await;
        queue.add("a");
        queue.add("a");
        assert!(is_idle(&queue));
        drop(first);
        drop(queue.next().await);
        assert!(is_idle(&queue));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_double_the_delay_until_forgotten() {
        let queue = Workqueue::default();
        let delays = [(); 15].map(|()| queue.add_rate_limited("a").as_millis());
        assert_eq!(delays[..5], [1, 2, 4, 8, 16]);
        assert_eq!(delays[14], 5000);
        // The earliest deadline counts.
        let started = Instant::now();
        drop(queue.next().await);
        assert_eq!(started.elapsed(), Duration::from_millis(1));
        queue.forget(&"a");
        assert_eq!(queue.add_rate_limited("a"), Duration::from_millis(1));
    }

    #[tokio::test(start_paused = true)]
    async fn idle_worker_honors_deadline_known_to_busy_worker_only() {
        let (queue, started) = (Workqueue::default(), Instant::now());
        let (first, second) = (queue.next(), queue.next());
        tokio::pin!(first, second);
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        queue.add_after("late", Duration::from_secs(1));
        queue.add("now");
        let busy = first.await;
        assert_eq!(*busy, "now");
        assert_eq!(*second.await, "late");
        assert_eq!(started.elapsed(), Duration::from_secs(1));
    }

    #[derive(Clone, Debug)]
    enum Operation {
        Add(u8),
        AddAfter(u8, u64),
        Fail(u8),
        Take,
        Finish(usize),
        Advance(u64),
    }

    fn operation() -> impl Strategy<Value = Operation> {
        let (key, millis) = (0..4_u8, 0..10_u64);
        prop_oneof![
            key.clone().prop_map(Operation::Add),
            (key.clone(), millis.clone()).prop_map(|(key, ms)| Operation::AddAfter(key, ms)),
            key.prop_map(Operation::Fail),
            Just(Operation::Take),
            (0..4_usize).prop_map(Operation::Finish),
            millis.prop_map(Operation::Advance),
        ]
    }

    /// Plays operations, and then takes until nothing is left.
    async fn check(operations: Vec<Operation>) {
        let queue = Workqueue::default();
        // Keys that were added after they were last taken.
        let mut wanted = BTreeSet::new();
        let (mut delayed, mut in_process) = (BTreeSet::new(), Vec::<InProcess<'_, u8>>::new());
        for operation in operations {
            match operation {
                Operation::Add(key) => {
                    queue.add(key);
                    wanted.insert(key);
                }
                Operation::AddAfter(key, millis) => {
                    queue.add_after(key, Duration::from_millis(millis));
                    wanted.insert(key);
                    delayed.insert(key);
                }
                Operation::Fail(key) => {
                    queue.add_rate_limited(key);
                    wanted.insert(key);
                    delayed.insert(key);
                }
                Operation::Take => {
                    let Some(taken) = queue.next().now_or_never() else { continue };
                    assert!(in_process.iter().all(|other| **other != *taken), "processed twice");
                    // An add and a delayed add of one key are processed twice if a take is between.
                    if !wanted.remove(&*taken) {
                        assert!(delayed.contains(&*taken), "processed without need");
                    }
                    in_process.push(taken);
                }
                Operation::Finish(n) if n < in_process.len() => drop(in_process.remove(n)),
                Operation::Finish(_) => {}
                Operation::Advance(millis) => advance(Duration::from_millis(millis)).await,
            }
        }
        in_process.clear();
        while !wanted.is_empty() {
            let taken = timeout(Duration::from_secs(60), queue.next()).await.expect("key is lost");
            wanted.remove(&*taken);
        }
    }

    proptest! {
        #[test]
        fn no_key_is_lost_or_processed_twice_at_a_time(
            operations in prop::collection::vec(operation(), 0..60)
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(check(operations));
        }
    }
}

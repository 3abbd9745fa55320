//! The shell of every controller: a workqueue, workers that reconcile its keys, and back-off for
//! keys that fail.

use crate::patch;
use futures::future::join_all;
use kube::Resource;
use kube_embedded_core::{
    backoff::Backoff,
    informer::{Informer, ObjectKey},
    task::{TaskError, catch, restart_on_panic},
    workqueue::Workqueue,
};
use std::{fmt::Display, sync::Arc, time::Duration};
use tokio::time::Instant;
use tracing::Instrument;

/// The delays before a worker that panicked outside of a reconcile is restarted.
const RESTART_BACKOFF: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(5));

/// Drives the objects behind one key at a time towards their desired state.
pub(crate) trait Reconciler: Send + Sync + 'static {
    /// Identifies what is reconciled.
    type Key: Ord + Clone + Display + Send + Sync;

    /// Reconciles once, and returns when to do so again if nothing changes until then. No two calls
    /// for the same key run at a time.
    fn reconcile(
        &self,
        key: &Self::Key,
    ) -> impl Future<Output = kube::Result<Option<Duration>>> + Send;
}

/// A reconciler with the queue that event handlers feed.
pub(crate) struct Controller<R: Reconciler> {
    name: &'static str,
    workers: usize,
    queue: Arc<Workqueue<R::Key>>,
    reconciler: R,
}

impl<R: Reconciler> Controller<R> {
    /// `name` is that of the component in Kubernetes; `workers` the number of keys that are
    /// reconciled at a time.
    pub(crate) fn new(
        name: &'static str,
        workers: usize,
        queue: Arc<Workqueue<R::Key>>,
        reconciler: R,
    ) -> Self {
        Self { name, workers, queue, reconciler }
    }

    /// Returns the name of the component, which is that of its task, too.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the queue, for event handlers outside of the controller's module.
    pub(crate) fn queue(&self) -> &Arc<Workqueue<R::Key>> {
        &self.queue
    }

    /// Reconciles until dropped. A panic fails the key that caused it and nothing else.
    pub(crate) async fn run(self) {
        let controller = &self;
        join_all((0..self.workers).map(|_| {
            restart_on_panic(self.name, RESTART_BACKOFF, || async move {
                loop {
                    controller.reconcile_next().await;
                }
            })
        }))
        .await;
    }

    /// Waits for the next key, reconciles it and records the outcome.
    async fn reconcile_next(&self) {
        let key = self.queue.next().await;
        // At the level of errors, so that warnings carry it under any filter.
        let span = tracing::error_span!("reconcile", controller = self.name, key = %*key);
        let reconcile = async {
            let started = Instant::now();
            let outcome = catch(self.name, self.reconciler.reconcile(&key)).await;
            self.requeue(&key, outcome, started.elapsed());
        };
        reconcile.instrument(span).await;
    }

    /// Records the outcome of a reconcile and adds the key again if needed.
    fn requeue(
        &self,
        key: &R::Key,
        outcome: Result<kube::Result<Option<Duration>>, TaskError>,
        duration: Duration,
    ) {
        match outcome {
            Ok(Ok(requeue_after)) => {
                tracing::debug!(?duration, ?requeue_after, "reconciled");
                self.queue.forget(key);
                if let Some(delay) = requeue_after {
                    self.queue.add_after(key.clone(), delay);
                }
            }
            Ok(Err(error)) if patch::is_namespace_terminating(&error) => {
                tracing::debug!(?duration, %error, "not reconciled: namespace is terminating");
                self.queue.forget(key);
            }
            Ok(Err(error)) if patch::is_status(&error, 409) => {
                let delay = self.queue.add_rate_limited(key.clone());
                tracing::debug!(?duration, %error, ?delay, "conflict; retrying");
            }
            Ok(Err(error)) => {
                let delay = self.queue.add_rate_limited(key.clone());
                tracing::warn!(?duration, %error, ?delay, "failed to reconcile; retrying");
            }
            // The panic itself has been logged.
            Err(error) => {
                let delay = self.queue.add_rate_limited(key.clone());
                tracing::warn!(?duration, %error, ?delay, "failed to reconcile; retrying");
            }
        }
    }
}

/// Adds the key of every object that changes to a queue.
pub(crate) fn enqueue_changed<K: Resource>(
    informer: &Informer<K>,
    queue: &Arc<Workqueue<ObjectKey>>,
) {
    let queue = queue.clone();
    informer.add_event_handler(move |old, new| {
        if let Some(object) = new.or(old) {
            queue.add(ObjectKey::of(&**object));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::{Status, response::StatusDetails};
    use kube_embedded_core::task::panic_count;
    use std::{
        collections::BTreeMap,
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering},
        },
    };
    use tokio::time::timeout;

    /// Fails three times in the way that the key names, and then succeeds.
    #[derive(Default)]
    struct Toy {
        runs: Arc<Mutex<BTreeMap<&'static str, usize>>>,
        running: AtomicUsize,
    }

    impl Reconciler for Toy {
        type Key = &'static str;

        async fn reconcile(&self, key: &&'static str) -> kube::Result<Option<Duration>> {
            let run = {
                let mut runs = self.runs.lock().unwrap();
                let run = runs.entry(key).or_default();
                *run += 1;
                *run
            };
            self.running.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(self.running.fetch_sub(1, Ordering::Relaxed) <= 2, "two workers at most");
            match *key {
                "panics" if run <= 3 => panic!("toy is broken"),
                "fails" if run <= 3 => {
                    Err(kube::Error::Api(Status::failure("no", "Broken").with_code(500).boxed()))
                }
                "terminating" => Err(kube::Error::Api(
                    Status::failure("no such namespace", "NotFound")
                        .with_code(404)
                        .with_details(details("namespaces"))
                        .boxed(),
                )),
                "again" if run <= 2 => Ok(Some(Duration::from_secs(60))),
                _ => Ok(None),
            }
        }
    }

    fn details(kind: &str) -> StatusDetails {
        StatusDetails {
            name: String::new(),
            group: String::new(),
            kind: kind.to_owned(),
            uid: String::new(),
            causes: Vec::new(),
            retry_after_seconds: 0,
        }
    }

    /// Runs the toy on these keys for some time, and returns how often each was reconciled.
    async fn run_toy(keys: &[&'static str], time: Duration) -> BTreeMap<&'static str, usize> {
        let (toy, queue) = (Toy::default(), Arc::new(Workqueue::default()));
        let runs = toy.runs.clone();
        keys.iter().for_each(|key| queue.add(*key));
        let controller = Controller::new("toy-controller", 2, queue, toy);
        assert!(timeout(time, controller.run()).await.is_err(), "it never ends by itself");
        let runs = runs.lock().unwrap();
        runs.clone()
    }

    #[tokio::test(start_paused = true)]
    async fn panicking_reconcile_is_retried_and_harms_no_other_key() {
        let before = panic_count();
        let runs = run_toy(&["panics", "good"], Duration::from_secs(60)).await;
        assert_eq!(runs, BTreeMap::from([("panics", 4), ("good", 1)]));
        assert!(panic_count() >= before + 3);
    }

    #[tokio::test(start_paused = true)]
    async fn failing_reconcile_is_retried_until_it_succeeds() {
        let runs = run_toy(&["fails", "terminating"], Duration::from_secs(60)).await;
        assert_eq!(runs, BTreeMap::from([("fails", 4), ("terminating", 1)]));
    }

    #[tokio::test(start_paused = true)]
    async fn requeued_key_is_reconciled_after_its_delay() {
        assert_eq!(run_toy(&["again"], Duration::from_secs(59)).await["again"], 1);
        assert_eq!(run_toy(&["again"], Duration::from_secs(100)).await["again"], 2);
        assert_eq!(run_toy(&["again"], Duration::from_secs(200)).await["again"], 3);
    }
}

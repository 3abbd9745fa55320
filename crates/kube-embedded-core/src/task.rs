//! Supervised tasks: a panic is logged with the task's name, counted, and reported to the task's
//! owner, so that no `JoinError` is dropped.

use crate::backoff::Backoff;
use futures::FutureExt;
use std::{
    any::Any,
    borrow::Cow,
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll},
};
use tokio::{
    task::{AbortHandle, Id, JoinError, JoinHandle, JoinSet},
    time::{Instant, sleep},
};

static PANICS: AtomicU64 = AtomicU64::new(0);

/// The name of a task in logs and errors.
pub type Name = Cow<'static, str>;

/// Why a task ended without a result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// A panic, which has been logged and counted already.
    #[error("task {name} panicked: {message}")]
    Panicked {
        /// The name the task was spawned under.
        name: Name,
        /// The panic's message.
        message: String,
    },
    /// Aborted, or dropped with the runtime.
    #[error("task {name} was cancelled")]
    Cancelled {
        /// The name the task was spawned under.
        name: Name,
    },
}

/// Returns the number of panics that were caught in this process's tasks and threads.
pub fn panic_count() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// Spawns `future` under `name`; see [`Task`] for who owns it. A panic is logged when it happens,
/// even if the owner never asks.
pub fn spawn_named<F>(name: impl Into<Name>, future: F) -> Task<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let name = name.into();
    let handle = tokio::spawn(catch(name.clone(), future));
    Task { name, handle: Some(handle) }
}

/// A spawned task. Resolves to its result; dropping it aborts it unless it is detached.
#[must_use = "dropping a task aborts it; call `detach` to let it run"]
#[derive(Debug)]
pub struct Task<T> {
    name: Name,
    /// `None` once the task has resolved.
    handle: Option<JoinHandle<Result<T, TaskError>>>,
}

impl<T> Task<T> {
    /// Lets the task run to its end without an owner.
    pub fn detach(mut self) {
        self.handle = None;
    }

    /// Asks the task to stop at its next await point; it then resolves to
    /// [`TaskError::Cancelled`].
    pub fn abort(&self) {
        if let Some(handle) = &self.handle {
            handle.abort();
        }
    }

    /// Aborts the task and waits until everything that it owned is dropped.
    pub async fn cancel(mut self) {
        self.abort();
        // Cancelled, or finished just before; a panic has been logged.
        let _ = (&mut self).await;
    }

    /// Returns `true` if the task has ended for whatever reason.
    pub fn is_finished(&self) -> bool {
        self.handle.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, TaskError>;

    /// Once resolved, it keeps resolving to [`TaskError::Cancelled`].
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(handle) = &mut self.handle else {
            return Poll::Ready(Err(TaskError::Cancelled { name: self.name.clone() }));
        };
        let Poll::Ready(joined) = Pin::new(handle).poll(context) else { return Poll::Pending };
        self.handle = None;
        Poll::Ready(flatten(&self.name, joined))
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.abort();
    }
}

/// Tasks that are owned together and aborted when the set is dropped.
#[derive(Debug)]
pub struct TaskSet<T = ()> {
    tasks: JoinSet<Result<T, TaskError>>,
    names: HashMap<Id, Name>,
}

impl<T> Default for TaskSet<T> {
    fn default() -> Self {
        Self { tasks: JoinSet::new(), names: HashMap::new() }
    }
}

impl<T: Send + 'static> TaskSet<T> {
    /// Spawns `future` under `name`.
    pub fn spawn<F>(&mut self, name: impl Into<Name>, future: F) -> AbortHandle
    where
        F: Future<Output = T> + Send + 'static,
    {
        let name = name.into();
        let handle = self.tasks.spawn(catch(name.clone(), future));
        self.names.insert(handle.id(), name);
        handle
    }

    /// Waits for the next task to end and returns its name and result; `None` if the set is empty.
    pub async fn join_next(&mut self) -> Option<(Name, Result<T, TaskError>)> {
        let joined = self.tasks.join_next_with_id().await?;
        let id = match &joined {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let name = self.names.remove(&id).unwrap_or_default();
        let outcome = flatten(&name, joined.map(|(_, outcome)| outcome));
        Some((name, outcome))
    }

    /// Aborts all tasks and waits until everything that they owned is dropped.
    pub async fn shutdown(&mut self) {
        self.tasks.abort_all();
        while self.join_next().await.is_some() {}
    }

    /// Returns the number of tasks whose end has not been reported by [`TaskSet::join_next`].
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Returns `true` if every task's end has been reported.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }
}

/// Awaits `future` and catches a panic, which is logged under `name` and counted.
///
/// # Errors
/// [`TaskError::Panicked`].
pub async fn catch<F: Future>(name: impl Into<Name>, future: F) -> Result<F::Output, TaskError> {
    let caught = AssertUnwindSafe(future).catch_unwind().await;
    caught.map_err(|payload| report(name.into(), payload.as_ref()))
}

/// Calls `function` and catches a panic, which is logged under `name` and counted: for threads and
/// blocking tasks.
///
/// # Errors
/// [`TaskError::Panicked`].
pub fn catch_blocking<T>(
    name: impl Into<Name>,
    function: impl FnOnce() -> T,
) -> Result<T, TaskError> {
    let caught = catch_unwind(AssertUnwindSafe(function));
    caught.map_err(|payload| report(name.into(), payload.as_ref()))
}

/// Runs the future that `start` makes. If it panics, starts another one after a back-off, which is
/// reset once a run has outlasted the longest delay.
pub async fn restart_on_panic<F: Future>(
    name: impl Into<Name>,
    mut backoff: Backoff,
    mut start: impl FnMut() -> F,
) -> F::Output {
    let name = name.into();
    loop {
        let started = Instant::now();
        if let Ok(output) = catch(name.clone(), start()).await {
            return output;
        }
        if started.elapsed() > backoff.max_delay() {
            backoff.reset();
        }
        let delay = backoff.next_delay();
        tracing::warn!(task = %name, ?delay, "restarting after a panic");
        sleep(delay).await;
    }
}

fn flatten<T>(
    name: &Name,
    joined: Result<Result<T, TaskError>, JoinError>,
) -> Result<T, TaskError> {
    match joined {
        Ok(outcome) => outcome,
        // A panic outside the future itself, such as while it was dropped by an abort.
        Err(error) => Err(match error.try_into_panic() {
            Ok(payload) => report(name.clone(), payload.as_ref()),
            Err(_) => TaskError::Cancelled { name: name.clone() },
        }),
    }
}

fn report(name: Name, payload: &(dyn Any + Send)) -> TaskError {
    let message = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(message), _) => (*message).to_owned(),
        (None, Some(message)) => message.clone(),
        (None, None) => "no message".to_owned(),
    };
    PANICS.fetch_add(1, Ordering::Relaxed);
    tracing::error!(task = %name, message, "task panicked");
    TaskError::Panicked { name, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        future::pending,
        sync::{Arc, atomic::AtomicUsize},
        time::Duration,
    };

    fn panicked(name: &'static str, message: &str) -> TaskError {
        TaskError::Panicked { name: name.into(), message: message.into() }
    }

    #[tokio::test]
    async fn panic_in_task_is_counted_and_reported_to_owner() {
        let before = panic_count();
        let task = spawn_named("toy", async { panic!("no {}", "toys") });
        let error: Result<(), _> = task.await;
        assert_eq!(error, Err(panicked("toy", "no toys")));
        assert!(panic_count() > before);
    }

    #[tokio::test]
    async fn dropped_task_is_aborted_and_detached_task_is_not() {
        let alive = Arc::new(());
        let hold = |alive: Arc<()>| async move {
            let _alive = alive;
            pending::<()>().await;
        };
        let owned = spawn_named("owned", hold(alive.clone()));
        spawn_named("detached", hold(alive.clone())).detach();
        tokio::task::yield_now().await;
        owned.cancel().await;
        assert_eq!(Arc::strong_count(&alive), 2, "the detached task holds one");
    }

    #[tokio::test]
    async fn resolved_task_can_be_polled_again() {
        let mut task = spawn_named("toy", async { 7 });
        assert_eq!((&mut task).await, Ok(7));
        assert!(task.is_finished());
        assert_eq!((&mut task).await, Err(TaskError::Cancelled { name: "toy".into() }));
    }

    #[tokio::test]
    async fn task_set_reports_names_and_outcomes() {
        let mut tasks = TaskSet::default();
        tasks.spawn("good", async { 1 });
        assert_eq!(tasks.join_next().await, Some(("good".into(), Ok(1))));
        tasks.spawn("bad", async { panic!("broken") });
        assert_eq!(tasks.join_next().await, Some(("bad".into(), Err(panicked("bad", "broken")))));
        tasks.spawn("idle", pending()).abort();
        let cancelled = TaskError::Cancelled { name: "idle".into() };
        assert_eq!(tasks.join_next().await, Some(("idle".into(), Err(cancelled))));
        assert!(tasks.is_empty());
    }

    #[test]
    fn panic_in_thread_is_reported() {
        let outcome = catch_blocking("worker", || -> u8 { panic!("stuck") });
        assert_eq!(outcome, Err(panicked("worker", "stuck")));
    }

    #[tokio::test(start_paused = true)]
    async fn panicking_task_is_restarted_with_backoff() {
        let runs = AtomicUsize::new(0);
        let started = Instant::now();
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(3));
        let output = restart_on_panic("toy", backoff, || async {
            let run = runs.fetch_add(1, Ordering::Relaxed);
            assert!(run >= 4, "run {run}");
            run
        });
        assert_eq!(output.await, 4);
        assert_eq!(started.elapsed().as_secs(), 1 + 2 + 3 + 3);
    }
}

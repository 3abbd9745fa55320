//! Background tasks: a panic in one is logged with the name of the task.

use futures::FutureExt;
use std::{any::Any, panic::AssertUnwindSafe};
use tokio::task::JoinError;

/// Spawns a task that is not awaited.
pub(crate) fn spawn(name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(async move {
        if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
            report_panic(name, &*panic);
        }
    });
}

/// Logs the panic of a task that ended in one.
pub(crate) fn log_panic<T>(name: &str, ended: Result<T, JoinError>) {
    if let Err(error) = ended
        && let Ok(panic) = error.try_into_panic()
    {
        report_panic(name, &*panic);
    }
}

fn report_panic(name: &str, panic: &(dyn Any + Send)) {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or(panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown");
    tracing::error!(target: "apiserver::tasks", task = name, panic = message, "task panicked");
}

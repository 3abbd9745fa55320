//! Background tasks that nobody awaits: a panic in one is logged with the task's name.

use futures::FutureExt;
use std::{any::Any, panic::AssertUnwindSafe};

/// Spawns a task.
pub(crate) fn spawn(name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(async move {
        if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
            report_panic(name, &*panic);
        }
    });
}

/// Logs a panic of a task.
pub(crate) fn report_panic(name: &str, panic: &(dyn Any + Send)) {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or(panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown");
    tracing::error!(target: "apiserver::tasks", task = name, panic = message, "task panicked");
}

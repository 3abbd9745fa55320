//! Tasks that do not die silently.

use futures::FutureExt;
use std::{any::Any, future::Future, panic::AssertUnwindSafe};

/// Runs `work` and returns its output, or the message of the panic that ended it.
pub(crate) async fn catch_panic<T>(work: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| panic_message(&*panic))
}

/// Runs `work`. A panic is logged with the name of the task, and ends only this task.
pub(crate) async fn logged(name: &'static str, work: impl Future<Output = ()>) {
    if let Err(panic) = catch_panic(work).await {
        tracing::error!(task = name, panic, "task panicked");
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "unknown panic".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn panic_is_caught_with_its_message() {
        assert_eq!(catch_panic(async { 1 }).await, Ok(1));
        assert_eq!(
            catch_panic(async { panic!("oh {}", 1) }).await,
            Err::<(), _>("oh 1".to_owned())
        );
    }
}

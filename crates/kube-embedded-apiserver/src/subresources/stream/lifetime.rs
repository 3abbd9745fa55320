//! The lifetime of a stream: until the client disconnects or the server stops.

use std::time::Duration;
use tokio::sync::watch;

/// Interval of keep-alive checks for idle clients.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(2);

/// Resolves when the server stops, or is dropped.
pub(crate) async fn stopped(mut stopping: watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

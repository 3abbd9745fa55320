//! Shared by the tests of this crate: waiting, sockets, and a cluster without pods.

mod cluster;
mod sockets;

pub(crate) use cluster::{ApiServer, ClusterFixture, unprivileged};
pub(crate) use sockets::{
    check_pattern, connect_tls, endpoint, handshake, is_refused, loopback_network, routing,
    send_pattern,
};

use std::{future::Future, time::Duration};
use tokio::time;

/// The deadline of everything that a test waits for.
const DEADLINE: Duration = Duration::from_secs(20);

/// Polls until `check` returns a value.
///
/// # Panics
/// After the deadline, with `what` was expected.
pub(crate) async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let poll = async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            time::sleep(Duration::from_millis(1)).await;
        }
    };
    time::timeout(DEADLINE, poll).await.unwrap_or_else(|_| panic!("timed out waiting for {what}"))
}

/// Awaits what happens without polling.
///
/// # Panics
/// After the deadline.
#[track_caller]
pub(crate) fn within<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        let timeout = time::timeout(DEADLINE, work).await;
        timeout.unwrap_or_else(|_| panic!("timed out at {caller}"))
    }
}

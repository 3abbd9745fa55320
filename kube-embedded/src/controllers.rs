//! What turns desired state into observed state: controllers and the scheduler. Each one is a pure
//! `plan` under a thin loop; they share one watch a kind and speak only the Kubernetes API.

pub mod events;

use crate::network::Addresses;
use kube::Client;

/// Runs all controllers and the scheduler until it is dropped.
pub async fn run(_client: Client, _addresses: Addresses) {
    std::future::pending().await
}

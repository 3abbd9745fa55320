//! Leaves that every part of `kube-embedded` shares: the addresses of a cluster, the event recorder,
//! the interface between the API server and a kubelet, quantities.
//!
//! This crate is internal to the workspace: use `kube-embedded`.

pub mod backoff;
pub mod events;
pub mod lease;
pub mod network;
pub mod node_api;
pub mod quantity;
pub mod task;
pub mod well_known;

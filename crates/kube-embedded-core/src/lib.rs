//! Shared parts of the components of `kube-embedded`: informer, workqueue and back-off (client-go),
//! event recorder, leader election, supervised tasks, the addresses of a cluster, and the interface
//! between API server and kubelet.
//!
//! This crate is internal to the workspace: use `kube-embedded`.

pub mod backoff;
pub mod descriptors;
pub mod endpoint_slice;
pub mod events;
pub mod informer;
pub mod lease;
pub mod network;
pub mod node_api;
pub mod quantity;
pub mod resolv_conf;
pub mod task;
pub mod time;
pub mod version;
pub mod well_known;
pub mod workqueue;

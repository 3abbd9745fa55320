//! A pod on a node: its sandbox, volumes, containers, status and end.
//!
//! [`worker`] drives a pod's life; [`handle`] is the state that it shares with the pod's containers
//! and with clients; [`sandbox`], [`volume_manager`] and [`status_manager`] are named after the parts
//! of the kubelet that they stand for.

pub(crate) mod handle;
pub(crate) mod sandbox;
mod status_manager;
mod volume_manager;
pub(crate) mod worker;

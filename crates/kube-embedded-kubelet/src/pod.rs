//! A pod on a node: its sandbox, volumes, containers, status and end.
//!
//! [`worker`] drives a pod's life, and [`containers`] that of its containers in one sandbox; [`handle`]
//! is the state that they share with clients; [`ephemeral`] starts those that clients add; [`stop`] and [`eviction`] end them; [`sandbox`], [`volume_manager`] and [`status_manager`] are named after the parts
//! of the kubelet that they stand for.

mod containers;
mod ephemeral;
mod eviction;
pub(crate) mod handle;
pub(crate) mod sandbox;
mod status_manager;
pub(crate) mod stop;
mod unsupported;
mod volume_manager;
pub(crate) mod worker;

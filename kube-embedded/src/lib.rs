//! A Kubernetes in one process: API server, controllers, scheduler, kubelet and edge.
//!
//! The parts speak only the Kubernetes API to each other, through an in-process [`kube::Client`];
//! `kubectl` and every other client speak to the same service over TLS.

pub mod api;
pub mod cluster;
pub mod controllers;
pub mod edge;
pub mod images;
pub mod kinds;
pub mod kubelet;
pub mod network;
pub mod node_api;
pub mod patch;
pub mod schema;
pub mod server;
pub mod store;

pub use cluster::{Cluster, Config, StartError};

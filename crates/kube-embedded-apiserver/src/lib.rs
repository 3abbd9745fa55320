//! The API server: what kube-apiserver and etcd are in Kubernetes. [`api::Api`] is the Kubernetes API as one
//! `tower` service, [`server::Server`] puts it behind TLS.
//!
//! This crate is internal to the workspace: use `kube-embedded`.

pub mod api;
pub mod kinds;
pub mod patch;
pub mod schema;
pub mod server;
pub mod store;

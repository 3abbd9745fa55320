//! The API server: what kube-apiserver and etcd are in Kubernetes. [`api::Api`] is the Kubernetes API as one
//! `tower` service, [`tls_server::Server`] puts it behind TLS.
//!
//! This crate is internal to the workspace: use `kube-embedded`.

mod admission;
pub mod api;
mod crd;
pub mod credentials;
mod discovery;
mod fields;
mod http;
mod patch;
pub mod resources;
pub mod schema;
pub mod store;
mod subresources;
pub mod tls_server;
mod validation;
mod verbs;

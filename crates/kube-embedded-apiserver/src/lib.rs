//! The API server: what kube-apiserver and etcd are in Kubernetes. [`api::Api`] is the Kubernetes API as one
//! `tower` service, [`tls_server::Server`] puts it behind TLS.
//!
//! This crate is internal to the workspace: use `kube-embedded`.

mod admission;
pub mod api;
mod authentication;
mod authorization;
mod cel;
mod crd;
pub mod credentials;
mod discovery;
mod fields;
#[doc(hidden)]
pub mod fuzzing;
mod generate;
mod go_quote;
mod http;
mod ip_allocator;
mod metadata;
mod oidc;
mod openapi;
mod patch;
mod pattern;
pub mod resources;
mod reviews;
mod router;
mod schema;
mod scope;
mod state;
pub mod store;
mod subresources;
mod timestamps;
pub mod tls_server;
mod validation;
mod verbs;

pub use admission::unsupported_fields::listed as unsupported_fields;

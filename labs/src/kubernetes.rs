//! The Kubernetes client side of the labs, over any [`kube::Client`]: applies manifests, waits for
//! their effects, and reads the state of the cluster. Nothing here knows which cluster it is.

pub(crate) mod adapt;
pub(crate) mod apply;
pub(crate) mod certificate;
pub(crate) mod checks;
mod convergence;
pub(crate) mod deadline;
pub(crate) mod external;
mod field_path;
pub(crate) mod gateway;
mod ingress_class;
pub mod manifest;
pub(crate) mod mutate;
pub(crate) mod namespace_client;
pub(crate) mod node_fault;
pub(crate) mod nodes;
pub(crate) mod pods;
pub(crate) mod promotion;
pub(crate) mod pull_secret;
pub(crate) mod rollout;
pub(crate) mod service;
mod stall;
pub(crate) mod wait;

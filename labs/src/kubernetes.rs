//! What the phases need of Kubernetes, over any [`kube::Client`]: apply manifests, wait for what
//! they lead to, and look at what is there. Nothing here knows which cluster it is.

mod field_path;
pub mod manifest;

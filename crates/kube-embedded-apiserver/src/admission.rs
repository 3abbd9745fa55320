//! Admission plugins: what Kubernetes fills into new objects with the help of other objects, and refuses because of
//! them. Resource types name theirs in their strategy; [`namespace_lifecycle`] is for all.
//!
//! [`policies`] are those that users write.
//!
//! `admit` is mutating admission, before validation; `review` is validating admission, after it.

pub(crate) mod default_ingress_class;
pub(crate) mod host_path;
pub(crate) mod namespace_lifecycle;
pub(crate) mod pod_security;
pub(crate) mod policies;
pub(crate) mod service_account;
pub(crate) mod unsupported_fields;

//! Admission plugins: what Kubernetes fills into new objects with the help of other objects, and refuses because of
//! them. Resource types name theirs in their strategy; [`namespace_lifecycle`] is for all.

pub(crate) mod default_ingress_class;
pub(crate) mod namespace_lifecycle;
pub(crate) mod service_account;

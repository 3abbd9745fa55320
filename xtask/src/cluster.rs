//! Clusters that labs run on, whatever provides them. Flags become a [`spec::Spec`], which is also what
//! is recorded; acquiring it yields a [`guard::ClusterGuard`]; and the guard yields the environment that
//! the labs read.

pub(crate) mod edge;
pub(crate) mod flags;
pub(crate) mod guard;
pub(crate) mod lifecycle;
pub(crate) mod profile;
pub(crate) mod provider;
pub(crate) mod published;
pub(crate) mod record;
pub(crate) mod spec;
pub(crate) mod store;

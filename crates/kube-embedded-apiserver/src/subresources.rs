//! Subresources that are more than a part of the object: scale, binding, eviction, token, log, proxy, and the streams of
//! exec, attach and port-forward. Status and finalize are writes of the object (see `verbs`).

pub(crate) mod binding;
pub(crate) mod containers;
pub(crate) mod eviction;
pub(crate) mod log;
pub(crate) mod proxy;
pub(crate) mod scale;
pub(crate) mod stream;
pub(crate) mod token;

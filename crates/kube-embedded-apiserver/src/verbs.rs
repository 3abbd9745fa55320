//! The verbs: get, list, watch, create, update, patch, delete.

pub(crate) mod delete;
pub(crate) mod metadata;
pub(crate) mod patch;
pub(crate) mod read;
pub(crate) mod watch;
pub(crate) mod write;

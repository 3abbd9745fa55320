//! The verbs: reads (get, list, watch), writes through the pipeline (create, update, patch) and deletions.

pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod get;
pub(crate) mod guaranteed_update;
pub(crate) mod list;
pub(crate) mod patch;
pub(crate) mod pipeline;
pub(crate) mod update;
pub(crate) mod watch;

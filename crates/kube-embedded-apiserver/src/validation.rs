//! Validation: field errors, and the checks that several resource types share. Messages and field
//! paths are those of Kubernetes (`pkg/apis/*/validation`,
//! `k8s.io/apimachinery/pkg/{api,util}/validation`), because clients show and test them.
//!
//! Below `schema` and `resources`: imports neither.

pub(crate) mod addresses;
pub(crate) mod container;
mod downward;
pub(crate) mod field_error;
mod handler;
pub(crate) mod internal_form;
pub(crate) mod job_indexes;
pub(crate) mod job_policy;
pub(crate) mod names;
pub(crate) mod object_meta;
pub(crate) mod paths;
pub(crate) mod pod_spec;
pub(crate) mod resources;
pub(crate) mod scheduling;
mod security_context;
mod unified_diff;
pub(crate) mod volume;
pub(crate) mod warnings;

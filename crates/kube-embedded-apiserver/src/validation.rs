//! Validation: field errors and the checks that several resources share.

pub(crate) mod field_error;
pub(crate) mod job_policy;
pub(crate) mod names;
pub(crate) mod object_meta;
pub(crate) mod pod_spec;

//! The four patch types of Kubernetes and the bookkeeping of who owns which field. Pure functions
//! over JSON; storing, defaulting and validating what comes out is the API's.

use serde_json::Value;

use crate::kinds::Kind;

/// Why a patch could not be applied.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PatchError {
    /// 400 `BadRequest`: the patch itself makes no sense.
    #[error("{0}")]
    BadRequest(String),
    /// 409 `Conflict`: other managers own fields that an apply would change.
    #[error("{message}")]
    Conflict {
        /// `Apply failed with 1 conflict: conflict with "kubectl" using apps/v1: .spec.replicas`.
        message: String,
        /// One for each field, for `details.causes` with reason `FieldManagerConflict`.
        causes: Vec<Conflict>,
    },
    /// 422 `Invalid`: the patch is well-formed but does not fit the object.
    #[error("{0}")]
    Unprocessable(String),
}

/// One field that another manager owns.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflict {
    /// `.spec.replicas`.
    pub field: String,
    /// `conflict with "kubectl" using apps/v1`.
    pub message: String,
}

/// `operation` of a `managedFields` entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Server-side apply.
    Apply,
    /// Everything else: create, update, and the other patches.
    Update,
}

/// RFC 6902, `application/json-patch+json`.
///
/// # Errors
/// `BadRequest` where the patch cannot be read, `Unprocessable` where it does not fit.
pub fn json(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let patch: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|error| PatchError::BadRequest(error.to_string()))?;
    json_patch::patch(target, &patch).map_err(|error| PatchError::Unprocessable(error.to_string()))
}

/// RFC 7386, `application/merge-patch+json`.
pub fn merge(target: &mut Value, patch: &Value) {
    json_patch::merge(target, patch);
}

/// `application/strategic-merge-patch+json`.
///
/// # Errors
/// `BadRequest` where a directive is malformed, `Unprocessable` where an element lacks its merge
/// key.
pub fn strategic(kind: &Kind, target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let _ = kind;
    merge(target, patch);
    Ok(())
}

/// Server-side apply: the object as it is to be stored, `metadata.managedFields` included.
///
/// `current` is `None` where the object is to be created. `subresource` is empty for the object
/// itself.
///
/// # Errors
/// `BadRequest`, or `Conflict` unless `force`.
pub fn apply(
    kind: &Kind,
    current: Option<&Value>,
    applied: &Value,
    manager: &str,
    force: bool,
    subresource: &str,
    now: jiff::Timestamp,
) -> Result<Value, PatchError> {
    let _ = (kind, manager, force, subresource, now);
    let mut object = current.cloned().unwrap_or_default();
    merge(&mut object, applied);
    Ok(object)
}

/// Brings `new.metadata.managedFields` up to date after a create, update or patch: `manager` owns
/// what differs from `old` (everything where `old` is `None`), others lose it. To be called on the
/// object as it is about to be stored, defaults included.
pub fn track_update(
    kind: &Kind,
    old: Option<&Value>,
    new: &mut Value,
    manager: &str,
    operation: Operation,
    subresource: &str,
    now: jiff::Timestamp,
) {
    let _ = (kind, old, new, manager, operation, subresource, now);
}

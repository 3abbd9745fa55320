//! The four patch types of Kubernetes and the bookkeeping of who owns which field. Pure functions
//! over JSON; storing, defaulting and validating what comes out is the API's.

use serde_json::Value;

use crate::{resources::resource_type::ResourceType, schema::tree::forest};

mod apply;
mod managed_fields;
mod strategic;

/// Why a patch could not be applied.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum PatchError {
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
    /// 413 `RequestEntityTooLarge`.
    #[error("{0}")]
    TooLarge(String),
}

/// One field that another manager owns.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Conflict {
    /// `.spec.replicas`.
    pub field: String,
    /// `conflict with "kubectl" using apps/v1`.
    pub message: String,
}

/// `operation` of a `managedFields` entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Server-side apply.
    Apply,
    /// Everything else: create, update, and the other patches.
    Update,
}

/// How many operations a JSON patch may have, as in Kubernetes.
const OPERATIONS: usize = 10_000;
/// How much its `copy` operations may copy in all, as in Kubernetes: as much as a body may be long.
const COPIED: usize = 3 << 20;
/// How deep what it makes may be nested: no deeper than a body may be.
const DEPTH: usize = 128;

/// RFC 6902, `application/json-patch+json`.
///
/// # Errors
/// `BadRequest` where the patch cannot be read, `TooLarge` where it has too many operations,
/// `Unprocessable` where it does not fit or makes too much. The target is then half patched.
pub(crate) fn json(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let Some(operations) = patch.as_array() else {
        return Err(PatchError::BadRequest(format!(
            "error decoding patch: json: cannot unmarshal {} into Go value of type \
             []handlers.jsonPatchOp",
            crate::schema::type_name(patch)
        )));
    };
    if operations.len() > OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {OPERATIONS}, got {}",
            operations.len()
        )));
    }
    // Kubernetes says no more than this, of a failed `test` and of a missing path alike.
    let refused = "the server rejected our request due to an error in our request";
    let patch: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|_| PatchError::Unprocessable(refused.to_owned()))?;
    let mut copied = 0;
    for operation in patch.0 {
        if is_absent(target, &operation) {
            continue;
        }
        if !is_small(target, &operation, &mut copied) {
            return Err(PatchError::Unprocessable(refused.to_owned()));
        }
        json_patch::patch(target, &[operation])
            .map_err(|_| PatchError::Unprocessable(refused.to_owned()))?;
    }
    Ok(())
}

/// Whether what an operation puts somewhere is neither nested too deeply there nor, with what was
/// copied before, too much.
fn is_small(target: &Value, operation: &json_patch::PatchOperation, copied: &mut usize) -> bool {
    use json_patch::PatchOperation as Op;
    let (path, value) = match operation {
        Op::Add(add) => (&add.path, Some(&add.value)),
        Op::Replace(replace) => (&replace.path, Some(&replace.value)),
        Op::Move(moved) => (&moved.path, target.pointer(moved.from.as_str())),
        Op::Copy(copy) => (&copy.path, target.pointer(copy.from.as_str())),
        Op::Remove(_) | Op::Test(_) => return true,
    };
    // Of what is not there the library tells.
    let Some(value) = value else { return true };
    let above = path.as_str().matches('/').count();
    if !DEPTH.checked_sub(above).is_some_and(|left| is_within(value, left)) {
        return false;
    }
    if matches!(operation, Op::Copy(_)) {
        *copied += value.to_string().len();
    }
    *copied <= COPIED
}

/// Whether a value is nested no deeper than so many levels.
fn is_within(value: &Value, levels: usize) -> bool {
    let below = |value| levels > 0 && is_within(value, levels - 1);
    match value {
        Value::Array(items) => items.iter().all(below),
        Value::Object(fields) => fields.values().all(below),
        _ => true,
    }
}

/// Whether an operation tests a field of an object for null that is not there, which Kubernetes'
/// library takes for the same: it is how clients say that they add the first finalizer.
fn is_absent(target: &Value, operation: &json_patch::PatchOperation) -> bool {
    let json_patch::PatchOperation::Test(test) = operation else { return false };
    let path = test.path.as_str();
    let Some((parent, _)) = path.rsplit_once('/').filter(|_| test.value.is_null()) else {
        return false;
    };
    target.pointer(path).is_none() && target.pointer(parent).is_some_and(Value::is_object)
}

/// RFC 7386, `application/merge-patch+json`.
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    json_patch::merge(target, patch);
}

/// `application/strategic-merge-patch+json`.
///
/// # Errors
/// `BadRequest` where a directive is malformed, `Unprocessable` where an element lacks its merge
/// key. The target is then half patched.
pub(crate) fn strategic(
    resource: &ResourceType,
    target: &mut Value,
    patch: &Value,
) -> Result<(), PatchError> {
    match (target.as_object_mut(), patch.as_object()) {
        (Some(target), Some(patch)) => strategic::merge(forest().root(resource), target, patch),
        _ => Err(PatchError::BadRequest("invalid JSON document".to_owned())),
    }
}

/// Server-side apply: the object as it is to be stored, `metadata.managedFields` included.
///
/// `current` is `None` where the object is to be created. `subresource` is empty for the object
/// itself. Applying the same again gives the same object.
///
/// # Errors
/// `BadRequest`, or `Conflict` unless `force`.
pub(crate) fn apply(
    resource: &ResourceType,
    current: Option<&Value>,
    applied: &Value,
    manager: &str,
    force: bool,
    subresource: &str,
    now: jiff::Timestamp,
) -> Result<Value, PatchError> {
    apply::apply(resource, current, applied, manager, force, subresource, now)
}

/// Brings `new.metadata.managedFields` up to date after a create, update or patch: `manager` owns
/// what differs from `old` (everything where `old` is `None`), others lose it. To be called on the
/// object with its defaults, before what admission and allocation add.
pub(crate) fn track_update(
    resource: &ResourceType,
    old: Option<&Value>,
    new: &mut Value,
    manager: &str,
    operation: Operation,
    subresource: &str,
    now: jiff::Timestamp,
) {
    apply::track_update(resource, old, new, manager, operation, subresource, now);
}

#[cfg(test)]
mod tests;

//! JSON patches (RFC 6902) and merge patches (RFC 7386). The crate `json-patch` does the work; this
//! file adds the limits and peculiarities of Kubernetes.

use json_patch::{AddOperation, PatchOperation};
use serde_json::Value;

use crate::{patch::error::PatchError, schema::types::type_name};

/// The limit to the operations of a JSON patch (`maxJSONPatchOperations` of the API server).
const OPERATIONS: usize = 10_000;
/// The limit to the bytes that its `copy` operations copy (`JSONPatchMaxCopyBytes`): the size of a
/// request body. Each copy may double the object, so a short patch could otherwise exhaust the
/// memory.
const COPIED: usize = 3 << 20;
/// The limit to the nesting of its result: that of a request body. Deeper objects could not be
/// decoded again.
const DEPTH: usize = 128;

/// Applies a JSON patch, `application/json-patch+json`.
///
/// # Errors
/// `BadRequest` if the patch cannot be decoded, `TooLarge` if it has too many operations,
/// `Unprocessable` if it does not fit the target or its result is too large. The target is then
/// partially patched.
pub(crate) fn json(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let Some(operations) = patch.as_array() else {
        return Err(PatchError::BadRequest(format!(
            "error decoding patch: json: cannot unmarshal {} into Go value of type \
             []handlers.jsonPatchOp",
            type_name(patch)
        )));
    };
    if operations.len() > OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {OPERATIONS}, got {}",
            operations.len()
        )));
    }
    // Kubernetes reports no details, for a failed `test` and for a missing path alike.
    let refused = "the server rejected our request due to an error in our request";
    let patch: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|_| PatchError::Unprocessable(refused.to_owned()))?;
    let mut copied = 0;
    for operation in patch.0 {
        if tests_absence(target, &operation) {
            continue;
        }
        let operation = added_if_missing(target, operation);
        if !is_within_limits(target, &operation, &mut copied) {
            return Err(PatchError::Unprocessable(refused.to_owned()));
        }
        json_patch::patch(target, &[operation])
            .map_err(|_| PatchError::Unprocessable(refused.to_owned()))?;
    }
    Ok(())
}

/// Applies a merge patch, `application/merge-patch+json`.
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    json_patch::merge(target, patch);
}

/// Returns true if the result of an operation is neither nested too deeply nor, with what was
/// copied before, too large.
fn is_within_limits(target: &Value, operation: &PatchOperation, copied: &mut usize) -> bool {
    let (path, value) = match operation {
        PatchOperation::Add(add) => (&add.path, Some(&add.value)),
        PatchOperation::Replace(replace) => (&replace.path, Some(&replace.value)),
        PatchOperation::Move(moved) => (&moved.path, target.pointer(moved.from.as_str())),
        PatchOperation::Copy(copy) => (&copy.path, target.pointer(copy.from.as_str())),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => return true,
    };
    // The library reports a missing source.
    let Some(value) = value else { return true };
    let above = path.as_str().matches('/').count();
    if !DEPTH.checked_sub(above).is_some_and(|left| is_nested_within(value, left)) {
        return false;
    }
    if matches!(operation, PatchOperation::Copy(_)) {
        *copied += value.to_string().len();
    }
    *copied <= COPIED
}

fn is_nested_within(value: &Value, levels: usize) -> bool {
    let below = |value| levels > 0 && is_nested_within(value, levels - 1);
    match value {
        Value::Array(items) => items.iter().all(below),
        Value::Object(fields) => fields.values().all(below),
        _ => true,
    }
}

/// Returns true if an operation tests a missing field of an existing object for null. Kubernetes'
/// library (evanphx/json-patch) treats missing as null, unlike the RFC, and clients depend on it:
/// it is how they add the first finalizer.
fn tests_absence(target: &Value, operation: &PatchOperation) -> bool {
    let PatchOperation::Test(test) = operation else { return false };
    let path = test.path.as_str();
    let Some((parent, _)) = path.rsplit_once('/').filter(|_| test.value.is_null()) else {
        return false;
    };
    target.pointer(path).is_none() && target.pointer(parent).is_some_and(Value::is_object)
}

/// Returns an addition in place of the replacement of a missing field of an existing object: Kubernetes' library
/// sets it, unlike the RFC.
fn added_if_missing(target: &Value, operation: PatchOperation) -> PatchOperation {
    let PatchOperation::Replace(replace) = operation else { return operation };
    let parent =
        replace.path.as_str().rsplit_once('/').and_then(|(parent, _)| target.pointer(parent));
    let is_missing = target.pointer(replace.path.as_str()).is_none();
    if is_missing && parent.is_some_and(Value::is_object) {
        return PatchOperation::Add(AddOperation { path: replace.path, value: replace.value });
    }
    PatchOperation::Replace(replace)
}

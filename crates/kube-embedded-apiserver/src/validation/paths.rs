//! Validation of paths below a volume, and of file modes.

use crate::validation::field_error::{FieldError, invalid};
use serde_json::Value;

/// Returns the error of a path with a `..` in it.
pub(crate) fn no_backsteps(path: &Value, field: &str) -> Option<FieldError> {
    let steps = path.as_str().unwrap_or_default().split('/');
    steps
        .into_iter()
        .any(|step| step == "..")
        .then(|| invalid(field, path, "must not contain '..'"))
}

/// Returns the errors of a path that is not below where it starts.
pub(super) fn descending_path(path: &Value, field: &str) -> Vec<FieldError> {
    let is_absolute = path.as_str().unwrap_or_default().starts_with('/');
    let absolute = is_absolute.then(|| invalid(field, path, "must be a relative path"));
    absolute.into_iter().chain(no_backsteps(path, field)).collect()
}

/// [`descending_path`], and names that the kubelet keeps for itself.
pub(super) fn non_reserved_path(path: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = descending_path(path, field);
    let text = path.as_str().unwrap_or_default();
    if text.starts_with("..") && !text.starts_with("../") {
        errors.push(invalid(field, path, "must not start with '..'"));
    }
    errors
}

/// Returns the error of a mode that has more than permissions.
pub(super) fn file_mode(mode: &Value, field: String) -> Option<FieldError> {
    let is_mode = mode.as_i64().is_none_or(|mode| (0..=0o777).contains(&mode));
    let detail = "must be a number between 0 and 0777 (octal), both inclusive";
    (!is_mode).then(|| invalid(field, mode, detail))
}

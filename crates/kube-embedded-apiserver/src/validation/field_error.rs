//! Field errors: the causes of a 422 `Invalid` (`k8s.io/apimachinery/pkg/util/validation/field`).

use serde_json::Value;

/// One entry of `details.causes` in the `Status` of a 422.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// `FieldValueRequired`, `FieldValueInvalid`, `FieldValueNotSupported`, `FieldValueForbidden`,
    /// `FieldValueDuplicate`, `FieldValueTooLong`, …
    pub reason: &'static str,
    /// `spec.ports[0].port`.
    pub field: String,
    /// The message without the field: `Required value: must specify a port`.
    pub message: String,
}

/// `Required value`, with a detail or without.
pub(crate) fn required(field: impl Into<String>, detail: &str) -> FieldError {
    error("FieldValueRequired", field, with_detail("Required value", detail))
}

/// `Invalid value: 99999: must be …`.
pub(crate) fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> FieldError {
    let value = shown(value);
    error("FieldValueInvalid", field, with_detail(&format!("Invalid value: {value}"), detail))
}

/// [`invalid`] for a map or list, which shows one that is missing as `null`.
pub(crate) fn invalid_nested(field: impl Into<String>, value: &Value, detail: &str) -> FieldError {
    error("FieldValueInvalid", field, with_detail(&format!("Invalid value: {value}"), detail))
}

/// [`invalid`] for a value that is given as kube-apiserver writes it.
pub(crate) fn invalid_shown(field: impl Into<String>, shown: &str, detail: &str) -> FieldError {
    error("FieldValueInvalid", field, with_detail(&format!("Invalid value: {shown}"), detail))
}

/// A value as Kubernetes shows it: a string that is missing is empty.
fn shown(value: &Value) -> String {
    if value.is_null() { "\"\"".to_owned() } else { value.to_string() }
}

/// `Unsupported value: "x": supported values: "A", "B"`.
pub(crate) fn not_supported(
    field: impl Into<String>,
    value: &Value,
    supported: &[&str],
) -> FieldError {
    let supported: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
    let (value, supported) = (shown(value), supported.join(", "));
    let message = format!("Unsupported value: {value}: supported values: {supported}");
    error("FieldValueNotSupported", field, message)
}

/// `Forbidden: …`.
pub(crate) fn forbidden(field: impl Into<String>, detail: &str) -> FieldError {
    error("FieldValueForbidden", field, with_detail("Forbidden", detail))
}

/// `Duplicate value: "x"`.
pub(crate) fn duplicate(field: impl Into<String>, value: impl std::fmt::Display) -> FieldError {
    error("FieldValueDuplicate", field, format!("Duplicate value: {value}"))
}

/// `Not found: "x"`.
pub(crate) fn not_found(field: impl Into<String>, value: &Value) -> FieldError {
    error("FieldValueNotFound", field, format!("Not found: {value}"))
}

/// `Too long: may not be more than 250 bytes`.
pub(crate) fn too_long(field: impl Into<String>, max: usize) -> FieldError {
    let message = format!("Too long: may not be more than {max} bytes");
    error("FieldValueTooLong", field, message)
}

/// `Invalid value: …: field is immutable`, if a field has changed (`ValidateImmutableField`).
pub(crate) fn changed(new: &Value, old: &Value, field: &str) -> Option<FieldError> {
    (new[field] != old[field]).then(|| invalid(field, &new[field], IMMUTABLE))
}

/// [`changed`] for a value that is shown in the version which kube-apiserver has for itself.
pub(crate) fn immutable(field: impl Into<String>, shown: &str) -> FieldError {
    error("FieldValueInvalid", field, format!("Invalid value: {shown}: {IMMUTABLE}"))
}

/// `Too many: 21: must have at most 20 items`, if there are.
pub(crate) fn too_many(field: impl Into<String>, count: usize, max: usize) -> Option<FieldError> {
    let message = format!("Too many: {count}: must have at most {max} items");
    (count > max).then(|| error("FieldValueTooMany", field, message))
}

fn error(reason: &'static str, field: impl Into<String>, message: String) -> FieldError {
    FieldError { reason, field: field.into(), message }
}

fn with_detail(what: &str, detail: &str) -> String {
    if detail.is_empty() { what.to_owned() } else { format!("{what}: {detail}") }
}

/// The detail for a field that must not change (`FieldImmutableErrorMsg`).
pub(crate) const IMMUTABLE: &str = "field is immutable";

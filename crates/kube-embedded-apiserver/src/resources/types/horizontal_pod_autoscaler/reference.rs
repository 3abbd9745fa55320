//! References to objects of any group.

use serde_json::Value;

use crate::{
    fields::text,
    validation::{
        field_error::{FieldError, invalid, required},
        names::path_segment,
    },
};

/// Stands for `ValidateCrossVersionObjectReference`. The objects of the core group have no group in their version.
pub(super) fn validate(reference: &Value, field: &str, any_group: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for name in ["kind", "name"] {
        let field = format!("{field}.{name}");
        match text(reference, &[name]) {
            "" => errors.push(required(field, "")),
            given => errors.extend(
                path_segment(given).iter().map(|w| invalid(field.as_str(), &given.into(), w)),
            ),
        }
    }
    let version = text(reference, &["apiVersion"]);
    let detail = match version.matches('/').count() {
        0 if any_group => return errors,
        0 => "apiVersion must specify API group".to_owned(),
        1 if version.starts_with('/') && !any_group => {
            "apiVersion must specify API group".to_owned()
        }
        1 => return errors,
        _ => format!("unexpected GroupVersion string: {version}"),
    };
    errors.push(invalid(format!("{field}.apiVersion"), &version.into(), &detail));
    errors
}

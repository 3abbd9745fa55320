//! Validation of `metadata`, common to all resources (`apimachinery/pkg/api/validation/objectmeta.go`).

use crate::{
    fields::{list, text},
    validation::{
        field_error::{FieldError, IMMUTABLE, invalid, required, too_long},
        names::{labels, qualified_name},
    },
};
use serde_json::Value;

/// Errors of `metadata`, as far as they do not depend on the kind; `name_rule` says what is wrong
/// with a name.
pub(crate) fn metadata(
    object: &Value,
    old: Option<&Value>,
    name_rule: fn(&str) -> Vec<String>,
) -> Vec<FieldError> {
    let metadata = &object["metadata"];
    let mut errors = Vec::new();
    let (name, generate) = (text(metadata, &["name"]), text(metadata, &["generateName"]));
    if !generate.is_empty() {
        // The letters to come make the end valid.
        let sample = format!("{generate}x");
        for wrong in name_rule(&sample) {
            errors.push(invalid("metadata.generateName", &generate.into(), &wrong));
        }
    }
    if name.is_empty() {
        if generate.is_empty() {
            errors.push(required("metadata.name", "name or generateName is required"));
        }
    } else {
        for wrong in name_rule(name) {
            errors.push(invalid("metadata.name", &name.into(), &wrong));
        }
    }
    errors.extend(labels(&metadata["labels"], "metadata.labels"));
    let mut size = 0;
    for (key, value) in metadata["annotations"].as_object().into_iter().flatten() {
        size += key.len() + value.as_str().map_or(0, str::len);
        for wrong in qualified_name(&key.to_lowercase()) {
            errors.push(invalid("metadata.annotations", &key.as_str().into(), &wrong));
        }
    }
    if size > 256 * 1024 {
        errors.push(too_long("metadata.annotations", 256 * 1024));
    }
    for (at, owner) in list(metadata, &["ownerReferences"]).iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, &[field]).is_empty() {
                let detail = "must not be empty";
                let path = format!("metadata.ownerReferences[{at}].{field}");
                errors.push(invalid(path, &"".into(), detail));
            }
        }
    }
    for (at, finalizer) in list(metadata, &["finalizers"]).iter().enumerate() {
        let name = finalizer.as_str().unwrap_or_default();
        for wrong in qualified_name(name) {
            errors.push(invalid(format!("metadata.finalizers[{at}]"), finalizer, &wrong));
        }
    }
    if let Some(old) = old {
        for field in ["name", "namespace", "uid", "creationTimestamp"] {
            let (new, old) = (&metadata[field], &old["metadata"][field]);
            if !new.is_null() && !old.is_null() && new != old {
                errors.push(invalid(format!("metadata.{field}"), new, IMMUTABLE));
            }
        }
    }
    errors
}

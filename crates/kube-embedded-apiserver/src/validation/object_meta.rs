//! Validation of `metadata`, common to all resource types
//! (`k8s.io/apimachinery/pkg/api/validation/objectmeta.go`).

use crate::{
    fields::{list, text},
    validation::{
        field_error::{FieldError, IMMUTABLE, invalid, required, too_long},
        names::{labels, qualified_name},
    },
};
use serde_json::Value;

/// The limit to the keys and values of all annotations together (`TotalAnnotationSizeLimitB`).
const ANNOTATIONS_SIZE: usize = 256 * 1024;

/// Returns the errors of `metadata` (new, old on update). `name_rule` returns what is wrong with a
/// name of the type.
pub(crate) fn metadata(
    object: &Value,
    old: Option<&Value>,
    name_rule: fn(&str) -> Vec<String>,
) -> Vec<FieldError> {
    let metadata = &object["metadata"];
    let mut errors = names(metadata, name_rule);
    errors.extend(labels(&metadata["labels"], "metadata.labels"));
    errors.extend(annotations(&metadata["annotations"], "metadata.annotations"));
    for (at, owner) in list(metadata, &["ownerReferences"]).iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, &[field]).is_empty() {
                let path = format!("metadata.ownerReferences[{at}].{field}");
                errors.push(invalid(path, &"".into(), "must not be empty"));
            }
        }
    }
    for (at, finalizer) in list(metadata, &["finalizers"]).iter().enumerate() {
        for detail in qualified_name(finalizer.as_str().unwrap_or_default()) {
            errors.push(invalid(format!("metadata.finalizers[{at}]"), finalizer, &detail));
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

/// Validates name and generateName, of which one is required.
fn names(metadata: &Value, name_rule: fn(&str) -> Vec<String>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (name, generate) = (text(metadata, &["name"]), text(metadata, &["generateName"]));
    if !generate.is_empty() {
        // The prefix may end with a dash, because the generated suffix follows
        // (`maskTrailingDash`).
        let sample = format!("{generate}x");
        for detail in name_rule(&sample) {
            errors.push(invalid("metadata.generateName", &generate.into(), &detail));
        }
    }
    if name.is_empty() {
        if generate.is_empty() {
            errors.push(required("metadata.name", "name or generateName is required"));
        }
    } else {
        for detail in name_rule(name) {
            errors.push(invalid("metadata.name", &name.into(), &detail));
        }
    }
    errors
}

/// Validates the keys of annotations, and the size of all together.
pub(super) fn annotations(annotations: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        size += key.len() + value.as_str().map_or(0, str::len);
        // Kubernetes accepts upper case in the prefix of an annotation, unlike in that of a label.
        for detail in qualified_name(&key.to_lowercase()) {
            errors.push(invalid(field, &key.as_str().into(), &detail));
        }
    }
    if size > ANNOTATIONS_SIZE {
        errors.push(too_long(field, ANNOTATIONS_SIZE));
    }
    errors
}

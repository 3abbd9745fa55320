//! Validation of `metadata`, common to all resource types
//! (`k8s.io/apimachinery/pkg/api/validation/objectmeta.go`).

use crate::{
    fields::{list, text},
    validation::{
        field_error::{FieldError, IMMUTABLE, forbidden, invalid, required, too_long},
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
    // Without the index, as in Kubernetes.
    for owner in list(metadata, &["ownerReferences"]) {
        for (field, detail) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if text(owner, &[field]).is_empty() {
                let path = format!("metadata.ownerReferences.{field}");
                errors.push(invalid(path, &"".into(), detail));
            }
        }
    }
    errors.extend(finalizers(list(metadata, &["finalizers"])));
    if let Some(old) = old {
        // Twice, as in Kubernetes: it is validated for all types, and by each type.
        let added = added_finalizers(metadata, &old["metadata"]);
        errors.extend(added.iter().chain(&added).cloned());
        for field in ["uid", "deletionTimestamp", "deletionGracePeriodSeconds"] {
            let (new, old) = (&metadata[field], &old["metadata"][field]);
            if !new.is_null() && new != old {
                // Twice, as in Kubernetes: it is validated for all types, and by each type.
                for _ in 0..2 {
                    errors.push(invalid(format!("metadata.{field}"), new, IMMUTABLE));
                }
            }
        }
    }
    errors
}

/// Returns the error of finalizers that are added to an object which is being deleted.
fn added_finalizers(new: &Value, old: &Value) -> Option<FieldError> {
    if old["deletionTimestamp"].is_null() {
        return None;
    }
    let before = list(old, &["finalizers"]);
    let added = list(new, &["finalizers"]).iter().filter(|one| !before.contains(one));
    let mut added: Vec<String> = added.map(Value::to_string).collect();
    if added.is_empty() {
        return None;
    }
    added.sort();
    let added = added.join(", ");
    let what =
        "no new finalizers can be added if the object is being deleted, found new finalizers";
    Some(forbidden("metadata.finalizers", &format!("{what} []string{{{added}}}")))
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

/// Validates that finalizers are qualified names, and those without a prefix of Kubernetes' own.
fn finalizers(finalizers: &[Value]) -> Vec<FieldError> {
    const STANDARD: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];
    let mut errors = Vec::new();
    for (at, finalizer) in finalizers.iter().enumerate() {
        let name = finalizer.as_str().unwrap_or_default();
        let details = qualified_name(name);
        errors.extend(details.iter().map(|w| invalid("metadata.finalizers", finalizer, w)));
        if !name.contains('/') && !STANDARD.contains(&name) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(invalid(format!("metadata.finalizers[{at}]"), finalizer, detail));
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

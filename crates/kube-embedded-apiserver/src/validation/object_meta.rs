//! Validation of `metadata`, common to all resource types
//! (`k8s.io/apimachinery/pkg/api/validation/objectmeta.go`).

use crate::{
    fields::{list, text},
    validation::{
        field_error::{
            FieldError, IMMUTABLE, forbidden, invalid, invalid_shown, required, too_long,
        },
        names::{labels, path_segment, qualified_name},
    },
};
use serde_json::Value;
use std::collections::BTreeSet;

/// The limit to the keys and values of all annotations together (`TotalAnnotationSizeLimitB`).
const ANNOTATIONS_SIZE: usize = 256 * 1024;

/// How a resource type validates `metadata`.
pub(crate) struct Rules {
    /// Returns what is wrong with a name of the type.
    pub(crate) name: fn(&str) -> Vec<String>,
    /// Finalizers without a prefix must be of Kubernetes (`validateKubeFinalizerName`).
    pub(crate) standard_finalizers: bool,
    /// What the type validates of an update, after that what is validated of all types. Kubernetes reports the same error
    /// each time.
    pub(crate) update: &'static [Part],
}

/// A part of the validation of `metadata`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// `ValidateObjectMeta`: of new objects, and of updates by some types.
    Whole,
    /// `ValidateObjectMetaUpdate`.
    Changes,
}

impl Rules {
    /// The rules of most types.
    pub(crate) const fn of(name: fn(&str) -> Vec<String>) -> Self {
        Self { name, standard_finalizers: true, update: &[Part::Changes] }
    }
}

/// Returns the errors of `metadata` (new, old on update), by the rules of most types.
pub(crate) fn metadata(
    object: &Value,
    old: Option<&Value>,
    name_rule: fn(&str) -> Vec<String>,
) -> Vec<FieldError> {
    validate(object, old, &Rules::of(name_rule))
}

/// Returns the errors of `metadata` (new, old on update).
pub(crate) fn validate(object: &Value, old: Option<&Value>, rules: &Rules) -> Vec<FieldError> {
    let metadata = &object["metadata"];
    let of_kubernetes = || match rules.standard_finalizers {
        true => standard_finalizers(metadata),
        false => Vec::new(),
    };
    let Some(old) = old else {
        let mut errors = whole(metadata, rules.name);
        errors.extend(of_kubernetes());
        return errors;
    };
    let mut errors = whole(metadata, path_segment);
    errors.extend(changes(metadata, &old["metadata"]));
    for part in rules.update {
        errors.extend(match part {
            Part::Whole => whole(metadata, rules.name),
            Part::Changes => changes(metadata, &old["metadata"]),
        });
        errors.extend(of_kubernetes());
    }
    errors
}

/// Validates all of it (`ValidateObjectMetaAccessor`).
fn whole(metadata: &Value, name_rule: fn(&str) -> Vec<String>) -> Vec<FieldError> {
    let mut errors = names(metadata, name_rule);
    errors.extend(described(metadata));
    errors.extend(finalizers(metadata));
    errors
}

/// Validates what an update changes (`ValidateObjectMetaAccessorUpdate`).
fn changes(metadata: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = new_finalizers(metadata, old);
    for field in ["uid", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let (new, old) = (&metadata[field], &old[field]);
        if !new.is_null() && new != old {
            errors.push(invalid(format!("metadata.{field}"), new, IMMUTABLE));
        }
    }
    errors.extend(described(metadata));
    errors
}

/// Validates labels, annotations and owners.
fn described(metadata: &Value) -> Vec<FieldError> {
    let mut errors = labels(&metadata["labels"], "metadata.labels");
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
        if (text(owner, &["apiVersion"]), text(owner, &["kind"])) == ("v1", "Event") {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(invalid_shown("metadata.ownerReferences", &shown_owner(owner), detail));
        }
    }
    errors.extend(controllers(list(metadata, &["ownerReferences"])));
    errors
}

/// Validates that one owner at most is the controller.
fn controllers(owners: &[Value]) -> Vec<FieldError> {
    let controllers = owners.iter().filter(|owner| owner["controller"] == true);
    let names: Vec<String> = controllers
        .map(|owner| format!("{}/{}", text(owner, &["kind"]), text(owner, &["name"])))
        .collect();
    let Some((first, others)) = names.split_first() else { return Vec::new() };
    let all: Vec<String> = owners.iter().map(shown_owner).collect();
    let error = |other: &String| {
        let detail = format!(
            "Only one reference can have Controller set to true. Found \"true\" in references for \
             {first} and {other}"
        );
        invalid_shown("metadata.ownerReferences", &format!("[{}]", all.join(",")), &detail)
    };
    others.iter().map(error).collect()
}

/// An owner as Go encodes it.
fn shown_owner(owner: &Value) -> String {
    let mut shown = String::new();
    for field in ["apiVersion", "kind", "name", "uid"] {
        let value = Value::from(text(owner, &[field]));
        shown += &format!("{}\"{field}\":{value}", if shown.is_empty() { "" } else { "," });
    }
    for field in ["controller", "blockOwnerDeletion"] {
        if let Some(flag) = owner[field].as_bool() {
            shown += &format!(",\"{field}\":{flag}");
        }
    }
    format!("{{{shown}}}")
}

/// Validates that an object which is being deleted gets no more finalizers.
fn new_finalizers(metadata: &Value, old: &Value) -> Vec<FieldError> {
    if old["deletionTimestamp"].is_null() {
        return Vec::new();
    }
    let names = |metadata| list(metadata, &["finalizers"]).iter().filter_map(Value::as_str);
    let (before, now): (BTreeSet<&str>, BTreeSet<&str>) =
        (names(old).collect(), names(metadata).collect());
    let added: Vec<String> = now.difference(&before).map(|name| format!("{name:?}")).collect();
    if added.is_empty() {
        return Vec::new();
    }
    let detail = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers \
         []string{{{}}}",
        added.join(", ")
    );
    vec![forbidden("metadata.finalizers", &detail)]
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

/// Validates that finalizers are qualified names.
fn finalizers(metadata: &Value) -> Vec<FieldError> {
    let finalizers = list(metadata, &["finalizers"]).iter();
    let errors = finalizers.flat_map(|finalizer| {
        let details = qualified_name(finalizer.as_str().unwrap_or_default());
        details.into_iter().map(|detail| invalid("metadata.finalizers", finalizer, &detail))
    });
    errors.collect()
}

/// Validates that finalizers without a prefix are Kubernetes' own.
fn standard_finalizers(metadata: &Value) -> Vec<FieldError> {
    const STANDARD: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];
    let finalizers = list(metadata, &["finalizers"]).iter().enumerate();
    let errors = finalizers.filter_map(|(at, finalizer)| {
        let name = finalizer.as_str().unwrap_or_default();
        let detail = "name is neither a standard finalizer name nor is it fully qualified";
        (!name.contains('/') && !STANDARD.contains(&name))
            .then(|| invalid(format!("metadata.finalizers[{at}]"), finalizer, detail))
    });
    errors.collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validation::names::dns_subdomain;
    use serde_json::json;

    #[test]
    fn error_is_reported_by_each_part_of_the_validation() {
        let old = json!({ "metadata": { "name": "x" } });
        let new =
            json!({ "metadata": { "name": "x", "labels": { "a": "%" }, "finalizers": ["y"] } });
        let fields = |old: Option<&Value>, update: &'static [Part], standard_finalizers: bool| {
            let rules = Rules { name: dns_subdomain, standard_finalizers, update };
            let errors = validate(&new, old, &rules).into_iter();
            errors.map(|error| error.field.replace("metadata.", "")).collect::<Vec<_>>().join(" ")
        };
        let (labels, finalizer) = ("labels", "finalizers[0]");
        for (update, standard, expected) in [
            (&[][..], true, format!("{labels} {labels}")),
            (&[Part::Changes], true, format!("{labels} {labels} {labels} {finalizer}")),
            (&[Part::Changes], false, format!("{labels} {labels} {labels}")),
            (
                &[Part::Changes, Part::Whole],
                true,
                format!("{labels} {labels} {labels} {finalizer} {labels} {finalizer}"),
            ),
        ] {
            assert_eq!(fields(Some(&old), update, standard), expected);
        }
        assert_eq!(fields(None, &[], true), format!("{labels} {finalizer}"));
        assert_eq!(fields(None, &[], false), labels);
    }
}

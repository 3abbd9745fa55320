//! The annotation of client-side apply, from which `kubectl apply --server-side` takes over
//! (`lastAppliedManager` and `lastAppliedUpdater` in `k8s.io/apimachinery/pkg/util/managedfields`).

use serde_json::Value;

use crate::{
    patch::{compare::Comparison, field_set::FieldSet, parts::fields_of},
    resources::resource_type::ResourceType,
};

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The manager of kubectl's server-side apply. Users choose another to opt out.
const MANAGER: &str = "kubectl";
/// The limit to all annotations of an object, in bytes.
const MAX_ANNOTATIONS: usize = 256 << 10;

/// Returns the fields of the last client-side apply that still have its values: a manager may take them
/// without a conflict.
pub(super) fn uncontested(resource: &ResourceType, manager: &str, live: &Value) -> FieldSet {
    let annotation = live["metadata"]["annotations"][ANNOTATION].as_str();
    let last = annotation.filter(|_| manager == MANAGER).and_then(|text| {
        let last = serde_json::from_str::<Value>(text).ok()?;
        (last["apiVersion"] == *resource.api_version()).then_some(last)
    });
    let Some(last) = last else { return FieldSet::default() };
    let root = resource.structure();
    let Comparison { added, modified, removed, .. } = Comparison::between(root, &last, live);
    let set = fields_of(root, &last);
    set.difference(&modified).difference(&added).difference(&removed)
}

/// Keeps the annotation up to date, so that a later client-side apply removes what this one added.
pub(super) fn update(object: &mut Value, manager: &str, applied: &Value) {
    let annotations = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut);
    let is_set = |annotations: &&mut serde_json::Map<String, Value>| {
        annotations.get(ANNOTATION).is_some_and(|text| text.as_str() != Some(""))
    };
    let Some(annotations) = annotations.filter(|all| manager == MANAGER && is_set(all)) else {
        return;
    };
    let mut applied = applied.clone();
    let given = applied.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut);
    given.and_then(|given| given.remove(ANNOTATION));
    let text = format!("{applied}\n");
    annotations.remove(ANNOTATION);
    let others =
        annotations.iter().map(|(name, value)| name.len() + value.as_str().map_or(0, str::len));
    if others.sum::<usize>() + ANNOTATION.len() + text.len() <= MAX_ANNOTATIONS {
        annotations.insert(ANNOTATION.into(), text.into());
    }
}

//! Validation of references to fields of the pod (the downward API).

use crate::{
    fields::text,
    validation::{
        field_error::{FieldError, invalid, not_supported, required},
        names::qualified_name,
    },
};
use serde_json::Value;

/// The fields that an environment variable may have, as a message lists them.
pub(super) const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// The fields that a file of a volume may have.
pub(super) const VOLUME_FIELDS: [&str; 5] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// Stands for `validateObjectFieldSelector`.
pub(super) fn field_ref(reference: &Value, known: &[&str], field: &str) -> Vec<FieldError> {
    if text(reference, &["apiVersion"]).is_empty() {
        return vec![required(format!("{field}.apiVersion"), "")];
    }
    let (path, value) = (text(reference, &["fieldPath"]), &reference["fieldPath"]);
    let at = format!("{field}.fieldPath");
    if path.is_empty() {
        return vec![required(at, "")];
    }
    if let Some((map, key)) = subscript(path) {
        return match map {
            "metadata.annotations" | "metadata.labels" => {
                let details = qualified_name(&key.to_lowercase());
                details.iter().map(|detail| invalid(&*at, value, detail)).collect()
            }
            _ => vec![invalid(at, value, "does not support subscript")],
        };
    }
    let is_field = |name: &&str| *name == path;
    if known.iter().any(is_field) {
        return Vec::new();
    }
    if ENV_FIELDS.iter().chain(&VOLUME_FIELDS).any(is_field) {
        return vec![not_supported(at, value, known)];
    }
    let detail = format!("error converting fieldPath: field label not supported: {path}");
    vec![invalid(at, value, &detail)]
}

/// Splits `metadata.labels['key']`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix("']")?.split_once("['")
}

/// Stands for `validateContainerResourceFieldSelector`.
pub(super) fn resource_field_ref(reference: &Value, field: &str) -> Option<FieldError> {
    let resource = text(reference, &["resource"]);
    let is_huge_page = ["requests.hugepages-", "limits.hugepages-"]
        .iter()
        .any(|prefix| resource.starts_with(prefix));
    match resource {
        "" => Some(required(format!("{field}.resource"), "")),
        known if RESOURCES.contains(&known) || is_huge_page => None,
        _ => Some(not_supported(format!("{field}.resource"), &reference["resource"], &RESOURCES)),
    }
}

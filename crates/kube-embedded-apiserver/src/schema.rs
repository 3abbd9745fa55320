//! The structure of every served kind: what fields there are, of which type, and how lists merge.
//!
//! It comes from `k8s-openapi` at run time, so that nothing is vendored: types and descriptions
//! from its JSON schemas, merge keys from a table of ours that a test holds against its merge code.

use std::sync::Arc;

use serde_json::Value;

use crate::resources::{registry::ResourceRegistry, resource_type::ResourceType};

mod check;
mod merge_keys;
mod openapi;
pub(crate) mod structural;
pub(crate) mod tree;

/// Builds the tree now instead of on the first request that needs it; for a background thread.
pub fn warm() {
    tree::forest();
}

/// Fields that the kind does not have, worded as strict decoding does:
/// `unknown field "spec.template.spec.containers[0].imagee"`.
pub fn unknown_fields(resource: &ResourceType, object: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(crd) = resource.crd {
        let mut pruned = object.clone();
        crd.prune(&mut pruned, &mut |path| found.push(format!("unknown field \"{path}\"")));
        return found;
    }
    if let Some(root) = tree::forest().root(resource) {
        check::unknown(root, object, &mut String::new(), &mut |path| {
            found.push(format!("unknown field \"{path}\""));
        });
    }
    found
}

/// Removes fields that the kind does not have.
pub fn prune(resource: &ResourceType, object: &mut Value) {
    if let Some(crd) = resource.crd {
        crd.prune(object, &mut |_| {});
        return;
    }
    if let Some(root) = tree::forest().root(resource) {
        check::prune(root, object, check::Pruned::Unknown);
    }
}

/// Removes what decoding into Kubernetes' types and encoding again would lose of known fields:
/// nulls, and empty lists and maps.
pub fn normalize(resource: &ResourceType, object: &mut Value) {
    if resource.crd.is_some() {
        // Only metadata are decoded into a type.
        if let (Some(root), Some(metadata)) = (object_meta(), object.get_mut("metadata")) {
            check::prune(root, metadata, check::Pruned::Empty);
        }
        return;
    }
    if let Some(root) = tree::forest().root(resource) {
        check::prune(root, object, check::Pruned::Empty);
    }
}

/// Whether every value has the type of its field.
///
/// # Errors
/// Worded as Kubernetes' decoder does:
/// `json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32`.
pub fn check_types(resource: &ResourceType, object: &Value) -> Result<(), String> {
    if resource.crd.is_some() {
        return match object_meta() {
            Some(root) => check::types(root, &object["metadata"]),
            None => Ok(()),
        };
    }
    match tree::forest().root(resource) {
        Some(root) => check::types(root, object),
        None => Ok(()),
    }
}

/// Tells the paths of the fields that `metadata` does not have, and removes them.
pub(crate) fn prune_metadata(metadata: &mut Value, tell: &mut impl FnMut(&str)) {
    if let Some(root) = object_meta() {
        check::unknown(root, metadata, &mut "metadata".to_owned(), tell);
        check::prune(root, metadata, check::Pruned::Unknown);
    }
}

fn object_meta() -> Option<&'static tree::Structure> {
    tree::forest().named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")
}

/// The documents of `GET /openapi/v3`: path (`api/v1`, `apis/apps/v1`) and hash of each. Cheap: the
/// hash names the version of this program and the kinds served, not the bytes.
pub fn openapi_groups(served: &ResourceRegistry) -> Vec<(String, String)> {
    openapi::groups(served)
}

/// The OpenAPI v3 document of a group version, as JSON.
pub fn openapi(served: &ResourceRegistry, group: &str, version: &str) -> Option<Arc<Vec<u8>>> {
    openapi::document(served, group, version)
}

/// What Go's JSON decoder calls a value: `string`, `object`, …
pub(crate) fn type_name(value: &Value) -> &'static str {
    check::kind_of(value)
}

#[cfg(test)]
mod tests;

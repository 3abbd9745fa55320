//! How controllers write: merge patches of just what changed, bound to the version the plan was
//! made on, with the answer taken into the cache before anything else is planned.

use super::cache::{Cache, Key};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, PropagationPolicy},
    core::response::StatusSummary,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use std::fmt::Debug;

/// Field manager of all controllers, as Kubernetes names it.
const MANAGER: &str = "kube-controller-manager";

/// Which part of an object a write is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All but the status.
    Main,
    /// The status alone.
    Status,
}

pub(crate) fn post() -> PostParams {
    PostParams { dry_run: false, field_manager: Some(MANAGER.into()) }
}

/// Creates an object.
pub(crate) async fn create<K>(api: &Api<K>, cache: &Cache<K>, object: &K) -> kube::Result<K>
where
    K: Resource + Clone + Serialize + DeserializeOwned + Debug,
{
    let created = api.create(&post(), object).await?;
    cache.wrote(created.clone());
    Ok(created)
}

/// Makes `old` into `new`, unless somebody else changed it since (409). No difference, no request.
pub(crate) async fn update<K>(
    api: &Api<K>,
    cache: &Cache<K>,
    part: Part,
    old: &K,
    new: &K,
) -> kube::Result<()>
where
    K: Resource + Clone + Serialize + DeserializeOwned + Debug,
{
    let (before, after) = match (serde_json::to_value(old), serde_json::to_value(new)) {
        (Ok(before), Ok(after)) => (before, after),
        (Err(e), _) | (_, Err(e)) => return Err(kube::Error::SerdeError(e)),
    };
    let Some(mut patch) = difference(&before, &after) else { return Ok(()) };
    if let Some(version) = &old.meta().resource_version {
        let metadata = patch.entry("metadata").or_insert_with(|| json!({}));
        metadata["resourceVersion"] = json!(version);
    }
    let parameters = PatchParams { field_manager: Some(MANAGER.into()), ..Default::default() };
    let (name, patch) = (old.name_any(), Patch::Merge(Value::Object(patch)));
    let written = match part {
        Part::Main => api.patch(&name, &parameters, &patch).await?,
        Part::Status => api.patch_status(&name, &parameters, &patch).await?,
    };
    cache.wrote(written);
    Ok(())
}

/// Deletes this very object (by uid), with `Background` as in controllers of Kubernetes. That it is
/// gone already is fine.
pub(crate) async fn delete<K>(api: &Api<K>, cache: &Cache<K>, object: &K) -> kube::Result<()>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let uid = object.meta().uid.clone().unwrap_or_default();
    let parameters = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        preconditions: Some(kube::api::Preconditions {
            uid: Some(uid.clone()),
            resource_version: None,
        }),
        ..Default::default()
    };
    match api.delete(&object.name_any(), &parameters).await {
        Ok(answer) => {
            match answer.left().filter(|left| left.meta().deletion_timestamp.is_some()) {
                Some(leaving) => cache.wrote(leaving),
                None => cache.removed(&Key::of(object), &uid),
            }
            Ok(())
        }
        Err(error) if is(&error, 404) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether the API refused with this code.
pub(crate) fn is(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// Whether something could not be created because its namespace is on the way out: no fault, and
/// nothing to try again.
pub(crate) fn is_namespace_leaving(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 403 && causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
        || status.code == 404
            && status.details.as_ref().is_some_and(|details| details.kind == "namespaces")
}

/// What to tell people about a refusal.
pub(crate) fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.status == Some(StatusSummary::Failure) => {
            status.message.clone()
        }
        other => other.to_string(),
    }
}

/// The JSON merge patch (RFC 7396) from one object to another; `None` where there is nothing to do.
fn difference(old: &Value, new: &Value) -> Option<Map<String, Value>> {
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return None };
    let mut patch = Map::new();
    for (field, after) in new {
        match old.get(field) {
            Some(before) if before == after => {}
            Some(before @ Value::Object(_)) if after.is_object() => {
                if let Some(inner) = difference(before, after) {
                    patch.insert(field.clone(), Value::Object(inner));
                }
            }
            _ => {
                patch.insert(field.clone(), after.clone());
            }
        }
    }
    for field in old.keys().filter(|field| !new.contains_key(*field)) {
        patch.insert(field.clone(), Value::Null);
    }
    (!patch.is_empty()).then_some(patch)
}

/// Whether a pod's work is over for good.
pub(crate) fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_sent() {
        let cases = [
            (json!({"a": 1}), json!({"a": 1}), None),
            (json!({"a": 1}), json!({"a": 2}), Some(json!({"a": 2}))),
            (json!({"a": 1, "b": 2}), json!({"b": 2}), Some(json!({"a": null}))),
            (
                json!({"m": {"x": 1, "y": 2}, "l": [1, 2]}),
                json!({"m": {"x": 1, "y": 3}, "l": [2]}),
                Some(json!({"m": {"y": 3}, "l": [2]})),
            ),
            (json!({"m": {"x": 1}}), json!({"m": {}}), Some(json!({"m": {"x": null}}))),
        ];
        for (old, new, expected) in cases {
            assert_eq!(difference(&old, &new).map(Value::Object), expected, "{old} to {new}");
        }
    }
}

//! Writes of controllers: merge patches of the fields that changed, conditional on the version that
//! the plan was made on. The informer observes each response before anything else is planned.

use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, PropagationPolicy},
    core::response::StatusSummary,
};
use kube_embedded_core::informer::{Informer, ObjectKey};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use std::{fmt::Debug, sync::Arc};

/// The field manager of all controllers, as in Kubernetes.
const FIELD_MANAGER: &str = "kube-controller-manager";

/// One planned write.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Write<K> {
    Create(Box<K>),
    Update { old: Arc<K>, new: Box<K> },
    Delete(Arc<K>),
}

impl<K> Write<K>
where
    K: Resource + Clone + Serialize + DeserializeOwned + Debug,
{
    /// Carries it out as [`create`], [`update`] or [`delete`].
    pub(crate) async fn execute(self, api: &Api<K>, informer: &Informer<K>) -> kube::Result<()> {
        match self {
            Self::Create(new) => create(api, informer, &new).await.map(drop),
            Self::Update { old, new } => update(api, informer, &*old, &*new).await,
            Self::Delete(old) => delete(api, informer, &*old).await,
        }
    }
}

/// Returns the parameters of a create or replace request.
pub(crate) fn post_params() -> PostParams {
    PostParams { dry_run: false, field_manager: Some(FIELD_MANAGER.into()) }
}

/// Creates an object.
pub(crate) async fn create<K>(api: &Api<K>, informer: &Informer<K>, object: &K) -> kube::Result<K>
where
    K: Resource + Clone + Serialize + DeserializeOwned + Debug,
{
    let created = api.create(&post_params(), object).await?;
    informer.observe_own_write(created.clone());
    Ok(created)
}

/// Changes `old` to `new` except for the status. Sends nothing if they are equal.
///
/// # Errors
/// 409 if the object has changed since `old`.
pub(crate) async fn update<K>(
    api: &Api<K>,
    informer: &Informer<K>,
    old: &K,
    new: &K,
) -> kube::Result<()>
where
    K: Resource + Clone + Serialize + DeserializeOwned + Debug,
{
    let Some(patch) = patch(old, new)? else { return Ok(()) };
    informer.observe_own_write(api.patch(&old.name_any(), &patch_params(), &patch).await?);
    Ok(())
}

/// Changes the status (and metadata) of `old` to that of `new`. Sends nothing if they are equal.
///
/// # Errors
/// 409 if the object has changed since `old`.
pub(crate) async fn update_status<K>(
    api: &Api<K>,
    informer: &Informer<K>,
    old: &K,
    new: &K,
) -> kube::Result<()>
where
    K: Resource + Clone + Serialize + DeserializeOwned + Debug,
{
    let Some(patch) = patch(old, new)? else { return Ok(()) };
    let written = api.patch_status(&old.name_any(), &patch_params(), &patch).await?;
    informer.observe_own_write(written);
    Ok(())
}

/// Removes a finalizer, whatever else changes in the object. Succeeds if the object does not exist any more.
pub(crate) async fn remove_finalizer<K>(
    api: &Api<K>,
    informer: &Informer<K>,
    object: &K,
    finalizer: &str,
) -> kube::Result<()>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let patch = Patch::Strategic(json!({ "metadata": {
        "uid": object.meta().uid,
        "$deleteFromPrimitiveList/finalizers": [finalizer],
    } }));
    match api.patch(&object.name_any(), &patch_params(), &patch).await {
        Ok(written) => informer.observe_own_write(written),
        Err(error) if is_status(&error, 404) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

fn patch_params() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..Default::default() }
}

/// Creates the patch from one object to another, conditional on the version of `old`.
fn patch<K: Resource + Serialize>(old: &K, new: &K) -> kube::Result<Option<Patch<Value>>> {
    let json = |object| serde_json::to_value(object).map_err(kube::Error::SerdeError);
    let Some(mut patch) = difference(&json(old)?, &json(new)?) else { return Ok(None) };
    if let Some(version) = &old.meta().resource_version {
        let metadata = patch.entry("metadata").or_insert_with(|| json!({}));
        metadata["resourceVersion"] = json!(version);
    }
    Ok(Some(Patch::Merge(Value::Object(patch))))
}

/// Deletes this object, but no other of its name, with propagation policy `Background`. Succeeds if
/// it does not exist any more.
pub(crate) async fn delete<K>(api: &Api<K>, informer: &Informer<K>, object: &K) -> kube::Result<()>
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
        Ok(response) => {
            match response.left().filter(|object| object.meta().deletion_timestamp.is_some()) {
                Some(terminating) => informer.observe_own_write(terminating),
                None => informer.observe_own_deletion(&ObjectKey::of(object), &uid),
            }
            Ok(())
        }
        Err(error) if is_status(&error, 404) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Returns `true` if the API server responded with this code.
pub(crate) fn is_status(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// Returns `true` if an object could not be created because its namespace is terminating or deleted:
/// retrying cannot succeed.
pub(crate) fn is_namespace_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 403 && causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
        || status.code == 404
            && status.details.as_ref().is_some_and(|details| details.kind == "namespaces")
}

/// Returns the message of an error for events and conditions.
pub(crate) fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.status == Some(StatusSummary::Failure) => {
            status.message.clone()
        }
        other => other.to_string(),
    }
}

/// Computes the JSON merge patch (RFC 7396) from one object to another; `None` if they are equal.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merge_patch_contains_only_changed_fields() {
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

//! The lifecycle of CustomResourceDefinitions (apiextensions-apiserver's naming, establishing and finalizing
//! controllers): names are accepted, versions published, and the objects of a deleted definition removed.
//!
//! All of it happens after the write that causes it is committed and before its response, so that a client that
//! created a definition can use it. It never fails that write: a failure is logged and retried.

mod names;
pub(crate) mod registry;

use crate::{
    authentication::user::User,
    crd::registry::ServedVersions,
    http::{
        path::Target,
        request::WriteOptions,
        status::{ApiError, ApiResult},
    },
    resources::{
        crd::{CustomResource, conditions::condition, versions::precedence},
        resource_type::ResourceType,
        types::custom_resource_definition::{CLEANUP_FINALIZER, RESOURCE as DEFINITIONS},
    },
    state::ServerState,
    store::Object,
    verbs::{
        delete::{self, DeleteOptions, Deleted},
        pipeline::{Decoded, Expects, Shows, WriteRequest, write},
    },
};
use http::StatusCode;
use kube_embedded_core::{backoff::Backoff, task::spawn_named};
use serde_json::{Value, json};
use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};
use tokio::sync::watch;

/// The manager of the fields that this server writes.
const MANAGER: &str = "kube-apiserver";
/// The first and the longest delay of retries.
const RETRY: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(5)];

/// Brings what is served in line with the stored definitions, now or, if that fails, in the background.
pub(crate) fn reconcile_after_write(state: &Arc<ServerState>) {
    if let Err(error) = reconcile_definitions(state) {
        report(&error);
        if state.crds.starts_retries() {
            spawn_named("crd reconciler", retry(Arc::downgrade(state))).detach();
        }
    }
}

fn report(error: &ApiError) {
    tracing::error!(
        target: "apiserver::crd",
        %error,
        "failed to reconcile CustomResourceDefinitions; retrying"
    );
}

async fn retry(state: Weak<ServerState>) {
    let [first, longest] = RETRY;
    let mut backoff = Backoff::new(first, longest);
    loop {
        tokio::time::sleep(backoff.next_delay()).await;
        let Some(state) = state.upgrade() else { return };
        state.crds.retries.store(false, Ordering::Release);
        let Err(error) = reconcile_definitions(&state) else {
            tracing::info!(target: "apiserver::crd", "reconciled CustomResourceDefinitions");
            return;
        };
        report(&error);
        if !state.crds.starts_retries() {
            return;
        }
    }
}

fn reconcile_definitions(state: &ServerState) -> ApiResult<()> {
    let mut versions = state.crds.lock();
    #[cfg(test)]
    if state
        .crds
        .injected_failures
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1))
        .is_ok()
    {
        return Err(ApiError::internal("injected failure"));
    }
    accept_names(state)?;
    publish(state, &mut versions);
    let mut removed = false;
    for definition in definitions(state) {
        removed |= finalize(state, &definition)?;
    }
    if removed {
        // The names of the definition are free now; another one may want them.
        accept_names(state)?;
        publish(state, &mut versions);
    }
    Ok(())
}

fn definitions(state: &ServerState) -> Vec<Arc<Object>> {
    state.store.list(DEFINITIONS.storage_resource(), None, None).objects
}

/// Accepts the names of definitions, in the order of their creation.
fn accept_names(state: &ServerState) -> ApiResult<()> {
    let mut all = definitions(state);
    all.sort_by_cached_key(|definition| names::creation(&definition.value));
    for definition in all {
        let name = &definition.key.name;
        update_definition(state, name, "status", |current| {
            let others: Vec<Value> = definitions(state)
                .iter()
                .filter(|other| other.key.name != *name)
                .map(|other| {
                    // Schemas may be large, and only the names matter.
                    let names = &other.value["status"]["acceptedNames"];
                    let group = &other.value["spec"]["group"];
                    json!({ "spec": { "group": group }, "status": { "acceptedNames": names } })
                })
                .collect();
            let mut new = current.clone();
            names::accept(&mut new, &others);
            new
        })?;
    }
    Ok(())
}

/// Writes a definition, or its status, through the pipeline. It is no error if the definition no longer exists.
fn update_definition(
    state: &ServerState,
    name: &str,
    subresource: &str,
    change: impl Fn(&Value) -> Value,
) -> ApiResult<()> {
    let target = Target {
        resource: DEFINITIONS,
        namespace: String::new(),
        name: name.to_owned(),
        subresource: subresource.to_owned(),
    };
    let options = WriteOptions::internal(MANAGER);
    let request = WriteRequest {
        target: &target,
        options: &options,
        user: User::admin(),
        expects: Expects::Object,
        tracks: true,
        // A policy does not keep a definition from being served or removed.
        shows: Shows::Nothing,
    };
    let result =
        write(state, &request, |old| Ok(Decoded::from(change(old.unwrap_or(&Value::Null)))));
    match result {
        Err(error) if error.code() != StatusCode::NOT_FOUND => Err(error),
        _ => Ok(()),
    }
}

/// Publishes the versions that the established definitions serve.
fn publish(state: &ServerState, versions: &mut ServedVersions) {
    let before = std::mem::take(versions);
    let mut resources = Vec::new();
    for definition in definitions(state) {
        let definition = &definition.value;
        if condition(definition, "Established") != Some("True") {
            continue;
        }
        let all = definition["spec"]["versions"].as_array().into_iter().flatten();
        let mut served: Vec<&Value> = all.filter(|version| version["served"] == true).collect();
        served.sort_by_cached_key(|version| precedence(version["name"].as_str().unwrap_or("")));
        for version in served {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let key = (text(&definition["metadata"]["uid"]), text(&version["name"]));
            if !before.contains_key(&key) {
                tracing::debug!(
                    target: "apiserver::crd",
                    definition = text(&definition["metadata"]["name"]),
                    version = key.1,
                    "publishing a custom resource"
                );
            }
            let sender = before.get(&key).cloned().unwrap_or_else(|| watch::Sender::new(()));
            resources.push(Arc::new(CustomResource::new(definition, version, sender.subscribe())));
            versions.insert(key, sender);
        }
    }
    state.crds.publish(resources);
}

/// Deletes the objects of a definition that is being deleted, and removes the finalizer after them. Returns true if
/// it is removed.
fn finalize(state: &ServerState, definition: &Object) -> ApiResult<bool> {
    let value = &definition.value;
    let finalizers = value["metadata"]["finalizers"].as_array();
    let waits = finalizers.into_iter().flatten().any(|finalizer| finalizer == CLEANUP_FINALIZER);
    if value["metadata"].get("deletionTimestamp").is_none() || !waits {
        return Ok(false);
    }
    let versions = value["spec"]["versions"].as_array().into_iter().flatten();
    if condition(value, "Established") == Some("True")
        && let Some(version) = versions.into_iter().find(|version| version["storage"] == true)
    {
        let (_sender, served) = watch::channel(());
        let crd = Arc::new(CustomResource::new(value, version, served));
        if has_objects_left(state, &ResourceType::custom(&crd))? {
            return Ok(false);
        }
    }
    update_definition(state, &definition.key.name, "", |old| {
        let mut new = old.clone();
        if let Some(finalizers) = new["metadata"]["finalizers"].as_array_mut() {
            finalizers.retain(|finalizer| finalizer != CLEANUP_FINALIZER);
        }
        new
    })?;
    Ok(true)
}

/// Deletes all objects of a custom resource; returns true if finalizers keep some.
fn has_objects_left(state: &ServerState, resource: &ResourceType) -> ApiResult<bool> {
    let mut left = false;
    for object in state.store.list(resource.storage_resource(), None, None).objects {
        if object.value["metadata"].get("deletionTimestamp").is_some() {
            left = true;
            continue;
        }
        let target = Target {
            resource: *resource,
            namespace: object.key.namespace.clone(),
            name: object.key.name.clone(),
            subresource: String::new(),
        };
        match delete::delete_object(state, &target, &DeleteOptions::default(), &mut |_| Ok(())) {
            Ok(Deleted::Removed(_)) => {}
            Ok(_) => left = true,
            Err(error) if error.code() == StatusCode::NOT_FOUND => {}
            Err(error) => return Err(error),
        }
    }
    Ok(left)
}

//! Writes statuses, one write of an object at a time, and only those that differ.

use super::object::{Gvk, Object};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use kube::{
    Client, Resource,
    api::{Patch, PatchParams, Request},
};
use kube_embedded_core::informer::{Informer, ObjectKey};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The field manager of writes.
const FIELD_MANAGER: &str = "gateway-controller";

/// A version of an object, and the status that was written to it.
type Attempt<S> = (Option<String>, <S as Gvk>::Status);
type Written<S> = (ObjectKey, Attempt<S>, Result<Option<Object<S>>, kube::Error>);

/// Writes the statuses of one kind.
pub(super) struct StatusWriter<S: Gvk> {
    client: Client,
    writing: BTreeSet<ObjectKey>,
    /// What has been tried. The same is not written to the same version again: an API server that does not keep it, or
    /// knows a newer version, would be asked without end.
    tried: BTreeMap<ObjectKey, Attempt<S>>,
    writes: FuturesUnordered<BoxFuture<'static, Written<S>>>,
}

impl<S: Gvk> StatusWriter<S> {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            writing: BTreeSet::new(),
            tried: BTreeMap::new(),
            writes: FuturesUnordered::new(),
        }
    }

    /// Starts writing the status, and an annotation, unless the object has them or a write of it is
    /// in flight.
    pub(super) fn sync(
        &mut self,
        object: &Object<S>,
        desired: &S::Status,
        annotation: Option<(&str, Option<&str>)>,
    ) {
        let key = ObjectKey::of(object);
        let mut patches = Vec::new();
        let version = &object.metadata.resource_version;
        if let Some((name, value)) = annotation {
            let annotations = object.metadata.annotations.as_ref();
            if annotations.and_then(|all| all.get(name)).map(String::as_str) != value {
                let annotations = json!({ name: value });
                patches.push((None, json!({ "metadata": { "annotations": annotations } })));
            }
        }
        if *desired != object.status {
            // Of lists that other controllers write too, so an older version must not be the base.
            let patch = json!({ "metadata": { "resourceVersion": version }, "status": desired });
            // After an annotation the version is another one: the next round writes the status.
            if patches.is_empty() {
                patches.push((Some("status"), patch));
            }
        }
        let attempt = (version.clone(), desired.clone());
        if patches.is_empty()
            || self.tried.get(&key) == Some(&attempt)
            || !self.writing.insert(key.clone())
        {
            return;
        }
        let client = self.client.clone();
        self.writes.push(Box::pin(async move {
            let mut written = Ok(None);
            for (subresource, patch) in patches {
                written = write(&client, &key, subresource, patch).await.map(Some);
                if written.is_err() {
                    break;
                }
            }
            (key, attempt, written)
        }));
    }

    /// Records a write that has ended in the informer. Returns whether it succeeded; waits forever if
    /// none is in flight.
    pub(super) async fn next(&mut self, informer: &Informer<Object<S>>) -> bool {
        let Some((key, (version, desired), written)) = self.writes.next().await else {
            return std::future::pending().await;
        };
        self.writing.remove(&key);
        match written {
            Ok(object) => {
                if let Some(object) = object {
                    let version = object.metadata.resource_version.clone();
                    // An annotation is followed by the status.
                    if object.status == desired || version.is_none() {
                        self.tried.remove(&key);
                    } else if self.tried.get(&key).is_some_and(|(_, last)| *last == desired) {
                        self.tried.insert(key, (version, desired));
                    } else {
                        self.tried.insert(key, (None, desired));
                    }
                    informer.observe_own_write(object);
                }
                true
            }
            // Another client was faster, and its change is about to be seen.
            Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => {
                self.tried.insert(key, (version, desired));
                true
            }
            Err(error) => {
                let resource = S::PLURAL;
                tracing::warn!(resource, object = %key, %error, "failed to write a status");
                false
            }
        }
    }
}

async fn write<S: Gvk>(
    client: &Client,
    key: &ObjectKey,
    subresource: Option<&str>,
    patch: Value,
) -> kube::Result<Object<S>> {
    let namespace = Some(&*key.namespace).filter(|namespace| !namespace.is_empty());
    let request = Request::new(Object::<S>::url_path(&(), namespace));
    let field_manager = Some(FIELD_MANAGER.to_owned());
    let params = PatchParams { field_manager, ..PatchParams::default() };
    let patch = Patch::Merge(patch);
    let request = match subresource {
        Some(subresource) => request.patch_subresource(subresource, &key.name, &params, &patch),
        None => request.patch(&key.name, &params, &patch),
    };
    client.request(request.map_err(kube::Error::BuildRequest)?).await
}

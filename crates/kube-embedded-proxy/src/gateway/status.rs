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

/// The version of an object that a write is based on, and the status that the object is to have.
type Attempt<S> = (Option<String>, <S as Gvk>::Status);
type Ended<S> = (ObjectKey, Attempt<S>, Result<Option<Object<S>>, kube::Error>);

/// What follows from a write that has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// Nothing: the object has its status.
    Done,
    /// The status is to be looked at again.
    Again,
    /// The write failed, and is to be repeated later.
    Failed,
}

/// Writes the statuses of one kind.
pub(super) struct StatusWriter<S: Gvk> {
    client: Client,
    /// The statuses that are being written.
    writing: BTreeMap<ObjectKey, S::Status>,
    /// The objects of which another one was desired meanwhile.
    waiting: BTreeSet<ObjectKey>,
    /// The last attempt that did not make the status the desired one. It is not repeated: after a conflict the watch
    /// brings a newer version, and an API server that does not keep a status would be asked without end.
    futile: BTreeMap<ObjectKey, Attempt<S>>,
    writes: FuturesUnordered<BoxFuture<'static, Ended<S>>>,
}

impl<S: Gvk> StatusWriter<S> {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            writing: BTreeMap::new(),
            waiting: BTreeSet::new(),
            futile: BTreeMap::new(),
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
                let metadata =
                    json!({ "resourceVersion": version, "annotations": { name: value } });
                patches.push((None, json!({ "metadata": metadata })));
            }
        }
        if *desired != object.status {
            // An older version must not be the base: other controllers write the lists too, and what the response has
            // besides the status would be taken for planned.
            let patch = json!({ "metadata": { "resourceVersion": version }, "status": desired });
            // After an annotation the version is another one: the next round writes the status.
            if patches.is_empty() {
                patches.push((Some("status"), patch));
            }
        }
        if let Some(writing) = self.writing.get(&key) {
            let annotates = patches.iter().any(|(subresource, _)| subresource.is_none());
            if writing != desired || annotates {
                self.waiting.insert(key);
            }
            return;
        }
        let attempt = (version.clone(), desired.clone());
        if patches.is_empty() || self.futile.get(&key) == Some(&attempt) {
            return;
        }
        self.writing.insert(key.clone(), desired.clone());
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

    /// Records a write that has ended in the informer, and returns what follows for which object; waits forever if
    /// none is in flight.
    pub(super) async fn next(&mut self, informer: &Informer<Object<S>>) -> (ObjectKey, Written) {
        let Some((key, attempt, written)) = self.writes.next().await else {
            return std::future::pending().await;
        };
        self.writing.remove(&key);
        let waits = self.waiting.remove(&key);
        let follows = match written {
            Ok(Some(object)) if object.status == attempt.1 => {
                self.futile.remove(&key);
                informer.observe_own_write(object);
                if waits { Written::Again } else { Written::Done }
            }
            // An annotation was written, and the status is next, on the new version; or the status was not kept.
            Ok(object) => {
                self.futile.insert(key.clone(), attempt);
                object.into_iter().for_each(|object| informer.observe_own_write(object));
                Written::Again
            }
            // Another client was faster, and its change is about to be seen.
            Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => {
                self.futile.insert(key.clone(), attempt);
                Written::Again
            }
            Err(error) => {
                let resource = S::PLURAL;
                tracing::warn!(resource, object = %key, %error, "failed to write a status");
                Written::Failed
            }
        };
        (key, follows)
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

#[cfg(test)]
mod tests {
    use super::{super::api::GatewayClassSpec, *};
    use http::{Request, Response, StatusCode};
    use kube::client::Body;
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    /// Syncs the status of one class over and over, as a reconciler does after each write that did not fail, and
    /// returns the number of requests, each of which gets this response.
    async fn requests(code: StatusCode, version: &'static str) -> usize {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let client = Client::new(
            tower::service_fn(move |_: Request<Body>| {
                counted.fetch_add(1, Ordering::Relaxed);
                let body = match code {
                    StatusCode::OK => class(version),
                    _ => json!({ "kind": "Status", "code": code.as_u16(), "reason": "Conflict" }),
                };
                let body = Body::from(body.to_string().into_bytes());
                async move { Response::builder().status(code).body(body) }
            }),
            "default",
        );
        let informer = Informer::default();
        informer.observe_own_write(serde_json::from_value(class("1")).unwrap());
        let mut writer = StatusWriter::<GatewayClassSpec>::new(client);
        let desired = serde_json::from_value(json!({ "supportedFeatures": [{ "name": "X" }] }));
        let desired = desired.unwrap();
        for _ in 0..10 {
            informer.list().iter().for_each(|object| writer.sync(object, &desired, None));
            let next =
                tokio::time::timeout(std::time::Duration::from_millis(50), writer.next(&informer));
            if next.await.map_or(Written::Failed, |(_, follows)| follows) == Written::Failed {
                break;
            }
        }
        count.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn status_that_changed_during_its_write_is_written_again() {
        let client = Client::new(
            tower::service_fn(|request: Request<Body>| async {
                let patch = request.into_body().collect_bytes().await.unwrap();
                let patch: Value = serde_json::from_slice(&patch).unwrap();
                let base = patch["metadata"]["resourceVersion"].as_str().unwrap();
                let mut written = class(&format!("{base}1"));
                written["status"] = patch["status"].clone();
                Response::builder().body(Body::from(written.to_string().into_bytes()))
            }),
            "default",
        );
        let informer = Informer::default();
        informer.observe_own_write(serde_json::from_value(class("1")).unwrap());
        let known = informer.list().remove(0);
        let status = |feature: &str| {
            serde_json::from_value(json!({ "supportedFeatures": [{ "name": feature }] })).unwrap()
        };
        let mut writer = StatusWriter::<GatewayClassSpec>::new(client);
        writer.sync(&known, &status("X"), None);
        writer.sync(&known, &status("Y"), None);
        assert_eq!(writer.next(&informer).await.1, Written::Again);
        let known = informer.list().remove(0);
        writer.sync(&known, &status("Y"), None);
        assert_eq!(writer.next(&informer).await.1, Written::Done, "no round for nothing");
        assert_eq!(informer.list().remove(0).status, status("Y"));
    }

    fn class(version: &str) -> Value {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
            "metadata": { "name": "c", "uid": "u", "resourceVersion": version },
            "spec": { "controllerName": "x/y" },
        })
    }

    #[tokio::test(start_paused = true)]
    async fn conflict_is_not_repeated_until_there_is_another_version() {
        assert_eq!(requests(StatusCode::CONFLICT, "").await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn status_that_is_not_kept_is_not_written_without_end() {
        assert_eq!(requests(StatusCode::OK, "1").await, 1, "nothing changed");
        assert_eq!(requests(StatusCode::OK, "2").await, 2, "once more on the new version");
    }
}

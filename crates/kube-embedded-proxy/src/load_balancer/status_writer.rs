//! Writes load balancer status, one write of an object at a time, and not again what was written
//! but is not seen in the watch yet.

use super::status::{LbStatus, LoadBalanced, PUBLISHED_PORT};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use kube_embedded_core::informer::ObjectKey;
use serde_json::json;
use std::{collections::BTreeMap, marker::PhantomData};

/// Writes the status of objects of one type.
pub(crate) struct LbStatusWriter<K> {
    client: Client,
    field_manager: &'static str,
    pending: BTreeMap<ObjectKey, PendingStatus>,
    writes: FuturesUnordered<BoxFuture<'static, Written>>,
    object: PhantomData<fn() -> K>,
}

/// A write that has ended, and that still concerns an object.
pub(crate) struct WriteResult {
    pub(crate) key: ObjectKey,
    pub(crate) status: LbStatus,
    pub(crate) result: kube::Result<()>,
}

struct Written {
    key: ObjectKey,
    uid: String,
    status: LbStatus,
    /// The version of the object that the write produced.
    result: kube::Result<Option<u64>>,
}

/// The status that was written last, until it is seen.
#[derive(Debug, Default)]
struct PendingStatus {
    uid: String,
    status: Option<LbStatus>,
    /// The version of the object with it, once the write has ended.
    version: Option<u64>,
    writing: bool,
}

impl<K: LoadBalanced> LbStatusWriter<K> {
    pub(crate) fn new(client: Client, field_manager: &'static str) -> Self {
        let (pending, writes) = Default::default();
        Self { client, field_manager, pending, writes, object: PhantomData }
    }

    /// Starts writing the status unless the object has it or a write is in flight. Returns whether
    /// a write was started.
    pub(crate) fn sync(&mut self, object: &K, desired: &LbStatus) -> bool {
        let (key, uid) = (ObjectKey::of(object), object.meta().uid.clone().unwrap_or_default());
        let observed = object.lb_status();
        let pending = self.pending.entry(key.clone()).or_default();
        if pending.uid != uid {
            *pending = PendingStatus { uid: uid.clone(), ..PendingStatus::default() };
        }
        if !pending.is_due(desired, &observed, object.meta()) {
            return false;
        }
        pending.begin(desired.clone());
        let write = self.write(key.clone(), uid.clone(), observed, desired.clone());
        let status = desired.clone();
        self.writes.push(Box::pin(async move {
            let result = write.await;
            Written { key, uid, status, result }
        }));
        true
    }

    /// Returns the next write that has ended, or `None` if none is in flight.
    pub(crate) async fn next(&mut self) -> Option<WriteResult> {
        while let Some(Written { key, uid, status, result }) = self.writes.next().await {
            let pending = self.pending.get_mut(&key).filter(|pending| pending.uid == uid);
            // The object was deleted, and perhaps created again.
            let Some(pending) = pending else { continue };
            let result = match result {
                Ok(version) => {
                    pending.succeeded(version);
                    tracing::info!(resource = %K::plural(&()), object = %key,
                        address = ?status.address(), "load balancer status written");
                    Ok(())
                }
                Err(kube::Error::Api(status)) if status.is_not_found() => {
                    pending.writing = false;
                    continue;
                }
                Err(error) => {
                    pending.failed();
                    tracing::warn!(resource = %K::plural(&()), object = %key,
                        %error, "failed to write load balancer status");
                    Err(error)
                }
            };
            return Some(WriteResult { key, status, result });
        }
        None
    }

    /// Drops what is known of objects that are deleted.
    pub(crate) fn forget(&mut self, is_deleted: impl Fn(&ObjectKey) -> bool) {
        self.pending.retain(|key, _| !is_deleted(key));
    }

    /// Writes what differs. The annotation goes before the address: clients poll for the address
    /// and then read the annotation.
    fn write(
        &self,
        key: ObjectKey,
        uid: String,
        observed: LbStatus,
        status: LbStatus,
    ) -> impl Future<Output = kube::Result<Option<u64>>> + Send + use<K> {
        let api: Api<K> = Api::namespaced(self.client.clone(), &key.namespace);
        let field_manager = Some(self.field_manager.to_owned());
        let params = PatchParams { field_manager, ..PatchParams::default() };
        async move {
            let mut version = None;
            // The uid protects an object of the same name that was created later.
            if status.published_port != observed.published_port {
                let annotations = json!({ PUBLISHED_PORT: status.published_port });
                let patch = json!({ "metadata": { "uid": uid, "annotations": annotations } });
                let patched = api.patch(&key.name, &params, &Patch::Merge(patch)).await?;
                version = version_of(patched.meta());
            }
            if status.ingress != observed.ingress {
                let ingress = match status.ingress.is_empty() {
                    true => json!(null),
                    false => K::ingress_json(&status),
                };
                let patch = json!({
                    "metadata": { "uid": uid },
                    "status": { "loadBalancer": { "ingress": ingress } },
                });
                let patched = api.patch_status(&key.name, &params, &Patch::Merge(patch)).await?;
                version = version_of(patched.meta());
            }
            Ok(version)
        }
    }
}

impl PendingStatus {
    /// Returns whether to write the status. Our own write is not visible in the watch immediately,
    /// so a status that was just written is not written again, unless the object is of a later
    /// version: then another client overwrote it, perhaps before we saw it.
    fn is_due(&mut self, desired: &LbStatus, observed: &LbStatus, meta: &ObjectMeta) -> bool {
        if desired == observed {
            (self.status, self.version) = (None, None);
            return false;
        }
        let overwritten = self.version.zip(version_of(meta)).is_some_and(|(own, now)| now > own);
        !self.writing && (self.status.as_ref() != Some(desired) || overwritten)
    }

    fn begin(&mut self, status: LbStatus) {
        (self.status, self.version, self.writing) = (Some(status), None, true);
    }

    fn succeeded(&mut self, version: Option<u64>) {
        (self.version, self.writing) = (version, false);
    }

    fn failed(&mut self) {
        (self.status, self.version, self.writing) = (None, None, false);
    }
}

/// Resource versions are opaque to clients, but those of an object are numbers that grow.
fn version_of(meta: &ObjectMeta) -> Option<u64> {
    meta.resource_version.as_ref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    #[test]
    fn status_is_rewritten_only_if_overwritten() {
        let at = SocketAddr::from(([127, 9, 1, 1], 80));
        let ours = LbStatus::new(&[(80, Some(at))], Some("VIP"));
        let theirs = LbStatus::default();
        let at = |version: &str| ObjectMeta {
            resource_version: Some(version.into()),
            ..ObjectMeta::default()
        };
        let mut pending = PendingStatus::default();
        assert!(pending.is_due(&ours, &theirs, &at("7")));
        pending.begin(ours.clone());
        assert!(!pending.is_due(&ours, &theirs, &at("8")), "a write is in flight");
        pending.succeeded(Some(9));
        for seen in ["7", "8", "9", "odd"] {
            assert!(!pending.is_due(&ours, &theirs, &at(seen)), "{seen} is not after the write");
        }
        assert!(pending.is_due(&ours, &theirs, &at("10")), "overwritten before it was seen");
        assert!(!pending.is_due(&ours, &ours, &at("11")));
        assert!(pending.is_due(&ours, &theirs, &at("11")), "overwritten after it was seen");
        pending.begin(ours.clone());
        pending.failed();
        assert!(pending.is_due(&ours, &theirs, &at("11")), "the write failed");
    }
}

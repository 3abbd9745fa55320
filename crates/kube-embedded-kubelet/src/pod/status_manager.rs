//! Writes the status of a pod to the API (the kubelet's status manager).

use super::handle::PodHandle;
use crate::status;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use kube_embedded_core::backoff::Backoff;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::timeout;

/// The delays between attempts to write a status.
const RETRY: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));

/// The conditions that the kubelet owns.
const OWN_CONDITIONS: [&str; 4] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"];

/// Writes the status whenever it or the generation of the object changes. Never returns.
pub(super) async fn run(pod: &PodHandle) {
    let mut written = Value::Null;
    let (mut views, mut objects) = (pod.views(), pod.objects());
    views.mark_changed();
    loop {
        let generation = objects.borrow_and_update().metadata.generation;
        let updated = objects.wait_for(|object| object.metadata.generation != generation);
        tokio::select! {
            _ = views.changed() => {}
            _ = updated => {}
        }
        let mut backoff = RETRY;
        loop {
            views.mark_unchanged();
            match write(pod, &mut written).await {
                Ok(()) => break,
                // The object was deleted, or replaced by another of the same name.
                Err(kube::Error::Api(e)) if e.code == 404 || e.code == 409 => break,
                Err(error) => {
                    tracing::warn!(%error, "failed to write the status of a pod; retrying");
                    let _ = timeout(backoff.next_delay(), views.changed()).await;
                }
            }
        }
    }
}

/// Writes the status, unless it is the one that was `written` last.
pub(super) async fn write(pod: &PodHandle, written: &mut Value) -> Result<(), kube::Error> {
    let view = pod.view().clone();
    let mut latest = Pod::clone(&pod.object());
    keep_transition_times(&mut latest, written);
    let status = status::status(&latest, &view, Timestamp::now());
    if status == *written {
        return Ok(());
    }
    let api: Api<Pod> = Api::namespaced(pod.runtime.client.clone(), &pod.namespace);
    // With the uid, the write fails if another pod has taken the name.
    let patch = json!({ "metadata": { "uid": pod.uid }, "status": status });
    api.patch_status(&pod.name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    tracing::trace!(phase = %status["phase"], "pod status written");
    *written = status;
    Ok(())
}

/// Puts the kubelet's own conditions as written last into the object: the watch may not have brought
/// them yet, and their transition times would be lost.
fn keep_transition_times(latest: &mut Pod, written: &Value) {
    let Some(Value::Array(known)) = written.get("conditions") else { return };
    let status = latest.status.get_or_insert_default();
    let conditions = status.conditions.get_or_insert_default();
    for condition in known {
        let Ok(condition) = serde_json::from_value::<PodCondition>(condition.clone()) else {
            continue;
        };
        if OWN_CONDITIONS.contains(&&*condition.type_) {
            conditions.retain(|c| c.type_ != condition.type_);
            conditions.push(condition);
        }
    }
}

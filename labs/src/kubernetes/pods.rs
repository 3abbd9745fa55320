//! Pods, who owns them, what ails them, and the events that tell of them.

use super::Scope;
use anyhow::Context as _;
use k8s_openapi::{
    api::{
        apps::v1::ReplicaSet,
        core::v1::{Event, Pod},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{ResourceExt, api::ListParams};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// Whether the pod's condition `Ready` is true.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

/// Whether nobody has asked for the pod's end.
pub fn is_wanted(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
}

/// The controller that owns an object.
pub fn owner(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.as_ref()?.iter().find(|owner| owner.controller == Some(true))
}

/// The image of a pod's first container.
pub fn image(pod: &Pod) -> &str {
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    containers.first().and_then(|c| c.image.as_deref()).unwrap_or_default()
}

/// Names of pods.
pub fn names<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> BTreeSet<String> {
    pods.into_iter().map(ResourceExt::name_any).collect()
}

/// Why a container does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The pod.
    pub pod: String,
    /// What its container asks for.
    pub wants: String,
    /// `ImagePullBackOff`, `CrashLoopBackOff`, …
    pub reason: String,
    /// What the kubelet adds to it.
    pub message: String,
    /// Whether the image is to blame: no time will heal that.
    pub image: bool,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { pod, wants, reason, message, .. } = self;
        write!(f, "pod {pod} waits for image {wants}: {reason}")?;
        if message.is_empty() { Ok(()) } else { write!(f, " ({message})") }
    }
}

/// What ails a pod, if one of its containers waits for something that is not simply its start.
pub fn trouble(pod: &Pod) -> Option<Trouble> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find_map(|status| {
        let waiting = status.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.clone()?;
        // `ErrImagePull` may pass: the first try of a registry that is slow to answer.
        let image = matches!(
            reason.as_str(),
            "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName"
        );
        let harmless = matches!(reason.as_str(), "ContainerCreating" | "PodInitializing");
        (!harmless).then(|| Trouble {
            pod: pod.name_any(),
            wants: status.image.clone(),
            reason,
            message: waiting.message.clone().unwrap_or_default(),
            image,
        })
    })
}

impl Scope {
    /// Pods with these labels (`app=kubeapp,env=canary`) whose end nobody has asked for, by name.
    pub async fn pods(&self, labels: &str) -> anyhow::Result<Vec<Pod>> {
        let pods = self.api::<Pod>().list(&ListParams::default().labels(labels)).await;
        let pods = pods.with_context(|| format!("failed to list the pods with {labels}"))?;
        Ok(pods.items.into_iter().filter(is_wanted).collect())
    }

    /// Replica sets that a Deployment owns, oldest first.
    pub async fn replica_sets(&self, deployment: &str) -> anyhow::Result<Vec<ReplicaSet>> {
        let sets = self.api::<ReplicaSet>().list(&ListParams::default()).await;
        let sets = sets.context("failed to list replica sets")?;
        let owned = |set: &ReplicaSet| {
            owner(&set.metadata).is_some_and(|o| o.kind == "Deployment" && o.name == deployment)
        };
        let mut sets: Vec<_> = sets.items.into_iter().filter(owned).collect();
        sets.sort_by_key(revision);
        Ok(sets)
    }

    /// The reasons of all events so far, by the kind of the object they tell of.
    pub async fn event_reasons(&self) -> anyhow::Result<BTreeMap<String, BTreeSet<String>>> {
        let events = self.api::<Event>().list(&ListParams::default()).await;
        let mut reasons: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for event in events.context("failed to list events")? {
            let kind = event.involved_object.kind.unwrap_or_default();
            reasons.entry(kind).or_default().extend(event.reason);
        }
        Ok(reasons)
    }
}

/// The revision that the deployment controller wrote on a replica set.
pub fn revision(set: &ReplicaSet) -> i64 {
    let revision = set.annotations().get("deployment.kubernetes.io/revision");
    revision.and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn troubles_are_told_apart_from_a_start() {
        for (reason, troubled, image) in [
            ("ContainerCreating", false, false),
            ("ErrImagePull", true, false),
            ("ImagePullBackOff", true, true),
            ("ErrImageNeverPull", true, true),
            ("InvalidImageName", true, true),
            ("CrashLoopBackOff", true, false),
        ] {
            let pod = json!({"metadata": {"name": "p"}, "status": {"containerStatuses": [{
                "name": "c", "image": "kubeapp:3.0", "imageID": "", "ready": false,
                "restartCount": 0, "state": {"waiting": {"reason": reason, "message": "why"}}}]}});
            let found = trouble(&serde_json::from_value(pod).unwrap());
            assert_eq!(found.is_some(), troubled, "{reason}");
            if let Some(found) = found {
                assert_eq!(found.image, image, "{reason}");
                let said = format!("pod p waits for image kubeapp:3.0: {reason} (why)");
                assert_eq!(found.to_string(), said);
            }
        }
    }
}

//! Pods, who owns them, what ails them, and the events that tell of them.

use super::{
    Scope,
    wait::{self, Seen, WaitError, until},
};
use anyhow::Context as _;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        core::v1::{Event, Pod, Service},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams},
};
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
    /// How the program ended before: `ended with exit code 1 (Error)`.
    pub ended: Option<String>,
    /// Whose fault it is.
    pub blame: Blame,
}

/// Whose fault a [`Trouble`] is, and so whether waiting can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// It may pass: the first try to pull an image, say.
    Unclear,
    /// The image is not to be had, which no time will heal.
    Image,
    /// The container cannot be made, or its program does not stay up.
    Container,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { pod, wants, reason, message, ended, .. } = self;
        match self.blame {
            Blame::Container => write!(f, "pod {pod} ({wants}) does not stay up: {reason}")?,
            Blame::Image | Blame::Unclear => {
                write!(f, "pod {pod} waits for image {wants}: {reason}")?
            }
        }
        if !message.is_empty() {
            write!(f, " ({message})")?;
        }
        ended.iter().try_for_each(|ended| write!(f, "; its program {ended}"))
    }
}

/// What ails a pod, if one of its containers waits for something that is not simply its start.
pub fn trouble(pod: &Pod) -> Option<Trouble> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find_map(|status| {
        let waiting = status.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.clone()?;
        let blame = match reason.as_str() {
            "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName" => Blame::Image,
            "CrashLoopBackOff"
            | "RunContainerError"
            | "CreateContainerError"
            | "CreateContainerConfigError" => Blame::Container,
            // `ErrImagePull` may pass: the first try of a registry that is slow to answer.
            _ => Blame::Unclear,
        };
        let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        let ended = last.map(|last| {
            let why = last.message.as_deref().or(last.reason.as_deref()).unwrap_or("no reason");
            match last.reason.as_deref() {
                Some("StartError") => format!("could not be started ({why})"),
                _ => format!("ended with exit code {} ({why})", last.exit_code),
            }
        });
        // Of a back-off it only says how long it is, and of what, at length.
        let message = waiting.message.as_deref().filter(|_| reason != "CrashLoopBackOff");
        let message = message.unwrap_or_default().to_owned();
        // As the manifest has it; a status may tell it in full.
        let mut containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let wants = containers.find(|container| container.name == status.name);
        let wants = wants.and_then(|container| container.image.as_ref()).unwrap_or(&status.image);
        let harmless = matches!(reason.as_str(), "ContainerCreating" | "PodInitializing");
        (!harmless).then(|| Trouble {
            pod: pod.name_any(),
            wants: wants.clone(),
            reason,
            message,
            ended,
            blame,
        })
    })
}

/// What a pod's probe said last, where one failed.
pub fn unhealthy(pod: &str, events: &[Event]) -> Option<String> {
    let ours = events.iter().filter(|event| {
        event.involved_object.name.as_deref() == Some(pod)
            && event.reason.as_deref() == Some("Unhealthy")
    });
    ours.max_by_key(|event| event.last_timestamp.clone())?.message.clone()
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

    /// Waits until exactly so many pods with these labels are wanted, all of them ready and none of
    /// `without` among them; hands over their names.
    ///
    /// # Errors
    /// See [`WaitError`].
    pub async fn ready_pods(
        &self,
        labels: &str,
        count: usize,
        without: &BTreeSet<String>,
    ) -> Result<BTreeSet<String>, WaitError> {
        until(
            self.api(),
            wait::Config::default().labels(labels),
            &format!("{count} ready pods with {labels}"),
            self.rollout,
            |pods: &BTreeMap<String, Pod>| {
                let wanted: Vec<&Pod> = pods.values().filter(|pod| is_wanted(pod)).collect();
                let ready: BTreeSet<String> = names(wanted.iter().copied().filter(|p| is_ready(p)));
                let done = wanted.len() == count && ready.len() == count;
                if done && ready.is_disjoint(without) {
                    return Seen::Done(ready);
                }
                Seen::Waiting(format!("{} pods, {} ready", wanted.len(), ready.len()))
            },
        )
        .await
    }

    /// Waits until a pod with these labels runs, ready or not, and hands over its name.
    ///
    /// # Errors
    /// See [`WaitError`].
    pub async fn running_pod(&self, labels: &str) -> Result<String, WaitError> {
        let running = |pod: &Pod| {
            let status = pod.status.as_ref();
            let statuses = status.and_then(|status| status.container_statuses.as_ref());
            statuses.is_some_and(|all| {
                all.iter().all(|c| c.state.as_ref().is_some_and(|state| state.running.is_some()))
            })
        };
        until(
            self.api(),
            wait::Config::default().labels(labels),
            &format!("running pod with {labels}"),
            self.rollout,
            |pods: &BTreeMap<String, Pod>| {
                let mut wanted = pods.values().filter(|pod| is_wanted(pod));
                match wanted.find(|pod| running(pod)) {
                    Some(pod) => Seen::Done(pod.name_any()),
                    None => {
                        let troubles = pods.values().filter_map(trouble).map(|t| t.to_string());
                        let troubles: Vec<String> = troubles.collect();
                        Seen::Waiting(format!("{} pods; {}", pods.len(), troubles.join("; ")))
                    }
                }
            },
        )
        .await
    }

    /// Deletes a pod; what happens next is up to its owner.
    pub async fn delete_pod(&self, name: &str) -> anyhow::Result<()> {
        let deleted = self.api::<Pod>().delete(name, &DeleteParams::default()).await;
        deleted.with_context(|| format!("failed to delete the pod {name}"))?;
        Ok(())
    }

    /// Deployments, pods and Services as `kind/name`.
    pub async fn object_names(&self) -> anyhow::Result<BTreeSet<String>> {
        let all = ListParams::default();
        let context = || format!("failed to list what is in {}", self.namespace);
        let deployments = self.api::<Deployment>().list(&all).await.with_context(context)?;
        let pods = self.api::<Pod>().list(&all).await.with_context(context)?;
        let services = self.api::<Service>().list(&all).await.with_context(context)?;
        let deployments = deployments.iter().map(|d| format!("deployment/{}", d.name_any()));
        let pods = pods.iter().map(|pod| format!("pod/{}", pod.name_any()));
        let services = services.iter().map(|service| format!("service/{}", service.name_any()));
        Ok(deployments.chain(pods).chain(services).collect())
    }

    /// Waits until events with all these reasons tell of objects of these kinds, and hands over every
    /// reason there is.
    ///
    /// # Errors
    /// See [`WaitError`].
    pub async fn events_tell(
        &self,
        story: &[(&str, &[&str])],
    ) -> Result<BTreeMap<String, BTreeSet<String>>, WaitError> {
        until(
            self.api(),
            wait::Config::default(),
            "events that tell the whole story",
            self.rollout,
            |events: &BTreeMap<String, Event>| {
                let mut told: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
                for event in events.values() {
                    let kind = event.involved_object.kind.clone().unwrap_or_default();
                    told.entry(kind).or_default().extend(event.reason.clone());
                }
                let missing: Vec<String> = story
                    .iter()
                    .flat_map(|(kind, reasons)| reasons.iter().map(move |reason| (*kind, *reason)))
                    .filter(|(kind, reason)| !told.get(*kind).is_some_and(|t| t.contains(*reason)))
                    .map(|(kind, reason)| format!("{kind} {reason}"))
                    .collect();
                if missing.is_empty() {
                    return Seen::Done(told);
                }
                Seen::Waiting(format!("{} events, none of {}", events.len(), missing.join(", ")))
            },
        )
        .await
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
        for (reason, blame) in [
            ("ContainerCreating", None),
            ("PodInitializing", None),
            ("ErrImagePull", Some(Blame::Unclear)),
            ("ImagePullBackOff", Some(Blame::Image)),
            ("ErrImageNeverPull", Some(Blame::Image)),
            ("InvalidImageName", Some(Blame::Image)),
            ("CrashLoopBackOff", Some(Blame::Container)),
            ("CreateContainerError", Some(Blame::Container)),
            ("CreateContainerConfigError", Some(Blame::Container)),
        ] {
            let pod = json!({"metadata": {"name": "p"}, "status": {"containerStatuses": [{
                "name": "c", "image": "kubeapp:3.0", "imageID": "", "ready": false,
                "restartCount": 0, "state": {"waiting": {"reason": reason, "message": "why"}}}]}});
            let found = trouble(&serde_json::from_value(pod).unwrap());
            assert_eq!(found.map(|found| found.blame), blame, "{reason}");
        }
    }

    #[test]
    fn troubles_say_what_is_wrong() {
        let said = |reason: &str, last: serde_json::Value| {
            let pod = json!({"metadata": {"name": "p"}, "status": {"containerStatuses": [{
                "name": "c", "image": "kubeapp:3.0", "imageID": "", "ready": false,
                "restartCount": 0, "lastState": last,
                "state": {"waiting": {"reason": reason, "message": "why"}}}]}});
            trouble(&serde_json::from_value(pod).unwrap()).unwrap().to_string()
        };
        assert_eq!(
            said("ImagePullBackOff", json!({})),
            "pod p waits for image kubeapp:3.0: ImagePullBackOff (why)"
        );
        let last = json!({"terminated": {"exitCode": 1, "reason": "Error"}});
        assert_eq!(
            said("CrashLoopBackOff", last),
            "pod p (kubeapp:3.0) does not stay up: CrashLoopBackOff; its program ended with exit \
             code 1 (Error)"
        );
    }
}

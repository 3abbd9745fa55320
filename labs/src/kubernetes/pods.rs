//! Pods: their readiness, owners, container problems and events.

use super::{
    external::PROBE_INTERVAL,
    namespace_client::NamespaceClient,
    wait::{self, Objects, Progress, WaitError, until},
};
use crate::expectation;
use anyhow::Context as _;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        core::v1::{ContainerStatus, Event, Pod, Service},
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
    time::{Duration, Instant},
};

/// Returns true if the pod's condition `Ready` is true.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

/// Returns true if the pod is being deleted.
pub(crate) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Returns the controller that owns an object.
pub(crate) fn owner(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.as_ref()?.iter().find(|owner| owner.controller == Some(true))
}

/// Returns the image of a pod's first container.
pub(crate) fn image(pod: &Pod) -> &str {
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    containers.first().and_then(|c| c.image.as_deref()).unwrap_or_default()
}

/// Iterates over the pods that are not terminating.
fn current(pods: &Objects<Pod>) -> impl Iterator<Item = &Pod> {
    pods.values().map(|pod| &**pod).filter(|pod| !is_terminating(pod))
}

/// Returns true if the pod has these labels (`app=kubeapp,env=canary`).
pub(crate) fn has_labels(pod: &Pod, labels: &str) -> bool {
    expectation::labels(labels)
        .all(|(key, value)| pod.labels().get(key).map(String::as_str) == Some(value))
}

/// Returns the names of pods.
pub(crate) fn names<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> BTreeSet<String> {
    pods.into_iter().map(ResourceExt::name_any).collect()
}

/// Returns true if every container runs, ready or not.
pub(crate) fn is_running(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let statuses = status.and_then(|status| status.container_statuses.as_ref());
    statuses.is_some_and(|all| {
        all.iter().all(|c| c.state.as_ref().is_some_and(|state| state.running.is_some()))
    })
}

/// Returns the scheduler's reason why a pod has no node.
pub(crate) fn unscheduled(pod: &Pod) -> Option<&str> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False")?;
    Some(found.message.as_deref().unwrap_or("no reason given"))
}

/// Returns why the pods of a Deployment cannot be created.
pub(crate) fn replica_failure(deployment: &Deployment) -> Option<String> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions.iter().find(|c| c.type_ == "ReplicaFailure" && c.status == "True")?;
    let message = failure.message.as_deref().unwrap_or("no reason given");
    Some(format!("the pods of {} cannot be created: {message}", deployment.name_any()))
}

/// The reason why a container does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContainerProblem {
    /// The pod.
    pub pod: String,
    /// The image that the container asks for.
    pub image: String,
    /// `ImagePullBackOff`, `CrashLoopBackOff`, …
    pub reason: String,
    /// The kubelet's message.
    pub message: String,
    /// The previous termination: `ended with exit code 1 (Error)`.
    pub termination: Option<String>,
    /// The cause.
    pub cause: Cause,
}

/// The cause of a [`ContainerProblem`], which decides whether waiting can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It may resolve itself: a first failed pull, for example.
    Transient,
    /// The image cannot be pulled; waiting will not help.
    Image,
    /// The container cannot be created, or its program does not stay up.
    Container,
}

impl fmt::Display for ContainerProblem {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { pod, image, reason, message, termination, .. } = self;
        match self.cause {
            Cause::Container => write!(f, "pod {pod} ({image}) does not stay up: {reason}")?,
            Cause::Image | Cause::Transient => {
                write!(f, "pod {pod} waits for image {image}: {reason}")?
            }
        }
        if !message.is_empty() {
            write!(f, " ({message})")?;
        }
        termination.iter().try_for_each(|ended| write!(f, "; its program {ended}"))
    }
}

/// Returns the problem of the first container that waits for something other than its regular start.
pub(crate) fn waiting_problem(pod: &Pod) -> Option<ContainerProblem> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find_map(|status| {
        let waiting = status.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.clone()?;
        let cause = match reason.as_str() {
            "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName" => Cause::Image,
            "CrashLoopBackOff"
            | "RunContainerError"
            | "CreateContainerError"
            | "CreateContainerConfigError" => Cause::Container,
            // Includes `ErrImagePull`: the first pull from a slow registry may fail.
            _ => Cause::Transient,
        };
        let termination = termination(status);
        // The message of a back-off only repeats its duration and the pod.
        let message = waiting.message.as_deref().filter(|_| reason != "CrashLoopBackOff");
        let message = message.unwrap_or_default().to_owned();
        // The reference in the manifest; the status may show a longer form of it.
        let mut containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let image = containers.find(|container| container.name == status.name);
        let image = image.and_then(|container| container.image.as_ref()).unwrap_or(&status.image);
        let starting = matches!(reason.as_str(), "ContainerCreating" | "PodInitializing");
        (!starting).then(|| ContainerProblem {
            pod: pod.name_any(),
            image: image.clone(),
            reason,
            message,
            termination,
            cause,
        })
    })
}

/// Describes the end of a container's previous run: `ended with exit code 1 (Error)`.
fn termination(status: &ContainerStatus) -> Option<String> {
    let last = status.last_state.as_ref()?.terminated.as_ref()?;
    let why = last.message.as_deref().or(last.reason.as_deref()).unwrap_or("no reason");
    Some(match last.reason.as_deref() {
        Some("StartError") => format!("could not be started ({why})"),
        _ => format!("ended with exit code {} ({why})", last.exit_code),
    })
}

/// Describes the end of the last run of a pod that was restarted: `its program ended with exit code 137 (Error)`.
pub(crate) fn restarted(pod: &Pod) -> Option<String> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let last = statuses.iter().filter(|status| status.restart_count > 0).find_map(termination)?;
    Some(format!("its program {last}"))
}

/// Returns the message of a pod's last failed probe.
pub(crate) fn last_probe_failure(pod: &str, events: &[Event]) -> Option<String> {
    let ours = events.iter().filter(|event| {
        event.involved_object.name.as_deref() == Some(pod)
            && event.reason.as_deref() == Some("Unhealthy")
    });
    ours.max_by_key(|event| event.last_timestamp.clone())?.message.clone()
}

/// Returns the message of the last warning that a pod could not be started.
pub(crate) fn last_start_failure(pod: &str, events: &[Event]) -> Option<String> {
    let failed = |event: &&Event| {
        let reason = event.reason.as_deref().unwrap_or_default();
        event.involved_object.name.as_deref() == Some(pod)
            && event.type_.as_deref() == Some("Warning")
            && (reason.starts_with("Failed") || reason.starts_with("Invalid"))
    };
    let last = events.iter().filter(failed).max_by_key(|event| event.last_timestamp.clone())?;
    let message = last.message.as_deref().unwrap_or_default();
    Some(format!("{}: {message}", last.reason.as_deref().unwrap_or_default()))
}

/// The timeout of the events of what has happened: components record them within seconds, or never.
const EVENTS_TIMEOUT: Duration = Duration::from_secs(15);

impl NamespaceClient {
    /// Waits until no pod is ending.
    ///
    /// # Errors
    /// See [`WaitError`].
    pub(crate) async fn wait_none_ending(&self) -> Result<(), WaitError> {
        let all = wait::Config::default();
        until(self.api(), all, "end of the pods", self.rollout(), |pods: &Objects<Pod>| match pods
            .values()
            .find(|pod| is_terminating(pod))
        {
            Some(pod) => Progress::Pending(format!("{} is ending", pod.name_any())),
            None => Progress::Done(()),
        })
        .await
    }

    /// Returns the number of requests that a pod of the app has served, without those of probes. Sent
    /// through the API server, past every proxy that is under test.
    pub(crate) async fn served(&self, pod: &str) -> anyhow::Result<u64> {
        let namespace = self.name();
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:8080/proxy/served");
        let request = http::Request::get(path).body(Vec::new())?;
        let text = self.client.request_text(request).await;
        let text = text.with_context(|| format!("failed to ask pod {pod} for /served"))?;
        text.trim().parse().with_context(|| format!("pod {pod} responds `{}`", text.trim()))
    }

    /// Waits until a pod of the app has served as many requests, and returns their number.
    ///
    /// # Errors
    /// See [`WaitError`].
    pub(crate) async fn wait_served(&self, pod: &str, count: u64) -> Result<u64, WaitError> {
        let awaited = format!("{count} requests at pod {pod}");
        let (after, started) = (self.request, Instant::now());
        let mut pace = tokio::time::interval(PROBE_INTERVAL);
        loop {
            pace.tick().await;
            match self.served(pod).await {
                Err(source) => return Err(WaitError::Environment { awaited, source }),
                Ok(served) if served >= count => return Ok(served),
                Ok(served) if started.elapsed() > after => {
                    return Err(WaitError::TimedOut {
                        awaited,
                        last_seen: served.to_string(),
                        after,
                    });
                }
                Ok(_) => {}
            }
        }
    }

    /// Lists the pods with these labels (`app=kubeapp,env=canary`), without terminating ones.
    pub(crate) async fn pods(&self, labels: &str) -> anyhow::Result<Vec<Pod>> {
        let pods = self.api::<Pod>().list(&ListParams::default().labels(labels)).await;
        let pods = pods.with_context(|| format!("failed to list the pods with {labels}"))?;
        Ok(pods.items.into_iter().filter(|pod| !is_terminating(pod)).collect())
    }

    /// Lists the replica sets that a Deployment owns, oldest first.
    pub(crate) async fn replica_sets(&self, deployment: &str) -> anyhow::Result<Vec<ReplicaSet>> {
        let sets = self.api::<ReplicaSet>().list(&ListParams::default()).await;
        let sets = sets.context("failed to list replica sets")?;
        let owned = |set: &ReplicaSet| {
            owner(&set.metadata).is_some_and(|o| o.kind == "Deployment" && o.name == deployment)
        };
        let mut sets: Vec<_> = sets.items.into_iter().filter(owned).collect();
        sets.sort_by_key(revision);
        Ok(sets)
    }

    /// Waits until there are exactly `count` pods with these labels (not counting terminating ones), all
    /// ready and none of them in `without`; returns their names.
    ///
    /// # Errors
    /// See [`WaitError`].
    pub(crate) async fn wait_ready_pods(
        &self,
        labels: &str,
        count: usize,
        without: &BTreeSet<String>,
    ) -> Result<BTreeSet<String>, WaitError> {
        let awaited = format!("{count} ready pods with {labels}");
        let ready = until(
            self.api(),
            wait::Config::default().labels(labels),
            &awaited,
            self.rollout(),
            |pods: &Objects<Pod>| {
                let current: Vec<&Pod> = current(pods).collect();
                let ready: BTreeSet<String> =
                    names(current.iter().copied().filter(|p| is_ready(p)));
                let done = current.len() == count && ready.len() == count;
                if done && ready.is_disjoint(without) {
                    return Progress::Done(ready);
                }
                Progress::Pending(format!("{} pods, {} ready", current.len(), ready.len()))
            },
        );
        tokio::select! {
            biased;
            ready = ready => ready,
            stuck = self.stuck_pod(&awaited, true, |pod| has_labels(pod, labels)) => Err(stuck),
        }
    }

    /// Waits until a pod with these labels runs, ready or not; returns its name.
    ///
    /// # Errors
    /// See [`WaitError`].
    pub(crate) async fn wait_running_pod(&self, labels: &str) -> Result<String, WaitError> {
        let awaited = format!("running pod with {labels}");
        let running = until(
            self.api(),
            wait::Config::default().labels(labels),
            &awaited,
            self.rollout(),
            |pods: &Objects<Pod>| match current(pods).find(|pod| is_running(pod)) {
                Some(pod) => Progress::Done(pod.name_any()),
                None => {
                    let problems = pods.values().filter_map(|pod| waiting_problem(pod));
                    let problems: Vec<String> = problems.map(|p| p.to_string()).collect();
                    Progress::Pending(format!("{} pods; {}", pods.len(), problems.join("; ")))
                }
            },
        );
        tokio::select! {
            biased;
            running = running => running,
            stuck = self.stuck_pod(&awaited, false, |pod| has_labels(pod, labels)) => Err(stuck),
        }
    }

    /// Deletes a pod; its owner may replace it.
    pub(crate) async fn delete_pod(&self, name: &str) -> anyhow::Result<()> {
        self.performs(format!("delete pod/{name}"));
        let deleted = self.api::<Pod>().delete(name, &DeleteParams::default()).await;
        deleted.with_context(|| format!("failed to delete the pod {name}"))?;
        Ok(())
    }

    /// Lists Deployments, pods and Services as `kind/name`.
    pub(crate) async fn object_names(&self) -> anyhow::Result<BTreeSet<String>> {
        let all = ListParams::default();
        let context = || format!("failed to list the objects in {}", self.name());
        let deployments = self.api::<Deployment>().list(&all).await.with_context(context)?;
        let pods = self.api::<Pod>().list(&all).await.with_context(context)?;
        let services = self.api::<Service>().list(&all).await.with_context(context)?;
        let deployments = deployments.iter().map(|d| format!("deployment/{}", d.name_any()));
        let pods = pods.iter().map(|pod| format!("pod/{}", pod.name_any()));
        let services = services.iter().map(|service| format!("service/{}", service.name_any()));
        Ok(deployments.chain(pods).chain(services).collect())
    }

    /// Waits until there are events with all these reasons about objects of these kinds; returns all
    /// reasons by kind.
    ///
    /// # Errors
    /// See [`WaitError`].
    pub(crate) async fn wait_events(
        &self,
        expected: &[(&str, &[&str])],
    ) -> Result<BTreeMap<String, BTreeSet<String>>, WaitError> {
        until(
            self.api(),
            wait::Config::default(),
            "events with every expected reason",
            self.rollout().min(EVENTS_TIMEOUT),
            |events: &Objects<Event>| {
                let mut reasons: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
                for event in events.values() {
                    let kind = event.involved_object.kind.clone().unwrap_or_default();
                    reasons.entry(kind).or_default().extend(event.reason.clone());
                }
                let missing: Vec<String> = expected
                    .iter()
                    .flat_map(|(kind, wanted)| wanted.iter().map(move |reason| (*kind, *reason)))
                    .filter(|(kind, reason)| {
                        !reasons.get(*kind).is_some_and(|r| r.contains(*reason))
                    })
                    .map(|(kind, reason)| format!("{kind} {reason}"))
                    .collect();
                if missing.is_empty() {
                    return Progress::Done(reasons);
                }
                Progress::Pending(format!(
                    "{} events, none of {}",
                    events.len(),
                    missing.join(", ")
                ))
            },
        )
        .await
    }
}

/// Returns the revision that the deployment controller wrote on a replica set.
fn revision(set: &ReplicaSet) -> i64 {
    let revision = set.annotations().get("deployment.kubernetes.io/revision");
    revision.and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn waiting_reason_determines_the_cause() {
        for (reason, cause) in [
            ("ContainerCreating", None),
            ("PodInitializing", None),
            ("ErrImagePull", Some(Cause::Transient)),
            ("ImagePullBackOff", Some(Cause::Image)),
            ("ErrImageNeverPull", Some(Cause::Image)),
            ("InvalidImageName", Some(Cause::Image)),
            ("CrashLoopBackOff", Some(Cause::Container)),
            ("CreateContainerError", Some(Cause::Container)),
            ("CreateContainerConfigError", Some(Cause::Container)),
        ] {
            let pod = json!({"metadata": {"name": "p"}, "status": {"containerStatuses": [{
                "name": "c", "image": "kubeapp:3.0", "imageID": "", "ready": false,
                "restartCount": 0, "state": {"waiting": {"reason": reason, "message": "why"}}}]}});
            let found = waiting_problem(&serde_json::from_value(pod).unwrap());
            assert_eq!(found.map(|found| found.cause), cause, "{reason}");
        }
    }

    #[test]
    fn container_problem_names_image_reason_and_termination() {
        let problem = |reason: &str, last: serde_json::Value| {
            let pod = json!({"metadata": {"name": "p"}, "status": {"containerStatuses": [{
                "name": "c", "image": "kubeapp:3.0", "imageID": "", "ready": false,
                "restartCount": 0, "lastState": last,
                "state": {"waiting": {"reason": reason, "message": "why"}}}]}});
            waiting_problem(&serde_json::from_value(pod).unwrap()).unwrap().to_string()
        };
        assert_eq!(
            problem("ImagePullBackOff", json!({})),
            "pod p waits for image kubeapp:3.0: ImagePullBackOff (why)"
        );
        let last = json!({"terminated": {"exitCode": 1, "reason": "Error"}});
        assert_eq!(
            problem("CrashLoopBackOff", last),
            "pod p (kubeapp:3.0) does not stay up: CrashLoopBackOff; its program ended with exit \
             code 1 (Error)"
        );
    }
}

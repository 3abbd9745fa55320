//! The facts about pods and samples that a diagnosis is based on.

use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::ResourceExt as _;
use serde::Serialize;

use crate::fault::Fault;
use crate::kubernetes::{
    node_fault::sandbox_failure,
    pods::{self, Cause},
};
use crate::sampler::{Failure, Sample};

/// The state of a pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodFacts {
    /// Its name.
    pub name: String,
    /// Why its image cannot be pulled.
    #[serde(rename = "imageTrouble")]
    pub image_problem: Option<String>,
    /// The fault of its node, which cannot create or remove its sandbox.
    #[serde(skip)]
    pub sandbox_failure: Option<Fault>,
    /// Why it has no node.
    pub unscheduled: Option<String>,
    /// Why its container does not start or stay up.
    #[serde(rename = "trouble")]
    pub problem: Option<String>,
    /// How its previous run ended, if it was restarted.
    pub restarted: Option<String>,
    /// The message of its last failed probe.
    pub probe: Option<String>,
    /// Whether its condition `Ready` is true.
    pub ready: bool,
    /// Whether the lab keeps it from becoming ready on purpose.
    pub kept_unready: bool,
    /// Whether it is being deleted.
    #[serde(rename = "leaving")]
    pub terminating: bool,
}

/// A sample and its failures.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SampleFacts {
    /// The name of what was sampled.
    pub what: String,
    /// The number of requests sent.
    pub total: u64,
    /// Requests without a response: refused, broken off or timed out.
    pub lost: u64,
    /// Responses with a status other than 200, or that were not valid HTTP.
    pub wrong: u64,
    /// Those among them that a proxy without a route or backend sends: 404, 502, 503, 504.
    pub refused: u64,
    /// Whether the requests passed an Ingress.
    pub by_ingress: bool,
    /// The text of the first failure.
    pub example: Option<String>,
}

impl PodFacts {
    /// Reads the state of a pod.
    pub(super) fn of(pod: &Pod, events: &[Event], nodes: &[Node]) -> Self {
        let status = pod.status.as_ref();
        let name = pod.name_any();
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let missing = node.filter(|node| !nodes.iter().any(|known| known.name_any() == *node));
        let missing = missing.map(|node| format!("there is no node {node}"));
        let unscheduled = missing.or_else(|| pods::unscheduled(pod).map(str::to_owned));
        let (image, other) = match pods::waiting_problem(pod) {
            // A first failed pull concerns the image too, even if a retry may succeed.
            Some(problem) if problem.cause == Cause::Image || problem.reason == "ErrImagePull" => {
                (Some(problem.to_string()), None)
            }
            Some(problem) => (None, Some(problem.to_string())),
            None => (None, None),
        };
        let failed = status.and_then(|status| status.phase.as_deref()) == Some("Failed");
        let failed = failed.then(|| format!("pod {name} has failed"));
        let runs = pods::is_running(pod);
        let unstarted = (!runs).then(|| pods::last_start_failure(&name, events)).flatten();
        let unstarted = unstarted.map(|why| format!("pod {name} could not be started: {why}"));
        Self {
            probe: pods::last_probe_failure(&name, events),
            name,
            image_problem: image.clone(),
            sandbox_failure: sandbox_failure(pod, events),
            unscheduled,
            problem: other.or(failed).or(unstarted.filter(|_| image.is_none())),
            restarted: pods::restarted(pod),
            ready: pods::is_ready(pod),
            kept_unready: false,
            terminating: pods::is_terminating(pod),
        }
    }
}

impl SampleFacts {
    /// Classifies the failures of a sample.
    pub(super) fn of(what: &str, sample: &Sample) -> Self {
        let mut facts = Self { what: what.to_owned(), total: sample.total(), ..Self::default() };
        for (_, failure) in sample.failures() {
            match failure {
                Failure::Connect(_) | Failure::Local(_) | Failure::Broken(_) | Failure::Timeout => {
                    facts.lost += 1
                }
                Failure::Status(404 | 502..=504) => {
                    facts.wrong += 1;
                    facts.refused += 1;
                }
                Failure::Status(_) | Failure::Malformed(_) => facts.wrong += 1,
            }
            facts.example.get_or_insert_with(|| failure.to_string());
        }
        facts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pod_without_node_or_image_has_a_problem() {
        let facts = |status: serde_json::Value| {
            let pod = json!({"metadata": {"name": "p"}, "status": status});
            PodFacts::of(&serde_json::from_value(pod).unwrap(), &[], &[])
        };
        let waiting = |reason: &str| {
            json!({"containerStatuses": [{"name": "c", "image": "kubeapp:1.0", "imageID": "",
                "ready": false, "restartCount": 0, "state": {"waiting": {"reason": reason}}}]})
        };
        assert!(facts(waiting("ErrImagePull")).image_problem.is_some());
        assert!(facts(waiting("ErrImageNeverPull")).image_problem.is_some());
        assert!(facts(waiting("CrashLoopBackOff")).problem.is_some());
        let unscheduled = json!({"conditions": [{"type": "PodScheduled", "status": "False",
            "message": "no node takes it"}]});
        let found = facts(unscheduled).unscheduled;
        assert_eq!(found.as_deref(), Some("no node takes it"));
        assert!(facts(json!({"phase": "Failed"})).problem.is_some());
        let killed = json!({"containerStatuses": [{"name": "c", "image": "kubeapp:1.0",
            "imageID": "", "ready": true, "restartCount": 1, "state": {"running": {}},
            "lastState": {"terminated": {"exitCode": 137, "reason": "Error"}}}]});
        let found = facts(killed);
        assert_eq!(
            found.restarted.as_deref(),
            Some("its program ended with exit code 137 (Error)")
        );
        assert_eq!(found.problem, None);
    }
}

//! The facts about pods, Services and samples that a diagnosis is based on.

use k8s_openapi::api::core::v1::{Event, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;
use serde::Serialize;

use crate::kubernetes::{
    pods::{self, Cause},
    service,
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
    /// Why its container does not stay up, or why it is not scheduled.
    #[serde(rename = "trouble")]
    pub problem: Option<String>,
    /// The message of its last failed probe.
    pub probe: Option<String>,
    /// Whether its condition `Ready` is true.
    pub ready: bool,
    /// Whether it is being deleted.
    #[serde(rename = "leaving")]
    pub terminating: bool,
}

/// The state of a Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceFacts {
    /// Its name.
    pub name: String,
    /// The number of ready pods that its selector matches.
    pub matching: usize,
    /// The number of its ready endpoints.
    pub endpoints: usize,
    /// Whether its external address is pending.
    pub awaits_address: bool,
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
    pub(super) fn of(pod: &Pod, events: &[Event]) -> Self {
        let status = pod.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let unscheduled =
            conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False");
        let name = pod.name_any();
        let unscheduled = unscheduled
            .map(|c| format!("pod {name} has no node: {}", c.message.as_deref().unwrap_or("?")));
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
        Self {
            probe: pods::last_probe_failure(&name, events),
            name,
            image_problem: image,
            problem: other.or(unscheduled).or(failed),
            ready: pods::is_ready(pod),
            terminating: pods::is_terminating(pod),
        }
    }
}

impl ServiceFacts {
    /// Reads the state of a Service, its pods and its endpoints.
    pub(super) fn of(service: &Service, all: &[Pod], slices: &[EndpointSlice]) -> Self {
        let name = service.name_any();
        let spec = service.spec.as_ref();
        let selector = spec.and_then(|spec| spec.selector.clone()).unwrap_or_default();
        let matches = |pod: &&Pod| {
            let labels = pod.labels();
            !pods::is_terminating(pod)
                && pods::is_ready(pod)
                && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
        };
        let of_service = |slice: &&EndpointSlice| {
            slice.labels().get("kubernetes.io/service-name") == Some(&name)
        };
        let endpoints = service::endpoints(slices.iter().filter(of_service));
        let balances = spec.and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer");
        let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let address = balancer.and_then(|b| b.ingress.as_ref()).is_some_and(|i| !i.is_empty());
        Self {
            name,
            matching: all.iter().filter(matches).count(),
            endpoints: endpoints.values().filter(|ready| **ready).count(),
            awaits_address: balances && !address,
        }
    }
}

impl SampleFacts {
    /// Classifies the failures of a sample.
    pub(super) fn of(what: &str, sample: &Sample) -> Self {
        let mut facts = Self { what: what.to_owned(), total: sample.total(), ..Self::default() };
        for (_, failure) in sample.failures() {
            match failure {
                Failure::Connect(_) | Failure::Broken(_) | Failure::Timeout => facts.lost += 1,
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
    fn service_is_compared_with_its_ready_matching_pods() {
        let pod = |labels: serde_json::Value, ready: &str| -> Pod {
            let conditions = json!([{"type": "Ready", "status": ready}]);
            let status = json!({"conditions": conditions});
            serde_json::from_value(json!({"metadata": {"labels": labels}, "status": status}))
                .unwrap()
        };
        let all = [
            pod(json!({"app": "kubeapp"}), "True"),
            pod(json!({"app": "kubeapp"}), "False"),
            pod(json!({"app": "other"}), "True"),
        ];
        let service: Service = serde_json::from_value(json!({"metadata": {"name": "app-lb"},
            "spec": {"type": "LoadBalancer", "selector": {"app": "kubeapp"}}}))
        .unwrap();
        let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"labels": {"kubernetes.io/service-name": "app-lb"}},
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": ["10.0.0.1"], "targetRef": {"name": "a"}, "conditions": {"ready": true}},
            {"addresses": ["10.0.0.2"], "targetRef": {"name": "b"}, "conditions": {"ready": false}}
        ]}))
        .unwrap();
        let facts = ServiceFacts::of(&service, &all, &[slice]);
        assert_eq!((facts.matching, facts.endpoints, facts.awaits_address), (1, 1, true));
    }

    #[test]
    fn pod_without_node_or_image_has_a_problem() {
        let facts = |status: serde_json::Value| {
            let pod = json!({"metadata": {"name": "p"}, "status": status});
            PodFacts::of(&serde_json::from_value(pod).unwrap(), &[])
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
        let found = facts(unscheduled).problem;
        assert_eq!(found.as_deref(), Some("pod p has no node: no node takes it"));
        assert!(facts(json!({"phase": "Failed"})).problem.is_some());
    }
}

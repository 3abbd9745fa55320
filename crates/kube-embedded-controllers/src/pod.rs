//! Predicates on pods, and the order in which controllers delete them.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use std::{cmp::Ordering, collections::HashMap, sync::Arc};

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Returns `true` if the pod has succeeded or failed for good.
pub(crate) fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Returns `true` if the pod is being deleted.
pub(crate) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Returns `true` if the pod is neither finished nor terminating.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_terminating(pod) && !is_finished(pod)
}

/// Returns `true` if the pod's Ready condition is true.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    ready_condition(pod).is_some_and(|condition| condition.status == "True")
}

/// Returns the last transition of the pod's Ready condition.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    ready_condition(pod)?.last_transition_time.as_ref().map(|time| time.0)
}

fn ready_condition(pod: &Pod) -> Option<&PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == "Ready")
}

/// Sorts pods so that those to delete come first (Kubernetes' `ActivePodsWithRanks`). Of otherwise
/// equal pods, those on nodes with many `related` pods come first.
pub(crate) fn sort_for_deletion(pods: &mut [Arc<Pod>], related: &[Arc<Pod>], now: Timestamp) {
    let mut related_by_node: HashMap<&str, usize> = HashMap::new();
    for pod in related.iter().filter(|pod| is_active(pod)) {
        *related_by_node.entry(node_name(pod).unwrap_or_default()).or_default() += 1;
    }
    let related_on_node =
        |pod: &Pod| related_by_node.get(node_name(pod).unwrap_or_default()).copied().unwrap_or(0);
    pods.sort_by(|a, b| {
        node_name(a)
            .is_some()
            .cmp(&node_name(b).is_some())
            .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
            .then_with(|| is_ready(a).cmp(&is_ready(b)))
            .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
            .then_with(|| related_on_node(b).cmp(&related_on_node(a)))
            .then_with(|| match is_ready(a) {
                true => younger_first(ready_since(a), ready_since(b), a, b, now),
                false => Ordering::Equal,
            })
            .then_with(|| restarts(b).cmp(&restarts(a)))
            .then_with(|| younger_first(created(a), created(b), a, b, now))
    });
}

/// Returns the node that the pod is bound to.
pub(crate) fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

/// Ranks phases: running pods are deleted last.
fn phase_rank(pod: &Pod) -> u8 {
    match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Running") => 2,
        Some("Unknown") => 1,
        _ => 0,
    }
}

fn deletion_cost(pod: &Pod) -> i32 {
    let cost = pod.metadata.annotations.as_ref().and_then(|all| all.get(DELETION_COST));
    cost.and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

/// Returns the highest restart count of the containers.
fn restarts(pod: &Pod) -> i32 {
    let containers = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    containers.map(|container| container.restart_count).max().unwrap_or(0)
}

fn created(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

/// Orders the later time first. Ages are compared by powers of two, and pods of about the same age by
/// uid, so that it is not always the youngest failure domain that shrinks.
fn younger_first(
    a: Option<Timestamp>,
    b: Option<Timestamp>,
    first: &Pod,
    second: &Pod,
    now: Timestamp,
) -> Ordering {
    let (Some(a), Some(b)) = (a, b) else { return a.is_some().cmp(&b.is_some()) };
    if a == b {
        return Ordering::Equal;
    }
    let magnitude = |at: Timestamp| now.duration_since(at).as_nanos().max(1).ilog2();
    match magnitude(a).cmp(&magnitude(b)) {
        Ordering::Equal => first.metadata.uid.cmp(&second.metadata.uid),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::{
        api::core::v1::{PodSpec, PodStatus},
        apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    };

    const NOW: i64 = 1_763_000_000;

    fn at(seconds_ago: i64) -> Time {
        Time(Timestamp::from_second(NOW - seconds_ago).unwrap())
    }

    fn now() -> Timestamp {
        at(0).0
    }

    /// A running pod on a node that has been ready for `ready` seconds.
    fn pod(name: &str, node: &str, ready: Option<i64>) -> Pod {
        Pod {
            metadata: ObjectMeta {
                name: Some(name.into()),
                uid: Some(name.into()),
                creation_timestamp: Some(at(1000)),
                ..Default::default()
            },
            spec: Some(PodSpec {
                node_name: (!node.is_empty()).then(|| node.into()),
                ..Default::default()
            }),
            status: Some(PodStatus {
                phase: Some("Running".into()),
                conditions: Some(vec![PodCondition {
                    type_: "Ready".into(),
                    status: if ready.is_some() { "True" } else { "False" }.into(),
                    last_transition_time: ready.map(at),
                    ..Default::default()
                }]),
                ..Default::default()
            }),
        }
    }

    #[test]
    fn deletion_order_is_that_of_kubernetes() {
        let mut pending = pod("pending", "n1", None);
        pending.status.as_mut().unwrap().phase = Some("Pending".into());
        let mut cheap = pod("cheap", "n1", Some(900));
        cheap.metadata.annotations = Some([(DELETION_COST.into(), "-5".into())].into());
        let crowded = pod("crowded", "n3", Some(900));
        let neighbor = pod("neighbor", "n3", Some(900));
        let young = pod("young", "n2", Some(3));
        let old = pod("old", "n4", Some(900));
        let mut pods: Vec<Arc<Pod>> =
            [old, young, neighbor, crowded, cheap, pod("unready", "n5", None), pending]
                .into_iter()
                .chain([pod("unassigned", "", None)])
                .map(Arc::new)
                .collect();
        let mut related = pods.clone();
        // One is left on each other node, so that only n3 is crowded.
        related.retain(|pod| !["pending", "cheap"].contains(&pod.name()));
        sort_for_deletion(&mut pods, &related, now());
        let names: Vec<&str> = pods.iter().map(|pod| pod.name()).collect();
        let start = ["unassigned", "pending", "unready", "cheap"];
        assert_eq!(names[..4], start);
        let mut crowd = names[4..6].to_vec();
        crowd.sort_unstable();
        assert_eq!(crowd, ["crowded", "neighbor"]);
        assert_eq!(names[6..], ["young", "old"]);
    }

    trait Named {
        fn name(&self) -> &str;
    }

    impl Named for Pod {
        fn name(&self) -> &str {
            self.metadata.name.as_deref().unwrap()
        }
    }
}

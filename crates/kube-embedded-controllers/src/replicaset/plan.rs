//! Which pods a replica set creates or deletes, and what it says about them.

use super::super::{selection::controlled_by, write::is_finished};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
        core::v1::{Pod, PodCondition},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube_embedded_core::time::whole_seconds;
use std::{cmp::Ordering, collections::HashMap, sync::Arc, time::Duration};

const FAILURE: &str = "ReplicaFailure";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// What there is.
pub(crate) struct Observed<'a> {
    /// The pods that the set controls.
    pub(crate) pods: &'a [Arc<Pod>],
    /// The pods of its deployment's other sets, its own included.
    pub(crate) related: &'a [Arc<Pod>],
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) create: Vec<Pod>,
    pub(crate) delete: Vec<Arc<Pod>>,
    /// When a pod that is ready will count as available.
    pub(crate) again: Option<Duration>,
}

/// A write that the API refused.
pub(crate) struct Failure<'a> {
    pub(crate) reason: &'a str,
    pub(crate) message: String,
}

/// Plans the way to the wanted number of pods.
pub(crate) fn plan(set: &ReplicaSet, observed: &Observed<'_>, now: Timestamp) -> Plan {
    let Some(spec) = &set.spec else { return Plan::default() };
    let mut active: Vec<Arc<Pod>> =
        observed.pods.iter().filter(|pod| is_active(pod)).cloned().collect();
    let again = active.iter().filter_map(|pod| available_in(pod, min_ready(set), now)).min();
    let mut plan = Plan { again, ..Plan::default() };
    if set.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    if active.len() < wanted {
        plan.create = vec![pod(set); wanted - active.len()];
    } else if active.len() > wanted {
        let surplus = active.len() - wanted;
        rank(&mut active, observed.related, now);
        active.truncate(surplus);
        plan.delete = active;
    }
    plan
}

/// The status of a set with these pods.
pub(crate) fn status(
    set: &ReplicaSet,
    pods: &[Arc<Pod>],
    failure: Option<Failure<'_>>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    let labels = template.and_then(|template| template.metadata.as_ref()?.labels.as_ref());
    let fully_labeled = |pod: &&Arc<Pod>| {
        labels.into_iter().flatten().all(|(key, value)| {
            pod.metadata.labels.as_ref().and_then(|labels| labels.get(key)) == Some(value)
        })
    };
    let active: Vec<&Arc<Pod>> = pods.iter().filter(|pod| is_active(pod)).collect();
    let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let count = |n: usize| (n > 0).then(|| number(n));
    let known = set.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut conditions: Vec<ReplicaSetCondition> = known.cloned().unwrap_or_default();
    match failure {
        None => conditions.retain(|condition| condition.type_ != FAILURE),
        // The first failure stands until there is none.
        Some(failure) if conditions.iter().all(|condition| condition.type_ != FAILURE) => {
            conditions.push(ReplicaSetCondition {
                type_: FAILURE.into(),
                status: "True".into(),
                reason: Some(failure.reason.into()),
                message: Some(failure.message),
                last_transition_time: Some(Time(whole_seconds(now))),
            });
        }
        Some(_) => {}
    }
    ReplicaSetStatus {
        replicas: number(active.len()),
        fully_labeled_replicas: count(active.iter().filter(|pod| fully_labeled(pod)).count()),
        ready_replicas: count(active.iter().filter(|pod| is_ready(pod)).count()),
        available_replicas: count(
            active.iter().filter(|pod| is_available(pod, min_ready(set), now)).count(),
        ),
        terminating_replicas: Some(number(
            pods.iter().filter(|pod| is_leaving(pod) && !is_finished(pod)).count(),
        )),
        observed_generation: set.metadata.generation,
        conditions: (!conditions.is_empty()).then_some(conditions),
    }
}

/// Whether a pod's Ready condition is true.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    ready_condition(pod).is_some_and(|condition| condition.status == "True")
}

/// Whether a pod has been ready for long enough to be counted on.
pub(crate) fn is_available(pod: &Pod, min_ready: SignedDuration, now: Timestamp) -> bool {
    is_ready(pod) && (min_ready.is_zero() || available_in(pod, min_ready, now).is_none())
}

fn min_ready(set: &ReplicaSet) -> SignedDuration {
    let seconds = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    SignedDuration::from_secs(seconds.into())
}

/// How long until a ready pod is available; `None` if it is, or is not ready.
fn available_in(pod: &Pod, min_ready: SignedDuration, now: Timestamp) -> Option<Duration> {
    let since = ready_since(pod)?;
    let left = min_ready - now.duration_since(since);
    (is_ready(pod) && left.is_positive()).then(|| left.unsigned_abs())
}

fn ready_since(pod: &Pod) -> Option<Timestamp> {
    ready_condition(pod)?.last_transition_time.as_ref().map(|time| time.0)
}

fn ready_condition(pod: &Pod) -> Option<&PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == "Ready")
}

fn is_leaving(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether a pod is neither finished nor on its way out.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_leaving(pod) && !is_finished(pod)
}

/// A pod from the template, named by the API.
fn pod(set: &ReplicaSet) -> Pod {
    let template = set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
    let meta = template.metadata.unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", set.metadata.name.as_deref().unwrap_or_default())),
            namespace: set.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controlled_by(set)]),
            ..Default::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// Sorts pods so that those to delete come first: Kubernetes' `ActivePodsWithRanks`.
pub(crate) fn rank(pods: &mut [Arc<Pod>], related: &[Arc<Pod>], now: Timestamp) {
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for pod in related.iter().filter(|pod| is_active(pod)) {
        *on_node.entry(node(pod).unwrap_or_default()).or_default() += 1;
    }
    let crowd = |pod: &Pod| on_node.get(node(pod).unwrap_or_default()).copied().unwrap_or(0);
    pods.sort_by(|a, b| {
        node(a)
            .is_some()
            .cmp(&node(b).is_some())
            .then_with(|| phase(a).cmp(&phase(b)))
            .then_with(|| is_ready(a).cmp(&is_ready(b)))
            .then_with(|| cost(a).cmp(&cost(b)))
            .then_with(|| crowd(b).cmp(&crowd(a)))
            .then_with(|| match is_ready(a) {
                true => younger_first(ready_since(a), ready_since(b), a, b, now),
                false => Ordering::Equal,
            })
            .then_with(|| restarts(b).cmp(&restarts(a)))
            .then_with(|| younger_first(created(a), created(b), a, b, now))
    });
}

fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

fn phase(pod: &Pod) -> u8 {
    match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Running") => 2,
        Some("Unknown") => 1,
        _ => 0,
    }
}

fn cost(pod: &Pod) -> i32 {
    let cost = pod.metadata.annotations.as_ref().and_then(|all| all.get(DELETION_COST));
    cost.and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

fn restarts(pod: &Pod) -> i32 {
    let containers = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    containers.map(|container| container.restart_count).max().unwrap_or(0)
}

fn created(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

/// Ages of the same power of two count as one, and then the uid decides, so that it is not always
/// the youngest failure domain that shrinks.
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
    use k8s_openapi::api::core::v1::{PodSpec, PodStatus, PodTemplateSpec};

    const NOW: i64 = 1_763_000_000;

    fn at(seconds_ago: i64) -> Time {
        Time(Timestamp::from_second(NOW - seconds_ago).unwrap())
    }

    fn now() -> Timestamp {
        at(0).0
    }

    fn set(replicas: i32, min_ready: i32) -> ReplicaSet {
        let mut set = ReplicaSet::default();
        set.metadata.name = Some("web".into());
        set.metadata.uid = Some("web-uid".into());
        let spec = set.spec.get_or_insert_default();
        spec.replicas = Some(replicas);
        spec.min_ready_seconds = Some(min_ready);
        spec.template = Some(PodTemplateSpec::default());
        set
    }

    /// A running pod on a node, ready for so long.
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

    fn planned(set: &ReplicaSet, pods: Vec<Pod>) -> Plan {
        let pods: Vec<Arc<Pod>> = pods.into_iter().map(Arc::new).collect();
        plan(set, &Observed { pods: &pods, related: &pods }, now())
    }

    #[test]
    fn missing_pods_are_created_and_those_that_end_do_not_count() {
        let mut leaving = pod("leaving", "n", Some(5));
        leaving.metadata.deletion_timestamp = Some(at(0));
        let mut failed = pod("failed", "n", None);
        failed.status.as_mut().unwrap().phase = Some("Failed".into());
        let plan = planned(&set(3, 0), vec![pod("a", "n", Some(5)), leaving, failed]);
        assert_eq!((plan.create.len(), plan.delete.len()), (2, 0));
        let created = &plan.create[0].metadata;
        assert_eq!(created.generate_name.as_deref(), Some("web-"));
        assert_eq!(created.owner_references.as_ref().unwrap()[0].uid, "web-uid");
    }

    #[test]
    fn a_set_on_its_way_out_does_nothing() {
        let mut set = set(3, 0);
        set.metadata.deletion_timestamp = Some(at(0));
        assert_eq!(planned(&set, vec![]), Plan::default());
    }

    #[test]
    fn pods_are_deleted_in_the_order_of_kubernetes() {
        let mut pending = pod("pending", "n1", None);
        pending.status.as_mut().unwrap().phase = Some("Pending".into());
        let mut cheap = pod("cheap", "n1", Some(900));
        cheap.metadata.annotations = Some([(DELETION_COST.into(), "-5".into())].into());
        let crowded = pod("crowded", "n3", Some(900));
        let neighbour = pod("neighbour", "n3", Some(900));
        let young = pod("young", "n2", Some(3));
        let old = pod("old", "n4", Some(900));
        let mut pods: Vec<Arc<Pod>> =
            [old, young, neighbour, crowded, cheap, pod("unready", "n5", None), pending]
                .into_iter()
                .chain([pod("unassigned", "", None)])
                .map(Arc::new)
                .collect();
        let mut related = pods.clone();
        // Leave one on each other node, so that only n3 is crowded.
        related.retain(|pod| !["pending", "cheap"].contains(&pod.name()));
        rank(&mut pods, &related, now());
        let names: Vec<&str> = pods.iter().map(|pod| pod.name()).collect();
        let start = ["unassigned", "pending", "unready", "cheap"];
        assert_eq!(names[..4], start);
        let mut crowd = names[4..6].to_vec();
        crowd.sort_unstable();
        assert_eq!(crowd, ["crowded", "neighbour"]);
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

    #[test]
    fn available_is_ready_for_long_enough() {
        let set = set(2, 10);
        let pods = vec![pod("a", "n", Some(12)), pod("b", "n", Some(4))];
        let plan = planned(&set, pods.clone());
        assert_eq!(plan.again, Some(Duration::from_secs(6)));
        let pods: Vec<Arc<Pod>> = pods.into_iter().map(Arc::new).collect();
        let status = status(&set, &pods, None, now());
        assert_eq!(
            (status.replicas, status.ready_replicas, status.available_replicas),
            (2, Some(2), Some(1))
        );
        assert_eq!(status.terminating_replicas, Some(0));
    }

    #[test]
    fn the_first_failure_stands_until_there_is_none() {
        let failure =
            |message: &str| Some(Failure { reason: "FailedCreate", message: message.into() });
        let mut set = set(1, 0);
        set.status = Some(status(&set, &[], failure("quota"), now()));
        set.status = Some(status(&set, &[], failure("other"), now()));
        let conditions = set.status.clone().unwrap().conditions.unwrap();
        assert_eq!(conditions.len(), 1);
        assert_eq!(conditions[0].message.as_deref(), Some("quota"));
        assert_eq!(status(&set, &[], None, now()).conditions, None);
    }
}

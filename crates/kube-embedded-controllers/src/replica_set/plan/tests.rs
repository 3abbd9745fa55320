//! Plans and statuses of replica sets.

use super::*;
use crate::controller_ref::controller_ref;
use k8s_openapi::api::core::v1::{PodCondition, PodSpec, PodStatus, PodTemplateSpec};

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

fn planned(set: &ReplicaSet, pods: Vec<Pod>) -> Plan {
    let pods: Vec<Arc<Pod>> = pods.into_iter().map(Arc::new).collect();
    plan(set, &controller_ref(set), &Observed { pods: &pods, related: &pods }, now())
}

#[test]
fn missing_pods_are_created_and_finished_or_terminating_ones_do_not_count() {
    let mut terminating = pod("terminating", "n", Some(5));
    terminating.metadata.deletion_timestamp = Some(at(0));
    let mut failed = pod("failed", "n", None);
    failed.status.as_mut().unwrap().phase = Some("Failed".into());
    let plan = planned(&set(3, 0), vec![pod("a", "n", Some(5)), terminating, failed]);
    assert_eq!((plan.create.len(), plan.delete.len()), (2, 0));
    let created = &plan.create[0].metadata;
    assert_eq!(created.generate_name.as_deref(), Some("web-"));
    assert_eq!(created.owner_references.as_ref().unwrap()[0].uid, "web-uid");
}

#[test]
fn terminating_set_plans_nothing() {
    let mut set = set(3, 0);
    set.metadata.deletion_timestamp = Some(at(0));
    assert_eq!(planned(&set, vec![]), Plan::default());
}

#[test]
fn pod_is_available_after_min_ready_seconds() {
    let set = set(2, 10);
    let pods = vec![pod("a", "n", Some(12)), pod("b", "n", Some(4))];
    let plan = planned(&set, pods.clone());
    assert_eq!(plan.requeue_after, Some(Duration::from_secs(6)));
    let pods: Vec<Arc<Pod>> = pods.into_iter().map(Arc::new).collect();
    let status = status(&set, &pods, None, now());
    assert_eq!(
        (status.replicas, status.ready_replicas, status.available_replicas),
        (2, Some(2), Some(1))
    );
    assert_eq!(status.terminating_replicas, Some(0));
}

#[test]
fn first_failure_stays_until_there_is_none() {
    let failure = |message: &str| Some(Failure { reason: "FailedCreate", message: message.into() });
    let mut set = set(1, 0);
    set.status = Some(status(&set, &[], failure("quota"), now()));
    set.status = Some(status(&set, &[], failure("other"), now()));
    let conditions = set.status.clone().unwrap().conditions.unwrap();
    assert_eq!(conditions.len(), 1);
    assert_eq!(conditions[0].message.as_deref(), Some("quota"));
    assert_eq!(status(&set, &[], None, now()).conditions, None);
}

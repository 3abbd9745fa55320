//! Plans the pods that a replica set creates or deletes, and computes its status.

use crate::pod::{
    is_active, is_finished, is_ready, is_terminating, ready_since, sort_for_deletion,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time},
};
use kube_embedded_core::time::whole_seconds;
use std::{sync::Arc, time::Duration};

const FAILURE: &str = "ReplicaFailure";

/// The observed pods.
pub(crate) struct Observed<'a> {
    /// The pods that the set controls.
    pub(crate) pods: &'a [Arc<Pod>],
    /// The pods of all sets of its deployment.
    pub(crate) related: &'a [Arc<Pod>],
}

/// The writes to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) create: Vec<Pod>,
    pub(crate) delete: Vec<Arc<Pod>>,
    /// The time until the next ready pod becomes available.
    pub(crate) requeue_after: Option<Duration>,
}

/// A write that the API server rejected.
pub(crate) struct Failure<'a> {
    pub(crate) reason: &'a str,
    pub(crate) message: String,
}

/// Plans the creations or deletions that lead to the desired number of pods. `owner` is the reference to the set.
pub(crate) fn plan(
    set: &ReplicaSet,
    owner: &OwnerReference,
    observed: &Observed<'_>,
    now: Timestamp,
) -> Plan {
    let Some(spec) = &set.spec else { return Plan::default() };
    let mut active: Vec<Arc<Pod>> =
        observed.pods.iter().filter(|pod| is_active(pod)).cloned().collect();
    let requeue_after =
        active.iter().filter_map(|pod| available_in(pod, min_ready(set), now)).min();
    let mut plan = Plan { requeue_after, ..Plan::default() };
    if set.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let desired = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    if active.len() < desired {
        plan.create = vec![pod(set, owner); desired - active.len()];
    } else if active.len() > desired {
        let surplus = active.len() - desired;
        sort_for_deletion(&mut active, observed.related, now);
        active.truncate(surplus);
        plan.delete = active;
    }
    plan
}

/// Computes the status of a set with these pods.
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
        // As in Kubernetes, the first failure stays until there is none.
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
            pods.iter().filter(|pod| is_terminating(pod) && !is_finished(pod)).count(),
        )),
        observed_generation: set.metadata.generation,
        conditions: (!conditions.is_empty()).then_some(conditions),
    }
}

/// Returns `true` if the pod has been ready for `min_ready`.
pub(crate) fn is_available(pod: &Pod, min_ready: SignedDuration, now: Timestamp) -> bool {
    is_ready(pod) && (min_ready.is_zero() || available_in(pod, min_ready, now).is_none())
}

fn min_ready(set: &ReplicaSet) -> SignedDuration {
    let seconds = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    SignedDuration::from_secs(seconds.into())
}

/// Returns the time until a ready pod is available; `None` if it is available or not ready.
fn available_in(pod: &Pod, min_ready: SignedDuration, now: Timestamp) -> Option<Duration> {
    let since = ready_since(pod)?;
    let left = min_ready - now.duration_since(since);
    (is_ready(pod) && left.is_positive()).then(|| left.unsigned_abs())
}

/// Creates a pod from the template. The API server names it.
fn pod(set: &ReplicaSet, owner: &OwnerReference) -> Pod {
    let template = set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
    let meta = template.metadata.unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", set.metadata.name.as_deref().unwrap_or_default())),
            namespace: set.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner.clone()]),
            ..Default::default()
        },
        spec: template.spec,
        status: None,
    }
}

#[cfg(test)]
mod tests;

//! The status of a deployment: counts, and the conditions that `kubectl rollout status` relies on.

use super::{
    history::age_order,
    limits::{Limits, size},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube_embedded_core::time::whole_seconds;
use std::{sync::Arc, time::Duration};

pub(crate) const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const FAILURE: &str = "ReplicaFailure";
const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

/// Creates a condition with its last transition at `now`.
pub(crate) fn condition(
    type_: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> DeploymentCondition {
    let now = Time(whole_seconds(now));
    DeploymentCondition {
        type_: type_.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_transition_time: Some(now.clone()),
        last_update_time: Some(now),
    }
}

pub(crate) fn find<'a>(
    status: &'a DeploymentStatus,
    type_: &str,
) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

/// Sets a condition as Kubernetes' `SetDeploymentCondition` does: with an equal status and reason
/// nothing changes, and with an equal status the time of the transition stays.
pub(crate) fn set_condition(status: &mut DeploymentStatus, mut condition: DeploymentCondition) {
    if let Some(known) = find(status, &condition.type_) {
        if known.status == condition.status && known.reason == condition.reason {
            return;
        }
        if known.status == condition.status {
            condition.last_transition_time = known.last_transition_time.clone();
        }
    }
    remove_condition(status, &condition.type_.clone());
    status.conditions.get_or_insert_default().push(condition);
}

fn remove_condition(status: &mut DeploymentStatus, type_: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != type_);
        if conditions.is_empty() {
            status.conditions = None;
        }
    }
}

/// Records that the deployment was paused, which stops the progress deadline, or resumed, which
/// restarts it.
pub(crate) fn note_pause(deployment: &Deployment, status: &mut DeploymentStatus, now: Timestamp) {
    let reason = find(status, PROGRESSING).and_then(|known| known.reason.as_deref());
    if deadline(deployment).is_none() || reason == Some(TIMED_OUT) {
        return;
    }
    let (paused, noted) = (is_paused(deployment), reason == Some(PAUSED));
    let (reason, message) = match (paused, noted) {
        (true, false) => (PAUSED, "Deployment is paused"),
        (false, true) => ("DeploymentResumed", "Deployment is resumed"),
        _ => return,
    };
    set_condition(status, condition(PROGRESSING, "Unknown", reason, message.into(), now));
}

pub(crate) fn is_paused(deployment: &Deployment) -> bool {
    deployment.spec.as_ref().and_then(|spec| spec.paused) == Some(true)
}

/// Returns how long a rollout may take without progress. `i32::MAX` stands for no limit.
pub(crate) fn deadline(deployment: &Deployment) -> Option<SignedDuration> {
    let seconds = deployment.spec.as_ref()?.progress_deadline_seconds?;
    (seconds != i32::MAX).then(|| SignedDuration::from_secs(seconds.into()))
}

/// Computes the counts over the replica sets and the Available condition.
pub(crate) fn compute(
    deployment: &Deployment,
    known: &DeploymentStatus,
    sets: &[&ReplicaSet],
    newest: Option<&ReplicaSet>,
    now: Timestamp,
) -> DeploymentStatus {
    let limits = Limits::of(deployment);
    let of = |count: fn(&ReplicaSet) -> i32| sets.iter().map(|set| count(set)).sum::<i32>();
    let available = of(available);
    let unavailable = (of(size) - available).max(0);
    let count = |number: i32| (number != 0).then_some(number);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: count(of(existing)),
        updated_replicas: count(newest.map_or(0, existing)),
        ready_replicas: count(of(ready)),
        available_replicas: count(available),
        unavailable_replicas: count(unavailable),
        terminating_replicas: Some(of(terminating)),
        collision_count: known.collision_count,
        conditions: known.conditions.clone(),
    };
    let (value, reason, message) = if available >= limits.minimum() {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set_condition(&mut status, condition(AVAILABLE, value, reason, message.into(), now));
    status
}

pub(crate) fn existing(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

pub(crate) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

fn ready(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0)
}

fn terminating(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.terminating_replicas).unwrap_or(0)
}

/// Returns `true` if every replica belongs to the newest set and is available, and no other is left.
pub(crate) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let desired = Limits::of(deployment).replicas;
    status.updated_replicas.unwrap_or(0) == desired
        && status.replicas.unwrap_or(0) == desired
        && status.available_replicas.unwrap_or(0) == desired
        && status.observed_generation >= deployment.metadata.generation
}

/// Compares two statuses as Kubernetes' `DeploymentProgressing` does.
fn has_progressed(known: &DeploymentStatus, status: &DeploymentStatus) -> bool {
    let n = |count: Option<i32>| count.unwrap_or(0);
    let old = |status: &DeploymentStatus| n(status.replicas) - n(status.updated_replicas);
    n(status.updated_replicas) > n(known.updated_replicas)
        || old(status) < old(known)
        || n(status.ready_replicas) > n(known.ready_replicas)
        || n(status.available_replicas) > n(known.available_replicas)
}

/// Updates the Progressing and ReplicaFailure conditions. `known` is the status before this plan.
pub(crate) fn update_progress(
    deployment: &Deployment,
    known: &DeploymentStatus,
    status: &mut DeploymentStatus,
    sets: &[Arc<ReplicaSet>],
    newest: Option<&ReplicaSet>,
    now: Timestamp,
) {
    let current = find(status, PROGRESSING).cloned();
    let was_complete = status.replicas == status.updated_replicas
        && current.as_ref().and_then(|c| c.reason.as_deref()) == Some(COMPLETE);
    match deadline(deployment) {
        None => remove_condition(status, PROGRESSING),
        Some(_) if was_complete => {}
        Some(deadline) => {
            let subject = match newest.and_then(|set| set.metadata.name.as_ref()) {
                Some(name) => format!("ReplicaSet {name:?}"),
                None => {
                    format!("Deployment {:?}", deployment.metadata.name.as_deref().unwrap_or(""))
                }
            };
            if is_complete(deployment, status) {
                let message = format!("{subject} has successfully progressed.");
                set_condition(status, condition(PROGRESSING, "True", COMPLETE, message, now));
            } else if has_progressed(known, status) {
                let message = format!("{subject} is progressing.");
                let mut next = condition(PROGRESSING, "True", "ReplicaSetUpdated", message, now);
                // Removed first, so that the time of the last progress is updated.
                if let Some(current) = current.filter(|current| current.status == "True") {
                    next.last_transition_time = current.last_transition_time;
                }
                remove_condition(status, PROGRESSING);
                set_condition(status, next);
            } else if current.as_ref().is_some_and(|current| is_late(current, deadline, now)) {
                let message = format!("{subject} has timed out progressing.");
                set_condition(status, condition(PROGRESSING, "False", TIMED_OUT, message, now));
            }
        }
    }
    match failure(sets, newest) {
        Some(failure) => set_condition(status, failure),
        None => remove_condition(status, FAILURE),
    }
}

/// Returns `true` if the last progress is longer ago than the deadline.
fn is_late(current: &DeploymentCondition, deadline: SignedDuration, now: Timestamp) -> bool {
    match current.reason.as_deref() {
        Some(COMPLETE) => false,
        Some(TIMED_OUT) => true,
        _ => {
            current.last_update_time.as_ref().is_some_and(|at| now.duration_since(at.0) > deadline)
        }
    }
}

/// Returns when to plan again, so that an exceeded progress deadline is reported in time.
pub(crate) fn check_after(
    deployment: &Deployment,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<Duration> {
    let (deadline, current) = (deadline(deployment)?, find(status, PROGRESSING)?);
    if is_paused(deployment)
        || is_complete(deployment, status)
        || matches!(current.reason.as_deref(), Some(TIMED_OUT | COMPLETE))
    {
        return None;
    }
    let left = deadline - now.duration_since(current.last_update_time.as_ref()?.0);
    // One second more, because times of conditions have no fractions.
    Some(Duration::from_secs(u64::try_from(left.as_secs()).unwrap_or(0) + 1))
}

/// Returns the failure of the newest set to create or delete pods, or else that of the oldest set.
fn failure(sets: &[Arc<ReplicaSet>], newest: Option<&ReplicaSet>) -> Option<DeploymentCondition> {
    let mut others: Vec<&ReplicaSet> = sets.iter().map(Arc::as_ref).collect();
    others.sort_by_key(|set| age_order(&set.metadata));
    newest.into_iter().chain(others).find_map(|set| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        let failure = conditions.iter().find(|condition| condition.type_ == FAILURE)?;
        Some(DeploymentCondition {
            type_: FAILURE.into(),
            status: failure.status.clone(),
            reason: failure.reason.clone(),
            message: failure.message.clone(),
            last_transition_time: failure.last_transition_time.clone(),
            last_update_time: failure.last_transition_time.clone(),
        })
    })
}

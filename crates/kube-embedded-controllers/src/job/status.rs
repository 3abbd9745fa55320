//! The status of a job. As in Kubernetes, a pod that ended is first recorded as uncounted, then loses
//! its finalizer, and then is counted: so no pod is missed or counted twice, whatever fails in between.

use super::{
    condition::set_condition,
    indexes,
    plan::Plan,
    template::is_tracked,
    view::{End, View, positive},
};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobStatus},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube_embedded_core::time::whole_seconds;
use std::sync::Arc;

/// Returns the status after the plan's pods are created and deleted. It records the pods that ended,
/// which are counted once they have lost their finalizer.
pub(crate) fn record(job: &Job, pods: &[Arc<Pod>], plan: &Plan, now: Timestamp) -> JobStatus {
    let view = View::of(job, pods);
    let mut status = view.counted();
    let suspended = view.is_suspended();
    if status.start_time.is_none() && !suspended {
        status.start_time = Some(Time(whole_seconds(now)));
    }
    match &plan.outcome {
        Some(outcome) => {
            let type_ = if outcome.failed { "FailureTarget" } else { "SuccessCriteriaMet" };
            set_condition(&mut status, type_, "True", &outcome.reason, &outcome.message, now);
        }
        None if suspended => {
            set_condition(&mut status, "Suspended", "True", "JobSuspended", "Job suspended", now);
        }
        None => {
            let resumed =
                set_condition(&mut status, "Suspended", "False", "JobResumed", "Job resumed", now);
            if resumed {
                status.start_time = Some(Time(whole_seconds(now)));
            }
        }
    }
    let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
    let mut completed = view.recorded_indexes();
    for pod in view.unrecorded(plan.fails_job()) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let end = view.end_of(pod, plan.fails_job());
        if view.is_indexed() {
            match (indexes::of(pod).filter(|index| *index < view.completions()), end) {
                (Some(index), Some(End::Succeeded)) => {
                    completed.insert(index);
                }
                (Some(_), Some(End::Failed)) => {
                    uncounted.failed.get_or_insert_default().push(uid);
                }
                _ => {}
            }
        } else {
            match end {
                Some(End::Succeeded) => uncounted.succeeded.get_or_insert_default().push(uid),
                Some(End::Failed) => uncounted.failed.get_or_insert_default().push(uid),
                None => {}
            }
        }
    }
    if view.is_indexed() {
        status.succeeded = positive(completed.len());
        status.completed_indexes = (!completed.is_empty()).then(|| completed.to_string());
    }
    view.count_running(&mut status);
    status
}

/// Returns the pods whose finalizer can be removed, now that the status records them.
pub(crate) fn recorded_pods(job: &Job, pods: &[Arc<Pod>], plan: &Plan) -> Vec<Arc<Pod>> {
    let view = View::of(job, pods);
    let is_finished = plan.outcome.is_some();
    let is_recorded = |pod: &&Arc<Pod>| {
        is_tracked(pod) && (is_finished || view.end_of(pod, plan.fails_job()).is_some())
    };
    pods.iter().filter(is_recorded).cloned().collect()
}

/// Returns the status after finalizers are removed. It counts these pods, and reports the end of the
/// job.
pub(crate) fn finish(job: &Job, pods: &[Arc<Pod>], plan: &Plan, now: Timestamp) -> JobStatus {
    let view = View::of(job, pods);
    let mut status = view.counted();
    view.count_running(&mut status);
    let uncounted = status.uncounted_terminated_pods.as_ref();
    let has_uncounted = uncounted.is_some_and(|uncounted| {
        uncounted.succeeded.as_ref().is_some_and(|all| !all.is_empty())
            || uncounted.failed.as_ref().is_some_and(|all| !all.is_empty())
    });
    if let Some(outcome) = plan.outcome.as_ref()
        && !has_uncounted
        && status.terminating.unwrap_or(0) == 0
        && status.active.unwrap_or(0) == 0
    {
        let type_ = if outcome.failed { "Failed" } else { "Complete" };
        set_condition(&mut status, type_, "True", &outcome.reason, &outcome.message, now);
        if !outcome.failed {
            status.completion_time = Some(Time(whole_seconds(now)));
        }
    }
    status
}

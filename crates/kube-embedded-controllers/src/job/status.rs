//! The status of a job. As in Kubernetes, a pod that ended is first recorded as uncounted, then loses
//! its finalizer, and then is counted: so no pod is missed or counted twice, whatever fails in between.

use super::{
    condition::set_condition,
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
use std::{collections::BTreeSet, sync::Arc};

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
            let suspended = set_condition(
                &mut status,
                "Suspended",
                "True",
                "JobSuspended",
                "Job suspended",
                now,
            );
            if suspended {
                status.start_time = None;
            }
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
    let settled = Settled::of(&view, plan);
    let unrecorded = view.unrecorded(plan.fails_job()).into_iter();
    let counts = |pod: &&Arc<Pod>| settled.contains(pod) && !plan.is_superfluous(pod);
    for pod in unrecorded.filter(counts) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        match (view.end_of(pod, plan.fails_job()), view.index_of(pod)) {
            (Some(End::Succeeded), Some(index)) if view.is_indexed() => completed.insert(index),
            (Some(End::Succeeded), _) => uncounted.succeeded.get_or_insert_default().push(uid),
            (Some(End::Failed), _) if view.is_failure_counted(pod) => {
                uncounted.failed.get_or_insert_default().push(uid);
            }
            _ => {}
        }
    }
    if view.is_indexed() {
        status.succeeded = positive(completed.len());
        status.completed_indexes = (!completed.is_empty()).then(|| completed.to_string());
        status.failed_indexes = view.failed_indexes().map(|failed| failed.to_string());
    }
    view.count_running(&mut status);
    status
}

/// Returns the pods whose finalizer can be removed, now that the status records them.
pub(crate) fn recorded_pods(job: &Job, pods: &[Arc<Pod>], plan: &Plan) -> Vec<Arc<Pod>> {
    let view = View::of(job, pods);
    let settled = Settled::of(&view, plan);
    pods.iter().filter(|pod| is_tracked(pod) && settled.contains(pod)).cloned().collect()
}

/// The pods that have ended and are not needed any more to decide on the job or on their index.
struct Settled<'a> {
    view: &'a View<'a>,
    plan: &'a Plan,
    /// The uids of failed pods whose successor takes over their number of failures.
    awaiting: BTreeSet<&'a str>,
}

impl<'a> Settled<'a> {
    fn of(view: &'a View<'a>, plan: &'a Plan) -> Self {
        let awaiting = view.awaiting_replacement();
        let awaiting = awaiting.values().filter_map(|pod| pod.metadata.uid.as_deref()).collect();
        Self { view, plan, awaiting }
    }

    fn contains(&self, pod: &Pod) -> bool {
        if self.plan.outcome.is_some() {
            return true;
        }
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        match self.view.end_of(pod, false) {
            Some(End::Succeeded) => true,
            // One that failed after the plan was made may fail the job by the next.
            Some(End::Failed) => {
                !self.awaiting.contains(uid) && self.view.job_failure(pod).is_none()
            }
            None => false,
        }
    }
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

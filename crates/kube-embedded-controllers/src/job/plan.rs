//! Plans the pods that a job creates and deletes, and decides when it is finished (Kubernetes'
//! `pkg/controller/job`).

use super::{
    backoff::PodFailures,
    condition::true_condition,
    indexes,
    template::pod,
    view::{End, View},
};
use crate::pod::sort_for_deletion;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// The maximum number of pods created or deleted by one plan, as in Kubernetes.
const MAX_PODS: usize = 500;

/// The end of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) failed: bool,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// The writes for one job.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) create: Vec<Pod>,
    /// Pods that are superfluous: they are deleted without being counted.
    pub(crate) delete_uncounted: Vec<Arc<Pod>>,
    /// Pods that are deleted because the job is finished.
    pub(crate) delete: Vec<Arc<Pod>>,
    /// The end of the job, once all its pods are deleted or counted.
    pub(crate) outcome: Option<Outcome>,
    pub(crate) failures: PodFailures,
    /// The time until the plan changes by itself.
    pub(crate) requeue_after: Option<Duration>,
}

impl Plan {
    /// Returns `true` if the job ends as failed: every running pod counts as failed then.
    pub(crate) fn fails_job(&self) -> bool {
        self.outcome.as_ref().is_some_and(|outcome| outcome.failed)
    }
}

/// Plans the creations and deletions that lead to the desired number of completions.
pub(crate) fn plan(job: &Job, pods: &[Arc<Pod>], known: PodFailures, now: Timestamp) -> Plan {
    let view = View::of(job, pods);
    let mut plan = Plan { failures: view.failures(known), ..Plan::default() };
    if let Some(outcome) = outcome(&view, now) {
        plan.delete = view.active();
        plan.outcome = Some(outcome);
        return plan;
    }
    if let Some(left) = remaining_deadline(&view, now) {
        plan.requeue_after = Some(left.unsigned_abs());
    }
    manage_pods(&view, &mut plan, now);
    if is_complete(&view) && plan.create.is_empty() && plan.delete_uncounted.is_empty() {
        plan.outcome = Some(Outcome {
            failed: false,
            reason: "CompletionsReached".into(),
            message: "Reached expected number of succeeded pods".into(),
        });
    }
    plan
}

/// Returns `true` if the completions are reached and no pod runs any more.
fn is_complete(view: &View<'_>) -> bool {
    let active = view.active().len();
    match view.spec(|spec| spec.completions) {
        None => view.succeeded() > 0 && active == 0,
        Some(desired) => view.succeeded() >= usize::try_from(desired).unwrap_or(0) && active == 0,
    }
}

/// Returns why the job ends, other than by reaching its completions.
fn outcome(view: &View<'_>, now: Timestamp) -> Option<Outcome> {
    for (type_, failed) in [("FailureTarget", true), ("SuccessCriteriaMet", false)] {
        if let Some(target) = true_condition(view.job, type_) {
            return Some(Outcome {
                failed,
                reason: target.reason.clone().unwrap_or_default(),
                message: target.message.clone().unwrap_or_default(),
            });
        }
    }
    let failure = |reason: &str, message: &str| {
        Some(Outcome { failed: true, reason: reason.into(), message: message.into() })
    };
    let limit = view.spec(|spec| spec.backoff_limit).unwrap_or(6);
    let limit = usize::try_from(limit).unwrap_or(0);
    if view.ended(End::Failed) > limit || view.restarted_too_often(limit) {
        return failure("BackoffLimitExceeded", "Job has reached the specified backoff limit");
    }
    if remaining_deadline(view, now).is_some_and(|left| !left.is_positive()) {
        return failure("DeadlineExceeded", "Job was active longer than specified deadline");
    }
    None
}

/// Returns the rest of `activeDeadlineSeconds`.
fn remaining_deadline(view: &View<'_>, now: Timestamp) -> Option<SignedDuration> {
    let seconds = view.spec(|spec| spec.active_deadline_seconds)?;
    let start = view.start_time()?;
    (!view.is_suspended()).then(|| SignedDuration::from_secs(seconds) - now.duration_since(start))
}

/// Creates missing pods, or deletes surplus ones; never both.
fn manage_pods(view: &View<'_>, plan: &mut Plan, now: Timestamp) {
    if view.is_suspended() {
        plan.delete_uncounted = view.active();
        return;
    }
    let desired = desired_pods(view);
    let mut active = view.active();
    let mut active_indexes = BTreeSet::new();
    if view.is_indexed() {
        // Pods with an index that another pod has, or beyond the last one, are useless.
        (active, plan.delete_uncounted) = active.into_iter().partition(|pod| {
            let index = indexes::of(pod).filter(|index| *index < view.completions());
            index.is_some_and(|index| active_indexes.insert(index))
        });
    }
    let surplus = active.len().saturating_sub(desired);
    if surplus > 0 {
        let related = active.clone();
        sort_for_deletion(&mut active, &related, now);
        plan.delete_uncounted.extend(active.drain(..surplus));
    }
    plan.delete_uncounted.truncate(MAX_PODS);
    if !plan.delete_uncounted.is_empty() {
        return;
    }
    let terminating = if view.replaces_only_failed() { view.terminating() } else { 0 };
    let missing = desired.saturating_sub(active.len() + terminating).min(MAX_PODS);
    if missing == 0 {
        return;
    }
    if let Some(delay) = plan.failures.remaining_delay(now) {
        plan.requeue_after = Some(plan.requeue_after.map_or(delay, |known| known.min(delay)));
        return;
    }
    plan.create = if view.is_indexed() {
        let completed = view.completed_indexes();
        let open = completed.open(view.completions());
        let open = open.filter(|index| !active_indexes.contains(index));
        open.take(missing).map(|index| pod(view.job, Some(index))).collect()
    } else {
        vec![pod(view.job, None); missing]
    };
}

/// Returns the number of pods that should run.
fn desired_pods(view: &View<'_>) -> usize {
    let parallelism = view.spec(|spec| spec.parallelism).unwrap_or(1);
    let parallelism = usize::try_from(parallelism).unwrap_or(0);
    let succeeded = view.succeeded();
    match view.spec(|spec| spec.completions) {
        // Without a number of completions, one success is enough, and the running pods may end.
        None if succeeded > 0 => view.active().len(),
        None => parallelism,
        Some(completions) => {
            let open = usize::try_from(completions).unwrap_or(0).saturating_sub(succeeded);
            open.min(parallelism)
        }
    }
}

#[cfg(test)]
mod tests;

//! Plans the pods that a job creates and deletes, and decides when it is finished (Kubernetes'
//! `pkg/controller/job`).

use super::{
    backoff::PodFailures,
    condition::true_condition,
    indexes::Indexes,
    template::pod,
    view::{End, View, ended_at},
};
use crate::pod::{is_finished, sort_for_deletion};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use std::{sync::Arc, time::Duration};

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
    /// Returns `true` for a pod that is stopped because the job has succeeded without it: it does not count
    /// as failed.
    pub(crate) fn is_superfluous(&self, pod: &Pod) -> bool {
        self.outcome.as_ref().is_some_and(|outcome| !outcome.failed) && !is_finished(pod)
    }

    /// Plans again after this time at the latest.
    fn requeue_within(&mut self, delay: Duration) {
        self.requeue_after = Some(self.requeue_after.map_or(delay, |known| known.min(delay)));
    }

    /// Returns `true` if the job ends as failed: every running pod counts as failed then.
    pub(crate) fn fails_job(&self) -> bool {
        self.outcome.as_ref().is_some_and(|outcome| outcome.failed)
    }
}

/// Plans the creations and deletions that lead to the desired number of completions.
pub(crate) fn plan(job: &Job, pods: &[Arc<Pod>], known: PodFailures, now: Timestamp) -> Plan {
    let view = View::of(job, pods);
    let failures = match view.limit_per_index() {
        // Each index has a delay of its own.
        Some(_) => PodFailures::default(),
        None => view.failures(known),
    };
    let mut plan = Plan { failures, ..Plan::default() };
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
    for (type_, failed) in [("SuccessCriteriaMet", false), ("FailureTarget", true)] {
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
    if let Some(message) = view.failure_by_policy() {
        return failure("PodFailurePolicy", &message);
    }
    let limit = view.spec(|spec| spec.backoff_limit).unwrap_or(6);
    let limit = usize::try_from(limit).unwrap_or(0);
    if view.ended(End::Failed) > limit || view.restarted_too_often(limit) {
        return failure("BackoffLimitExceeded", "Job has reached the specified backoff limit");
    }
    if remaining_deadline(view, now).is_some_and(|left| !left.is_positive()) {
        return failure("DeadlineExceeded", "Job was active longer than specified deadline");
    }
    if let Some(failed) = view.failed_indexes().filter(|failed| !failed.is_empty()) {
        let limit = view.spec(|spec| spec.max_failed_indexes);
        if limit.is_some_and(|limit| failed.len() > usize::try_from(limit).unwrap_or(0)) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return failure("MaxFailedIndexesExceeded", message);
        }
        let settled = failed.len() + view.completed_indexes().len();
        if settled >= usize::try_from(view.completions()).unwrap_or(0) {
            return failure("FailedIndexes", "Job has failed indexes");
        }
    }
    let message = matched_success_rule(view).map(|at| format!("Matched rules at index {at}"))?;
    Some(Outcome { failed: false, reason: "SuccessPolicy".into(), message })
}

/// Returns the position of the first rule of the success policy that the completed indexes satisfy.
fn matched_success_rule(view: &View<'_>) -> Option<usize> {
    let rules = &view.job.spec.as_ref()?.success_policy.as_ref()?.rules;
    let completed = view.completed_indexes();
    if completed.is_empty() || !view.is_indexed() {
        return None;
    }
    rules.iter().position(|rule| {
        let wanted = rule.succeeded_count.map(|count| usize::try_from(count).unwrap_or(0));
        match &rule.succeeded_indexes {
            Some(text) => {
                let listed = Indexes::parse(text, view.completions());
                let common = listed.common(&completed);
                let has_all = common == listed.len();
                !listed.is_empty() && (has_all || wanted.is_some_and(|count| common >= count))
            }
            None => wanted.is_some_and(|count| completed.len() >= count),
        }
    })
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
    let related = active.clone();
    sort_for_deletion(&mut active, &related, now);
    // In an indexed job, pods with an index that another pod has, or beyond the last one, are useless.
    let mut taken = Indexes::default();
    let mut kept = Vec::new();
    for pod in active.into_iter().rev() {
        let index = view.index_of(&pod).filter(|index| !taken.contains(*index));
        index.into_iter().for_each(|index| taken.insert(index));
        if view.is_indexed() && index.is_none() {
            plan.delete_uncounted.push(pod);
        } else {
            kept.push(pod);
        }
    }
    plan.delete_uncounted.extend(kept.drain(desired.min(kept.len())..));
    plan.delete_uncounted.truncate(MAX_PODS);
    if !plan.delete_uncounted.is_empty() {
        return;
    }
    let terminating = if view.replaces_only_failed() { view.terminating().count() } else { 0 };
    let missing = desired.saturating_sub(kept.len() + terminating).min(MAX_PODS);
    if missing == 0 {
        return;
    }
    if let Some(delay) = plan.failures.remaining_delay(now) {
        plan.requeue_within(delay);
        return;
    }
    if view.is_indexed() {
        create_indexed(view, plan, taken, missing, now);
    } else {
        plan.create = vec![pod(view.job, None, None); missing];
    }
}

/// Creates pods for the first indexes that are neither settled nor `taken`, as far as the failures of
/// each allow it now.
fn create_indexed(
    view: &View<'_>,
    plan: &mut Plan,
    mut taken: Indexes,
    missing: usize,
    now: Timestamp,
) {
    taken.extend(&view.completed_indexes());
    if view.replaces_only_failed() {
        view.terminating()
            .filter_map(|pod| view.index_of(pod))
            .for_each(|index| taken.insert(index));
    }
    let failed = view.failed_indexes();
    failed.iter().for_each(|failed| taken.extend(failed));
    let awaiting = view.awaiting_replacement();
    let mut delays = Vec::new();
    for index in taken.open(view.completions()).take(missing) {
        let failures = failed.as_ref().map(|_| match awaiting.get(&index) {
            Some(last) => (view.failures_with(last), Some(ended_at(last))),
            None => Default::default(),
        });
        let delay = failures.and_then(|(failures, last)| {
            let count = u32::try_from(failures.total()).unwrap_or(0);
            PodFailures { count, last }.remaining_delay(now)
        });
        match delay {
            Some(delay) => delays.push(delay),
            None => {
                let failures = failures.map(|(failures, _)| failures);
                plan.create.push(pod(view.job, Some(index), failures));
            }
        }
    }
    if plan.create.is_empty() {
        delays.into_iter().min().into_iter().for_each(|delay| plan.requeue_within(delay));
    }
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

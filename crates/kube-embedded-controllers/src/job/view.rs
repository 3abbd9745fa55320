//! A job and its pods as observed: which pods are active, ended, recorded in the status, or counted.

use super::{
    backoff::PodFailures,
    indexes::{self, Failures, Indexes},
    pod_failure_policy::{self, Action},
    template::is_tracked,
};
use crate::pod::{is_active, is_finished, is_ready, is_terminating};
use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::{Job, JobSpec, JobStatus, UncountedTerminatedPods},
    core::v1::Pod,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The count to which a pod that ended is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Succeeded,
    Failed,
}

/// A job and its pods as observed.
pub(crate) struct View<'a> {
    pub(crate) job: &'a Job,
    pods: &'a [Arc<Pod>],
    status: JobStatus,
}

impl<'a> View<'a> {
    pub(crate) fn of(job: &'a Job, pods: &'a [Arc<Pod>]) -> Self {
        let status = job.status.clone().unwrap_or_default();
        Self { job, pods, status }
    }

    /// Returns a field of the spec.
    pub(crate) fn spec<T>(&self, field: impl FnOnce(&JobSpec) -> Option<T>) -> Option<T> {
        self.job.spec.as_ref().and_then(field)
    }

    pub(crate) fn start_time(&self) -> Option<Timestamp> {
        self.status.start_time.as_ref().map(|time| time.0)
    }

    pub(crate) fn is_suspended(&self) -> bool {
        self.spec(|spec| spec.suspend).unwrap_or(false)
    }

    pub(crate) fn is_indexed(&self) -> bool {
        self.spec(|spec| spec.completion_mode.clone()).as_deref() == Some("Indexed")
    }

    pub(crate) fn completions(&self) -> i32 {
        self.spec(|spec| spec.completions).unwrap_or(0)
    }

    /// Returns the index of a pod of an indexed job, unless it is beyond the last.
    pub(crate) fn index_of(&self, pod: &Pod) -> Option<i32> {
        indexes::of(pod).filter(|index| *index < self.completions())
    }

    /// Returns `false` for a pod that is nothing to an indexed job.
    fn is_valid(&self, pod: &Pod) -> bool {
        !self.is_indexed() || self.index_of(pod).is_some()
    }

    /// Returns the number of failures that an index may have, if each has a limit.
    pub(crate) fn limit_per_index(&self) -> Option<i32> {
        self.spec(|spec| spec.backoff_limit_per_index).filter(|_| self.is_indexed())
    }

    /// Returns `true` if the failure of a pod counts towards the limits.
    pub(crate) fn is_failure_counted(&self, pod: &Pod) -> bool {
        pod_failure_policy::action(self.job, pod) != Action::Ignore
    }

    /// Returns why a failed pod fails the job at once.
    pub(crate) fn job_failure(&self, pod: &Pod) -> Option<String> {
        match self.end_of(pod, false) {
            Some(End::Failed) => match pod_failure_policy::action(self.job, pod) {
                Action::FailJob(message) => Some(message),
                _ => None,
            },
            _ => None,
        }
    }

    /// Returns why the job fails at once by its pod failure policy.
    pub(crate) fn failure_by_policy(&self) -> Option<String> {
        self.spec(|spec| spec.pod_failure_policy.as_ref().map(|_| ()))?;
        self.pods.iter().find_map(|pod| self.job_failure(pod))
    }

    /// Returns the pods that are neither finished nor terminating.
    pub(crate) fn active(&self) -> Vec<Arc<Pod>> {
        self.pods.iter().filter(|pod| is_active(pod)).cloned().collect()
    }

    /// Returns how a pod counts; `None` while it may still succeed. A terminating pod counts as failed
    /// unless the job replaces only failed pods; once the job has failed, so does every running pod.
    pub(crate) fn end_of(&self, pod: &Pod, job_failed: bool) -> Option<End> {
        match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
            Some("Succeeded") => Some(End::Succeeded),
            Some("Failed") => Some(End::Failed),
            _ if pod.metadata.deletion_timestamp.is_some() && !self.replaces_only_failed() => {
                Some(End::Failed)
            }
            _ if job_failed => Some(End::Failed),
            _ => None,
        }
    }

    /// Returns `true` if the status lists the pod as uncounted.
    fn is_recorded(&self, pod: &Pod) -> bool {
        let uncounted = self.status.uncounted_terminated_pods.as_ref();
        uncounted.is_some_and(|uncounted| {
            let mut uids = uncounted.succeeded.iter().chain(uncounted.failed.iter()).flatten();
            uids.any(|uid| Some(uid) == pod.metadata.uid.as_ref())
        })
    }

    /// Returns the pods that ended and are not recorded in the status yet.
    pub(crate) fn unrecorded(&self, job_failed: bool) -> Vec<&'a Arc<Pod>> {
        let ended = |pod: &&Arc<Pod>| {
            is_tracked(pod)
                && self.is_valid(pod)
                && !self.is_recorded(pod)
                && self.end_of(pod, job_failed).is_some()
        };
        self.pods.iter().filter(ended).collect()
    }

    /// Returns the number of pods that ended so and count, recorded or not.
    pub(crate) fn ended(&self, end: End) -> usize {
        let uncounted = self.status.uncounted_terminated_pods.as_ref();
        let recorded = uncounted.map_or(0, |uncounted| {
            let uids = match end {
                End::Succeeded => uncounted.succeeded.as_ref(),
                End::Failed => uncounted.failed.as_ref(),
            };
            uids.map_or(0, Vec::len)
        });
        let counted = match end {
            End::Succeeded => self.status.succeeded,
            End::Failed => self.status.failed,
        };
        let unrecorded = self.unrecorded(false);
        let unrecorded = unrecorded.iter().filter(|pod| {
            let counts = end == End::Succeeded || self.is_failure_counted(pod);
            self.end_of(pod, false) == Some(end) && counts
        });
        usize::try_from(counted.unwrap_or(0)).unwrap_or(0) + recorded + unrecorded.count()
    }

    /// Returns the completed indexes that the status records.
    pub(crate) fn recorded_indexes(&self) -> Indexes {
        let text = self.status.completed_indexes.as_deref().unwrap_or_default();
        Indexes::parse(text, self.completions())
    }

    /// Returns all completed indexes, recorded or not.
    pub(crate) fn completed_indexes(&self) -> Indexes {
        let mut done = self.recorded_indexes();
        for pod in self.unrecorded(false) {
            if self.end_of(pod, false) == Some(End::Succeeded) {
                self.index_of(pod).into_iter().for_each(|index| done.insert(index));
            }
        }
        done
    }

    /// Returns the indexes that have failed for good, if each has a limit.
    pub(crate) fn failed_indexes(&self) -> Option<Indexes> {
        let limit = self.limit_per_index()?;
        let text = self.status.failed_indexes.as_deref().unwrap_or_default();
        let mut failed = Indexes::parse(text, self.completions());
        for pod in self.pods.iter().filter(|pod| is_tracked(pod)) {
            if self.end_of(pod, false) == Some(End::Failed)
                && let Some(index) = self.index_of(pod)
                && match pod_failure_policy::action(self.job, pod) {
                    Action::FailIndex => true,
                    Action::Ignore => false,
                    Action::Count | Action::FailJob(_) => Failures::before(pod).counted >= limit,
                }
            {
                failed.insert(index);
            }
        }
        Some(failed)
    }

    /// Returns the last failed pod of each index that has no pod now, if each index has a limit. It keeps
    /// its finalizer until the next pod of the index is created, which needs its number of failures.
    pub(crate) fn awaiting_replacement(&self) -> BTreeMap<i32, &'a Arc<Pod>> {
        let mut awaiting: BTreeMap<i32, &Arc<Pod>> = BTreeMap::new();
        let Some(mut settled) = self.failed_indexes() else { return awaiting };
        settled.extend(&self.completed_indexes());
        let active = self.pods.iter().filter(|pod| is_active(pod));
        active.filter_map(|pod| self.index_of(pod)).for_each(|index| settled.insert(index));
        let rank = |pod: &Pod| (Failures::before(pod).total(), ended_at(pod));
        for pod in self.pods.iter().filter(|pod| is_tracked(pod)) {
            let Some(index) = self.index_of(pod).filter(|index| !settled.contains(*index)) else {
                continue;
            };
            if self.end_of(pod, false) == Some(End::Failed) {
                let last = awaiting.entry(index).or_insert(pod);
                if rank(pod) >= rank(last) {
                    *last = pod;
                }
            }
        }
        awaiting
    }

    /// Returns the failures of an index, of which this pod was the last.
    pub(crate) fn failures_with(&self, pod: &Pod) -> Failures {
        let before = Failures::before(pod);
        match self.is_failure_counted(pod) {
            true => Failures { counted: before.counted.saturating_add(1), ..before },
            false => Failures { ignored: before.ignored.saturating_add(1), ..before },
        }
    }

    /// Returns the number of completions: indexes of an indexed job, or else pods.
    pub(crate) fn succeeded(&self) -> usize {
        if self.is_indexed() { self.completed_indexes().len() } else { self.ended(End::Succeeded) }
    }

    /// Returns `true` if pods that restart in place exceed the backoff limit by their restarts.
    pub(crate) fn restarted_too_often(&self, limit: usize) -> bool {
        let template = self.spec(|spec| spec.template.spec.as_ref()?.restart_policy.clone());
        if template.as_deref() != Some("OnFailure") {
            return false;
        }
        let alive = self.pods.iter().filter(|pod| !is_finished(pod));
        let statuses = alive.flat_map(|pod| pod.status.iter()).flat_map(|status| {
            status.init_container_statuses.iter().chain(&status.container_statuses).flatten()
        });
        let restarts: i64 = statuses.map(|container| i64::from(container.restart_count)).sum();
        usize::try_from(restarts).unwrap_or(0) >= limit.max(1)
    }

    /// Adds the failures that the status does not record yet to those known; a success resets them.
    pub(crate) fn failures(&self, known: PodFailures) -> PodFailures {
        let unrecorded = self.unrecorded(false);
        let ended = |end: End| {
            let pods = unrecorded.iter().filter(move |pod| self.end_of(pod, false) == Some(end));
            pods.map(|pod| ended_at(pod)).collect::<Vec<_>>()
        };
        let (successes, failures) = (ended(End::Succeeded), ended(End::Failed));
        let since = successes.into_iter().max();
        let later = failures.iter().filter(|at| since.is_none_or(|since| **at > since));
        let new = u32::try_from(later.count()).unwrap_or(u32::MAX);
        let before = if since.is_some() { 0 } else { known.count };
        let last = failures.into_iter().max().into_iter().chain(known.last).max();
        PodFailures { count: before.saturating_add(new), last }
    }

    /// Returns `true` if terminating pods keep their place until they end.
    pub(crate) fn replaces_only_failed(&self) -> bool {
        let policy = self.spec(|spec| spec.pod_replacement_policy.clone());
        policy.as_deref() == Some("Failed")
    }

    /// Returns the pods that are terminating but still run.
    pub(crate) fn terminating(&self) -> impl Iterator<Item = &'a Arc<Pod>> {
        self.pods.iter().filter(|pod| is_terminating(pod) && !is_finished(pod))
    }

    /// Returns the status with the recorded pods counted that have lost their finalizer.
    pub(crate) fn counted(&self) -> JobStatus {
        let mut status = self.status.clone();
        let tracked: BTreeSet<&str> = self
            .pods
            .iter()
            .filter(|pod| is_tracked(pod))
            .filter_map(|pod| pod.metadata.uid.as_deref())
            .collect();
        let uncounted = status.uncounted_terminated_pods.take().unwrap_or_default();
        let count = |uids: Option<Vec<String>>, counted: Option<i32>| {
            let uids = uids.unwrap_or_default();
            let all = uids.len();
            let left: Vec<String> =
                uids.into_iter().filter(|uid| tracked.contains(uid.as_str())).collect();
            let untracked = i32::try_from(all - left.len()).unwrap_or(i32::MAX);
            let total = counted.unwrap_or(0).saturating_add(untracked);
            ((!left.is_empty()).then_some(left), (total > 0).then_some(total))
        };
        let (succeeded, number) = count(uncounted.succeeded, status.succeeded);
        status.succeeded = number;
        let (failed, number) = count(uncounted.failed, status.failed);
        status.failed = number;
        status.uncounted_terminated_pods = Some(UncountedTerminatedPods { succeeded, failed });
        status
    }

    /// Updates the numbers of active, ready and terminating pods.
    pub(crate) fn count_running(&self, status: &mut JobStatus) {
        let active = self.active();
        status.active = positive(active.len());
        status.ready = i32::try_from(active.iter().filter(|pod| is_ready(pod)).count()).ok();
        status.terminating = i32::try_from(self.terminating().count()).ok();
    }
}

/// Returns `None` for zero, which the API omits.
pub(crate) fn positive(number: usize) -> Option<i32> {
    (number > 0).then(|| i32::try_from(number).unwrap_or(i32::MAX))
}

/// Returns when the last container of a pod ended, or else when its deletion was requested.
pub(crate) fn ended_at(pod: &Pod) -> Timestamp {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let ends = statuses.filter_map(|container| {
        Some(container.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0)
    });
    let metadata = &pod.metadata;
    let requested = metadata.deletion_timestamp.as_ref().or(metadata.creation_timestamp.as_ref());
    ends.max().or(requested.map(|time| time.0)).unwrap_or(Timestamp::UNIX_EPOCH)
}

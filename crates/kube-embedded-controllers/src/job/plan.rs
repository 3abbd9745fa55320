//! Which pods a job creates and deletes, when it is over, and what its status says. Kubernetes'
//! `pkg/controller/job`, with the same steps: a pod that ended is named in the status as not counted
//! yet, then its finalizer goes, then it is counted; so none is counted twice or missed.

use super::{
    super::{
        replicaset::{is_active, is_ready, rank},
        selection::controlled_by,
        write::is_finished,
    },
    indexes::{self, Indexes},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobCondition, JobStatus, UncountedTerminatedPods},
        core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube_embedded_core::time::whole_seconds;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// Keeps a pod until it is counted.
pub(crate) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// How long to wait after a failure, twice as long after each in a row, and at most.
const FIRST_PAUSE: SignedDuration = SignedDuration::from_secs(10);
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_secs(600);
/// Most pods created or deleted before another look.
const MOST_AT_ONCE: usize = 500;
/// The name of the environment variable that tells a pod its index.
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// Failures since the last success, and when the last one was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    pub(crate) failures: u32,
    pub(crate) last: Option<Timestamp>,
}

/// How a job ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) failed: bool,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// What to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) create: Vec<Pod>,
    /// Deleted and not counted, since nobody needs them any more.
    pub(crate) remove: Vec<Arc<Pod>>,
    /// Deleted because the job is over.
    pub(crate) end: Vec<Arc<Pod>>,
    /// The job is over, once all its pods are gone or counted.
    pub(crate) outcome: Option<Outcome>,
    pub(crate) backoff: Backoff,
    /// When time alone changes the plan.
    pub(crate) again: Option<Duration>,
}

/// Whether a condition of this type is true.
pub(crate) fn is(job: &Job, kind: &str) -> bool {
    condition(job, kind).is_some_and(|condition| condition.status == "True")
}

fn condition<'a>(job: &'a Job, kind: &str) -> Option<&'a JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Whether there is nothing left to do but to go.
pub(crate) fn is_over(job: &Job) -> bool {
    is(job, "Complete") || is(job, "Failed")
}

/// Whether a pod is not counted yet.
pub(crate) fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|known| known == FINALIZER)
}

/// How long a job that is over may stay; `None` for as long as nobody deletes it.
pub(crate) fn stays_for(job: &Job, now: Timestamp) -> Option<Duration> {
    let seconds = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let end = ["Complete", "Failed"]
        .into_iter()
        .find_map(|kind| condition(job, kind).filter(|condition| condition.status == "True"))?;
    let since = end.last_transition_time.as_ref()?.0;
    let left = SignedDuration::from_secs(seconds.into()) - now.duration_since(since);
    Some(if left.is_positive() { left.unsigned_abs() } else { Duration::ZERO })
}

/// Plans the way to the wanted number of completions.
pub(crate) fn plan(job: &Job, pods: &[Arc<Pod>], known: Backoff, now: Timestamp) -> Plan {
    let view = View::of(job, pods);
    let backoff = view.backoff(known);
    let mut plan = Plan { backoff, ..Plan::default() };
    if let Some(outcome) = view.outcome(now) {
        plan.end = view.active();
        plan.outcome = Some(outcome);
        return plan;
    }
    if let Some(left) = view.deadline(now) {
        plan.again = Some(left.unsigned_abs());
    }
    view.manage(&mut plan, now);
    if view.is_complete() && plan.create.is_empty() && plan.remove.is_empty() {
        plan.outcome = Some(Outcome {
            failed: false,
            reason: "CompletionsReached".into(),
            message: "Reached expected number of succeeded pods".into(),
        });
    }
    plan
}

/// The status once the plan's pods are created and deleted: says what is going to be counted.
pub(crate) fn tracked(job: &Job, pods: &[Arc<Pod>], plan: &Plan, now: Timestamp) -> JobStatus {
    let view = View::of(job, pods);
    let mut status = view.counted();
    let suspended = view.suspended();
    if status.start_time.is_none() && !suspended {
        status.start_time = Some(Time(whole_seconds(now)));
    }
    match &plan.outcome {
        Some(outcome) => {
            let kind = if outcome.failed { "FailureTarget" } else { "SuccessCriteriaMet" };
            set_condition(&mut status, kind, "True", &outcome.reason, &outcome.message, now);
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
    let mut done = view.done_indexes();
    for pod in view.fresh(plan.outcome.as_ref()) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let end = view.end_of(pod, plan.outcome.as_ref());
        if view.indexed() {
            match (indexes::of(pod).filter(|index| *index < view.completions()), end) {
                (Some(index), Some(End::Succeeded)) => {
                    done.insert(index);
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
    if view.indexed() {
        status.succeeded = count(done.len());
        status.completed_indexes = (!done.is_empty()).then(|| done.to_string());
    }
    view.observe(&mut status);
    status
}

/// The pods whose finalizer may go, now that the status names them.
pub(crate) fn countable(job: &Job, pods: &[Arc<Pod>], plan: &Plan) -> Vec<Arc<Pod>> {
    let view = View::of(job, pods);
    let over = plan.outcome.is_some();
    let may_go = |pod: &&Arc<Pod>| {
        is_tracked(pod) && (over || view.end_of(pod, plan.outcome.as_ref()).is_some())
    };
    pods.iter().filter(may_go).cloned().collect()
}

/// The status once finalizers are gone: counts, and says that the job is over if it is.
pub(crate) fn settled(job: &Job, pods: &[Arc<Pod>], plan: &Plan, now: Timestamp) -> JobStatus {
    let view = View::of(job, pods);
    let mut status = view.counted();
    view.observe(&mut status);
    let uncounted = status.uncounted_terminated_pods.as_ref();
    let waits = uncounted.is_some_and(|uncounted| {
        uncounted.succeeded.as_ref().is_some_and(|all| !all.is_empty())
            || uncounted.failed.as_ref().is_some_and(|all| !all.is_empty())
    });
    if let Some(outcome) = plan.outcome.as_ref()
        && !waits
        && status.terminating.unwrap_or(0) == 0
        && status.active.unwrap_or(0) == 0
    {
        let kind = if outcome.failed { "Failed" } else { "Complete" };
        set_condition(&mut status, kind, "True", &outcome.reason, &outcome.message, now);
        if !outcome.failed {
            status.completion_time = Some(Time(whole_seconds(now)));
        }
    }
    status
}

/// How a pod ended, for the count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Succeeded,
    Failed,
}

/// A job and its pods.
struct View<'a> {
    job: &'a Job,
    pods: &'a [Arc<Pod>],
    status: JobStatus,
}

impl<'a> View<'a> {
    fn of(job: &'a Job, pods: &'a [Arc<Pod>]) -> Self {
        let status = job.status.clone().unwrap_or_default();
        Self { job, pods, status }
    }

    fn spec<T>(
        &self,
        field: impl FnOnce(&k8s_openapi::api::batch::v1::JobSpec) -> Option<T>,
    ) -> Option<T> {
        self.job.spec.as_ref().and_then(field)
    }

    fn suspended(&self) -> bool {
        self.spec(|spec| spec.suspend).unwrap_or(false)
    }

    fn indexed(&self) -> bool {
        self.spec(|spec| spec.completion_mode.clone()).as_deref() == Some("Indexed")
    }

    fn completions(&self) -> i32 {
        self.spec(|spec| spec.completions).unwrap_or(0)
    }

    fn active(&self) -> Vec<Arc<Pod>> {
        self.pods.iter().filter(|pod| is_active(pod)).cloned().collect()
    }

    /// How a pod ended; `None` while it may still succeed. A pod that was deleted has failed, unless
    /// the job wants to see it end first; once the job is over, so has all that still runs.
    fn end_of(&self, pod: &Pod, outcome: Option<&Outcome>) -> Option<End> {
        let only_failed =
            self.spec(|spec| spec.pod_replacement_policy.clone()).as_deref() == Some("Failed");
        match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
            Some("Succeeded") => Some(End::Succeeded),
            Some("Failed") => Some(End::Failed),
            _ if pod.metadata.deletion_timestamp.is_some() && !only_failed => Some(End::Failed),
            _ if outcome.is_some_and(|outcome| outcome.failed) => Some(End::Failed),
            _ => None,
        }
    }

    fn is_uncounted(&self, pod: &Pod) -> bool {
        let uncounted = self.status.uncounted_terminated_pods.as_ref();
        uncounted.is_some_and(|uncounted| {
            let mut named = uncounted.succeeded.iter().chain(uncounted.failed.iter()).flatten();
            named.any(|uid| Some(uid) == pod.metadata.uid.as_ref())
        })
    }

    /// The pods that ended and are not named in the status yet.
    fn fresh(&self, outcome: Option<&Outcome>) -> Vec<&'a Arc<Pod>> {
        let ended = |pod: &&Arc<Pod>| {
            is_tracked(pod) && !self.is_uncounted(pod) && self.end_of(pod, outcome).is_some()
        };
        self.pods.iter().filter(ended).collect()
    }

    fn ended(&self, end: End) -> usize {
        let uncounted = self.status.uncounted_terminated_pods.as_ref();
        let named = uncounted.map_or(0, |uncounted| {
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
        let fresh = self.fresh(None);
        let fresh = fresh.iter().filter(|pod| {
            let index = indexes::of(pod).is_some_and(|index| index < self.completions());
            self.end_of(pod, None) == Some(end) && (!self.indexed() || index)
        });
        usize::try_from(counted.unwrap_or(0)).unwrap_or(0) + named + fresh.count()
    }

    fn done_indexes(&self) -> Indexes {
        let text = self.status.completed_indexes.as_deref().unwrap_or_default();
        Indexes::read(text, self.completions())
    }

    /// Those that the status does not tell of yet included.
    fn succeeded_indexes(&self) -> Indexes {
        let mut done = self.done_indexes();
        for pod in self.fresh(None) {
            if self.end_of(pod, None) == Some(End::Succeeded) {
                let index = indexes::of(pod).filter(|index| *index < self.completions());
                index.into_iter().for_each(|index| done.insert(index));
            }
        }
        done
    }

    fn succeeded(&self) -> usize {
        if self.indexed() { self.succeeded_indexes().len() } else { self.ended(End::Succeeded) }
    }

    fn is_complete(&self) -> bool {
        let active = self.active().len();
        match self.spec(|spec| spec.completions) {
            None => self.succeeded() > 0 && active == 0,
            Some(wanted) => self.succeeded() >= usize::try_from(wanted).unwrap_or(0) && active == 0,
        }
    }

    /// Why the job is over, as far as it is not by completions.
    fn outcome(&self, now: Timestamp) -> Option<Outcome> {
        for (kind, failed) in [("FailureTarget", true), ("SuccessCriteriaMet", false)] {
            if let Some(target) = condition(self.job, kind).filter(|target| target.status == "True")
            {
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
        let limit = self.spec(|spec| spec.backoff_limit).unwrap_or(6);
        let limit = usize::try_from(limit).unwrap_or(0);
        if self.ended(End::Failed) > limit || self.restarted_too_often(limit) {
            return failure("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        if self.deadline(now).is_some_and(|left| !left.is_positive()) {
            return failure("DeadlineExceeded", "Job was active longer than specified deadline");
        }
        None
    }

    /// Pods that restart in place count by their restarts.
    fn restarted_too_often(&self, limit: usize) -> bool {
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

    /// How long the job may still be active.
    fn deadline(&self, now: Timestamp) -> Option<SignedDuration> {
        let seconds = self.spec(|spec| spec.active_deadline_seconds)?;
        let start = self.status.start_time.as_ref()?.0;
        (!self.suspended()).then(|| SignedDuration::from_secs(seconds) - now.duration_since(start))
    }

    fn backoff(&self, known: Backoff) -> Backoff {
        let fresh = self.fresh(None);
        let ended = |end: End| {
            let pods = fresh.iter().filter(move |pod| self.end_of(pod, None) == Some(end));
            pods.map(|pod| ended_at(pod)).collect::<Vec<_>>()
        };
        let (successes, failures) = (ended(End::Succeeded), ended(End::Failed));
        let since = successes.into_iter().max();
        let later = failures.iter().filter(|at| since.is_none_or(|since| **at > since));
        let new = u32::try_from(later.count()).unwrap_or(u32::MAX);
        let before = if since.is_some() { 0 } else { known.failures };
        let last = failures.into_iter().max().into_iter().chain(known.last).max();
        Backoff { failures: before.saturating_add(new), last }
    }

    fn manage(&self, plan: &mut Plan, now: Timestamp) {
        let mut active = self.active();
        if self.suspended() {
            plan.remove = active;
            return;
        }
        let parallelism = self.spec(|spec| spec.parallelism).unwrap_or(1);
        let parallelism = usize::try_from(parallelism).unwrap_or(0);
        let succeeded = self.succeeded();
        let wanted = match self.spec(|spec| spec.completions) {
            None if succeeded > 0 => active.len(),
            None => parallelism,
            Some(completions) => {
                usize::try_from(completions).unwrap_or(0).saturating_sub(succeeded).min(parallelism)
            }
        };
        let mut working = BTreeSet::new();
        if self.indexed() {
            // Two on one index, or one beyond the last, cannot be used.
            let (kept, useless): (Vec<_>, Vec<_>) = active.into_iter().partition(|pod| {
                indexes::of(pod)
                    .is_some_and(|index| index < self.completions() && working.insert(index))
            });
            active = kept;
            plan.remove = useless;
        }
        let surplus = active.len().saturating_sub(wanted);
        if surplus > 0 {
            let all = active.clone();
            rank(&mut active, &all, now);
            plan.remove.extend(active.drain(..surplus));
        }
        plan.remove.truncate(MOST_AT_ONCE);
        if !plan.remove.is_empty() {
            return;
        }
        // Where only failed pods are replaced, those on their way out keep their place.
        let only_failed =
            self.spec(|spec| spec.pod_replacement_policy.clone()).as_deref() == Some("Failed");
        let leaving = if only_failed { self.terminating() } else { 0 };
        let missing = wanted.saturating_sub(active.len() + leaving);
        if missing == 0 {
            return;
        }
        if let Some(pause) = pause(plan.backoff, now) {
            plan.again = Some(plan.again.map_or(pause, |again| again.min(pause)));
            return;
        }
        let missing = missing.min(MOST_AT_ONCE);
        plan.create = if self.indexed() {
            let done = self.succeeded_indexes();
            let open = done.open(self.completions()).filter(|index| !working.contains(index));
            open.take(missing).map(|index| pod(self.job, Some(index))).collect()
        } else {
            vec![pod(self.job, None); missing]
        };
    }

    fn terminating(&self) -> usize {
        let leaving =
            |pod: &&Arc<Pod>| pod.metadata.deletion_timestamp.is_some() && !is_finished(pod);
        self.pods.iter().filter(leaving).count()
    }

    /// The status with those counted whose finalizer is gone.
    fn counted(&self) -> JobStatus {
        let mut status = self.status.clone();
        let tracked: BTreeSet<&str> = self
            .pods
            .iter()
            .filter(|pod| is_tracked(pod))
            .filter_map(|pod| pod.metadata.uid.as_deref())
            .collect();
        let uncounted = status.uncounted_terminated_pods.take().unwrap_or_default();
        let settle = |uids: Option<Vec<String>>, counted: Option<i32>| {
            let uids = uids.unwrap_or_default();
            let all = uids.len();
            let left: Vec<String> =
                uids.into_iter().filter(|uid| tracked.contains(uid.as_str())).collect();
            let gone = i32::try_from(all - left.len()).unwrap_or(i32::MAX);
            let total = counted.unwrap_or(0).saturating_add(gone);
            ((!left.is_empty()).then_some(left), (total > 0).then_some(total))
        };
        let (succeeded, number) = settle(uncounted.succeeded, status.succeeded);
        status.succeeded = number;
        let (failed, number) = settle(uncounted.failed, status.failed);
        status.failed = number;
        status.uncounted_terminated_pods = Some(UncountedTerminatedPods { succeeded, failed });
        status
    }

    fn observe(&self, status: &mut JobStatus) {
        let active = self.active();
        status.active = count(active.len());
        status.ready = i32::try_from(active.iter().filter(|pod| is_ready(pod)).count()).ok();
        status.terminating = i32::try_from(self.terminating()).ok();
    }
}

fn count(number: usize) -> Option<i32> {
    (number > 0).then(|| i32::try_from(number).unwrap_or(i32::MAX))
}

/// Sets a condition; whether that changed anything. Nothing becomes false that never was true.
fn set_condition(
    status: &mut JobStatus,
    kind: &str,
    is: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> bool {
    let at = Time(whole_seconds(now));
    let new = JobCondition {
        type_: kind.into(),
        status: is.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(at.clone()),
        last_transition_time: Some(at),
    };
    let known = status.conditions.iter_mut().flatten().find(|known| known.type_ == kind);
    match known {
        Some(known) if known.status == is && known.reason == new.reason => false,
        Some(known) => {
            *known = new;
            true
        }
        None if is == "False" => false,
        None => {
            status.conditions.get_or_insert_default().push(new);
            true
        }
    }
}

/// How long to wait before another pod.
fn pause(backoff: Backoff, now: Timestamp) -> Option<Duration> {
    let last = backoff.last.filter(|_| backoff.failures > 0)?;
    let factor = 1_i32.checked_shl(backoff.failures - 1).filter(|factor| *factor > 0);
    let pause = factor.and_then(|factor| FIRST_PAUSE.checked_mul(factor));
    let pause = pause.unwrap_or(LONGEST_PAUSE).min(LONGEST_PAUSE);
    let left = pause - now.duration_since(last);
    left.is_positive().then(|| left.unsigned_abs())
}

/// When a pod ended: its last container, or as soon as it was told to go.
fn ended_at(pod: &Pod) -> Timestamp {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let ends = statuses.filter_map(|container| {
        Some(container.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0)
    });
    let metadata = &pod.metadata;
    let told = metadata.deletion_timestamp.as_ref().or(metadata.creation_timestamp.as_ref());
    ends.max().or(told.map(|time| time.0)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// A pod from the template, named by the API.
fn pod(job: &Job, index: Option<i32>) -> Pod {
    let template = job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let mut meta = template.metadata.unwrap_or_default();
    let mut spec = template.spec.unwrap_or_default();
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let mut base = format!("{name}-");
    if let Some(index) = index {
        // The API cuts what is too long at the end, where the index is.
        let end = format!("-{index}-");
        base = name.chars().take(58 - end.len()).collect::<String>() + &end;
        let mark = |marks: &mut Option<BTreeMap<String, String>>| {
            marks.get_or_insert_default().insert(indexes::INDEX.into(), index.to_string());
        };
        mark(&mut meta.annotations);
        mark(&mut meta.labels);
        spec.hostname = Some(format!("{name}-{index}"));
        let containers = spec.containers.iter_mut();
        for container in containers.chain(spec.init_containers.iter_mut().flatten()) {
            let env = container.env.get_or_insert_default();
            if env.iter().all(|variable| variable.name != INDEX_VARIABLE) {
                env.push(index_variable());
            }
        }
    }
    let mut finalizers = meta.finalizers.unwrap_or_default();
    if finalizers.iter().all(|known| known != FINALIZER) {
        finalizers.push(FINALIZER.into());
    }
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(base),
            namespace: job.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: Some(finalizers),
            owner_references: Some(vec![controlled_by(job)]),
            ..Default::default()
        },
        spec: Some(spec),
        status: None,
    }
}

fn index_variable() -> EnvVar {
    EnvVar {
        name: INDEX_VARIABLE.into(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: format!("metadata.labels['{}']", indexes::INDEX),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

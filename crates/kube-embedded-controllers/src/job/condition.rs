//! Conditions of jobs, and when a finished job is deleted.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::batch::v1::{Job, JobCondition, JobStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube_embedded_core::time::whole_seconds;
use std::time::Duration;

/// Returns `true` if the condition of this type is true.
pub(crate) fn is_true(job: &Job, type_: &str) -> bool {
    true_condition(job, type_).is_some()
}

/// Returns the condition of this type if it is true.
pub(crate) fn true_condition<'a>(job: &'a Job, type_: &str) -> Option<&'a JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == type_ && condition.status == "True")
}

/// Returns `true` if the job has completed or failed.
pub(crate) fn is_finished(job: &Job) -> bool {
    is_true(job, "Complete") || is_true(job, "Failed")
}

/// Returns the rest of a finished job's `ttlSecondsAfterFinished`; `None` if it has none.
pub(crate) fn remaining_ttl(job: &Job, now: Timestamp) -> Option<Duration> {
    let seconds = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let end = ["Complete", "Failed"].into_iter().find_map(|type_| true_condition(job, type_))?;
    let since = end.last_transition_time.as_ref()?.0;
    let left = SignedDuration::from_secs(seconds.into()) - now.duration_since(since);
    Some(if left.is_positive() { left.unsigned_abs() } else { Duration::ZERO })
}

/// Sets a condition and returns `true` if that changed it. A missing condition is not set to false.
pub(crate) fn set_condition(
    status: &mut JobStatus,
    type_: &str,
    value: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> bool {
    let at = Time(whole_seconds(now));
    let new = JobCondition {
        type_: type_.into(),
        status: value.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(at.clone()),
        last_transition_time: Some(at),
    };
    let known = status.conditions.iter_mut().flatten().find(|known| known.type_ == type_);
    match known {
        Some(known)
            if known.status == value
                && known.reason == new.reason
                && known.message == new.message =>
        {
            false
        }
        Some(known) => {
            *known = new;
            true
        }
        None if value == "False" => false,
        None => {
            status.conditions.get_or_insert_default().push(new);
            true
        }
    }
}

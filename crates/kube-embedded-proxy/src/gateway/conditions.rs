//! Conditions of statuses, and what becomes of those that are written already.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Creates a condition; `transitioned_since` sets its time.
pub(super) fn condition(
    r#type: &str,
    status: bool,
    reason: &str,
    message: impl Into<String>,
    generation: Option<i64>,
) -> Condition {
    Condition {
        type_: r#type.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message: message.into(),
        observed_generation: generation,
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
    }
}

/// Sets the times of conditions: that of the observed one if its status is the same, else now.
pub(super) fn set_times(desired: &mut [Condition], observed: &[Condition], now: Timestamp) {
    for condition in desired {
        let known = observed.iter().find(|known| known.type_ == condition.type_);
        let same = known.filter(|known| known.status == condition.status);
        condition.last_transition_time =
            same.map_or(Time(now), |known| known.last_transition_time.clone());
    }
}

/// Returns whether the condition of this type is true.
pub(super) fn is_true(conditions: &[Condition], r#type: &str) -> bool {
    conditions.iter().any(|c| c.type_ == r#type && c.status == "True")
}

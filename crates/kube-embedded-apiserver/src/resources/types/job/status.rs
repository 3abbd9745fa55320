//! Validation of a Job's status, which a controller outside of the cluster may write
//! (`spec.managedBy`): clients depend on its transitions (`ValidateJobStatusUpdate`).

use serde_json::Value;

use crate::{
    fields::{at, list},
    validation::{
        field_error::{FieldError, duplicate, invalid, required},
        job_indexes,
        names::non_negative,
    },
};

/// The completion mode of Jobs whose pods have an index.
pub(super) const INDEXED: &str = "Indexed";

/// Returns true if a condition is true.
pub(super) fn is(job: &Value, name: &str) -> bool {
    let mut conditions = list(job, &["status", "conditions"]).iter();
    conditions.any(|condition| condition["type"] == name && condition["status"] == "True")
}

/// The fields of an update. Rules apply to what changed, so that a status that violates another can
/// still be written.
struct Update<'a> {
    new: &'a Value,
    old: &'a Value,
}

/// Validates an update of the status (new, old).
pub(super) fn validate(new: &Value, old: &Value) -> Vec<FieldError> {
    let update = Update { new, old };
    let mut errors = numbers(&new["status"]);
    errors.extend(update.contradictions());
    errors.extend(update.finish());
    errors.extend(update.indexes());
    errors.extend(update.transitions());
    errors
}

fn is_finished(job: &Value) -> bool {
    is(job, "Complete") || is(job, "Failed")
}

fn number(job: &Value, field: &str) -> i64 {
    at(job, &["status", field]).as_i64().unwrap_or_default()
}

/// An error about the conditions, whose value is left out as in Kubernetes.
fn conditions(detail: &str) -> FieldError {
    FieldError {
        reason: "FieldValueInvalid",
        field: "status.conditions".into(),
        message: format!("Invalid value: {detail}"),
    }
}

fn numbers(status: &Value) -> Vec<FieldError> {
    let fields = ["active", "succeeded", "failed", "ready", "terminating"];
    let mut errors: Vec<FieldError> = fields
        .into_iter()
        .flat_map(|field| non_negative(&status[field], format!("status.{field}")))
        .collect();
    let mut seen = std::collections::HashSet::new();
    for kind in ["succeeded", "failed"] {
        for (index, uid) in list(status, &["uncountedTerminatedPods", kind]).iter().enumerate() {
            let field = format!("status.uncountedTerminatedPods.{kind}[{index}]");
            if uid == "" {
                errors.push(invalid(field, uid, "must not be empty"));
            } else if !seen.insert(uid.as_str()) {
                errors.push(duplicate(field, uid));
            }
        }
    }
    errors
}

impl Update<'_> {
    fn changed(&self, field: &str) -> bool {
        self.new["status"][field] != self.old["status"][field]
    }

    fn turned(&self, condition: &str) -> bool {
        is(self.new, condition) != is(self.old, condition)
    }

    fn finished_changed(&self) -> bool {
        is_finished(self.new) != is_finished(self.old)
    }

    /// Conditions that exclude or need each other.
    fn contradictions(&self) -> Vec<FieldError> {
        let new = self.new;
        let (complete, failed) = (is(new, "Complete"), is(new, "Failed"));
        let (target, met) = (is(new, "FailureTarget"), is(new, "SuccessCriteriaMet"));
        let has_policy = !new["spec"]["successPolicy"].is_null();
        let complete_turned = self.turned("Complete");
        let rules = [
            (
                complete && failed && (complete_turned || self.turned("Failed")),
                "cannot set Complete=True and Failed=true conditions",
            ),
            (
                complete && target && (complete_turned || self.turned("FailureTarget")),
                "cannot set Complete=True and FailureTarget=true conditions",
            ),
            (
                failed && !target && (self.turned("Failed") || self.changed("failedIndexes")),
                "cannot set Failed=True condition without the FailureTarget=true condition",
            ),
            (
                complete && !met && (complete_turned || self.turned("SuccessCriteriaMet")),
                "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
            ),
            (met && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions"),
            (met && target, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"),
            (
                has_policy && !met && complete,
                "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
            ),
        ];
        rules.into_iter().filter(|(applies, _)| *applies).map(|(_, why)| conditions(why)).collect()
    }

    /// What a finished Job must have, and must not have any more.
    fn finish(&self) -> Vec<FieldError> {
        let (new, status) = (self.new, &self.new["status"]);
        let (finished, complete) = (is_finished(new), is(new, "Complete"));
        let (start, end) = (&status["startTime"], &status["completionTime"]);
        let end_changed = self.changed("completionTime");
        let mut errors = Vec::new();
        if self.turned("Complete") || end_changed {
            if !end.is_null() && !complete {
                let detail = "cannot set completionTime when there is no Complete=True condition";
                errors.push(invalid("status.completionTime", end, detail));
            }
            if end.is_null() && complete {
                let detail = "completionTime is required for Complete jobs";
                errors.push(required("status.completionTime", detail));
            }
        }
        let time =
            |value: &Value| value.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
        if (self.changed("startTime") || end_changed)
            && time(start).zip(time(end)).is_some_and(|(start, end)| end < start)
        {
            let detail = "must be equal to or after `startTime`";
            errors.push(invalid("status.completionTime", end, detail));
        }
        for (field, detail) in [
            ("active", "active>0 is invalid for finished job"),
            ("terminating", "terminating>0 is invalid for finished job"),
        ] {
            let concerned = self.finished_changed() || self.changed(field);
            if concerned && finished && number(new, field) > 0 {
                errors.push(invalid(format!("status.{field}"), &status[field], detail));
            }
        }
        let spec = &new["spec"];
        let never_starts = spec["suspend"] == true && spec["completions"] == 0;
        let concerned = self.finished_changed() || self.changed("startTime");
        if concerned && !never_starts && finished && start.is_null() {
            errors.push(required("status.startTime", "startTime is required for finished job"));
        }
        let uncounted = &status["uncountedTerminatedPods"];
        let has_uncounted =
            ["failed", "succeeded"].into_iter().any(|kind| !list(uncounted, &[kind]).is_empty());
        if (self.finished_changed() || self.changed("uncountedTerminatedPods"))
            && finished
            && has_uncounted
        {
            let detail = "must be empty for finished job";
            errors.push(invalid("status.uncountedTerminatedPods", uncounted, detail));
        }
        if (self.changed("ready") || self.changed("active"))
            && !status["ready"].is_null()
            && number(new, "ready") > number(new, "active")
        {
            let detail = "cannot set more ready pods than active";
            errors.push(invalid("status.ready", &status["ready"], detail));
        }
        errors
    }

    /// Completed and failed indexes.
    fn indexes(&self) -> Vec<FieldError> {
        let (spec, status) = (&self.new["spec"], &self.new["status"]);
        let mut errors = Vec::new();
        let text = |field: &str| status[field].as_str();
        let has_limit = !spec["backoffLimitPerIndex"].is_null();
        if let Some(completions) = spec["completions"].as_i64() {
            for field in ["completedIndexes", "failedIndexes"] {
                let concerned = self.changed(field) && (field != "failedIndexes" || has_limit);
                if let Some(Err(why)) = text(field)
                    .filter(|_| concerned)
                    .map(|text| job_indexes::parse(text, completions))
                {
                    let detail = format!("error parsing {field}: {why}");
                    errors.push(invalid(format!("status.{field}"), &status[field], &detail));
                }
            }
            let concerned = self.changed("completedIndexes") || self.changed("failedIndexes");
            if let (Some(completed), Some(failed), true) =
                (text("completedIndexes"), text("failedIndexes"), concerned)
                && let Some(index) = job_indexes::overlap(completed, failed, completions)
            {
                let detail =
                    format!("failedIndexes and completedIndexes overlap at index: {index}");
                errors.push(invalid("status.failedIndexes", &status["failedIndexes"], &detail));
            }
        }
        if self.changed("completedIndexes")
            && text("completedIndexes").is_some_and(|text| !text.is_empty())
            && spec["completionMode"] != INDEXED
        {
            let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
            errors.push(invalid("status.completedIndexes", &status["completedIndexes"], detail));
        }
        if self.changed("failedIndexes") && !status["failedIndexes"].is_null() && !has_limit {
            let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
            errors.push(invalid("status.failedIndexes", &status["failedIndexes"], detail));
        }
        errors
    }

    /// What may not be taken back.
    fn transitions(&self) -> Vec<FieldError> {
        let (new, old) = (self.new, self.old);
        let (spec, status) = (&new["spec"], &new["status"]);
        let lost = |condition: &str| is(old, condition) && !is(new, condition);
        let mut errors = Vec::new();
        for condition in ["Failed", "Complete", "FailureTarget"] {
            if lost(condition) {
                let detail = format!("cannot disable the terminal {condition}=True condition");
                errors.push(conditions(&detail));
            }
        }
        let scaled_down =
            spec["completionMode"] == INDEXED && spec["completions"] == spec["parallelism"];
        for (field, may_decrease) in [("failed", false), ("succeeded", scaled_down)] {
            if !may_decrease && number(new, field) < number(old, field) {
                let detail = format!("cannot decrease the {field} counter");
                let value = number(new, field).into();
                errors.push(invalid(format!("status.{field}"), &value, &detail));
            }
        }
        let both = |field: &str| !status[field].is_null() && !old["status"][field].is_null();
        if both("completionTime") && self.changed("completionTime") {
            let detail = "field is immutable";
            errors.push(invalid("status.completionTime", &status["completionTime"], detail));
        }
        let resuming = is(old, "Suspended") && {
            let mut conditions = list(new, &["status", "conditions"]).iter();
            conditions.any(|known| known["type"] == "Suspended" && known["status"] == "False")
        };
        if self.changed("startTime")
            && !old["status"]["startTime"].is_null()
            && !resuming
            && spec["suspend"] != true
        {
            let detail = "field is immutable for unsuspended job once set";
            errors.push(invalid("status.startTime", &status["startTime"], detail));
        }
        if lost("SuccessCriteriaMet") {
            errors.push(conditions("cannot disable the SuccessCriteriaMet=True condition"));
        }
        if is(old, "Complete") && !is(old, "SuccessCriteriaMet") && is(new, "SuccessCriteriaMet") {
            errors.push(conditions(
                "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions",
            ));
        }
        errors
    }
}

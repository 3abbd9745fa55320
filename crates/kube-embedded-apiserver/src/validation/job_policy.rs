//! The policies of a job: which failures count, and when it has succeeded early.

use std::collections::HashSet;

use serde_json::Value;

use crate::{
    fields::{list, text},
    validation::{
        field_error::{FieldError, duplicate, invalid, not_supported, required, too_many},
        names::qualified_name,
    },
};

const MOST_RULES: usize = 20;

/// Errors of the policies in a job's spec.
pub(crate) fn validate(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !spec["podFailurePolicy"].is_null() {
        errors.extend(failure_policy(spec));
    }
    if !spec["successPolicy"].is_null() {
        errors.extend(success_policy(spec));
    }
    let (field, policy) = ("spec.podReplacementPolicy", &spec["podReplacementPolicy"]);
    match policy.as_str() {
        None | Some("Failed") => {}
        Some("TerminatingOrFailed") if spec["podFailurePolicy"].is_null() => {}
        Some(_) if !spec["podFailurePolicy"].is_null() => {
            errors.push(not_supported(field, policy, &["Failed"]));
        }
        Some(_) => {
            errors.push(not_supported(field, policy, &["Failed", "TerminatingOrFailed"]));
        }
    }
    errors
}

fn failure_policy(spec: &Value) -> Vec<FieldError> {
    let field = "spec.podFailurePolicy.rules";
    let rules = list(spec, &["podFailurePolicy", "rules"]);
    let mut errors = Vec::new();
    errors.extend(too_many(field, rules.len(), MOST_RULES));
    let pod = &spec["template"]["spec"];
    let containers = ["containers", "initContainers"].into_iter();
    let names: HashSet<&str> = containers
        .flat_map(|part| list(pod, &[part]))
        .map(|container| text(container, &["name"]))
        .collect();
    for (at, rule) in rules.iter().enumerate() {
        errors.extend(failure_rule(spec, rule, &format!("{field}[{at}]"), &names));
    }
    errors
}

fn failure_rule(spec: &Value, rule: &Value, field: &str, names: &HashSet<&str>) -> Vec<FieldError> {
    const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
    let mut errors = Vec::new();
    match text(rule, &["action"]) {
        "" => errors.push(one_of(format!("{field}.action"), &ACTIONS)),
        "FailIndex" if spec["backoffLimitPerIndex"].is_null() => {
            let detail = "requires the backoffLimitPerIndex to be set";
            errors.push(invalid(format!("{field}.action"), &rule["action"], detail));
        }
        action if ACTIONS.contains(&action) => {}
        _ => errors.push(not_supported(format!("{field}.action"), &rule["action"], &ACTIONS)),
    }
    let (codes, patterns) = (&rule["onExitCodes"], list(rule, &["onPodConditions"]));
    if !codes.is_null() {
        errors.extend(exit_codes(codes, &format!("{field}.onExitCodes"), names));
    }
    errors.extend(too_many(format!("{field}.onPodConditions"), patterns.len(), MOST_RULES));
    for (at, pattern) in patterns.iter().enumerate() {
        const STATUSES: [&str; 3] = ["False", "True", "Unknown"];
        let field = format!("{field}.onPodConditions[{at}]");
        for wrong in qualified_name(text(pattern, &["type"])) {
            errors.push(invalid(format!("{field}.type"), &pattern["type"], &wrong));
        }
        match text(pattern, &["status"]) {
            "" => errors.push(one_of(format!("{field}.status"), &STATUSES)),
            status if STATUSES.contains(&status) => {}
            _ => {
                let status = &pattern["status"];
                errors.push(not_supported(format!("{field}.status"), status, &STATUSES));
            }
        }
    }
    let wrong = match (codes.is_null(), patterns.is_empty()) {
        (false, false) => Some("specifying both OnExitCodes and OnPodConditions is not supported"),
        (true, true) => Some("specifying one of OnExitCodes and OnPodConditions is required"),
        _ => None,
    };
    errors.extend(wrong.map(|wrong| FieldError {
        reason: "FieldValueInvalid",
        field: field.to_owned(),
        message: format!("Invalid value: {wrong}"),
    }));
    errors
}

fn exit_codes(codes: &Value, field: &str, names: &HashSet<&str>) -> Vec<FieldError> {
    const OPERATORS: [&str; 2] = ["In", "NotIn"];
    const MOST: usize = 255;
    let mut errors = Vec::new();
    match text(codes, &["operator"]) {
        "" => errors.push(one_of(format!("{field}.operator"), &OPERATORS)),
        "In" | "NotIn" => {}
        _ => {
            let field = format!("{field}.operator");
            errors.push(not_supported(field, &codes["operator"], &OPERATORS));
        }
    }
    if codes["containerName"].as_str().is_some_and(|name| !names.contains(name)) {
        let detail = "must be one of the container or initContainer names in the pod template";
        errors.push(invalid(format!("{field}.containerName"), &codes["containerName"], detail));
    }
    let (values, field_of_all) = (list(codes, &["values"]), format!("{field}.values"));
    if values.is_empty() {
        errors.push(invalid(&*field_of_all, &codes["values"], "at least one value is required"));
    }
    errors.extend(too_many(&*field_of_all, values.len(), MOST));
    let mut seen = HashSet::new();
    for (at, value) in values.iter().enumerate() {
        let field = format!("{field_of_all}[{at}]");
        if codes["operator"] == "In" && *value == 0 {
            errors.push(invalid(&*field, value, "must not be 0 for the In operator"));
        }
        if !seen.insert(value.as_i64()) {
            errors.push(duplicate(field, value));
        }
    }
    if !values.is_sorted_by_key(|value| value.as_i64()) {
        errors.push(invalid(field_of_all, &codes["values"], "must be ordered"));
    }
    errors
}

fn success_policy(spec: &Value) -> Vec<FieldError> {
    let policy = &spec["successPolicy"];
    if spec["completionMode"] != "Indexed" {
        return vec![invalid("spec.successPolicy", policy, "requires indexed completion mode")];
    }
    let field = "spec.successPolicy.rules";
    let rules = list(policy, &["rules"]);
    let mut errors = Vec::new();
    if rules.is_empty() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        errors.push(required(field, detail));
    }
    errors.extend(too_many(field, rules.len(), MOST_RULES));
    let completions = spec["completions"].as_i64().unwrap_or_default();
    for (at, rule) in rules.iter().enumerate() {
        let (field, count) = (format!("{field}[{at}]"), &rule["succeededCount"]);
        if count.is_null() && rule["succeededIndexes"].is_null() {
            let detail = "at least one of succeededCount or succeededIndexes must be specified";
            errors.push(required(&*field, detail));
        }
        errors.extend(crate::validation::names::non_negative(
            count,
            format!("{field}.succeededCount"),
        ));
        if count.as_i64().is_some_and(|count| count > completions) {
            let detail = format!(
                "must be less than or equal to {completions} (the number of specified completions)"
            );
            errors.push(invalid(format!("{field}.succeededCount"), count, &detail));
        }
    }
    errors
}

/// Go prints these lists in its own way.
fn one_of(field: String, values: &[&str]) -> FieldError {
    let values: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
    required(field, &format!("valid values: [{}]", values.join(" ")))
}

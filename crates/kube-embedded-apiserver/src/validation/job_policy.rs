//! Validation of a Job's policies: pod failure policy, success policy and pod replacement policy
//! (`pkg/apis/batch/validation`).

use std::collections::HashSet;

use serde_json::Value;

use crate::{
    fields::{list, text},
    validation::{
        field_error::{
            FieldError, duplicate, invalid, invalid_nested, not_supported, required, too_long,
            too_many,
        },
        job_indexes,
        names::{non_negative, qualified_name},
    },
};

/// The limit to the rules of a policy, and to the conditions of a rule.
const MAX_RULES: usize = 20;
/// The length of the indexes of a rule, in bytes.
const MAX_INDEXES: usize = 64 << 10;

/// Returns the errors of the policies in a Job's spec.
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
            // With a failure policy, a pod is replaced only after it has failed, so that its
            // failure can be classified.
            errors.push(not_supported(field, policy, &["Failed"]));
        }
        Some(_) => {
            errors.push(not_supported(field, policy, &["Failed", "TerminatingOrFailed"]));
        }
    }
    errors
}

/// Validates `podFailurePolicy`.
fn failure_policy(spec: &Value) -> Vec<FieldError> {
    let field = "spec.podFailurePolicy.rules";
    let rules = list(spec, &["podFailurePolicy", "rules"]);
    let mut errors = Vec::new();
    errors.extend(too_many(field, rules.len(), MAX_RULES));
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

/// Validates one rule: an action, and either exit codes or pod conditions that trigger it.
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
    errors.extend(too_many(format!("{field}.onPodConditions"), patterns.len(), MAX_RULES));
    for (at, pattern) in patterns.iter().enumerate() {
        const STATUSES: [&str; 3] = ["False", "True", "Unknown"];
        let field = format!("{field}.onPodConditions[{at}]");
        for detail in qualified_name(text(pattern, &["type"])) {
            errors.push(invalid(format!("{field}.type"), &pattern["type"], &detail));
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
    let problem = match (codes.is_null(), patterns.is_empty()) {
        (false, false) => Some("specifying both OnExitCodes and OnPodConditions is not supported"),
        (true, true) => Some("specifying one of OnExitCodes and OnPodConditions is required"),
        _ => None,
    };
    // Kubernetes would print the rule as a Go struct with pointers here, so the value is left out.
    errors.extend(problem.map(|problem| FieldError {
        reason: "FieldValueInvalid",
        field: field.to_owned(),
        message: format!("Invalid value: {problem}"),
    }));
    errors
}

/// Validates `onExitCodes`. The values are an ordered set, so that policies can be compared.
fn exit_codes(codes: &Value, field: &str, names: &HashSet<&str>) -> Vec<FieldError> {
    const OPERATORS: [&str; 2] = ["In", "NotIn"];
    const MAX: usize = 255;
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
    let (values, values_field) = (list(codes, &["values"]), format!("{field}.values"));
    if values.is_empty() {
        let detail = "at least one value is required";
        errors.push(invalid_nested(&*values_field, &codes["values"], detail));
    }
    errors.extend(too_many(&*values_field, values.len(), MAX));
    let mut seen = HashSet::new();
    for (at, value) in values.iter().enumerate() {
        let field = format!("{values_field}[{at}]");
        // A container with exit code 0 has not failed.
        if codes["operator"] == "In" && *value == 0 {
            errors.push(invalid(&*field, value, "must not be 0 for the In operator"));
        }
        if !seen.insert(value.as_i64()) {
            errors.push(duplicate(field, value));
        }
    }
    if !values.is_sorted_by_key(|value| value.as_i64()) {
        errors.push(invalid(values_field, &codes["values"], "must be ordered"));
    }
    errors
}

/// Validates `successPolicy`, which only an indexed Job can have.
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
    errors.extend(too_many(field, rules.len(), MAX_RULES));
    let completions = spec["completions"].as_i64().unwrap_or_default();
    for (at, rule) in rules.iter().enumerate() {
        let (field, count) = (format!("{field}[{at}]"), &rule["succeededCount"]);
        if count.is_null() && rule["succeededIndexes"].is_null() {
            let detail = "at least one of succeededCount or succeededIndexes must be specified";
            errors.push(required(&*field, detail));
        }
        let mut listed = None;
        if let Some(indexes) = rule["succeededIndexes"].as_str() {
            let (field, value) = (format!("{field}.succeededIndexes"), &rule["succeededIndexes"]);
            if indexes.len() > MAX_INDEXES {
                errors.push(too_long(&*field, MAX_INDEXES));
            }
            let ranges = job_indexes::parse(indexes, completions).unwrap_or_else(|why| {
                errors.push(invalid(
                    field,
                    value,
                    &format!("error parsing succeededIndexes: {why}"),
                ));
                Vec::new()
            });
            listed = Some(ranges.iter().map(|(first, last)| last - first + 1).sum::<i64>());
        }
        errors.extend(non_negative(count, format!("{field}.succeededCount")));
        if let (Some(count), Some(listed)) = (count.as_i64(), listed)
            && count > listed
        {
            let detail = format!(
                "must be less than or equal to {listed} (the number of indexes in the specified \
                 succeededIndexes field)"
            );
            errors.push(invalid(format!("{field}.succeededCount"), &count.into(), &detail));
        }
        if count.as_i64().is_some_and(|count| count > completions) {
            let detail = format!(
                "must be less than or equal to {completions} (the number of specified completions)"
            );
            errors.push(invalid(format!("{field}.succeededCount"), count, &detail));
        }
    }
    errors
}

/// An error for a missing value; the list of values is printed as Go prints a slice of quoted
/// strings.
fn one_of(field: String, values: &[&str]) -> FieldError {
    let values: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
    required(field, &format!("valid values: [{}]", values.join(" ")))
}

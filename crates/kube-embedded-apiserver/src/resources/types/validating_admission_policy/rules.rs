//! Validation of `MatchResources`, of policies and bindings (`validateMatchResources`).

use crate::{
    fields::{list, strings, text},
    validation::{
        field_error::{FieldError, duplicate, invalid, invalid_nested, not_supported, required},
        names::{label_selector, path_segment},
    },
};
use serde_json::Value;
use std::collections::HashSet;

const MATCH_POLICIES: [&str; 2] = ["Equivalent", "Exact"];
const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: [&str; 3] = ["*", "Cluster", "Namespaced"];

/// Returns the errors of a `MatchResources`.
pub(crate) fn match_resources(given: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let policy_field = format!("{path}.matchPolicy");
    match text(given, &["matchPolicy"]) {
        "" => errors.push(required(policy_field, "")),
        other if !MATCH_POLICIES.contains(&other) => {
            errors.push(not_supported(policy_field, &other.into(), &MATCH_POLICIES));
        }
        _ => {}
    }
    for field in ["namespaceSelector", "objectSelector"] {
        let at = format!("{path}.{field}");
        match &given[field] {
            Value::Null => errors.push(required(at, "")),
            selector => errors.extend(label_selector(selector, &at)),
        }
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        for (n, rule) in list(given, &[field]).iter().enumerate() {
            errors.extend(rule_errors(rule, &format!("{path}.{field}[{n}]")));
        }
    }
    errors
}

/// Stands for `validateNamedRuleWithOperations`.
fn rule_errors(rule: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let at = |field: &str| format!("{path}.{field}");
    let mut names = HashSet::new();
    for (n, name) in strings(&rule["resourceNames"]).into_iter().enumerate() {
        let field = format!("{}[{n}]", at("resourceNames"));
        let details = path_segment(&name);
        errors.extend(details.iter().map(|d| invalid(&*field, &name.as_str().into(), d)));
        let shown = Value::from(name.as_str());
        if !names.insert(name) {
            errors.push(duplicate(field, shown));
        }
    }
    errors.extend(wildcards(&rule["operations"], &at("operations"), "operations"));
    for (n, operation) in strings(&rule["operations"]).iter().enumerate() {
        if !OPERATIONS.contains(&&**operation) {
            let field = format!("{}[{n}]", at("operations"));
            errors.push(not_supported(field, &operation.as_str().into(), &OPERATIONS));
        }
    }
    errors.extend(wildcards(&rule["apiGroups"], &at("apiGroups"), "API groups"));
    errors.extend(wildcards(&rule["apiVersions"], &at("apiVersions"), "API versions"));
    for (n, version) in strings(&rule["apiVersions"]).iter().enumerate() {
        if version.is_empty() {
            errors.push(required(format!("{}[{n}]", at("apiVersions")), ""));
        }
    }
    errors.extend(resources(&rule["resources"], &at("resources")));
    let scope = text(rule, &["scope"]);
    if !scope.is_empty() && !SCOPES.contains(&scope) {
        errors.push(not_supported(at("scope"), &scope.into(), &SCOPES));
    }
    errors
}

/// A list must not be empty, and `*` is alone in it.
fn wildcards(given: &Value, field: &str, what: &str) -> Option<FieldError> {
    let all = strings(given);
    if all.is_empty() {
        return Some(required(field, ""));
    }
    let detail = format!("if '*' is present, must not specify other {what}");
    let is_mixed = all.len() > 1 && all.iter().any(|one| one == "*");
    is_mixed.then(|| invalid_nested(field, given, &detail))
}

/// Stands for `validateResources`.
fn resources(given: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let all = strings(given);
    if all.is_empty() {
        errors.push(required(path, ""));
    }
    let (mut all_of, mut everywhere) = (HashSet::new(), HashSet::new());
    for (n, one) in all.iter().enumerate() {
        let field = format!("{path}[{n}]");
        if one.is_empty() {
            errors.push(required(field, ""));
            continue;
        }
        let Some((resource, subresource)) = one.split_once('/') else { continue };
        for (known, wildcard) in [
            (all_of.contains(resource), format!("{resource}/*")),
            (everywhere.contains(subresource), format!("*/{subresource}")),
        ] {
            if known {
                let detail = format!("if '{wildcard}' is present, must not specify {one}");
                errors.push(invalid(&*field, &one.as_str().into(), &detail));
            }
        }
        if subresource == "*" {
            all_of.insert(resource);
        }
        if resource == "*" {
            everywhere.insert(subresource);
        }
    }
    let has = |wanted: &str| all.iter().any(|one| one == wanted);
    if all.len() > 1 && has("*/*") {
        let detail = "if '*/*' is present, must not specify other resources";
        errors.push(invalid_nested(path, given, detail));
    }
    let last = all.iter().rfind(|one| !one.is_empty() && !one.contains('/'));
    if has("*") && last.is_some_and(|last| last != "*") {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.push(invalid_nested(path, given, detail));
    }
    errors
}

//! Validation of what the scheduler reads of a pod: affinities, spread constraints, tolerations.

use crate::{
    fields::{list, text},
    validation::{
        field_error::{FieldError, duplicate, forbidden, invalid, not_supported, required},
        names::{dns_label, label_selector, label_value, qualified_name},
    },
};
use serde_json::Value;
use std::collections::HashSet;

/// Returns the errors of `affinity` at `field`.
pub(super) fn affinity(affinity: &Value, field: &str) -> Vec<FieldError> {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let mut errors = Vec::new();
    let node = &affinity["nodeAffinity"];
    let at = format!("{field}.nodeAffinity");
    if !node[REQUIRED].is_null() {
        errors.extend(node_selector(&node[REQUIRED], &format!("{at}.{REQUIRED}")));
    }
    for (n, term) in list(node, &[PREFERRED]).iter().enumerate() {
        let at = format!("{at}.{PREFERRED}[{n}]");
        errors.extend(weight(term, &at));
        errors.extend(node_selector_term(&term["preference"], &format!("{at}.preference")));
    }
    for name in ["podAffinity", "podAntiAffinity"] {
        let pods = &affinity[name];
        for (n, term) in list(pods, &[REQUIRED]).iter().enumerate() {
            errors.extend(pod_term(term, &format!("{field}.{name}.{REQUIRED}[{n}]")));
        }
        for (n, term) in list(pods, &[PREFERRED]).iter().enumerate() {
            let at = format!("{field}.{name}.{PREFERRED}[{n}]");
            errors.extend(weight(term, &at));
            errors.extend(pod_term(&term["podAffinityTerm"], &format!("{at}.podAffinityTerm")));
        }
    }
    errors
}

/// Stands for `ValidateNodeSelector`.
pub(crate) fn node_selector(selector: &Value, field: &str) -> Vec<FieldError> {
    let (terms, at) =
        (list(selector, &["nodeSelectorTerms"]), format!("{field}.nodeSelectorTerms"));
    let mut errors = Vec::new();
    if terms.is_empty() {
        errors.push(required(&*at, "must have at least one node selector term"));
    }
    for (n, term) in terms.iter().enumerate() {
        errors.extend(node_selector_term(term, &format!("{at}[{n}]")));
    }
    errors
}

fn weight(term: &Value, field: &str) -> Option<FieldError> {
    let weight = term["weight"].as_i64().unwrap_or_default();
    let detail = "must be in the range 1-100";
    (!(1..=100).contains(&weight))
        .then(|| invalid(format!("{field}.weight"), &weight.into(), detail))
}

/// Stands for `ValidateNodeSelectorTerm`.
fn node_selector_term(term: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (n, expression) in list(term, &["matchExpressions"]).iter().enumerate() {
        let field = format!("{field}.matchExpressions[{n}]");
        let values = list(expression, &["values"]);
        let at = format!("{field}.values");
        match text(expression, &["operator"]) {
            "In" | "NotIn" if values.is_empty() => {
                errors.push(required(at, "must be specified when `operator` is 'In' or 'NotIn'"))
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(forbidden(
                at,
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "Gt" | "Lt" if values.len() != 1 => errors.push(required(
                at,
                "must be specified single value when `operator` is 'Lt' or 'Gt'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            _ => errors.push(invalid(
                format!("{field}.operator"),
                &expression["operator"],
                "not a valid selector operator",
            )),
        }
        let key = &expression["key"];
        let details = qualified_name(key.as_str().unwrap_or_default());
        errors.extend(details.iter().map(|w| invalid(format!("{field}.key"), key, w)));
        for (n, value) in values.iter().enumerate() {
            let details = label_value(value.as_str().unwrap_or_default());
            let field = format!("{field}.values[{n}]");
            errors.extend(details.iter().map(|w| invalid(&*field, value, w)));
        }
    }
    for (n, expression) in list(term, &["matchFields"]).iter().enumerate() {
        let field = format!("{field}.matchFields[{n}]");
        if !matches!(text(expression, &["operator"]), "In" | "NotIn") {
            let value = &expression["operator"];
            errors.push(invalid(
                format!("{field}.operator"),
                value,
                "not a valid selector operator",
            ));
        } else if list(expression, &["values"]).len() != 1 {
            let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field \
                          selector";
            errors.push(required(format!("{field}.values"), detail));
        }
        if text(expression, &["key"]) != "metadata.name" {
            let value = &expression["key"];
            errors.push(invalid(format!("{field}.key"), value, "not a valid field selector key"));
        }
    }
    errors
}

fn pod_term(term: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for name in ["labelSelector", "namespaceSelector"] {
        errors.extend(label_selector(&term[name], &format!("{field}.{name}")));
    }
    for name in list(term, &["namespaces"]) {
        let details = dns_label(name.as_str().unwrap_or_default());
        errors.extend(details.iter().map(|w| invalid(format!("{field}.namespace"), name, w)));
    }
    errors.extend(topology_key(term, field));
    errors
}

fn topology_key(of: &Value, field: &str) -> Vec<FieldError> {
    let (key, field) = (text(of, &["topologyKey"]), format!("{field}.topologyKey"));
    let mut errors = Vec::new();
    if key.is_empty() {
        errors.push(required(&*field, "can not be empty"));
    }
    errors.extend(qualified_name(key).iter().map(|w| invalid(&*field, &key.into(), w)));
    errors
}

/// Stands for `validateTopologySpreadConstraints`.
pub(super) fn spread_constraints(spec: &Value, field: &str) -> Vec<FieldError> {
    let (mut errors, mut seen) = (Vec::new(), HashSet::new());
    for (n, constraint) in list(spec, &["topologySpreadConstraints"]).iter().enumerate() {
        let field = format!("{field}.topologySpreadConstraints[{n}]");
        if constraint["maxSkew"].as_i64().unwrap_or_default() <= 0 {
            let value = constraint["maxSkew"].as_i64().unwrap_or_default().into();
            errors.push(invalid(format!("{field}.maxSkew"), &value, "must be greater than zero"));
        }
        if text(constraint, &["topologyKey"]).is_empty() {
            errors.push(required(format!("{field}.topologyKey"), "can not be empty"));
        }
        let action = text(constraint, &["whenUnsatisfiable"]);
        if !matches!(action, "DoNotSchedule" | "ScheduleAnyway") {
            let value = &constraint["whenUnsatisfiable"];
            let supported = ["DoNotSchedule", "ScheduleAnyway"];
            errors.push(not_supported(format!("{field}.whenUnsatisfiable"), value, &supported));
        }
        if !seen.insert((text(constraint, &["topologyKey"]), action)) {
            let shown = format!("{{{}, {action}}}", text(constraint, &["topologyKey"]));
            let field = format!("{field}.{{topologyKey, whenUnsatisfiable}}");
            errors.push(duplicate(field, Value::from(shown)));
        }
        if constraint["minDomains"].as_i64().is_some_and(|count| count <= 0) {
            let value = &constraint["minDomains"];
            errors.push(invalid(format!("{field}.minDomains"), value, "must be greater than zero"));
        }
        let at = format!("{field}.labelSelector");
        errors.extend(label_selector(&constraint["labelSelector"], &at));
    }
    errors
}

/// Validates a toleration (`ValidateTolerations`).
pub(super) fn toleration(toleration: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (key, operator) = (text(toleration, &["key"]), text(toleration, &["operator"]));
    let effect = text(toleration, &["effect"]);
    if !key.is_empty() {
        let details = qualified_name(key);
        errors.extend(details.iter().map(|w| invalid(format!("{field}.key"), &key.into(), w)));
    } else if operator != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values \
                      and all keys\"";
        errors.push(invalid(format!("{field}.operator"), &operator.into(), detail));
    }
    if !toleration["tolerationSeconds"].is_null() && effect != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.push(invalid(format!("{field}.effect"), &effect.into(), detail));
    }
    match operator {
        "Exists" if !text(toleration, &["value"]).is_empty() => errors.push(invalid(
            format!("{field}.operator"),
            &toleration["value"],
            "value must be empty when `operator` is 'Exists'",
        )),
        // `Lt` and `Gt` are accepted as with the feature gate `TaintTolerationComparisonOperators`.
        "" | "Exists" | "Equal" | "Lt" | "Gt" => {}
        _ => errors.push(not_supported(
            format!("{field}.operator"),
            &toleration["operator"],
            &["Equal", "Exists"],
        )),
    }
    if !matches!(effect, "" | "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        let supported = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        errors.push(not_supported(format!("{field}.effect"), &toleration["effect"], &supported));
    }
    errors
}

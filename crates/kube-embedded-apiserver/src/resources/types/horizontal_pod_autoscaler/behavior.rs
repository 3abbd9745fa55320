//! How fast a HorizontalPodAutoscaler scales (`validateBehavior`).

use serde_json::{Value, json};

use crate::{
    fields::{default, existing, list, object, text},
    validation::field_error::{FieldError, invalid, not_supported, required},
};
use kube_embedded_core::quantity;

const MAX_STABILIZATION: i64 = 3600;
const MAX_PERIOD: i64 = 1800;

/// Fills in the rules of both directions, if there are any.
pub(super) fn defaults(spec: &mut Value) {
    let Some(behavior) = existing(spec, "behavior") else { return };
    let percent = json!({ "type": "Percent", "value": 100, "periodSeconds": 15 });
    let pods = json!({ "type": "Pods", "value": 4, "periodSeconds": 15 });
    for (direction, policies) in
        [("scaleUp", json!([pods, percent])), ("scaleDown", json!([percent]))]
    {
        let Some(rules) = object(behavior, direction) else { continue };
        if direction == "scaleUp" {
            default(rules, "stabilizationWindowSeconds", 0);
        }
        default(rules, "selectPolicy", "Max");
        default(rules, "policies", policies);
    }
}

/// Returns the errors of `spec.behavior`.
pub(super) fn validate(behavior: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for direction in ["scaleUp", "scaleDown"] {
        if !behavior[direction].is_null() {
            let field = format!("spec.behavior.{direction}");
            errors.extend(validate_rules(&behavior[direction], &field));
        }
    }
    errors
}

fn validate_rules(rules: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let window = &rules["stabilizationWindowSeconds"];
    let at = format!("{field}.stabilizationWindowSeconds");
    match window.as_i64() {
        Some(..0) => errors.push(invalid(at, window, "must be greater than or equal to zero")),
        Some(seconds) if seconds > MAX_STABILIZATION => {
            let detail = format!("must be less than or equal to {MAX_STABILIZATION}");
            errors.push(invalid(at, window, &detail));
        }
        _ => {}
    }
    let select = &rules["selectPolicy"];
    let supported = ["Disabled", "Max", "Min"];
    if select.as_str().is_some_and(|policy| !supported.contains(&policy)) {
        errors.push(not_supported(format!("{field}.selectPolicy"), select, &supported));
    }
    let policies = list(rules, &["policies"]);
    if policies.is_empty() {
        errors.push(required(format!("{field}.policies"), "must specify at least one Policy"));
    }
    for (at, policy) in policies.iter().enumerate() {
        errors.extend(validate_policy(policy, &format!("{field}.policies[{at}]")));
    }
    let tolerance = &rules["tolerance"];
    if tolerance.as_str().and_then(|text| quantity::parse(text).ok()).is_some_and(|n| n < 0) {
        let detail = "must be greater than or equal to 0";
        errors.push(invalid(format!("{field}.tolerance"), tolerance, detail));
    }
    errors
}

fn validate_policy(policy: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !matches!(text(policy, &["type"]), "Pods" | "Percent") {
        let supported = ["Percent", "Pods"];
        errors.push(not_supported(format!("{field}.type"), &policy["type"], &supported));
    }
    for name in ["value", "periodSeconds"] {
        let number = policy[name].as_i64().unwrap_or_default();
        let at = format!("{field}.{name}");
        if number <= 0 {
            errors.push(invalid(at, &number.into(), "must be greater than zero"));
        } else if name == "periodSeconds" && number > MAX_PERIOD {
            let detail = format!("must be less than or equal to {MAX_PERIOD}");
            errors.push(invalid(at, &number.into(), &detail));
        }
    }
    errors
}

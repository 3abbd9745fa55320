//! What a container requests, and may use (`ValidateContainerResourceRequirements`).

use kube_embedded_core::quantity;
use serde_json::Value;

use crate::validation::{
    field_error::{FieldError, invalid, required},
    names::qualified_name,
};

/// Names without a domain that are resources of something: a container has three of them.
const STANDARD: [&str; 14] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
];
const QUOTAS: [&str; 6] = [
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];
const OF_CONTAINER: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// Returns the errors of `limits` and `requests`.
pub(super) fn validate(resources: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for part in ["limits", "requests"] {
        for (name, amount) in resources[part].as_object().into_iter().flatten() {
            let field = format!("{field}.{part}[{name}]");
            errors.extend(name_errors(name, &field));
            let Some(value) = billionths(amount) else { continue };
            if value < 0 {
                errors.push(invalid(&*field, amount, "must be greater than or equal to 0"));
            }
            if is_extended(name) && value % 1_000_000_000 != 0 {
                errors.push(invalid(&*field, amount, "must be an integer"));
            }
        }
    }
    for (name, request) in resources["requests"].as_object().into_iter().flatten() {
        let limit = &resources["limits"][name.as_str()];
        if limit.is_null() {
            if !may_be_overcommitted(name) {
                let detail = "Limit must be set for non overcommitable resources";
                errors.push(required(format!("{field}.limits"), detail));
            }
        } else if let (Some(wanted), Some(max)) = (billionths(request), billionths(limit)) {
            let shown = limit.as_str().map_or_else(|| limit.to_string(), str::to_owned);
            let relation = if wanted != max && !may_be_overcommitted(name) {
                "equal to"
            } else if wanted > max {
                "less than or equal to"
            } else {
                continue;
            };
            let detail = format!("must be {relation} {name} limit of {shown}");
            errors.push(invalid(format!("{field}.requests"), request, &detail));
        }
    }
    errors
}

/// Stands for `validateContainerResourceName`.
pub(crate) fn name_errors(name: &str, field: &str) -> Vec<FieldError> {
    let value = Value::from(name);
    let details = qualified_name(name);
    let mut errors: Vec<_> = details.iter().map(|w| invalid(field, &value, w)).collect();
    let huge_pages = name.starts_with("hugepages-");
    if !name.contains('/') {
        let standard = huge_pages || STANDARD.contains(&name) || QUOTAS.contains(&name);
        if errors.is_empty() && !standard {
            let detail = "must be a standard resource type or fully qualified";
            errors.push(invalid(field, &value, detail));
        }
        if !huge_pages && !OF_CONTAINER.contains(&name) {
            errors.push(invalid(field, &value, "must be a standard resource for containers"));
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.push(invalid(field, &value, "doesn't follow extended resource name standard"));
    }
    errors
}

/// Stands for `validateResourceName`.
pub(crate) fn any_name_errors(name: &str, field: &str) -> Vec<FieldError> {
    let value = Value::from(name);
    let details = qualified_name(name);
    if !details.is_empty() {
        return details.iter().map(|detail| invalid(field, &value, detail)).collect();
    }
    if name.contains('/')
        || name.starts_with("hugepages-")
        || STANDARD.contains(&name)
        || QUOTAS.contains(&name)
    {
        return Vec::new();
    }
    vec![invalid(field, &value, "must be a standard resource type or fully qualified")]
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// A resource of a device, with a domain. It may be the name of a quota with `requests.` before it, too.
fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && qualified_name(&format!("requests.{name}")).is_empty()
}

pub(crate) fn may_be_overcommitted(name: &str) -> bool {
    is_native(name) && !name.starts_with("hugepages-")
}

/// Returns an amount in billionths, the finest unit of a quantity.
fn billionths(amount: &Value) -> Option<i128> {
    match amount {
        Value::String(text) => quantity::parse(text).ok(),
        Value::Number(number) => quantity::parse(&number.to_string()).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Compared with kube-apiserver 1.36.2.
    #[test]
    fn resources_of_containers_have_known_names_and_amounts() {
        for (resources, expected) in [
            (json!({ "limits": { "cpu": "1", "memory": "1Gi", "hugepages-2Mi": "2Mi" } }), &[][..]),
            (json!({ "limits": { "x.io/gpu": "1" }, "requests": { "x.io/gpu": "1" } }), &[]),
            (
                json!({ "limits": { "gpu": "1" } }),
                &[
                    "r.limits[gpu]: Invalid value: \"gpu\": must be a standard resource type or fully qualified",
                    "r.limits[gpu]: Invalid value: \"gpu\": must be a standard resource for containers",
                ],
            ),
            (
                json!({ "limits": { "pods": "1" } }),
                &[
                    "r.limits[pods]: Invalid value: \"pods\": must be a standard resource for containers",
                ],
            ),
            (
                json!({ "limits": { "x.io/gpu": "500m" } }),
                &["r.limits[x.io/gpu]: Invalid value: \"500m\": must be an integer"],
            ),
            (
                json!({ "requests": { "x.io/gpu": "1" } }),
                &["r.limits: Required value: Limit must be set for non overcommitable resources"],
            ),
            (
                json!({ "limits": { "x.io/gpu": "2" }, "requests": { "x.io/gpu": "1" } }),
                &["r.requests: Invalid value: \"1\": must be equal to x.io/gpu limit of 2"],
            ),
            (
                json!({ "limits": { "cpu": "1" }, "requests": { "cpu": "2" } }),
                &["r.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1"],
            ),
            (
                json!({ "limits": { "cpu": "-1" } }),
                &["r.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0"],
            ),
        ] {
            let errors = validate(&resources, "r").into_iter();
            let errors: Vec<_> = errors.map(|e| format!("{}: {}", e.field, e.message)).collect();
            assert_eq!(errors, expected, "{resources}");
        }
    }
}

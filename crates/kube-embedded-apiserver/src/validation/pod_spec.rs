//! Validation of a pod's spec, shared by pods and all types with a pod template (`ValidatePodSpec`
//! in `pkg/apis/core/validation`).

use std::collections::HashSet;

use serde_json::Value;

use crate::{
    fields::{list, text},
    validation::{
        container::{Container, check_name, one_of},
        field_error::{FieldError, forbidden, invalid, not_supported, required},
        names::{dns_label, dns_subdomain, labels, non_negative},
    },
};

/// Returns the errors of a pod template at `field`.
pub(crate) fn validate_template(template: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = labels(&template["metadata"]["labels"], &format!("{field}.metadata.labels"));
    errors.extend(validate(&template["spec"], &format!("{field}.spec")));
    errors
}

/// Returns the errors of a pod spec at `field`, in the order of Kubernetes' checks.
pub(crate) fn validate(spec: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    validate_containers(spec, field, &mut errors);
    one_of(spec, "restartPolicy", field, &["Always", "OnFailure", "Never"], &mut errors);
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    one_of(spec, "dnsPolicy", field, &policies, &mut errors);
    errors.extend(labels(&spec["nodeSelector"], &format!("{field}.nodeSelector")));
    for name in ["serviceAccountName", "nodeName"] {
        errors.extend(optional_name(spec, name, field, dns_subdomain));
    }
    let deadline = &spec["activeDeadlineSeconds"];
    if deadline.as_i64().is_some_and(|n| !(1..=i64::from(i32::MAX)).contains(&n)) {
        let detail = "must be between 1 and 2147483647, inclusive";
        errors.push(invalid(format!("{field}.activeDeadlineSeconds"), deadline, detail));
    }
    for name in ["hostname", "subdomain"] {
        errors.extend(optional_name(spec, name, field, dns_label));
    }
    for (at, toleration) in list(spec, &["tolerations"]).iter().enumerate() {
        errors.extend(validate_toleration(toleration, &format!("{field}.tolerations[{at}]")));
    }
    let grace = "terminationGracePeriodSeconds";
    errors.extend(non_negative(&spec[grace], format!("{field}.{grace}")));
    errors
}

/// Validates the volumes and the containers that mount them.
fn validate_containers(spec: &Value, field: &str, errors: &mut Vec<FieldError>) {
    let mut volumes = HashSet::new();
    for (at, volume) in list(spec, &["volumes"]).iter().enumerate() {
        let field = format!("{field}.volumes[{at}]");
        let name = text(volume, &["name"]);
        check_name(name, &volume["name"], &format!("{field}.name"), &mut volumes, errors);
        // All fields but the name are sources, and defaulting has set one if there was none.
        let sources = volume.as_object().map_or(0, |volume| volume.len().saturating_sub(1));
        if sources > 1 {
            errors.push(forbidden(field, "may not specify more than 1 volume type"));
        }
    }
    let mut names = HashSet::new();
    let containers = list(spec, &["containers"]);
    if containers.is_empty() {
        errors.push(required(format!("{field}.containers"), ""));
    }
    let host_network = spec["hostNetwork"] == true;
    for (list_name, containers) in
        [("containers", containers), ("initContainers", list(spec, &["initContainers"]))]
    {
        for (at, container) in containers.iter().enumerate() {
            let field = format!("{field}.{list_name}[{at}]");
            let volumes = &volumes;
            Container { field, host_network, volumes, errors: &mut *errors }
                .validate(container, &mut names);
        }
    }
}

/// Returns the errors of a name that may be missing.
fn optional_name(
    spec: &Value,
    name: &str,
    field: &str,
    rule: fn(&str) -> Vec<String>,
) -> Vec<FieldError> {
    let details = match text(spec, &[name]) {
        "" => return Vec::new(),
        given => rule(given),
    };
    let field = format!("{field}.{name}");
    details.iter().map(|detail| invalid(&*field, &spec[name], detail)).collect()
}

/// Validates a toleration (`ValidateTolerations`).
fn validate_toleration(toleration: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (key, operator) = (text(toleration, &["key"]), text(toleration, &["operator"]));
    if key.is_empty() && operator != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values \
                      and all keys\"";
        errors.push(invalid(format!("{field}.operator"), &operator.into(), detail));
    }
    if !toleration["tolerationSeconds"].is_null() && text(toleration, &["effect"]) != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.push(invalid(
            format!("{field}.effect"),
            &text(toleration, &["effect"]).into(),
            detail,
        ));
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
    errors
}

//! Validation of a pod's spec, shared by pods and all types with a pod template (`ValidatePodSpec`
//! in `pkg/apis/core/validation`).

use std::collections::HashSet;

use serde_json::Value;

use crate::{
    fields::{list, text},
    validation::{
        addresses::{Family, ip},
        container::{Container, Role},
        field_error::{FieldError, forbidden, invalid, not_found, not_supported, required},
        names::{dns_label, dns_subdomain, labels, one_of, qualified_name},
        object_meta, scheduling, security_context, volume,
    },
};

/// Returns the errors of a pod template at `field`.
pub(crate) fn validate_template(template: &Value, field: &str) -> Vec<FieldError> {
    let metadata = &template["metadata"];
    // Kubernetes leaves `metadata` out of these two paths.
    let mut errors = labels(&metadata["labels"], &format!("{field}.labels"));
    let at = format!("{field}.annotations");
    errors.extend(object_meta::annotations(&metadata["annotations"], &at));
    errors.extend(validate(&template["spec"], &format!("{field}.spec")));
    if !list(&template["spec"], &["ephemeralContainers"]).is_empty() {
        let detail = "ephemeral containers not allowed in pod template";
        errors.push(forbidden(format!("{field}.spec.ephemeralContainers"), detail));
    }
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
    errors.extend(security_context::of_pod(spec, field));
    errors.extend(scheduling::affinity(&spec["affinity"], &format!("{field}.affinity")));
    errors.extend(dns_config(spec, field));
    for (at, gate) in list(spec, &["readinessGates"]).iter().enumerate() {
        let field = format!("{field}.readinessGates[{at}].conditionType");
        let details = qualified_name(text(gate, &["conditionType"]));
        errors.extend(details.iter().map(|w| invalid(&*field, &gate["conditionType"], w)));
    }
    errors.extend(scheduling::spread_constraints(spec, field));
    errors.extend(user_namespace(spec, field));
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
        errors.extend(scheduling::toleration(toleration, &format!("{field}.tolerations[{at}]")));
    }
    errors.extend(host_aliases(spec, field));
    for name in ["priorityClassName", "runtimeClassName"] {
        errors.extend(optional_name(spec, name, field, dns_subdomain));
    }
    let (policy, supported) = (&spec["preemptionPolicy"], ["PreemptLowerPriority", "Never"]);
    if policy.as_str().is_some_and(|given| !supported.contains(&given)) {
        errors.push(not_supported(format!("{field}.preemptionPolicy"), policy, &supported));
    }
    if !spec["os"].is_null() {
        one_of(&spec["os"], "name", &format!("{field}.os"), &["linux", "windows"], &mut errors);
    }
    errors
}

/// Validates the volumes and the containers that mount them.
fn validate_containers(spec: &Value, field: &str, errors: &mut Vec<FieldError>) {
    let volumes = volume::validate(list(spec, &["volumes"]), &format!("{field}.volumes"), errors);
    let mut names = HashSet::new();
    let containers = list(spec, &["containers"]);
    if containers.is_empty() {
        errors.push(required(format!("{field}.containers"), ""));
    }
    let host_network = spec["hostNetwork"] == true;
    let grace = spec["terminationGracePeriodSeconds"].as_i64();
    for (list_name, containers, role) in [
        ("containers", containers, Role::Main),
        ("initContainers", list(spec, &["initContainers"]), Role::Init),
        ("ephemeralContainers", list(spec, &["ephemeralContainers"]), Role::Ephemeral),
    ] {
        let targets = names.clone();
        for (at, container) in containers.iter().enumerate() {
            let at_field = format!("{field}.{list_name}[{at}]");
            let field = at_field.clone();
            let volumes = &volumes;
            Container { field, role, host_network, grace, volumes, errors: &mut *errors }
                .validate(container, &mut names);
            let target = text(container, &["targetContainerName"]);
            if role == Role::Ephemeral && !target.is_empty() && !targets.contains(target) {
                let field = format!("{at_field}.targetContainerName");
                errors.push(not_found(field, &container["targetContainerName"]));
            }
        }
    }
}

/// Stands for `validatePodDNSConfig`.
fn dns_config(spec: &Value, field: &str) -> Vec<FieldError> {
    const MAX_SEARCHES: usize = 32;
    const MAX_SEARCH_CHARS: usize = 2048;
    let (config, at) = (&spec["dnsConfig"], format!("{field}.dnsConfig"));
    let mut errors = Vec::new();
    let servers = list(config, &["nameservers"]);
    if spec["dnsPolicy"] == "None" {
        let when = "when `dnsPolicy` is None";
        if config.is_null() {
            return vec![required(at, &format!("must provide `dnsConfig` {when}"))];
        }
        if servers.is_empty() {
            let detail = format!("must provide at least one DNS nameserver {when}");
            return vec![required(format!("{at}.nameservers"), &detail)];
        }
    }
    if servers.len() > 3 {
        let detail = "must not have more than 3 nameservers";
        errors.push(invalid(format!("{at}.nameservers"), &config["nameservers"], detail));
    }
    for (n, server) in servers.iter().enumerate() {
        errors.extend(ip(server, Family::Any, &format!("{at}.nameservers[{n}]")));
    }
    let searches = list(config, &["searches"]);
    let length = searches.iter().filter_map(Value::as_str).map(str::len).sum::<usize>();
    if searches.len() > MAX_SEARCHES {
        let detail = format!("must not have more than {MAX_SEARCHES} search paths");
        errors.push(invalid(format!("{at}.searches"), &config["searches"], &detail));
    }
    if length + searches.len().saturating_sub(1) > MAX_SEARCH_CHARS {
        let detail = format!(
            "must not have more than {MAX_SEARCH_CHARS} characters (including spaces) in the search list"
        );
        errors.push(invalid(format!("{at}.searches"), &config["searches"], &detail));
    }
    for (n, search) in searches.iter().enumerate() {
        let name = search.as_str().unwrap_or_default();
        // A lone dot, and labels with underscores, are search paths too (`RelaxedDNSSearchValidation`).
        let name = name.strip_suffix('.').unwrap_or(name).replace('_', "-");
        let details =
            if search == "." { Vec::new() } else { dns_subdomain(name.trim_matches('-')) };
        errors.extend(details.iter().map(|w| invalid(format!("{at}.searches[{n}]"), search, w)));
    }
    for (n, option) in list(config, &["options"]).iter().enumerate() {
        if text(option, &["name"]).is_empty() {
            errors.push(required(format!("{at}.options[{n}]"), "must not be empty"));
        }
    }
    errors
}

/// A pod with users of its own cannot share what belongs to the users of its host (`validateHostUsers`).
fn user_namespace(spec: &Value, field: &str) -> Vec<FieldError> {
    let shared = ["hostNetwork", "hostPID", "hostIPC"].into_iter();
    shared
        .filter(|name| spec["hostUsers"] == false && spec[*name] == true)
        .map(|name| forbidden(format!("{field}.{name}"), "when `hostUsers` is false"))
        .collect()
}

/// Stands for `ValidateHostAliases`.
fn host_aliases(spec: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (at, alias) in list(spec, &["hostAliases"]).iter().enumerate() {
        let field = format!("{field}.hostAliases[{at}]");
        errors.extend(ip(&alias["ip"], Family::Any, &format!("{field}.ip")));
        for (at, name) in list(alias, &["hostnames"]).iter().enumerate() {
            let field = format!("{field}.hostnames[{at}]");
            let details = dns_subdomain(name.as_str().unwrap_or_default());
            errors.extend(details.iter().map(|w| invalid(&*field, name, w)));
        }
    }
    errors
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

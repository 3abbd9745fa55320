//! Validation of the security contexts of pods and containers (`ValidateSecurityContext`,
//! `validatePodSpecSecurityContext`).

use crate::{
    fields::{list, text},
    validation::{
        field_error::{FieldError, duplicate, invalid, not_supported, required},
        paths::descending_path,
    },
};
use serde_json::Value;
use std::collections::HashSet;

/// Returns the errors of the security context of a container at `field`.
pub(super) fn of_container(container: &Value, field: &str) -> Vec<FieldError> {
    let context = &container["securityContext"];
    if context.is_null() {
        return Vec::new();
    }
    let field = format!("{field}.securityContext");
    let mut errors = shared(context, &field);
    if let Some(kind) = context["procMount"].as_str()
        && !matches!(kind, "Default" | "Unmasked")
    {
        let supported = ["Default", "Unmasked"];
        errors.push(not_supported(format!("{field}.procMount"), &context["procMount"], &supported));
    }
    if context["allowPrivilegeEscalation"] == false {
        let added = list(context, &["capabilities", "add"]);
        if context["privileged"] == true {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(invalid(&*field, context, detail));
        }
        if added.iter().any(|name| name == "CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` \
                          CAP_SYS_ADMIN";
            errors.push(invalid(&*field, context, detail));
        }
    }
    errors
}

/// Returns the errors of the security context of a pod's spec at `field`.
pub(super) fn of_pod(spec: &Value, field: &str) -> Vec<FieldError> {
    let context = &spec["securityContext"];
    let mut errors = Vec::new();
    if spec["hostPID"] == true && spec["shareProcessNamespace"] == true {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(invalid(format!("{field}.shareProcessNamespace"), &true.into(), detail));
    }
    let field = format!("{field}.securityContext");
    errors.extend(id(&context["fsGroup"], format!("{field}.fsGroup")));
    for (at, group) in list(context, &["supplementalGroups"]).iter().enumerate() {
        errors.extend(id(group, format!("{field}.supplementalGroups[{at}]")));
    }
    for (name, supported) in [
        ("fsGroupChangePolicy", &["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", &["Merge", "Strict"]),
        ("seLinuxChangePolicy", &["MountOption", "Recursive"]),
    ] {
        if let Some(given) = context[name].as_str()
            && !supported.contains(&given)
        {
            errors.push(not_supported(format!("{field}.{name}"), &context[name], supported));
        }
    }
    errors.extend(sysctls(list(context, &["sysctls"]), &format!("{field}.sysctls")));
    errors.extend(shared(context, &field));
    errors
}

/// The fields that both have.
fn shared(context: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for name in ["runAsUser", "runAsGroup"] {
        errors.extend(id(&context[name], format!("{field}.{name}")));
    }
    for (name, what) in [("seccompProfile", "seccomp"), ("appArmorProfile", "AppArmor")] {
        if !context[name].is_null() {
            errors.extend(profile(&context[name], what, &format!("{field}.{name}")));
        }
    }
    errors
}

/// Returns the error of a user or group that cannot be.
fn id(value: &Value, field: String) -> Option<FieldError> {
    let is_valid = value.as_i64().is_none_or(|id| (0..=i64::from(i32::MAX)).contains(&id));
    let detail = "must be between 0 and 2147483647, inclusive";
    (!is_valid).then(|| invalid(field, value, detail))
}

/// Validates a profile, which has a name only where it is one of the node.
fn profile(profile: &Value, what: &str, field: &str) -> Vec<FieldError> {
    let (at, name) = (format!("{field}.type"), format!("{field}.localhostProfile"));
    let local = &profile["localhostProfile"];
    let supported = ["Localhost", "RuntimeDefault", "Unconfined"];
    let mut errors = Vec::new();
    match text(profile, &["type"]) {
        "" if what == "seccomp" => {
            errors.push(required(at, "type is required when seccompProfile is set"))
        }
        "" => errors.push(required(at, "type is required when appArmorProfile is set")),
        given if supported.contains(&given) => {}
        _ => errors.push(not_supported(at, &profile["type"], &supported)),
    }
    if profile["type"] == "Localhost" {
        if text(local, &[]).is_empty() {
            errors.push(required(name, &format!("must be set when {what} type is Localhost")));
        } else if what == "seccomp" {
            errors.extend(descending_path(local, &name));
        }
    } else if !local.is_null() {
        let detail = format!("can only be set when {what} type is Localhost");
        errors.push(invalid(name, local, &detail));
    }
    errors
}

fn sysctls(given: &[Value], field: &str) -> Vec<FieldError> {
    let (mut errors, mut names) = (Vec::new(), HashSet::new());
    for (at, sysctl) in given.iter().enumerate() {
        let field = format!("{field}[{at}].name");
        let name = text(sysctl, &["name"]);
        let part = |part: &str| {
            let is_edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
            !part.is_empty()
                && part.bytes().all(|b| is_edge(b) || b == b'-' || b == b'_')
                && part.bytes().next().is_some_and(is_edge)
                && part.bytes().last().is_some_and(is_edge)
        };
        if name.is_empty() {
            errors.push(required(field, ""));
        } else if name.len() > 253 || !name.split(['.', '/']).all(part) {
            let detail = "must have at most 253 characters and match regex \
                          ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errors.push(invalid(field, &sysctl["name"], detail));
        } else if !names.insert(name.replace('/', ".")) {
            errors.push(duplicate(field, &sysctl["name"]));
        }
    }
    errors
}

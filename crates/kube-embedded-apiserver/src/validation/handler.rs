//! Validation of probes and lifecycle hooks, and of the action of either.

use crate::{
    fields::{list, text},
    validation::{
        field_error::{FieldError, forbidden, invalid, required},
        names::{non_negative, one_of, port, port_or_name},
    },
};
use serde_json::Value;

const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];

/// Validates the hooks and probes of a container at `field`; `grace` is the grace period of its pod.
pub(super) fn validate(container: &Value, field: &str, grace: Option<i64>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for name in ["postStart", "preStop"] {
        let hook = &container["lifecycle"][name];
        if !hook.is_null() {
            action(hook, &format!("{field}.lifecycle.{name}"), grace, &mut errors);
        }
    }
    for name in PROBES {
        if !container[name].is_null() {
            probe(&container[name], name, &format!("{field}.{name}"), &mut errors);
        }
    }
    errors
}

/// Refuses hooks and probes of an init container that runs to its end.
pub(super) fn refuse(container: &Value, field: &str) -> Vec<FieldError> {
    let names = ["lifecycle"].into_iter().chain(PROBES);
    let given = names.filter(|name| !container[*name].is_null());
    let detail = "may not be set for init containers without restartPolicy=Always";
    given.map(|name| forbidden(format!("{field}.{name}"), detail)).collect()
}

fn probe(probe: &Value, name: &str, field: &str, errors: &mut Vec<FieldError>) {
    action(probe, field, None, errors);
    for number in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        errors.extend(non_negative(&probe[number], format!("{field}.{number}")));
    }
    let grace = &probe["terminationGracePeriodSeconds"];
    if grace.as_i64().is_some_and(|seconds| seconds <= 0) {
        let field = format!("{field}.terminationGracePeriodSeconds");
        errors.push(invalid(field, grace, "must be greater than 0"));
    }
    // A failed readiness probe stops nothing. More than one success has no meaning where a failure restarts the
    // container.
    if name == "readinessProbe" {
        if !grace.is_null() {
            let field = format!("{field}.terminationGracePeriodSeconds");
            errors.push(invalid(field, grace, "must not be set for readinessProbes"));
        }
    } else if probe["successThreshold"] != 1 {
        let value = &probe["successThreshold"];
        errors.push(invalid(format!("{field}.successThreshold"), value, "must be 1"));
    }
}

/// Validates the action, of which there must be one.
fn action(handler: &Value, field: &str, grace: Option<i64>, errors: &mut Vec<FieldError>) {
    let given: Vec<&str> = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"]
        .into_iter()
        .filter(|name| handler[*name].is_object())
        .collect();
    for (at, name) in given.iter().enumerate() {
        let (of, field) = (&handler[*name], format!("{field}.{name}"));
        if at > 0 {
            errors.push(forbidden(field, "may not specify more than 1 handler type"));
            continue;
        }
        match *name {
            "exec" if list(of, &["command"]).is_empty() => {
                errors.push(required(format!("{field}.command"), ""));
            }
            "httpGet" => http_get(of, &field, errors),
            "tcpSocket" => errors.extend(port_or_name(&of["port"], &format!("{field}.port"))),
            "grpc" => errors.extend(port(&of["port"], format!("{field}.port"))),
            "sleep" => errors.extend(sleep(&of["seconds"], &field, grace)),
            _ => {}
        }
    }
    if given.is_empty() {
        errors.push(required(field, "must specify a handler type"));
    }
}

fn http_get(get: &Value, field: &str, errors: &mut Vec<FieldError>) {
    if text(get, &["path"]).is_empty() {
        errors.push(required(format!("{field}.path"), ""));
    }
    errors.extend(port_or_name(&get["port"], &format!("{field}.port")));
    one_of(get, "scheme", field, &["HTTP", "HTTPS"], errors);
    for header in list(get, &["httpHeaders"]) {
        let name = text(header, &["name"]);
        let is_valid = !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        if !is_valid {
            let detail = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. \
                          'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
            errors.push(invalid(format!("{field}.httpHeaders"), &header["name"], detail));
        }
    }
}

/// A hook that sleeps has to end within the grace period. 0 is allowed since 1.34
/// (`PodLifecycleSleepActionAllowZero`).
fn sleep(seconds: &Value, field: &str, grace: Option<i64>) -> Option<FieldError> {
    let (given, grace) = (seconds.as_i64().unwrap_or_default(), grace?);
    let detail =
        format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
    (!(0..=grace).contains(&given)).then(|| invalid(field, &given.into(), &detail))
}

//! Validation of a container (`validateContainerCommon` in `pkg/apis/core/validation`).

use std::collections::HashSet;

use serde_json::Value;

use crate::{
    fields::{list, text},
    validation::{
        field_error::{
            FieldError, duplicate, forbidden, invalid, not_found, not_supported, required,
        },
        names::{dns_label, non_negative, port, port_name, port_or_name},
    },
};
use kube_embedded_core::quantity;

/// Checks a required field with a fixed set of values.
pub(super) fn one_of(
    spec: &Value,
    name: &str,
    field: &str,
    supported: &[&str],
    errors: &mut Vec<FieldError>,
) {
    match text(spec, &[name]) {
        "" => errors.push(required(format!("{field}.{name}"), "")),
        value if supported.contains(&value) => {}
        _ => errors.push(not_supported(format!("{field}.{name}"), &spec[name], supported)),
    }
}

/// Checks a name that must be a DNS label and unique.
pub(super) fn check_name<'a>(
    name: &'a str,
    value: &Value,
    field: &str,
    seen: &mut HashSet<&'a str>,
    errors: &mut Vec<FieldError>,
) {
    if name.is_empty() {
        errors.push(required(field, ""));
    } else if !dns_label(name).is_empty() {
        errors.extend(dns_label(name).iter().map(|detail| invalid(field, value, detail)));
    } else if !seen.insert(name) {
        errors.push(duplicate(field, value));
    }
}

/// The container at a path, and what its validation depends on in the rest of the spec.
pub(super) struct Container<'a> {
    pub(super) field: String,
    pub(super) host_network: bool,
    /// Names of the pod's volumes.
    pub(super) volumes: &'a HashSet<&'a str>,
    pub(super) errors: &'a mut Vec<FieldError>,
}

impl Container<'_> {
    /// Adds the errors of the container; `names` are those of the containers before.
    pub(super) fn validate<'v>(&mut self, container: &'v Value, names: &mut HashSet<&'v str>) {
        let field = self.field.clone();
        let name = text(container, &["name"]);
        check_name(name, &container["name"], &format!("{field}.name"), names, self.errors);
        let image = text(container, &["image"]);
        if image.is_empty() {
            self.errors.push(required(format!("{field}.image"), ""));
        } else if image.trim() != image {
            let detail = "must not have leading or trailing whitespace";
            self.errors.push(invalid(format!("{field}.image"), &container["image"], detail));
        }
        self.handlers(container);
        let policies = ["File", "FallbackToLogsOnError"];
        one_of(container, "terminationMessagePolicy", &field, &policies, self.errors);
        self.ports(container);
        self.environment(container);
        self.mounts(container);
        let policies = ["Always", "IfNotPresent", "Never"];
        one_of(container, "imagePullPolicy", &field, &policies, self.errors);
        self.resources(container);
    }

    /// Validates ports. A pod in the network of its host can only map a port to itself.
    fn ports(&mut self, container: &Value) {
        let mut names = HashSet::new();
        for (at, entry) in list(container, &["ports"]).iter().enumerate() {
            let field = format!("{}.ports[{at}]", self.field);
            let name = text(entry, &["name"]);
            if !name.is_empty() {
                let details = port_name(name);
                if !details.is_empty() {
                    let field = format!("{field}.name");
                    self.errors.extend(details.iter().map(|w| invalid(&*field, &entry["name"], w)));
                } else if !names.insert(name) {
                    self.errors.push(duplicate(format!("{field}.name"), &entry["name"]));
                }
            }
            let number = &entry["containerPort"];
            if number.as_i64().unwrap_or_default() == 0 {
                self.errors.push(required(format!("{field}.containerPort"), ""));
            } else {
                self.errors.extend(port(number, format!("{field}.containerPort")));
            }
            if !entry["hostPort"].is_null() && entry["hostPort"] != 0 {
                self.errors.extend(port(&entry["hostPort"], format!("{field}.hostPort")));
                if self.host_network && entry["hostPort"] != *number {
                    let detail = "must match `containerPort` when `hostNetwork` is true";
                    self.errors.push(invalid(
                        format!("{field}.hostPort"),
                        &entry["hostPort"],
                        detail,
                    ));
                }
            }
            one_of(entry, "protocol", &field, &["SCTP", "TCP", "UDP"], self.errors);
        }
    }

    /// Validates environment variables: a name, and at most one source of the value.
    fn environment(&mut self, container: &Value) {
        for (at, env) in list(container, &["env"]).iter().enumerate() {
            let field = format!("{}.env[{at}]", self.field);
            let name = text(env, &["name"]);
            if name.is_empty() {
                self.errors.push(required(format!("{field}.name"), ""));
            // Since 1.34, more than C identifiers (`RelaxedEnvironmentVariableValidation`).
            } else if !name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=') {
                let detail = "a valid environment variable name must consist only of printable \
                              ASCII characters other than '='";
                self.errors.push(invalid(format!("{field}.name"), &env["name"], detail));
            }
            let Some(from) = env["valueFrom"].as_object() else { continue };
            if from.is_empty() {
                let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, \
                              `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
                self.errors.push(invalid(format!("{field}.valueFrom"), &"".into(), detail));
            } else if !text(env, &["value"]).is_empty() {
                let detail = "may not be specified when `value` is not empty";
                self.errors.push(invalid(format!("{field}.valueFrom"), &"".into(), detail));
            } else if from.len() > 1 {
                let detail = "may not have more than one field specified at a time";
                self.errors.push(invalid(format!("{field}.valueFrom"), &"".into(), detail));
            }
        }
    }

    /// Validates volume mounts: they name a volume of the pod, and no path twice.
    fn mounts(&mut self, container: &Value) {
        let mut paths = HashSet::new();
        for (at, mount) in list(container, &["volumeMounts"]).iter().enumerate() {
            let field = format!("{}.volumeMounts[{at}]", self.field);
            let (name, path) = (text(mount, &["name"]), text(mount, &["mountPath"]));
            if name.is_empty() {
                self.errors.push(required(format!("{field}.name"), ""));
            } else if !self.volumes.contains(name) {
                self.errors.push(not_found(format!("{field}.name"), &mount["name"]));
            }
            if path.is_empty() {
                self.errors.push(required(format!("{field}.mountPath"), ""));
            } else if !paths.insert(path) {
                let value = &mount["mountPath"];
                self.errors.push(invalid(format!("{field}.mountPath"), value, "must be unique"));
            }
        }
    }

    /// Probes and lifecycle hooks.
    fn handlers(&mut self, container: &Value) {
        for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
            let probe = &container[name];
            if probe.is_null() {
                continue;
            }
            let field = format!("{}.{name}", self.field);
            self.handler(probe, &field);
            for number in [
                "initialDelaySeconds",
                "timeoutSeconds",
                "periodSeconds",
                "successThreshold",
                "failureThreshold",
            ] {
                self.errors.extend(non_negative(&probe[number], format!("{field}.{number}")));
            }
            // More than one success has no meaning where a failure restarts the container.
            if name != "readinessProbe" && probe["successThreshold"] != 1 {
                let value = &probe["successThreshold"];
                self.errors.push(invalid(format!("{field}.successThreshold"), value, "must be 1"));
            }
        }
        for name in ["postStart", "preStop"] {
            let hook = &container["lifecycle"][name];
            if !hook.is_null() {
                let field = format!("{}.lifecycle.{name}", self.field);
                self.handler(hook, &field);
            }
        }
    }

    /// The action of a probe or hook, of which there must be one.
    fn handler(&mut self, handler: &Value, field: &str) {
        let given: Vec<&str> = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"]
            .into_iter()
            .filter(|name| handler[*name].is_object())
            .collect();
        match given.as_slice() {
            [] => self.errors.push(required(field, "must specify a handler type")),
            [_, rest @ ..] => {
                let detail = "may not specify more than 1 handler type";
                self.errors
                    .extend(rest.iter().map(|name| forbidden(format!("{field}.{name}"), detail)));
            }
        }
        if handler["exec"].is_object() && list(handler, &["exec", "command"]).is_empty() {
            self.errors.push(required(format!("{field}.exec.command"), ""));
        }
        if handler["httpGet"].is_object() {
            let get = &handler["httpGet"];
            self.errors.extend(port_or_name(&get["port"], &format!("{field}.httpGet.port")));
            let field = format!("{field}.httpGet");
            one_of(get, "scheme", &field, &["HTTP", "HTTPS"], self.errors);
        }
        if handler["tcpSocket"].is_object() {
            let field = format!("{field}.tcpSocket.port");
            self.errors.extend(port_or_name(&handler["tcpSocket"]["port"], &field));
        }
    }

    /// Validates resources: no negative amounts, and no requests above the limits.
    fn resources(&mut self, container: &Value) {
        let field = format!("{}.resources", self.field);
        let resources = &container["resources"];
        for part in ["limits", "requests"] {
            for (name, amount) in resources[part].as_object().into_iter().flatten() {
                if billionths(amount).is_some_and(|amount| amount < 0) {
                    let detail = "must be greater than or equal to 0";
                    self.errors.push(invalid(format!("{field}.{part}[{name}]"), amount, detail));
                }
            }
        }
        for (name, request) in resources["requests"].as_object().into_iter().flatten() {
            let limit = &resources["limits"][name.as_str()];
            if let (Some(wanted), Some(max)) = (billionths(request), billionths(limit))
                && wanted > max
            {
                let shown = limit.as_str().map_or_else(|| limit.to_string(), str::to_owned);
                let detail = format!("must be less than or equal to {name} limit of {shown}");
                self.errors.push(invalid(format!("{field}.requests"), request, &detail));
            }
        }
    }
}

/// Returns an amount in billionths, the finest unit of a quantity.
fn billionths(amount: &Value) -> Option<i128> {
    match amount {
        Value::String(text) => quantity::parse(text).ok(),
        Value::Number(number) => quantity::parse(&number.to_string()).ok(),
        _ => None,
    }
}

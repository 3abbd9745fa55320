//! Defaults and validation of a pod's spec, shared by pods and everything with a pod template.

use std::collections::HashSet;

use serde_json::Value;

use crate::{
    fields::{list, text},
    validation::{
        field_error::{
            FieldError, duplicate, forbidden, invalid, not_found, not_supported, required,
        },
        names::{dns_label, dns_subdomain, labels, non_negative, port, port_name, port_or_name},
    },
};
use kube_embedded_core::quantity;

/// Errors of a pod template at `field`.
pub(crate) fn validate_template(template: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = labels(&template["metadata"]["labels"], &format!("{field}.metadata.labels"));
    errors.extend(validate(&template["spec"], &format!("{field}.spec")));
    errors
}

/// Errors of a pod spec at `field`.
pub(crate) fn validate(spec: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut volumes = HashSet::new();
    for (at, volume) in list(spec, &["volumes"]).iter().enumerate() {
        let field = format!("{field}.volumes[{at}]");
        let name = text(volume, &["name"]);
        check_name(name, &volume["name"], &format!("{field}.name"), &mut volumes, &mut errors);
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
    for (kind, containers) in
        [("containers", containers), ("initContainers", list(spec, &["initContainers"]))]
    {
        for (at, container) in containers.iter().enumerate() {
            let field = format!("{field}.{kind}[{at}]");
            let mut check =
                Container { field, host_network, volumes: &volumes, errors: &mut errors };
            check.run(container, &mut names);
        }
    }
    one_of(spec, "restartPolicy", field, &["Always", "OnFailure", "Never"], &mut errors);
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    one_of(spec, "dnsPolicy", field, &policies, &mut errors);
    errors.extend(labels(&spec["nodeSelector"], &format!("{field}.nodeSelector")));
    for (name, value) in
        [("serviceAccountName", &spec["serviceAccountName"]), ("nodeName", &spec["nodeName"])]
    {
        let name_text = value.as_str().unwrap_or_default();
        if !name_text.is_empty() {
            for wrong in dns_subdomain(name_text) {
                errors.push(invalid(format!("{field}.{name}"), value, &wrong));
            }
        }
    }
    if spec["activeDeadlineSeconds"]
        .as_i64()
        .is_some_and(|n| !(1..=i64::from(i32::MAX)).contains(&n))
    {
        errors.push(invalid(
            format!("{field}.activeDeadlineSeconds"),
            &spec["activeDeadlineSeconds"],
            "must be between 1 and 2147483647, inclusive",
        ));
    }
    for (name, value) in [("hostname", &spec["hostname"]), ("subdomain", &spec["subdomain"])] {
        let name_text = value.as_str().unwrap_or_default();
        if !name_text.is_empty() {
            for wrong in dns_label(name_text) {
                errors.push(invalid(format!("{field}.{name}"), value, &wrong));
            }
        }
    }
    for (at, toleration) in list(spec, &["tolerations"]).iter().enumerate() {
        errors.extend(validate_toleration(toleration, &format!("{field}.tolerations[{at}]")));
    }
    errors.extend(non_negative(
        &spec["terminationGracePeriodSeconds"],
        format!("{field}.terminationGracePeriodSeconds"),
    ));
    errors
}

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
        "" | "Exists" | "Equal" | "Lt" | "Gt" => {}
        _ => errors.push(not_supported(
            format!("{field}.operator"),
            &toleration["operator"],
            &["Equal", "Exists"],
        )),
    }
    errors
}

fn one_of(spec: &Value, name: &str, field: &str, supported: &[&str], errors: &mut Vec<FieldError>) {
    match text(spec, &[name]) {
        "" => errors.push(required(format!("{field}.{name}"), "")),
        value if supported.contains(&value) => {}
        _ => errors.push(not_supported(format!("{field}.{name}"), &spec[name], supported)),
    }
}

fn check_name<'a>(
    name: &'a str,
    value: &Value,
    field: &str,
    seen: &mut HashSet<&'a str>,
    errors: &mut Vec<FieldError>,
) {
    if name.is_empty() {
        errors.push(required(field, ""));
    } else if !dns_label(name).is_empty() {
        errors.extend(dns_label(name).iter().map(|wrong| invalid(field, value, wrong)));
    } else if !seen.insert(name) {
        errors.push(duplicate(field, value));
    }
}

struct Container<'a> {
    field: String,
    host_network: bool,
    volumes: &'a HashSet<&'a str>,
    errors: &'a mut Vec<FieldError>,
}

impl Container<'_> {
    fn run<'v>(&mut self, container: &'v Value, names: &mut HashSet<&'v str>) {
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

    fn ports(&mut self, container: &Value) {
        let mut names = HashSet::new();
        for (at, entry) in list(container, &["ports"]).iter().enumerate() {
            let field = format!("{}.ports[{at}]", self.field);
            let name = text(entry, &["name"]);
            if !name.is_empty() {
                let wrong = port_name(name);
                if !wrong.is_empty() {
                    let field = format!("{field}.name");
                    self.errors
                        .extend(wrong.iter().map(|w| invalid(field.as_str(), &entry["name"], w)));
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

    fn environment(&mut self, container: &Value) {
        for (at, env) in list(container, &["env"]).iter().enumerate() {
            let field = format!("{}.env[{at}]", self.field);
            let name = text(env, &["name"]);
            if name.is_empty() {
                self.errors.push(required(format!("{field}.name"), ""));
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
            if let (Some(wanted), Some(most)) = (billionths(request), billionths(limit))
                && wanted > most
            {
                let shown = limit.as_str().map_or_else(|| limit.to_string(), str::to_owned);
                let detail = format!("must be less than or equal to {name} limit of {shown}");
                self.errors.push(invalid(format!("{field}.requests"), request, &detail));
            }
        }
    }
}

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
    use crate::resources::pod_defaults::defaults;
    use serde_json::json;

    #[test]
    fn a_bare_spec_gets_every_default_once() {
        let mut spec = json!({
            "containers": [{
                "name": "c", "image": "kubeapp:1.0",
                "ports": [{ "containerPort": 8080 }],
                "readinessProbe": { "httpGet": { "port": 8080 } },
                "env": [{ "name": "N", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }],
            }],
            "volumes": [{ "name": "v" }, { "name": "c", "configMap": { "name": "c" } }],
        });
        defaults(&mut spec);
        let once = spec.clone();
        defaults(&mut spec);
        assert_eq!(spec, once);
        assert_eq!(
            spec,
            json!({
                "containers": [{
                    "name": "c", "image": "kubeapp:1.0", "imagePullPolicy": "IfNotPresent",
                    "ports": [{ "containerPort": 8080, "protocol": "TCP" }],
                    "readinessProbe": {
                        "httpGet": { "port": 8080, "path": "/", "scheme": "HTTP" },
                        "timeoutSeconds": 1, "periodSeconds": 10,
                        "successThreshold": 1, "failureThreshold": 3,
                    },
                    "env": [{ "name": "N", "valueFrom": { "fieldRef": {
                        "apiVersion": "v1", "fieldPath": "metadata.name" } } }],
                    "resources": {},
                    "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "File",
                }],
                "volumes": [
                    { "name": "v", "emptyDir": {} },
                    { "name": "c", "configMap": { "name": "c", "defaultMode": 420 } },
                ],
                "restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
                "schedulerName": "default-scheduler", "securityContext": {},
                "terminationGracePeriodSeconds": 30,
            })
        );
        assert_eq!(validate(&spec, "spec"), []);
    }

    #[test]
    fn what_is_wrong_with_a_container() {
        for (change, field, message) in [
            (json!({ "name": "" }), "name", "Required value"),
            (json!({ "image": "" }), "image", "Required value"),
            (
                json!({ "ports": [{ "containerPort": 99999 }] }),
                "ports[0].containerPort",
                "Invalid value: 99999: must be between 1 and 65535, inclusive",
            ),
            (
                json!({ "volumeMounts": [{ "name": "nope", "mountPath": "/x" }] }),
                "volumeMounts[0].name",
                "Not found: \"nope\"",
            ),
            (
                json!({ "resources": { "limits": { "cpu": "1" }, "requests": { "cpu": "2" } } }),
                "resources.requests",
                "Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            ),
            (
                json!({ "livenessProbe": {} }),
                "livenessProbe",
                "Required value: must specify a handler type",
            ),
            (
                json!({ "imagePullPolicy": "Later" }),
                "imagePullPolicy",
                "Unsupported value: \"Later\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
            ),
        ] {
            let mut spec = json!({ "containers": [{ "name": "c", "image": "x" }] });
            json_patch::merge(&mut spec["containers"][0], &change);
            defaults(&mut spec);
            let errors = validate(&spec, "spec");
            assert_eq!(errors.len(), 1, "{change}: {errors:?}");
            assert_eq!(errors[0].field, format!("spec.containers[0].{field}"));
            assert_eq!(errors[0].message, message);
        }
    }
}

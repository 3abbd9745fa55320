//! Validation of a container (`validateContainerCommon` in `pkg/apis/core/validation`).

use std::collections::HashSet;

use serde_json::Value;

use crate::{
    fields::{list, text},
    validation::{
        downward,
        field_error::{
            FieldError, duplicate, forbidden, invalid, not_found, not_supported, required,
        },
        handler,
        names::{check_name, dns_subdomain, one_of, port, port_name},
        paths::descending_path,
        resources, security_context,
    },
};

/// The list that a container is in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Main,
    Init,
    Ephemeral,
}

/// The fields that only containers with a part in the pod's service have.
const NOT_EPHEMERAL: [&str; 9] = [
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];

/// The container at a path, and what its validation depends on in the rest of the spec.
pub(super) struct Container<'a> {
    pub(super) field: String,
    pub(super) role: Role,
    pub(super) host_network: bool,
    /// The grace period of the pod.
    pub(super) grace: Option<i64>,
    /// Names of the pod's volumes.
    pub(super) volumes: &'a HashSet<&'a str>,
    pub(super) errors: &'a mut Vec<FieldError>,
}

/// Validates the images of a pod's containers, of which templates may have more (`validateContainersOnlyForPod`).
pub(crate) fn validate_images(pod: &Value, list_name: &str) -> Vec<FieldError> {
    let containers = list(pod, &["spec", list_name]).iter().enumerate();
    let errors = containers
        .filter_map(|(at, container)| untrimmed(container, &format!("spec.{list_name}[{at}]")));
    errors.collect()
}

fn untrimmed(container: &Value, field: &str) -> Option<FieldError> {
    let image = text(container, &["image"]);
    let detail = "must not have leading or trailing whitespace";
    (image.trim() != image).then(|| invalid(format!("{field}.image"), &image.into(), detail))
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
        } else if self.role == Role::Ephemeral {
            self.errors.extend(untrimmed(container, &field));
        }
        let policies = ["File", "FallbackToLogsOnError"];
        one_of(container, "terminationMessagePolicy", &field, &policies, self.errors);
        self.ports(container);
        self.environment(container);
        self.environment_sources(container);
        self.mounts(container);
        let policies = ["Always", "IfNotPresent", "Never"];
        one_of(container, "imagePullPolicy", &field, &policies, self.errors);
        self.resources(container);
        self.errors.extend(security_context::of_container(container, &field));
        let policy = text(container, &["restartPolicy"]);
        if !matches!(policy, "" | "Always" | "OnFailure" | "Never") {
            let (at, supported) =
                (format!("{field}.restartPolicy"), ["Always", "Never", "OnFailure"]);
            self.errors.push(not_supported(at, &container["restartPolicy"], &supported));
        }
        if self.role == Role::Ephemeral {
            self.refuse_service_fields(container);
        } else if self.role == Role::Init && policy != "Always" {
            self.errors.extend(handler::refuse(container, &field));
        } else {
            self.errors.extend(handler::validate(container, &field, self.grace));
        }
    }

    /// Stands for the part of `validateEphemeralContainers` that refuses fields. A field that is empty counts
    /// as unset.
    fn refuse_service_fields(&mut self, container: &Value) {
        let detail = "cannot be set for an Ephemeral Container";
        for name in NOT_EPHEMERAL {
            let is_empty = match &container[name] {
                Value::Null => true,
                Value::Object(fields) => fields.is_empty(),
                Value::Array(items) => items.is_empty(),
                other => other == "",
            };
            if !is_empty {
                self.errors.push(forbidden(format!("{}.{name}", self.field), detail));
            }
        }
        for (at, mount) in list(container, &["volumeMounts"]).iter().enumerate() {
            for name in ["subPath", "subPathExpr"] {
                if !text(mount, &[name]).is_empty() {
                    let field = format!("{}.volumeMounts[{at}].{name}", self.field);
                    self.errors.push(forbidden(field, detail));
                }
            }
        }
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
            self.errors.extend(value_from(&env["valueFrom"], &format!("{field}.valueFrom")));
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

    /// Validates `envFrom`: each is one ConfigMap or Secret.
    fn environment_sources(&mut self, container: &Value) {
        for (at, source) in list(container, &["envFrom"]).iter().enumerate() {
            let field = format!("{}.envFrom[{at}]", self.field);
            let given: Vec<&str> = ["configMapRef", "secretRef"]
                .into_iter()
                .filter(|name| !source[*name].is_null())
                .collect();
            for name in &given {
                if text(source, &[name, "name"]).is_empty() {
                    self.errors.push(required(format!("{field}.{name}.name"), ""));
                }
            }
            let detail = match given.len() {
                0 => "must specify one of: `configMapRef` or `secretRef`",
                1 => continue,
                _ => "may not have more than one field specified at a time",
            };
            // Without the index, as in Kubernetes.
            self.errors.push(invalid(format!("{}.envFrom", self.field), &"".into(), detail));
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
            }
            if !self.volumes.contains(name) {
                self.errors.push(not_found(format!("{field}.name"), &name.into()));
            }
            if path.is_empty() {
                self.errors.push(required(format!("{field}.mountPath"), ""));
            } else if !paths.insert(path) {
                let value = &mount["mountPath"];
                self.errors.push(invalid(format!("{field}.mountPath"), value, "must be unique"));
            }
            let (sub_path, expression) = (&mount["subPath"], &mount["subPathExpr"]);
            self.errors.extend(descending_path(sub_path, &format!("{field}.subPath")));
            if !text(expression, &[]).is_empty() {
                let field = format!("{field}.subPathExpr");
                if !text(sub_path, &[]).is_empty() {
                    let detail = "subPathExpr and subPath are mutually exclusive";
                    self.errors.push(invalid(&*field, expression, detail));
                }
                self.errors.extend(descending_path(expression, &field));
            }
            self.errors.extend(propagation(mount, container, &field));
        }
    }

    /// Validates resources: no negative amounts, and no requests above the limits.
    fn resources(&mut self, container: &Value) {
        let field = format!("{}.resources", self.field);
        let resources = &container["resources"];
        self.errors.extend(resources::validate(resources, &field));
    }
}

/// Validates the source of a variable's value.
fn value_from(from: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (name, source) in from.as_object().into_iter().flatten() {
        let field = format!("{field}.{name}");
        match name.as_str() {
            "fieldRef" => errors.extend(downward::field_ref(source, &downward::ENV_FIELDS, &field)),
            "resourceFieldRef" => errors.extend(downward::resource_field_ref(source, &field)),
            "configMapKeyRef" | "secretKeyRef" => {
                let details = dns_subdomain(text(source, &["name"]));
                let at = format!("{field}.name");
                errors.extend(details.iter().map(|w| invalid(&*at, &source["name"], w)));
                if text(source, &["key"]).is_empty() {
                    errors.push(required(format!("{field}.key"), ""));
                }
            }
            _ => {}
        }
    }
    errors
}

/// Validates mount propagation, which only privileged containers may have in both directions.
fn propagation(mount: &Value, container: &Value, field: &str) -> Option<FieldError> {
    let (given, at) = (&mount["mountPropagation"], format!("{field}.mountPropagation"));
    match given.as_str()? {
        "Bidirectional" if container["securityContext"]["privileged"] != true => {
            let detail =
                "Bidirectional mount propagation is available only to privileged containers";
            Some(forbidden(at, detail))
        }
        "None" | "HostToContainer" | "Bidirectional" => None,
        _ => {
            let supported = ["Bidirectional", "HostToContainer", "None"];
            Some(not_supported(at, given, &supported))
        }
    }
}

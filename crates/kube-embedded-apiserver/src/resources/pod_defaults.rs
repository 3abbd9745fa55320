//! Defaults of a pod spec.

use serde_json::{Value, json};

use crate::fields::{default, default_empty, each, existing, object, text};

const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// Sets the defaults of a pod template's spec.
pub(crate) fn template_defaults(spec: &mut Value) {
    if let Some(template) = object(spec, "template") {
        object(template, "metadata");
        if let Some(pod) = object(template, "spec") {
            defaults(pod);
        }
    }
}

/// Sets the defaults that pods and templates share.
pub(crate) fn defaults(spec: &mut Value) {
    // Kubernetes keeps the deprecated `serviceAccount` equal to `serviceAccountName`.
    let old = text(spec, &["serviceAccount"]).to_owned();
    if !old.is_empty() {
        default_empty(spec, "serviceAccountName", old);
    }
    let account = text(spec, &["serviceAccountName"]).to_owned();
    if !account.is_empty() {
        spec["serviceAccount"] = account.into();
    }
    default_empty(spec, "restartPolicy", "Always");
    default_empty(spec, "dnsPolicy", "ClusterFirst");
    default_empty(spec, "schedulerName", "default-scheduler");
    default(spec, "terminationGracePeriodSeconds", 30);
    object(spec, "securityContext");
    let host_network = spec["hostNetwork"] == true;
    for field in CONTAINERS {
        for container in each(spec, field) {
            container_defaults(container, host_network);
        }
    }
    for volume in each(spec, "volumes") {
        volume_defaults(volume);
    }
}

/// Sets the requests of pods that name only limits; templates stay as they are.
pub(crate) fn request_defaults(spec: &mut Value) {
    for field in CONTAINERS {
        for container in each(spec, field) {
            let Some(resources) = existing(container, "resources") else { continue };
            let Some(limits) = resources["limits"].as_object().cloned() else { continue };
            if let Some(requests) = object(resources, "requests") {
                for (name, limit) in limits {
                    default(requests, &name, limit);
                }
            }
        }
    }
}

fn container_defaults(container: &mut Value, host_network: bool) {
    let policy = pull_policy(text(container, &["image"]));
    default_empty(container, "imagePullPolicy", policy);
    default_empty(container, "terminationMessagePath", "/dev/termination-log");
    default_empty(container, "terminationMessagePolicy", "File");
    object(container, "resources");
    for port in each(container, "ports") {
        default_empty(port, "protocol", "TCP");
        if host_network && !port["containerPort"].is_null() {
            let number = port["containerPort"].clone();
            default_empty(port, "hostPort", number);
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = existing(container, probe) {
            default_empty(probe, "timeoutSeconds", 1);
            default_empty(probe, "periodSeconds", 10);
            default_empty(probe, "successThreshold", 1);
            default_empty(probe, "failureThreshold", 3);
            http_defaults(probe);
            if let Some(grpc) = existing(probe, "grpc") {
                default(grpc, "service", "");
            }
        }
    }
    if let Some(lifecycle) = existing(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(hook) = existing(lifecycle, hook) {
                http_defaults(hook);
                if let Some(sleep) = existing(hook, "sleep") {
                    default(sleep, "seconds", 0);
                }
            }
        }
    }
    for env in each(container, "env") {
        if let Some(reference) =
            existing(env, "valueFrom").and_then(|from| existing(from, "fieldRef"))
        {
            default_empty(reference, "apiVersion", "v1");
        }
        if let Some(reference) =
            existing(env, "valueFrom").and_then(|from| existing(from, "resourceFieldRef"))
        {
            default(reference, "divisor", "0");
        }
    }
}

fn http_defaults(handler: &mut Value) {
    if let Some(get) = existing(handler, "httpGet") {
        default_empty(get, "path", "/");
        default_empty(get, "scheme", "HTTP");
    }
}

/// Returns `Always` for the tag `latest`, explicit or implied. What is no image reference has no tag.
fn pull_policy(image: &str) -> &'static str {
    if !is_reference(image) {
        return "IfNotPresent";
    }
    let name = image.rsplit('/').next().unwrap_or_default();
    let (name, digest) = match name.split_once('@') {
        Some((name, _)) => (name, true),
        None => (name, false),
    };
    match name.split_once(':') {
        Some((_, "latest")) => "Always",
        None if !digest => "Always",
        _ => "IfNotPresent",
    }
}

/// Returns whether a text may be an image reference. Only a domain may have capitals.
fn is_reference(image: &str) -> bool {
    let path = match image.split_once('/') {
        Some((domain, path)) if domain.contains(['.', ':']) || domain == "localhost" => path,
        _ => image,
    };
    let name = path.split([':', '@']).next().unwrap_or_default();
    let is_allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-/".contains(&b);
    !name.is_empty() && name.len() <= 255 && name.bytes().all(is_allowed)
}

const MODE_0644: i64 = 0o644;

fn volume_defaults(volume: &mut Value) {
    if volume.as_object().is_some_and(|volume| volume.keys().all(|key| key == "name")) {
        volume["emptyDir"] = json!({});
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = existing(volume, source) {
            default(source, "defaultMode", MODE_0644);
        }
    }
    if let Some(path) = existing(volume, "hostPath") {
        default(path, "type", "");
    }
    if let Some(downward) = existing(volume, "downwardAPI") {
        field_reference_defaults(downward);
    }
    if let Some(projected) = existing(volume, "projected") {
        for source in each(projected, "sources") {
            if let Some(token) = existing(source, "serviceAccountToken") {
                default(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = existing(source, "downwardAPI") {
                field_reference_defaults(downward);
            }
        }
    }
}

fn field_reference_defaults(downward: &mut Value) {
    for item in each(downward, "items") {
        if let Some(reference) = existing(item, "fieldRef") {
            default_empty(reference, "apiVersion", "v1");
        }
        if let Some(reference) = existing(item, "resourceFieldRef") {
            default(reference, "divisor", "0");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policy_depends_on_tag() {
        for (image, policy) in [
            ("kubeapp:1.0", "IfNotPresent"),
            ("kubeapp", "Always"),
            ("kubeapp:latest", "Always"),
            ("Not An Image!", "IfNotPresent"),
            ("Kubeapp", "IfNotPresent"),
            ("Example.com:5000/kubeapp", "Always"),
            ("registry:5000/kubeapp", "Always"),
            ("registry:5000/kubeapp:1.0", "IfNotPresent"),
            ("kubeapp@sha256:0123", "IfNotPresent"),
            ("kubeapp:latest@sha256:0123", "Always"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }
}

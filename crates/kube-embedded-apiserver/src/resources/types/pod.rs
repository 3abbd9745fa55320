//! `pods` (`pkg/registry/core/pod/strategy.go`).

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::{
    admission::{host_path, pod_security, service_account, unsupported_fields},
    fields::{at, copy_field, default, default_empty, each, list, object, remove, text},
    resources::{deletion::Deletion, pod_defaults, resource_type::ResourceType},
    validation::{
        container,
        field_error::{FieldError, forbidden, invalid, required},
        internal_form,
        names::dns_subdomain,
        object_meta::{self, Part, Rules},
        pod_spec, warnings,
    },
};

mod ephemeral_containers;
mod printer;

const METADATA: Rules = Rules {
    standard_finalizers: true,
    update: &[Part::Changes, Part::Whole],
    ..Rules::of(dns_subdomain)
};

pub(crate) const RESOURCE: ResourceType = ResourceType {
    short_names: &["po"],
    categories: &["all"],
    subresources: &[
        "status",
        "log",
        "exec",
        "attach",
        "portforward",
        "proxy",
        "binding",
        "eviction",
        "ephemeralcontainers",
    ],
    generation: true,
    defaults,
    prepare_create,
    prepare_update: |pod, old| {
        let Some(spec) = object(pod, "spec") else { return };
        // The admission of priorities keeps what an update leaves out.
        for field in ["priority", "preemptionPolicy"] {
            if spec[field].is_null() {
                copy_field(spec, &old["spec"], field);
            }
        }
        // `DefaultTolerationSeconds` runs on updates, too.
        tolerate_node_failures(spec);
    },
    validate,
    validate_ephemeral_containers: Some(ephemeral_containers::validate_update),
    // As in Kubernetes not on update, which people rarely do.
    warnings: |pod, old| match old {
        None => warnings::host_name(pod, "the Pod's hostname")
            .into_iter()
            .chain(warnings::of_pod(pod, ""))
            .collect(),
        Some(_) => Vec::new(),
    },
    admission: &[service_account::admit],
    reviews: &[pod_security::review_pod, host_path::review_pod, unsupported_fields::review_pod],
    await_admission: Some(service_account::await_default),
    deletion: &Deletion {
        grace_period,
        returns_object: true,
        reports_final_state: true,
        ..Deletion::IMMEDIATE
    },
    columns: printer::COLUMNS,
    selectable: &[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        // May be named, and never has a value.
        "status.podIPs=metadata.selfLink",
        "status.nominatedNodeName",
        // Of the first versions of Kubernetes.
        "spec.host=spec.nodeName",
    ],
    status_leaves: &["ownerReferences"],
    ..ResourceType::of::<Pod>("pod", "io.k8s.api.core.v1.Pod")
};

/// Only a pod that a kubelet has to stop has a grace period (`CheckGracefulDelete`).
fn grace_period(pod: &Value, requested: Option<i64>) -> Option<i64> {
    let is_finished = matches!(text(pod, &["status", "phase"]), "Succeeded" | "Failed");
    if text(pod, &["spec", "nodeName"]).is_empty() || is_finished {
        return Some(0);
    }
    let own = at(pod, &["spec", "terminationGracePeriodSeconds"]).as_i64().unwrap_or(30);
    Some(match requested.unwrap_or(own) {
        // A negative value means "as soon as possible", for compatibility with older clients.
        negative if negative < 0 => 1,
        grace => grace,
    })
}

/// Also sets requests from limits, which templates do not: `SetDefaults_Pod` runs on pods only.
fn defaults(pod: &mut Value) {
    if let Some(spec) = object(pod, "spec") {
        default(spec, "enableServiceLinks", true);
        pod_defaults::defaults(spec);
        pod_defaults::request_defaults(spec);
    }
}

/// Also sets the fields that Kubernetes' admission plugins ServiceAccount, Priority and
/// DefaultTolerationSeconds set. They have no owner in `managedFields`.
fn prepare_create(pod: &mut Value) {
    let class = qos_class(pod);
    pod["status"] = json!({ "phase": "Pending", "qosClass": class });
    let Some(spec) = object(pod, "spec") else { return };
    default_empty(spec, "serviceAccountName", "default");
    spec["serviceAccount"] = spec["serviceAccountName"].clone();
    default(spec, "priority", 0);
    default(spec, "preemptionPolicy", "PreemptLowerPriority");
    tolerate_node_failures(spec);
}

/// Sets the tolerations of nodes that fail, unless the pod has its own.
fn tolerate_node_failures(spec: &mut Value) {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        tolerate_for_five_minutes(spec, key);
    }
}

/// Lets a pod stay on a node for 5 minutes after the node has become not ready or unreachable.
fn tolerate_for_five_minutes(spec: &mut Value, key: &str) {
    default(spec, "tolerations", json!([]));
    let tolerated = list(spec, &["tolerations"]).iter().any(|toleration| {
        let (own, effect) = (text(toleration, &["key"]), text(toleration, &["effect"]));
        (own == key || own.is_empty()) && (effect == "NoExecute" || effect.is_empty())
    });
    if !tolerated && let Some(tolerations) = spec["tolerations"].as_array_mut() {
        tolerations.push(json!({
            "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300,
        }));
    }
}

/// Returns `Guaranteed` if every container has limits for CPU and memory that equal its requests,
/// `BestEffort` if none has limits or requests, otherwise `Burstable`
/// (<https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/>).
fn qos_class(pod: &Value) -> &'static str {
    let spec = &pod["spec"];
    let (mut any, mut all) = (false, true);
    for container in list(spec, &["containers"]).iter().chain(list(spec, &["initContainers"])) {
        let resources = &container["resources"];
        for name in ["cpu", "memory"] {
            let (limit, request) = (&resources["limits"][name], &resources["requests"][name]);
            any |= !limit.is_null() || !request.is_null();
            all &= !limit.is_null() && (request.is_null() || request == limit);
        }
    }
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Stands for `ValidatePodCreate` and `ValidatePodUpdate`.
fn validate(pod: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = object_meta::validate(pod, old, &METADATA);
    errors.extend(pod_spec::validate(&pod["spec"], "spec"));
    if old.is_none() && !list(pod, &["spec", "ephemeralContainers"]).is_empty() {
        errors.push(forbidden("spec.ephemeralContainers", "cannot be set on create"));
    }
    for field in ["containers", "initContainers"] {
        errors.extend(container::validate_images(pod, field));
    }
    if let Some(old) = old {
        errors.extend(validate_update(pod, old));
    }
    errors
}

/// Stands for what `ValidatePodUpdate` adds.
fn validate_update(pod: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for field in ["containers", "initContainers"] {
        if list(pod, &["spec", field]).len() != list(old, &["spec", field]).len() {
            let detail = "pod updates may not add or remove containers";
            return vec![forbidden(format!("spec.{field}"), detail)];
        }
    }
    let deadline = |pod: &Value| pod["spec"]["activeDeadlineSeconds"].as_i64();
    let at = "spec.activeDeadlineSeconds";
    match (deadline(old), deadline(pod)) {
        (Some(before), Some(after)) if after > before => {
            let detail = "must be less than or equal to previous value";
            return vec![invalid(at, &after.into(), detail)];
        }
        (Some(_), None) => {
            let detail = "must not update from a positive integer to nil value";
            errors.push(invalid(at, &Value::Null, detail));
        }
        _ => {}
    }
    // Once more, with those that are missing, as in Kubernetes.
    for field in ["containers", "initContainers"] {
        for (at, container) in list(pod, &["spec", field]).iter().enumerate() {
            if text(container, &["image"]).is_empty() {
                errors.push(required(format!("spec.{field}[{at}].image"), ""));
            }
        }
        errors.extend(container::validate_images(pod, field));
    }
    errors.extend(only_additions(pod, old));
    let spec = updated(pod, old);
    if spec != old["spec"] {
        let diff = internal_form::diff("PodSpec", &old["spec"], &spec);
        let detail = format!("{UPDATABLE}\n{diff}");
        errors.push(forbidden("spec", &detail));
    }
    errors
}

const UPDATABLE: &str = "pod updates may not change fields other than \
    `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
    `spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Validates that tolerations are only added, and scheduling gates only removed.
fn only_additions(pod: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let given = list(pod, &["spec", "tolerations"]);
    let is_kept = |toleration: &Value| {
        let without_time = |toleration: &Value| {
            let mut toleration = toleration.clone();
            remove(&mut toleration, "tolerationSeconds");
            toleration
        };
        given.iter().any(|given| without_time(given) == without_time(toleration))
    };
    if !list(old, &["spec", "tolerations"]).iter().all(is_kept) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(forbidden("spec.tolerations", detail));
    }
    let gates = list(old, &["spec", "schedulingGates"]);
    let added = list(pod, &["spec", "schedulingGates"]).iter().find(|gate| !gates.contains(gate));
    if let Some(gate) = added {
        let gate = text(gate, &["name"]);
        let detail = format!("only deletion is allowed, but found new scheduling gate '{gate}'");
        errors.push(forbidden("spec.schedulingGates", &detail));
    }
    errors
}

/// Returns the spec with the old values of the fields that an update may change. A pod that is not scheduled may
/// get a node, because the `binding` subresource updates the pod this way.
fn updated(pod: &Value, old: &Value) -> Value {
    let (mut spec, old) = (pod["spec"].clone(), &old["spec"]);
    for part in ["containers", "initContainers"] {
        for (new, old) in each(&mut spec, part).zip(list(old, &[part])) {
            copy_field(new, old, "image");
        }
    }
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        copy_field(&mut spec, old, field);
    }
    let grace = "terminationGracePeriodSeconds";
    if spec[grace] == 1 && old[grace].as_i64().is_some_and(|seconds| seconds < 0) {
        copy_field(&mut spec, old, grace);
    }
    if text(old, &["nodeName"]).is_empty() {
        copy_field(&mut spec, old, "nodeName");
    }
    spec
}

#[cfg(test)]
mod spec_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qos_class_follows_limits_and_requests() {
        for (resources, class) in [
            (json!({}), "BestEffort"),
            (json!({ "limits": { "cpu": "1", "memory": "1Gi" } }), "Guaranteed"),
            (json!({ "requests": { "cpu": "1" } }), "Burstable"),
            (
                json!({ "limits": { "cpu": "1", "memory": "1Gi" }, "requests": { "cpu": "500m" } }),
                "Burstable",
            ),
        ] {
            let pod = json!({ "spec": { "containers": [{ "resources": resources }] } });
            assert_eq!(qos_class(&pod), class, "{resources}");
        }
    }

    #[test]
    fn update_may_change_only_mutable_fields() {
        let mut pod = json!({
            "metadata": { "name": "p", "namespace": "default" },
            "spec": { "containers": [{ "name": "c", "image": "kubeapp:1.0" }] },
        });
        defaults(&mut pod);
        prepare_create(&mut pod);
        for (pointer, value, allowed) in [
            ("/spec/containers/0/image", json!("kubeapp:2.0"), true),
            ("/spec/containers/0/command", json!(["x"]), false),
            ("/spec/nodeName", json!("node-1"), true),
            ("/spec/restartPolicy", json!("Never"), false),
            ("/metadata/labels", json!({ "a": "b" }), true),
            ("/spec/activeDeadlineSeconds", json!(5), true),
            ("/spec/containers/1", json!({ "name": "d", "image": "x" }), false),
            ("/spec/ephemeralContainers", json!([{ "name": "d", "image": "x" }]), false),
        ] {
            let mut new = pod.clone();
            let patch = json!([{ "op": "add", "path": pointer, "value": value }]);
            json_patch::patch(
                &mut new,
                &serde_json::from_value::<json_patch::Patch>(patch).unwrap(),
            )
            .unwrap();
            assert_eq!(validate(&new, Some(&pod)).is_empty(), allowed, "{pointer}");
        }
    }

    #[test]
    fn minimal_spec_is_defaulted_once_and_valid() {
        let mut spec = json!({
            "containers": [{
                "name": "c", "image": "kubeapp:1.0",
                "ports": [{ "containerPort": 8080 }],
                "readinessProbe": { "httpGet": { "port": 8080 } },
                "env": [{ "name": "N", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }],
            }],
            "volumes": [{ "name": "v" }, { "name": "c", "configMap": { "name": "c" } }],
        });
        pod_defaults::defaults(&mut spec);
        let once = spec.clone();
        pod_defaults::defaults(&mut spec);
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
        assert_eq!(pod_spec::validate(&spec, "spec"), []);
    }

    #[test]
    fn invalid_container_field_is_one_error() {
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
            pod_defaults::defaults(&mut spec);
            let errors = pod_spec::validate(&spec, "spec");
            assert_eq!(errors.len(), 1, "{change}: {errors:?}");
            assert_eq!(errors[0].field, format!("spec.containers[0].{field}"));
            assert_eq!(errors[0].message, message);
        }
    }
}

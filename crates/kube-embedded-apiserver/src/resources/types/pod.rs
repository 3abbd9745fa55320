//! `pods`.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::{
    admission::service_account,
    fields::{at, default, default_empty, each, list, object, remove, text},
    resources::deletion::Deletion,
    resources::pod_defaults,
    resources::{
        resource_type::ResourceType,
        table_columns::{AGE, Column, column, or_none, since, wide},
    },
    validation::{
        field_error::{FieldError, forbidden},
        names::dns_subdomain,
        object_meta::metadata,
        pod_spec,
    },
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
        "binding",
        "eviction",
        "ephemeralcontainers",
    ],
    generation: true,
    defaults,
    prepare_create,
    validate,
    admission: &[service_account::admit],
    await_admission: Some(service_account::await_default),
    deletion: &Deletion {
        grace_period,
        returns_object: true,
        reports_final_state: true,
        ..Deletion::IMMEDIATE
    },
    columns: COLUMNS,
    selectable: &[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ],
    ..ResourceType::of::<Pod>("pod", "io.k8s.api.core.v1.Pod")
};

/// Only a pod that a kubelet has to stop gets time to end.
fn grace_period(pod: &Value, requested: Option<i64>) -> Option<i64> {
    let is_finished = matches!(text(pod, &["status", "phase"]), "Succeeded" | "Failed");
    if text(pod, &["spec", "nodeName"]).is_empty() || is_finished {
        return Some(0);
    }
    let own = at(pod, &["spec", "terminationGracePeriodSeconds"]).as_i64().unwrap_or(30);
    Some(match requested.unwrap_or(own) {
        negative if negative < 0 => 1,
        grace => grace,
    })
}

fn defaults(pod: &mut Value) {
    if let Some(spec) = object(pod, "spec") {
        default(spec, "enableServiceLinks", true);
        pod_defaults::defaults(spec);
        pod_defaults::request_defaults(spec);
    }
}

/// Also fills in what Kubernetes' admission plugins do, which nobody owns.
fn prepare_create(pod: &mut Value) {
    let class = quality_of_service(pod);
    pod["status"] = json!({ "phase": "Pending", "qosClass": class });
    let Some(spec) = object(pod, "spec") else { return };
    default_empty(spec, "serviceAccountName", "default");
    spec["serviceAccount"] = spec["serviceAccountName"].clone();
    default(spec, "priority", 0);
    default(spec, "preemptionPolicy", "PreemptLowerPriority");
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        tolerate_for_five_minutes(spec, key);
    }
}

fn tolerate_for_five_minutes(spec: &mut Value, key: &str) {
    default(spec, "tolerations", json!([]));
    let tolerated = list(spec, &["tolerations"]).iter().any(|toleration| {
        let (of, effect) = (text(toleration, &["key"]), text(toleration, &["effect"]));
        (of == key || of.is_empty()) && (effect == "NoExecute" || effect.is_empty())
    });
    if !tolerated && let Some(tolerations) = spec["tolerations"].as_array_mut() {
        tolerations.push(json!({
            "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300,
        }));
    }
}

/// `Guaranteed` where every container limits cpu and memory and requests exactly that,
/// `BestEffort` where none asks for anything.
fn quality_of_service(pod: &Value) -> &'static str {
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

fn validate(pod: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = metadata(pod, old, dns_subdomain);
    errors.extend(pod_spec::validate(&pod["spec"], "spec"));
    if let Some(old) = old
        && fixed_part(old, None) != fixed_part(pod, Some(old))
    {
        errors.push(forbidden(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`,\
             `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only \
             additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to \
             be set to 1 if it was previously negative)",
        ));
    }
    errors
}

/// The spec without what an update may change. A pod not yet bound may get a node: the `binding`
/// subresource comes this way.
fn fixed_part(pod: &Value, old: Option<&Value>) -> Value {
    let mut spec = pod["spec"].clone();
    for field in ["containers", "initContainers"] {
        for container in each(&mut spec, field) {
            remove(container, "image");
        }
    }
    remove(&mut spec, "ephemeralContainers");
    remove(&mut spec, "activeDeadlineSeconds");
    if let Some(old) = old {
        let kept = list(old, &["spec", "tolerations"]);
        if kept.iter().all(|toleration| list(pod, &["spec", "tolerations"]).contains(toleration)) {
            spec["tolerations"] = old["spec"]["tolerations"].clone();
        }
        if text(old, &["spec", "nodeName"]).is_empty() {
            remove(&mut spec, "nodeName");
        }
        if old["spec"]["tolerations"].is_null() {
            remove(&mut spec, "tolerations");
        }
    }
    spec
}

const COLUMNS: &[Column] = &[
    column(
        "Ready",
        "The aggregate readiness state of this pod for accepting traffic.",
        |pod, now| {
            let shown = Shown::of(pod, now);
            format!("{}/{}", shown.ready, shown.containers).into()
        },
    ),
    column("Status", "The aggregate status of the containers in this pod.", |pod, now| {
        Shown::of(pod, now).status.into()
    }),
    column(
        "Restarts",
        "The number of times the containers in this pod have been restarted and when the last \
         container in this pod has restarted.",
        |pod, now| Shown::of(pod, now).restarts.into(),
    ),
    AGE,
    wide("IP", "podIP address allocated to the pod.", |pod, _| {
        let first = list(pod, &["status", "podIPs"]).first().map_or("", |ip| text(ip, &["ip"]));
        or_none(if first.is_empty() { text(pod, &["status", "podIP"]) } else { first })
    }),
    wide("Node", "NodeName indicates in which node this pod is scheduled.", |pod, _| {
        or_none(text(pod, &["spec", "nodeName"]))
    }),
    wide(
        "Nominated Node",
        "nominatedNodeName is set only when this pod preempts other pods on the node.",
        |pod, _| or_none(text(pod, &["status", "nominatedNodeName"])),
    ),
    wide(
        "Readiness Gates",
        "If specified, all readiness gates will be evaluated for pod readiness.",
        |pod, _| {
            let gates = list(pod, &["spec", "readinessGates"]);
            if gates.is_empty() {
                return "<none>".into();
            }
            let open = gates.iter().filter(|gate| condition(pod, text(gate, &["conditionType"])));
            format!("{}/{}", open.count(), gates.len()).into()
        },
    ),
];

fn condition(pod: &Value, of: &str) -> bool {
    list(pod, &["status", "conditions"])
        .iter()
        .any(|condition| condition["type"] == of && condition["status"] == "True")
}

/// What `kubectl get pods` makes of a pod.
struct Shown {
    ready: usize,
    containers: usize,
    status: String,
    restarts: String,
}

/// Restarts, and when the last one was.
#[derive(Clone, Default)]
struct Restarts {
    count: i64,
    last: String,
}

impl Restarts {
    fn add(&mut self, container: &Value) {
        self.count += container["restartCount"].as_i64().unwrap_or_default();
        // All times are in UTC and of one length, so text compares as time does.
        let finished = text(container, &["lastState", "terminated", "finishedAt"]);
        if finished > self.last.as_str() {
            self.last = finished.to_owned();
        }
    }
}

impl Shown {
    fn of(pod: &Value, now: Timestamp) -> Self {
        let (spec, status) = (&pod["spec"], &pod["status"]);
        let phase = text(status, &["phase"]);
        let mut reason = match text(status, &["reason"]) {
            "" => phase.to_owned(),
            reason => reason.to_owned(),
        };
        let gated = list(status, &["conditions"]).iter().any(|condition| {
            condition["type"] == "PodScheduled" && condition["reason"] == "SchedulingGated"
        });
        if gated {
            reason = "SchedulingGated".to_owned();
        }
        let specs = list(spec, &["initContainers"]);
        let sidecar = |name: &Value| {
            specs.iter().any(|of| of["name"] == *name && of["restartPolicy"] == "Always")
        };
        let sidecars = specs.iter().filter(|of| of["restartPolicy"] == "Always").count();
        let mut shown = Self {
            ready: 0,
            containers: list(spec, &["containers"]).len() + sidecars,
            status: String::new(),
            restarts: String::new(),
        };
        let (mut restarts, mut of_sidecars) = (Restarts::default(), Restarts::default());
        let mut initializing = false;
        for (nth, container) in list(status, &["initContainerStatuses"]).iter().enumerate() {
            restarts.add(container);
            let sidecar = sidecar(&container["name"]);
            if sidecar {
                of_sidecars.add(container);
            }
            let terminated = &container["state"]["terminated"];
            if terminated.is_object() && terminated["exitCode"] == 0 {
                continue;
            }
            if sidecar && container["started"] == true {
                shown.ready += usize::from(container["ready"] == true);
                continue;
            }
            let waiting = text(container, &["state", "waiting", "reason"]);
            reason = if terminated.is_object() {
                format!("Init:{}", ended(terminated))
            } else if !waiting.is_empty() && waiting != "PodInitializing" {
                format!("Init:{waiting}")
            } else {
                format!("Init:{nth}/{}", specs.len())
            };
            initializing = true;
            break;
        }
        if !initializing || condition(pod, "Initialized") {
            restarts = of_sidecars;
            let mut running = false;
            for container in list(status, &["containerStatuses"]).iter().rev() {
                restarts.add(container);
                let state = &container["state"];
                let waiting = text(state, &["waiting", "reason"]);
                if !waiting.is_empty() {
                    reason = waiting.to_owned();
                } else if state["terminated"].is_object() {
                    reason = ended(&state["terminated"]);
                } else if container["ready"] == true && state["running"].is_object() {
                    running = true;
                    shown.ready += 1;
                }
            }
            if reason == "Completed" && running {
                reason = if condition(pod, "Ready") { "Running" } else { "NotReady" }.to_owned();
            }
        }
        if !at(pod, &["metadata", "deletionTimestamp"]).is_null() {
            if status["reason"] == "NodeLost" {
                reason = "Unknown".to_owned();
            } else if phase != "Succeeded" && phase != "Failed" {
                reason = "Terminating".to_owned();
            }
        }
        shown.status = reason;
        shown.restarts = match restarts {
            Restarts { count, last } if count != 0 && !last.is_empty() => {
                format!("{count} ({} ago)", since(&last, now))
            }
            Restarts { count, .. } => count.to_string(),
        };
        shown
    }
}

fn ended(terminated: &Value) -> String {
    match (text(terminated, &["reason"]), terminated["signal"].as_i64().unwrap_or_default()) {
        ("", 0) => format!("ExitCode:{}", terminated["exitCode"]),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_readiness_as_kubectl_shows_them() {
        let running = json!({ "running": { "startedAt": "2026-11-23T09:00:00Z" } });
        let waiting = |reason: &str| json!({ "waiting": { "reason": reason } });
        let ended = |reason: &str, code: i64| json!({ "terminated": { "reason": reason, "exitCode": code } });
        let of =
            |state: Value, ready: bool| json!([{ "name": "c", "state": state, "ready": ready }]);
        for (status, deleted, ready, shown) in [
            (json!({ "phase": "Pending" }), false, "0/1", "Pending"),
            (
                json!({ "phase": "Pending", "containerStatuses": of(waiting("ContainerCreating"), false) }),
                false,
                "0/1",
                "ContainerCreating",
            ),
            (
                json!({ "phase": "Pending", "containerStatuses": of(waiting("ErrImagePull"), false) }),
                false,
                "0/1",
                "ErrImagePull",
            ),
            (
                json!({ "phase": "Running", "containerStatuses": of(running.clone(), true) }),
                false,
                "1/1",
                "Running",
            ),
            (
                json!({ "phase": "Running", "containerStatuses": of(running.clone(), true) }),
                true,
                "1/1",
                "Terminating",
            ),
            (
                json!({ "phase": "Running", "containerStatuses": of(waiting("CrashLoopBackOff"), false) }),
                false,
                "0/1",
                "CrashLoopBackOff",
            ),
            (
                json!({ "phase": "Succeeded", "containerStatuses": of(ended("Completed", 0), false) }),
                true,
                "0/1",
                "Completed",
            ),
            (
                json!({ "phase": "Failed", "containerStatuses": of(ended("", 3), false) }),
                false,
                "0/1",
                "ExitCode:3",
            ),
            (json!({ "phase": "Failed", "reason": "Evicted" }), false, "0/1", "Evicted"),
        ] {
            let mut pod = json!({ "metadata": {}, "spec": { "containers": [{ "name": "c" }] }, "status": status });
            if deleted {
                pod["metadata"]["deletionTimestamp"] = "2026-11-23T09:00:00Z".into();
            }
            let pod_shown = Shown::of(&pod, Timestamp::UNIX_EPOCH);
            assert_eq!(format!("{}/{}", pod_shown.ready, pod_shown.containers), ready, "{pod}");
            assert_eq!(pod_shown.status, shown, "{pod}");
        }
    }

    #[test]
    fn init_containers_show_how_far_they_came() {
        let of = |state: Value| {
            json!({
                "spec": { "containers": [{}], "initContainers": [{ "name": "a" }, { "name": "b" }] },
                "status": {
                    "phase": "Pending",
                    "initContainerStatuses": [
                        { "name": "a", "state": { "terminated": { "exitCode": 0 } } },
                        { "name": "b", "state": state },
                    ],
                },
            })
        };
        for (state, shown) in [
            (json!({ "running": {} }), "Init:1/2"),
            (json!({ "waiting": { "reason": "CrashLoopBackOff" } }), "Init:CrashLoopBackOff"),
            (json!({ "terminated": { "exitCode": 1, "reason": "Error" } }), "Init:Error"),
        ] {
            assert_eq!(Shown::of(&of(state), Timestamp::UNIX_EPOCH).status, shown);
        }
    }

    #[test]
    fn restarts_tell_when_the_last_one_was() {
        let pod = json!({
            "spec": { "containers": [{}] },
            "status": { "containerStatuses": [{
                "restartCount": 3, "state": { "running": {} },
                "lastState": { "terminated": { "finishedAt": "2026-11-23T09:00:00Z" } },
            }] },
        });
        let now = "2026-11-23T09:00:05Z".parse().unwrap();
        assert_eq!(Shown::of(&pod, now).restarts, "3 (5s ago)");
    }

    #[test]
    fn quality_of_service_classes() {
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
            assert_eq!(quality_of_service(&pod), class, "{resources}");
        }
    }

    #[test]
    fn an_update_may_change_the_image_and_little_else() {
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
}

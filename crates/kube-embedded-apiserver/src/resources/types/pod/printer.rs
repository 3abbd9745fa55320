//! The columns of `kubectl get pods` (`printPod` in `pkg/printers/internalversion/printers.go`).

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    fields::{at, list, text},
    resources::table_columns::{AGE, Column, column, or_none, since, wide},
};

pub(super) const COLUMNS: &[Column] = &[
    column(
        "Ready",
        "The aggregate readiness state of this pod for accepting traffic.",
        |pod, _| {
            let summary = Summary::of(pod);
            format!("{}/{}", summary.ready, summary.containers).into()
        },
    ),
    column("Status", "The aggregate status of the containers in this pod.", |pod, _| {
        Summary::of(pod).status.into()
    }),
    column(
        "Restarts",
        "The number of times the containers in this pod have been restarted and when the last \
         container in this pod has restarted.",
        |pod, now| Summary::of(pod).restarts.display(now).into(),
    ),
    AGE,
    wide("IP", "#/io.k8s.api.core.v1.PodStatus/podIP", |pod, _| {
        let first = list(pod, &["status", "podIPs"]).first().map_or("", |ip| text(ip, &["ip"]));
        or_none(if first.is_empty() { text(pod, &["status", "podIP"]) } else { first })
    }),
    wide("Node", "#/io.k8s.api.core.v1.PodSpec/nodeName", |pod, _| {
        or_none(text(pod, &["spec", "nodeName"]))
    }),
    wide("Nominated Node", "#/io.k8s.api.core.v1.PodStatus/nominatedNodeName", |pod, _| {
        or_none(text(pod, &["status", "nominatedNodeName"]))
    }),
    wide("Readiness Gates", "#/io.k8s.api.core.v1.PodSpec/readinessGates", |pod, _| {
        let gates = list(pod, &["spec", "readinessGates"]);
        if gates.is_empty() {
            return "<none>".into();
        }
        let open = gates.iter().filter(|gate| condition(pod, text(gate, &["conditionType"])));
        format!("{}/{}", open.count(), gates.len()).into()
    }),
];

/// Returns true if a condition of the pod is `True`.
fn condition(pod: &Value, name: &str) -> bool {
    list(pod, &["status", "conditions"])
        .iter()
        .any(|condition| condition["type"] == name && condition["status"] == "True")
}

/// A row of `kubectl get pods`: what the columns derive from the statuses of all containers.
struct Summary {
    ready: usize,
    containers: usize,
    status: String,
    restarts: Restarts,
}

/// The number of restarts, and the time of the last one.
#[derive(Clone, Default)]
struct Restarts {
    count: i64,
    last: String,
}

impl Restarts {
    fn add(&mut self, container: &Value) {
        self.count += container["restartCount"].as_i64().unwrap_or_default();
        // All times are in UTC and of the same length, so they compare as text.
        let finished = text(container, &["lastState", "terminated", "finishedAt"]);
        if finished > self.last.as_str() {
            self.last = finished.to_owned();
        }
    }

    /// `3 (5s ago)`.
    fn display(&self, now: Timestamp) -> String {
        match self {
            Self { count, last } if *count != 0 && !last.is_empty() => {
                format!("{count} ({} ago)", since(last, now))
            }
            Self { count, .. } => count.to_string(),
        }
    }
}

impl Summary {
    /// Summarizes a pod. Each step may replace the status of the one before, as in `printPod`.
    fn of(pod: &Value) -> Self {
        let (spec, status) = (&pod["spec"], &pod["status"]);
        let sidecars = list(spec, &["initContainers"]).iter().filter(|c| is_sidecar(c)).count();
        let mut summary = Self {
            ready: 0,
            containers: list(spec, &["containers"]).len() + sidecars,
            status: match text(status, &["reason"]) {
                "" => text(status, &["phase"]).to_owned(),
                reason => reason.to_owned(),
            },
            restarts: Restarts::default(),
        };
        let gated = list(status, &["conditions"]).iter().any(|condition| {
            condition["type"] == "PodScheduled" && condition["reason"] == "SchedulingGated"
        });
        if gated {
            summary.status = "SchedulingGated".to_owned();
        }
        let (initializing, sidecar_restarts) = summary.add_init_containers(pod);
        if !initializing || condition(pod, "Initialized") {
            // Init containers have run, so their restarts no longer count; those of sidecars do.
            summary.restarts = sidecar_restarts;
            summary.add_containers(pod);
        }
        if !at(pod, &["metadata", "deletionTimestamp"]).is_null() {
            if status["reason"] == "NodeLost" {
                summary.status = "Unknown".to_owned();
            } else if !matches!(text(status, &["phase"]), "Succeeded" | "Failed") {
                summary.status = "Terminating".to_owned();
            }
        }
        summary
    }

    /// Adds the init containers up to the first that has not finished. Returns true if there
    /// is one, and the restarts of sidecars.
    fn add_init_containers(&mut self, pod: &Value) -> (bool, Restarts) {
        let specs = list(&pod["spec"], &["initContainers"]);
        let mut sidecar_restarts = Restarts::default();
        let statuses = list(&pod["status"], &["initContainerStatuses"]);
        for (at, container) in statuses.iter().enumerate() {
            self.restarts.add(container);
            let is_sidecar =
                specs.iter().any(|spec| spec["name"] == container["name"] && is_sidecar(spec));
            if is_sidecar {
                sidecar_restarts.add(container);
            }
            let terminated = &container["state"]["terminated"];
            if terminated.is_object() && terminated["exitCode"] == 0 {
                continue;
            }
            if is_sidecar && container["started"] == true {
                self.ready += usize::from(container["ready"] == true);
                continue;
            }
            let waiting = text(container, &["state", "waiting", "reason"]);
            self.status = if terminated.is_object() {
                format!("Init:{}", termination(terminated))
            } else if !waiting.is_empty() && waiting != "PodInitializing" {
                format!("Init:{waiting}")
            } else {
                format!("Init:{at}/{}", specs.len())
            };
            return (true, sidecar_restarts);
        }
        (false, sidecar_restarts)
    }

    /// Adds the containers, the last first, so that the first one with a problem determines the
    /// status.
    fn add_containers(&mut self, pod: &Value) {
        let mut running = false;
        for container in list(&pod["status"], &["containerStatuses"]).iter().rev() {
            self.restarts.add(container);
            let state = &container["state"];
            let waiting = text(state, &["waiting", "reason"]);
            if !waiting.is_empty() {
                self.status = waiting.to_owned();
            } else if state["terminated"].is_object() {
                self.status = termination(&state["terminated"]);
            } else if container["ready"] == true && state["running"].is_object() {
                running = true;
                self.ready += 1;
            }
        }
        // Some containers have completed while others still run.
        if self.status == "Completed" && running {
            let status = if condition(pod, "Ready") { "Running" } else { "NotReady" };
            self.status = status.to_owned();
        }
    }
}

/// A sidecar is an init container that keeps running.
fn is_sidecar(init_container: &Value) -> bool {
    init_container["restartPolicy"] == "Always"
}

/// Returns the reason of a termination, or the signal or exit code.
fn termination(terminated: &Value) -> String {
    match (text(terminated, &["reason"]), terminated["signal"].as_i64().unwrap_or_default()) {
        ("", 0) => format!("ExitCode:{}", terminated["exitCode"]),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn status_and_readiness_follow_container_states() {
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
            let summary = Summary::of(&pod);
            assert_eq!(format!("{}/{}", summary.ready, summary.containers), ready, "{pod}");
            assert_eq!(summary.status, shown, "{pod}");
        }
    }

    #[test]
    fn init_container_determines_status_until_it_has_finished() {
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
            assert_eq!(Summary::of(&of(state)).status, shown);
        }
    }

    #[test]
    fn restarts_include_the_time_of_the_last_one() {
        let pod = json!({
            "spec": { "containers": [{}] },
            "status": { "containerStatuses": [{
                "restartCount": 3, "state": { "running": {} },
                "lastState": { "terminated": { "finishedAt": "2026-11-23T09:00:00Z" } },
            }] },
        });
        let now = "2026-11-23T09:00:05Z".parse().unwrap();
        assert_eq!(Summary::of(&pod).restarts.display(now), "3 (5s ago)");
    }
}

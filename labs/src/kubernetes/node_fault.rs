//! Faults of nodes: one that is lost, or that cannot create or remove the sandboxes of pods. No manifest is at fault, and no wait
//! of a lab can succeed.

use super::{
    namespace_client::NamespaceClient,
    nodes, pods,
    wait::{self, Objects, Progress, lasting, until},
};
use crate::event::Event;
use crate::fault::{Fault, Layer, kubectl};
use k8s_openapi::api::core::v1::{Event as Recorded, Node, Pod};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, ObjectMeta},
};
use std::collections::BTreeMap;
use std::time::Duration;

/// The timeout of a watch that another wait ends.
const BACKGROUND: Duration = Duration::from_secs(24 * 60 * 60);

/// The number of failures that are conclusive. The kubelet tries again after some ten seconds: by then a new node has what it
/// lacked at first, such as the configuration of its network.
const CONCLUSIVE: i32 = 2;

/// The reasons of events that a node cannot do what every pod needs.
const CREATION: &str = "FailedCreatePodSandBox";
const REMOVAL: &str = "FailedKillPod";

impl NamespaceClient {
    /// Completes when a node with pods of this namespace does not work.
    pub(crate) async fn node_fault(&self) -> Fault {
        // Boxed: they are part of every wait, and would make the futures of the phases large.
        tokio::select! {
            fault = Box::pin(self.lost_node()) => fault,
            fault = Box::pin(self.failing_node()) => fault,
        }
    }

    /// Completes when a node with pods of this namespace is not ready.
    pub(super) async fn lost_node(&self) -> Fault {
        let nodes: Api<Node> = Api::all(self.client.clone());
        loop {
            let not_ready = |nodes: &Objects<Node>| {
                let mut lost = nodes.values().filter(|node| !nodes::is_ready(node));
                lost.next().map(|node| node.name_any())
            };
            // Long enough for a node that has only just joined, or a kubelet that restarts.
            let wait = Duration::from_secs(2);
            let lost = lasting(nodes.clone(), wait::Config::default(), wait, not_ready).await;
            let here = ListParams::default().fields(&format!("spec.nodeName={lost}"));
            if self.api::<Pod>().list(&here).await.is_ok_and(|pods| !pods.items.is_empty()) {
                let why = format!("node {lost} is not ready, and pods of the lab are on it");
                return Fault::new(Layer::Node, why, format!("kubectl describe node {lost}"));
            }
        }
    }

    /// Completes when a node has failed repeatedly to create or remove the sandbox of a pod. Reports the first failure as
    /// progress.
    async fn failing_node(&self) -> Fault {
        let mut dismissed = BTreeMap::new();
        let mut named = false;
        loop {
            let next = |events: &Objects<Recorded>| {
                let failures = events.values().filter(|event| is_failure(event));
                if let Some(first) = failures.clone().next()
                    && !std::mem::replace(&mut named, true)
                {
                    let pod = first.involved_object.name.as_deref().unwrap_or_default();
                    self.reports(Event::Progress { text: format!("pod {pod}: {}", text(first)) });
                }
                let mut counts: BTreeMap<String, i32> = BTreeMap::new();
                for event in failures {
                    let pod = event.involved_object.name.clone().unwrap_or_default();
                    *counts.entry(pod).or_default() += count(event);
                }
                let known = |pod: &String| dismissed.get(pod).copied().unwrap_or(0);
                match counts.into_iter().find(|(pod, n)| *n >= CONCLUSIVE && *n > known(pod)) {
                    Some(found) => Progress::Done(found),
                    None => Progress::Pending(String::new()),
                }
            };
            let all = wait::Config::default();
            let found = until(self.api(), all, "events", BACKGROUND, next).await;
            // Another wait reports a cluster whose events cannot be watched.
            let Ok((name, count)) = found else { return std::future::pending().await };
            if let Some(fault) = self.fault_of(&name).await {
                return fault;
            }
            dismissed.insert(name, count);
        }
    }

    /// Returns the fault of a pod's node, if the pod still suffers from it.
    async fn fault_of(&self, name: &str) -> Option<Fault> {
        let pod = self.api::<Pod>().get_opt(name).await.ok()??;
        let events = self.api::<Recorded>().list(&ListParams::default()).await.ok()?;
        sandbox_failure(&pod, &events.items)
    }

    fn reports(&self, event: Event) {
        if let Some(events) = &self.events {
            events.send(event);
        }
    }
}

/// Returns the fault of a node that could not create or remove the sandbox of a pod, unless the pod asks for what a sandbox
/// may lack, or has been started since.
pub(crate) fn sandbox_failure(pod: &Pod, events: &[Recorded]) -> Option<Fault> {
    let spec = pod.spec.as_ref()?;
    let terminating = pods::is_terminating(pod);
    if !terminating && (pods::is_running(pod) || asks_of_sandbox(pod)) {
        return None;
    }
    let reason = if terminating { REMOVAL } else { CREATION };
    let of_pod = |metadata: &ObjectMeta, event: &Recorded| {
        let about = &event.involved_object;
        about.name == metadata.name && (about.uid.is_none() || about.uid == metadata.uid)
    };
    let ours = events.iter().filter(|event| of_pod(&pod.metadata, event));
    let last = |found: fn(&str) -> bool| {
        let found = ours.clone().filter(|e| found(e.reason.as_deref().unwrap_or_default()));
        found.max_by_key(|event| time(event))
    };
    let failed = if terminating { last(|r| r == REMOVAL) } else { last(|r| r == CREATION) }?;
    let started = last(|reason| matches!(reason, "Pulled" | "Created" | "Started"));
    let message = failed.message.as_deref().unwrap_or_default();
    // A memory limit of a pod holds for its sandbox, too.
    if message.contains("OOM") || !terminating && started.is_some_and(|at| time(at) >= time(failed))
    {
        return None;
    }
    let node = spec.node_name.as_deref().unwrap_or_default();
    let verb = if terminating { "remove" } else { "create" };
    let name = pod.name_any();
    let why = format!("node {node} cannot {verb} the sandbox of pod {name}: {reason}: {message}");
    Some(Fault::new(Layer::Node, why, kubectl(&format!("describe pod {name}"))))
}

/// Returns true if a manifest asks for a sandbox that a node may not offer.
fn asks_of_sandbox(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let context = spec.security_context.as_ref();
    let sysctls = context.and_then(|context| context.sysctls.as_deref()).unwrap_or_default();
    spec.runtime_class_name.is_some() || !sysctls.is_empty()
}

fn is_failure(event: &Recorded) -> bool {
    matches!(event.reason.as_deref(), Some(CREATION | REMOVAL))
}

fn count(event: &Recorded) -> i32 {
    let series = event.series.as_ref().and_then(|series| series.count);
    series.or(event.count).unwrap_or(1).max(1)
}

/// The time at which an event was last seen.
fn time(event: &Recorded) -> Option<jiff::Timestamp> {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref());
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    let first = event.event_time.as_ref().map(|time| time.0);
    series.map(|time| time.0).or(last).or(first)
}

/// Formats an event in one line.
fn text(event: &Recorded) -> String {
    let message = event.message.as_deref().unwrap_or_default().replace('\n', "; ");
    format!("{}: {message}", event.reason.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn fault(pod: Value, events: Value) -> Option<String> {
        let mut whole = json!({"metadata": {"name": "p", "uid": "1"},
            "spec": {"nodeName": "n", "containers": []}});
        json_patch(&mut whole, pod);
        let events: Vec<Recorded> = serde_json::from_value(events).unwrap();
        sandbox_failure(&serde_json::from_value(whole).unwrap(), &events).map(|f| f.why)
    }

    fn json_patch(target: &mut Value, patch: Value) {
        let Value::Object(patch) = patch else { return *target = patch };
        for (key, value) in patch {
            json_patch(&mut target[key], value);
        }
    }

    fn event(reason: &str, message: &str, second: u8) -> Value {
        json!({"metadata": {}, "reason": reason, "message": message, "count": 2,
            "involvedObject": {"name": "p", "uid": "1"},
            "lastTimestamp": format!("2026-01-01T00:00:{second:02}Z")})
    }

    #[test]
    fn node_that_cannot_create_a_sandbox_is_at_fault() {
        let failed = event("FailedCreatePodSandBox", "no cgroup", 1);
        let why = "node n cannot create the sandbox of pod p: FailedCreatePodSandBox: no cgroup";
        assert_eq!(fault(json!({}), json!([failed])).as_deref(), Some(why));
        let earlier = event("Started", "", 0);
        assert_eq!(fault(json!({}), json!([earlier, failed])).as_deref(), Some(why));

        let running = json!({"status": {"containerStatuses": [{"name": "c", "image": "", "imageID": "",
            "ready": true, "restartCount": 0, "state": {"running": {}}}]}});
        assert_eq!(fault(running, json!([failed])), None, "it runs");
        let later = event("Pulled", "", 2);
        assert_eq!(fault(json!({}), json!([failed, later])), None, "it was started since");
        let mut other = failed.clone();
        other["involvedObject"]["uid"] = json!("2");
        assert_eq!(fault(json!({}), json!([other])), None, "a former pod of that name");
        let class = json!({"spec": {"runtimeClassName": "gvisor"}});
        assert_eq!(fault(class, json!([failed])), None, "the manifest asks for it");
        let limited = event("FailedCreatePodSandBox", "container init was OOM-killed", 1);
        assert_eq!(fault(json!({}), json!([limited])), None, "its memory is limited");
        assert_eq!(fault(json!({}), json!([])), None);
    }

    #[test]
    fn node_that_cannot_remove_a_sandbox_is_at_fault() {
        let ending = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let failed = event("FailedKillPod", "stuck", 1);
        let why = "node n cannot remove the sandbox of pod p: FailedKillPod: stuck";
        assert_eq!(fault(ending.clone(), json!([failed])).as_deref(), Some(why));
        let created = event("FailedCreatePodSandBox", "no cgroup", 1);
        assert_eq!(fault(ending, json!([created])), None, "it is no longer to be created");
        assert_eq!(fault(json!({}), json!([failed])), None);
    }

    #[test]
    fn repeated_events_are_counted() {
        for (event, expected) in [
            (json!({}), 1),
            (json!({"count": 3}), 3),
            (json!({"count": 0}), 1),
            (json!({"series": {"count": 4}}), 4),
        ] {
            let mut whole = json!({"metadata": {}, "involvedObject": {}});
            json_patch(&mut whole, event.clone());
            assert_eq!(count(&serde_json::from_value(whole).unwrap()), expected, "{event}");
        }
    }
}

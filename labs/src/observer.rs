//! Watches a cluster and reports nodes, pods and the cluster's own events as they change, for reports that
//! show them. It decides nothing: no verdict depends on it, and a run works without.

use crate::event::{Event, Events, PodObserved, PodState};
use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{ContainerStatus, Event as Recorded, Node, Pod};
use kube::runtime::watcher::{self, Event as Watched};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Api, ResourceExt as _};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::JoinSet;

/// Watches until it is dropped.
#[derive(Debug)]
pub(crate) struct Observer {
    /// Aborted when this is dropped.
    _tasks: JoinSet<()>,
}

impl Observer {
    /// Watches the cluster's nodes, and pods and events of a namespace, which may come and go.
    pub(crate) fn start(client: kube::Client, namespace: &str, events: &Events) -> Self {
        let connection = Connection { events: events.clone(), lost: Arc::default() };
        let mut tasks = JoinSet::new();
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        tasks.spawn(follow(pods, connection.clone(), pod_event, |pod| {
            Event::PodObserved(PodObserved { state: PodState::Removed, ..named(pod) })
        }));
        let recorded: Api<Recorded> = Api::namespaced(client.clone(), namespace);
        tasks.spawn(follow_recorded(recorded, connection.clone()));
        tasks.spawn(follow(Api::<Node>::all(client), connection, node_event, |node| {
            Event::NodeObserved { node, ready: None }
        }));
        Self { _tasks: tasks }
    }
}

/// The state of the connection to the API server, shared by the watches.
#[derive(Clone)]
struct Connection {
    events: Events,
    lost: Arc<AtomicBool>,
}

impl Connection {
    /// Reports a change of the connection, once.
    fn set(&self, reason: Option<String>) {
        let connected = reason.is_none();
        if self.lost.swap(!connected, Ordering::Relaxed) == connected {
            self.events.send(Event::ClusterConnection { connected, reason });
        }
    }
}

/// Reports every change of these objects. After a gap, objects that were removed meanwhile are reported so.
async fn follow<K>(
    api: Api<K>,
    connection: Connection,
    present: fn(&K) -> Event,
    removed: fn(String) -> Event,
) where
    K: kube::Resource + Clone + Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let (mut known, mut listed) = (BTreeSet::new(), BTreeSet::new());
    let mut changes = std::pin::pin!(changes(api, &connection));
    while let Some(change) = changes.next().await {
        match change {
            Watched::Apply(object) => {
                known.insert(object.name_any());
                connection.events.send(present(&object));
            }
            Watched::Delete(object) => {
                known.remove(&object.name_any());
                connection.events.send(removed(object.name_any()));
            }
            Watched::Init => listed.clear(),
            Watched::InitApply(object) => {
                listed.insert(object.name_any());
                connection.events.send(present(&object));
            }
            Watched::InitDone => {
                for name in known.difference(&listed) {
                    connection.events.send(removed(name.clone()));
                }
                known = std::mem::take(&mut listed);
            }
        }
    }
}

/// Reports events that the cluster records from now on: those of the past have been listed.
async fn follow_recorded(api: Api<Recorded>, connection: Connection) {
    let mut changes = std::pin::pin!(changes(api, &connection));
    while let Some(change) = changes.next().await {
        if let Watched::Apply(event) = change {
            connection.events.send(cluster_event(&event));
        }
    }
}

/// Watches with back-off, and reports when that fails and when it works again.
fn changes<K>(api: Api<K>, connection: &Connection) -> impl Stream<Item = Watched<K>> + Send
where
    K: kube::Resource + Clone + Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let watched = watch(api, watcher::Config::default()).default_backoff();
    watched.filter_map(move |change| {
        let change = match change {
            Ok(change) => {
                // `Init` precedes the request.
                if !matches!(change, Watched::Init) {
                    connection.set(None);
                }
                Some(change)
            }
            Err(error) => {
                if !matches!(&error, watcher::Error::WatchError(status) if status.code == 410) {
                    connection.set(Some(error.to_string()));
                }
                None
            }
        };
        std::future::ready(change)
    })
}

fn node_event(node: &Node) -> Event {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.and_then(|all| all.iter().find(|condition| condition.type_ == "Ready"));
    Event::NodeObserved {
        node: node.name_any(),
        ready: Some(ready.is_some_and(|ready| ready.status == "True")),
    }
}

/// A pod of which only the name is known.
fn named(pod: String) -> PodObserved {
    let state = PodState::Pending;
    PodObserved { pod, node: None, version: None, state, reason: None, restarts: 0 }
}

fn pod_event(pod: &Pod) -> Event {
    let spec = pod.spec.as_ref();
    let image = spec.and_then(|spec| spec.containers.first()).and_then(|c| c.image.as_deref());
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref());
    let statuses = statuses.unwrap_or_default();
    let restarts: i32 = statuses.iter().map(|status| status.restart_count).sum();
    let state = state(pod);
    let reason = statuses.iter().find_map(reason).filter(|_| state != PodState::Ready);
    Event::PodObserved(PodObserved {
        node: spec.and_then(|spec| spec.node_name.clone()).filter(|node| !node.is_empty()),
        version: image.and_then(tag).map(str::to_owned),
        state,
        reason,
        restarts: u32::try_from(restarts).unwrap_or(0),
        ..named(pod.name_any())
    })
}

fn state(pod: &Pod) -> PodState {
    if pod.metadata.deletion_timestamp.is_some() {
        return PodState::Terminating;
    }
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    match status.and_then(|status| status.phase.as_deref()) {
        Some("Running") if conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True") => {
            PodState::Ready
        }
        Some("Running") => PodState::Running,
        Some("Succeeded") => PodState::Succeeded,
        Some("Failed") => PodState::Failed,
        _ => PodState::Pending,
    }
}

/// The reason why a container waits or has ended.
fn reason(status: &ContainerStatus) -> Option<String> {
    let state = status.state.as_ref()?;
    let waiting = state.waiting.as_ref().and_then(|waiting| waiting.reason.clone());
    waiting.or_else(|| state.terminated.as_ref().and_then(|ended| ended.reason.clone()))
}

/// The tag of an image: `1.0` of `localhost:5000/kubeapp:1.0@sha256:…`.
fn tag(image: &str) -> Option<&str> {
    let name = image.split('@').next()?;
    let (_, tag) = name.rsplit_once('/').map_or(name, |(_, last)| last).split_once(':')?;
    Some(tag)
}

fn cluster_event(event: &Recorded) -> Event {
    let object = &event.involved_object;
    let name = |field: &Option<String>| field.clone().unwrap_or_default();
    Event::ClusterEvent {
        severity: name(&event.type_),
        object: format!("{}/{}", name(&object.kind), name(&object.name)),
        reason: name(&event.reason),
        message: name(&event.message).replace('\n', "; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn observed(pod: Value) -> Value {
        let pod = serde_json::from_value(pod).unwrap();
        serde_json::to_value(pod_event(&pod)).unwrap()
    }

    #[test]
    fn pod_is_reported_by_its_stage_of_life() {
        let pod = |status: Value, deleted: Value| {
            observed(json!({
                "metadata": {"name": "p", "deletionTimestamp": deleted},
                "spec": {"nodeName": "node-1", "containers": [{"name": "c", "image": "kubeapp:2.0"}]},
                "status": status,
            }))
        };
        let ready = json!([{"type": "Ready", "status": "True"}]);
        let waiting = json!([{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 2,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]);
        let none = Value::Null;
        for (status, deleted, state, reason) in [
            (json!({"phase": "Pending"}), &none, "pending", &none),
            (json!({"phase": "Running"}), &none, "running", &none),
            (json!({"phase": "Running", "conditions": ready}), &none, "ready", &none),
            (
                json!({"phase": "Running", "containerStatuses": waiting}),
                &none,
                "running",
                &json!("CrashLoopBackOff"),
            ),
            (json!({"phase": "Failed"}), &none, "failed", &none),
            (
                json!({"phase": "Running", "conditions": ready}),
                &json!("2026-01-01T00:00:00Z"),
                "terminating",
                &none,
            ),
        ] {
            let found = pod(status.clone(), deleted.clone());
            assert_eq!((&found["state"], &found["reason"]), (&json!(state), reason), "{status}");
            assert_eq!((&found["version"], &found["node"]), (&json!("2.0"), &json!("node-1")));
        }
        let unbound = observed(json!({"metadata": {"name": "p"}}));
        assert_eq!((&unbound["state"], &unbound["node"]), (&json!("pending"), &Value::Null));
    }

    #[test]
    fn version_is_the_tag_of_the_image() {
        for (image, expected) in [
            ("kubeapp:1.0", Some("1.0")),
            ("localhost:5000/kubeapp", None),
            ("localhost:5000/a/kubeapp:2.0@sha256:12", Some("2.0")),
            ("kubeapp", None),
        ] {
            assert_eq!(tag(image), expected, "{image}");
        }
    }
}

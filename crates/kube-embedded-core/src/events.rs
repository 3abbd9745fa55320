//! Tells the story of objects as core/v1 Events, the way client-go's recorder does: the same event
//! seen again counts up instead of piling up. Publishing never waits; a task of its own writes.

use crate::time::whole_seconds;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};
use tokio::{sync::mpsc, time::timeout};

/// How many events of one recorder are remembered, to count repetitions.
const REMEMBERED: usize = 1024;
/// No write of an event may hold up those behind it for longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Publishes events in the name of one component. Clones share what they know.
#[derive(Clone)]
pub struct Recorder {
    events: mpsc::UnboundedSender<Entry>,
}

/// What makes two events the same, as client-go's correlator has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Identity {
    /// Kind, namespace, name, uid and path of the field.
    object: [Option<String>; 5],
    type_: String,
    reason: String,
    message: String,
}

struct Entry {
    object: ObjectReference,
    identity: Identity,
    at: Timestamp,
}

impl Recorder {
    /// A recorder for `component` (`deployment-controller`, `kubelet`) on `host` (a node's name, or
    /// empty). Must be called within a Tokio runtime; the task it starts ends when the last clone
    /// is dropped and what was published has been written.
    pub fn new(client: Client, component: &str, host: &str) -> Self {
        let (events, queue) = mpsc::unbounded_channel();
        let source = EventSource {
            component: Some(component.to_owned()),
            host: (!host.is_empty()).then(|| host.to_owned()),
        };
        tokio::spawn(write(client, source, queue));
        Self { events }
    }

    /// Publishes an event about `object` and returns at once. `type_` is `Normal` or `Warning`;
    /// `reason` is one word in camel case; `message` is for people. An event that cannot be written
    /// (its namespace is going away, say) is lost, as in Kubernetes.
    pub fn publish(&self, object: &ObjectReference, type_: &str, reason: &str, message: &str) {
        let identity = Identity {
            object: [
                object.kind.clone(),
                object.namespace.clone(),
                object.name.clone(),
                object.uid.clone(),
                object.field_path.clone(),
            ],
            type_: type_.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
        };
        let entry = Entry { object: object.clone(), identity, at: Timestamp::now() };
        // The task outlives every sender, so this fails only while the runtime is shut down.
        let _ = self.events.send(entry);
    }
}

/// Returns a reference to `object` at the version its publisher saw.
pub fn about<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let resource_version = object.meta().resource_version.clone();
    ObjectReference { resource_version, ..object.object_ref(&()) }
}

async fn write(client: Client, source: EventSource, mut queue: mpsc::UnboundedReceiver<Entry>) {
    let mut seen = Seen::default();
    while let Some(entry) = queue.recv().await {
        let namespace = entry.object.namespace.clone().unwrap_or_else(|| "default".into());
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        let _ = timeout(PATIENCE, record(&api, &source, &mut seen, entry)).await;
    }
}

async fn record(api: &Api<Event>, source: &EventSource, seen: &mut Seen, entry: Entry) {
    if let Some((name, count)) = seen.count(&entry.identity) {
        let patch = json!({ "count": count, "lastTimestamp": Time(whole_seconds(entry.at)) });
        if api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await.is_ok() {
            return;
        }
        seen.forget(&entry.identity);
    }
    let event = event(&entry, source);
    let name = event.metadata.name.clone().unwrap_or_default();
    if api.create(&PostParams::default(), &event).await.is_ok() {
        seen.remember(entry.identity, name);
    }
}

fn event(entry: &Entry, source: &EventSource) -> Event {
    let name = entry.object.name.as_deref().unwrap_or("unknown");
    let at = Time(whole_seconds(entry.at));
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:x}", entry.at.as_nanosecond())),
            namespace: Some(entry.object.namespace.clone().unwrap_or_else(|| "default".into())),
            ..Default::default()
        },
        involved_object: entry.object.clone(),
        type_: Some(entry.identity.type_.clone()),
        reason: Some(entry.identity.reason.clone()),
        message: Some(entry.identity.message.clone()),
        count: Some(1),
        first_timestamp: Some(at.clone()),
        last_timestamp: Some(at),
        reporting_component: source.component.clone(),
        reporting_instance: Some(source.host.clone().unwrap_or_default()),
        source: Some(source.clone()),
        ..Default::default()
    }
}

/// The events written lately, oldest forgotten first.
#[derive(Default)]
struct Seen {
    events: HashMap<Identity, (String, i32)>,
    order: VecDeque<Identity>,
}

impl Seen {
    /// Name and new count of an event that was written before.
    fn count(&mut self, identity: &Identity) -> Option<(String, i32)> {
        let (name, count) = self.events.get_mut(identity)?;
        *count += 1;
        Some((name.clone(), *count))
    }

    fn remember(&mut self, identity: Identity, name: String) {
        if self.events.insert(identity.clone(), (name, 1)).is_none() {
            self.order.push_back(identity);
        }
        while self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.events.remove(&oldest);
            }
        }
    }

    fn forget(&mut self, identity: &Identity) {
        self.events.remove(identity);
        self.order.retain(|known| known != identity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(message: &str) -> Entry {
        Entry {
            object: ObjectReference {
                kind: Some("Pod".into()),
                name: Some("web".into()),
                namespace: Some("shop".into()),
                ..Default::default()
            },
            identity: Identity {
                object: [Some("Pod".into()), None, Some("web".into()), None, None],
                type_: "Normal".into(),
                reason: "Pulled".into(),
                message: message.into(),
            },
            at: Timestamp::from_nanosecond(1_763_000_000_123_456_789).unwrap(),
        }
    }

    #[test]
    fn repetitions_count_up_and_others_do_not() {
        let mut seen = Seen::default();
        let (first, other) = (entry("a").identity, entry("b").identity);
        assert_eq!(seen.count(&first), None);
        seen.remember(first.clone(), "web.1".into());
        assert_eq!(seen.count(&first), Some(("web.1".into(), 2)));
        assert_eq!(seen.count(&first), Some(("web.1".into(), 3)));
        assert_eq!(seen.count(&other), None);
        seen.forget(&first);
        assert_eq!(seen.count(&first), None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut seen = Seen::default();
        for n in 0..REMEMBERED + 10 {
            seen.remember(entry(&n.to_string()).identity, n.to_string());
        }
        assert_eq!(seen.events.len(), REMEMBERED);
        assert_eq!(seen.count(&entry("9").identity), None);
        assert!(seen.count(&entry("10").identity).is_some());
    }

    #[test]
    fn events_look_like_those_of_kubernetes() {
        let source = EventSource { component: Some("kubelet".into()), host: Some("node-1".into()) };
        let event = event(&entry("a"), &source);
        assert_eq!(event.metadata.name.as_deref(), Some("web.18776f28ca5f4d15"));
        assert_eq!(event.metadata.namespace.as_deref(), Some("shop"));
        assert_eq!(event.first_timestamp.unwrap().0.subsec_nanosecond(), 0);
        assert_eq!(event.reporting_component.as_deref(), Some("kubelet"));
    }
}

//! The event recorder (core/v1), modeled on client-go's: a repeated event increments the count of the
//! stored one. Publishing never blocks; a task writes the events.

use crate::{task::spawn_named, time::whole_seconds};
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

/// The number of events that one recorder remembers to count repetitions.
const CACHE_SIZE: usize = 1024;
/// The timeout of one write, so that it does not hold up the events behind it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// Publishes events as one component. Clones share the queue and the cache.
#[derive(Clone)]
pub struct Recorder {
    events: mpsc::UnboundedSender<Entry>,
}

/// The fields by which client-go's correlator recognizes a repetition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct AggregateKey {
    /// Kind, namespace, name, uid and field path.
    object: [Option<String>; 5],
    type_: String,
    reason: String,
    message: String,
}

struct Entry {
    object: ObjectReference,
    key: AggregateKey,
    at: Timestamp,
}

impl Recorder {
    /// Creates a recorder for `component` (`deployment-controller`, `kubelet`) on `host` (the name of
    /// a node, or empty). Must be called within a Tokio runtime. The task that it spawns ends after
    /// the last clone is dropped and all published events are written.
    pub fn new(client: Client, component: &str, host: &str) -> Self {
        let (events, queue) = mpsc::unbounded_channel();
        let source = EventSource {
            component: Some(component.to_owned()),
            host: (!host.is_empty()).then(|| host.to_owned()),
        };
        let task = format!("event-recorder-{component}");
        spawn_named(task, write(client, source, queue)).detach();
        Self { events }
    }

    /// Publishes an event about `object` without waiting. `type_` is `Normal` or `Warning`, `reason`
    /// one word in camel case, `message` a sentence for people. An event that cannot be written (for
    /// example, because its namespace is terminating) is dropped, as in Kubernetes.
    pub fn publish(&self, object: &ObjectReference, type_: &str, reason: &str, message: &str) {
        let key = AggregateKey {
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
        let entry = Entry { object: object.clone(), key, at: Timestamp::now() };
        // The task outlives every sender, so this fails only while the runtime is shut down.
        let _ = self.events.send(entry);
    }
}

/// Returns a reference to `object` at the version that the publisher has seen.
pub fn about<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let resource_version = object.meta().resource_version.clone();
    ObjectReference { resource_version, ..object.object_ref(&()) }
}

async fn write(client: Client, source: EventSource, mut queue: mpsc::UnboundedReceiver<Entry>) {
    let mut cache = Cache::default();
    while let Some(entry) = queue.recv().await {
        let namespace = entry.object.namespace.clone().unwrap_or_else(|| "default".into());
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        let (component, reason) = (source.component.as_deref(), entry.key.reason.clone());
        let recorded = timeout(WRITE_TIMEOUT, record(&api, &source, &mut cache, entry)).await;
        let error = match recorded {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(timeout) => timeout.to_string(),
        };
        tracing::debug!(component, reason, namespace, error, "event dropped");
    }
}

async fn record(
    api: &Api<Event>,
    source: &EventSource,
    cache: &mut Cache,
    entry: Entry,
) -> kube::Result<()> {
    if let Some((name, count)) = cache.increment(&entry.key) {
        let patch = json!({ "count": count, "lastTimestamp": Time(whole_seconds(entry.at)) });
        if api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await.is_ok() {
            return Ok(());
        }
        cache.remove(&entry.key);
    }
    let event = event(&entry, source);
    let name = event.metadata.name.clone().unwrap_or_default();
    api.create(&PostParams::default(), &event).await?;
    cache.insert(entry.key, name);
    Ok(())
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
        type_: Some(entry.key.type_.clone()),
        reason: Some(entry.key.reason.clone()),
        message: Some(entry.key.message.clone()),
        count: Some(1),
        first_timestamp: Some(at.clone()),
        last_timestamp: Some(at),
        reporting_component: source.component.clone(),
        reporting_instance: Some(source.host.clone().unwrap_or_default()),
        source: Some(source.clone()),
        ..Default::default()
    }
}

/// The events written last: their names and counts.
#[derive(Default)]
struct Cache {
    events: HashMap<AggregateKey, (String, i32)>,
    /// Oldest first.
    order: VecDeque<AggregateKey>,
}

impl Cache {
    /// Counts a repetition. Returns the name and new count of the stored event.
    fn increment(&mut self, key: &AggregateKey) -> Option<(String, i32)> {
        let (name, count) = self.events.get_mut(key)?;
        *count += 1;
        Some((name.clone(), *count))
    }

    fn insert(&mut self, key: AggregateKey, name: String) {
        if self.events.insert(key.clone(), (name, 1)).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > CACHE_SIZE {
            if let Some(oldest) = self.order.pop_front() {
                self.events.remove(&oldest);
            }
        }
    }

    fn remove(&mut self, key: &AggregateKey) {
        self.events.remove(key);
        self.order.retain(|known| known != key);
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
            key: AggregateKey {
                object: [Some("Pod".into()), None, Some("web".into()), None, None],
                type_: "Normal".into(),
                reason: "Pulled".into(),
                message: message.into(),
            },
            at: Timestamp::from_nanosecond(1_763_000_000_123_456_789).unwrap(),
        }
    }

    #[test]
    fn repetition_increments_count_of_the_same_event_only() {
        let mut cache = Cache::default();
        let (first, other) = (entry("a").key, entry("b").key);
        assert_eq!(cache.increment(&first), None);
        cache.insert(first.clone(), "web.1".into());
        assert_eq!(cache.increment(&first), Some(("web.1".into(), 2)));
        assert_eq!(cache.increment(&first), Some(("web.1".into(), 3)));
        assert_eq!(cache.increment(&other), None);
        cache.remove(&first);
        assert_eq!(cache.increment(&first), None);
    }

    #[test]
    fn cache_is_bounded() {
        let mut cache = Cache::default();
        for n in 0..CACHE_SIZE + 10 {
            cache.insert(entry(&n.to_string()).key, n.to_string());
        }
        assert_eq!(cache.events.len(), CACHE_SIZE);
        assert_eq!(cache.increment(&entry("9").key), None);
        assert!(cache.increment(&entry("10").key).is_some());
    }

    #[test]
    fn event_has_the_fields_of_kubernetes() {
        let source = EventSource { component: Some("kubelet".into()), host: Some("node-1".into()) };
        let event = event(&entry("a"), &source);
        assert_eq!(event.metadata.name.as_deref(), Some("web.18776f28ca5f4d15"));
        assert_eq!(event.metadata.namespace.as_deref(), Some("shop"));
        assert_eq!(event.first_timestamp.unwrap().0.subsec_nanosecond(), 0);
        assert_eq!(event.reporting_component.as_deref(), Some("kubelet"));
    }
}

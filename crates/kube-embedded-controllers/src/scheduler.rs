//! The scheduler: gives each pod a node, one pod at a time, so that no two pods are promised the
//! same room.

mod fit;
mod plan;

use super::{
    World,
    cache::Key,
    queue::Queue,
    write::{self, Part},
};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Binding, Node, ObjectReference, Pod, PodCondition},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status, Time},
};
use kube::Api;
use kube_embedded_core::{
    events::{self, Recorder},
    time::whole_seconds,
};
use plan::{Decision, decide};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
};

const NAME: &str = "default-scheduler";

/// The scheduler, listening to what it depends on.
pub(crate) struct Scheduler {
    world: Arc<World>,
    queue: Arc<Queue<Key>>,
    events: Recorder,
    /// Pods without a fitting node, to be tried again when nodes or pods change.
    stuck: Arc<Mutex<BTreeSet<Key>>>,
}

impl Scheduler {
    pub(crate) fn new(world: &Arc<World>) -> Self {
        let queue = Arc::new(Queue::default());
        let stuck = Arc::new(Mutex::new(BTreeSet::new()));
        let (wake, waiting) = (queue.clone(), stuck.clone());
        world.pods.on_change(move |before: Option<&Pod>, after| {
            if let Some(pod) = after.filter(|pod| is_waiting(pod)) {
                // Our own condition on it is no news.
                if before.is_none_or(|before| before.spec != pod.spec) {
                    wake.add(Key::of(pod));
                }
            }
            let frees = |pod: &Pod| !has_node(pod) || !write::is_finished(pod);
            if before.is_some_and(has_node) && !after.is_some_and(frees) {
                retry(&waiting, &wake);
            }
        });
        let (wake, waiting) = (queue.clone(), stuck.clone());
        world.nodes.on_change(move |before: Option<&Node>, after| {
            // A heartbeat makes no pod fit that did not.
            if before.is_none_or(|before| after.is_some_and(|after| differs(before, after))) {
                retry(&waiting, &wake);
            }
        });
        let events = Recorder::new(world.client.clone(), NAME, "");
        Self { world: world.clone(), queue, events, stuck }
    }

    pub(crate) async fn run(self) {
        // Bound, but not known to be so by the cache yet.
        let mut promised: BTreeMap<String, String> = BTreeMap::new();
        loop {
            let key = self.queue.next().await;
            match self.place(&key, &mut promised).await {
                Ok(()) => self.queue.succeeded(&key),
                // Gone, or bound by somebody else: the watch will tell.
                Err(error) if write::is(&error, 404) => {}
                Err(_) => self.queue.failed(key),
            }
        }
    }

    async fn place(&self, key: &Key, promised: &mut BTreeMap<String, String>) -> kube::Result<()> {
        // Before anything is read: what changes from now on asks for another try.
        self.stuck().insert(key.clone());
        let placed = self.place_now(key, promised).await?;
        if placed {
            self.stuck().remove(key);
        }
        Ok(())
    }

    /// Whether the pod needs no further try.
    async fn place_now(
        &self,
        key: &Key,
        promised: &mut BTreeMap<String, String>,
    ) -> kube::Result<bool> {
        let world = &self.world;
        let pods = world.pods.all();
        promised.retain(|uid, _| {
            pods.iter().any(|pod| pod.metadata.uid.as_ref() == Some(uid) && !has_node(pod))
        });
        let Some(pod) = world.pods.get(key).filter(|pod| is_waiting(pod)) else { return Ok(true) };
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if promised.contains_key(&uid) {
            return Ok(true);
        }
        let nodes = world.nodes.all();
        let services = world.services.in_namespace(&key.namespace);
        let api: Api<Pod> = Api::namespaced(world.client.clone(), &key.namespace);
        let about = events::about(&*pod);
        match decide(&pod, &nodes, &pods, promised, &services) {
            Decision::Bind(node) => {
                let binding = Binding {
                    metadata: ObjectMeta {
                        name: Some(key.name.clone()),
                        namespace: Some(key.namespace.clone()),
                        uid: Some(uid.clone()),
                        ..Default::default()
                    },
                    target: ObjectReference {
                        api_version: Some("v1".into()),
                        kind: Some("Node".into()),
                        name: Some(node.clone()),
                        ..Default::default()
                    },
                };
                let post = write::post();
                let bound = api.create_subresource("binding", &key.name, &post, &binding).await;
                let _: Status = bound?;
                let text =
                    format!("Successfully assigned {}/{} to {node}", key.namespace, key.name);
                promised.insert(uid, node);
                self.events.publish(&about, "Normal", "Scheduled", &text);
                Ok(true)
            }
            Decision::Wait(message) => {
                self.events.publish(&about, "Warning", "FailedScheduling", &message);
                let mut new = (*pod).clone();
                note_unschedulable(&mut new, message);
                write::update(&api, &world.pods, Part::Status, &*pod, &new).await?;
                Ok(false)
            }
        }
    }

    fn stuck(&self) -> MutexGuard<'_, BTreeSet<Key>> {
        self.stuck.lock().unwrap_or_else(|e| e.into_inner())
    }
}

fn retry(stuck: &Mutex<BTreeSet<Key>>, queue: &Queue<Key>) {
    let stuck = std::mem::take(&mut *stuck.lock().unwrap_or_else(|e| e.into_inner()));
    stuck.into_iter().for_each(|key| queue.add(key));
}

fn has_node(pod: &Pod) -> bool {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    node.is_some_and(|node| !node.is_empty())
}

fn is_waiting(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let scheduler = spec.and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or(NAME);
    let gates = spec.and_then(|spec| spec.scheduling_gates.as_ref());
    !has_node(pod)
        && scheduler == NAME
        && gates.is_none_or(Vec::is_empty)
        && pod.metadata.deletion_timestamp.is_none()
        && !write::is_finished(pod)
}

/// Whether a node changed in a way that matters to where pods may go.
fn differs(before: &Node, after: &Node) -> bool {
    let allocatable = |node: &Node| node.status.as_ref().and_then(|s| s.allocatable.clone());
    before.spec != after.spec
        || before.metadata.labels != after.metadata.labels
        || allocatable(before) != allocatable(after)
        || fit::is_ready(before) != fit::is_ready(after)
}

fn note_unschedulable(pod: &mut Pod, message: String) {
    let generation = pod.metadata.generation;
    let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    let known = conditions.iter().find(|condition| condition.type_ == "PodScheduled");
    let since = known
        .filter(|known| known.status == "False")
        .and_then(|known| known.last_transition_time.clone())
        .unwrap_or_else(|| Time(whole_seconds(Timestamp::now())));
    conditions.retain(|condition| condition.type_ != "PodScheduled");
    conditions.push(PodCondition {
        type_: "PodScheduled".into(),
        status: "False".into(),
        reason: Some("Unschedulable".into()),
        message: Some(message),
        last_transition_time: Some(since),
        observed_generation: generation,
        ..Default::default()
    });
}

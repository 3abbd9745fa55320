//! The scheduler (kube-scheduler): binds each pod to a node, one pod at a time, so that no room is
//! promised twice.

pub(crate) mod filter;
mod plan;
mod score;
mod topology_spread;

use crate::{
    controller::{Controller, Reconciler},
    informers::Informers,
    patch,
    pod::is_finished,
};
use k8s_openapi::{
    api::core::v1::{Binding, Node, ObjectReference, Pod, PodCondition},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status},
};
use kube::Api;
use kube_embedded_core::{
    events::{self, Recorder},
    informer::ObjectKey,
    time,
    workqueue::Workqueue,
};
use plan::{Decision, decide};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

const NAME: &str = "default-scheduler";
const WORKERS: usize = 1;

/// Binds one pod to a node, or reports why it cannot.
pub(crate) struct SchedulingReconciler {
    informers: Arc<Informers>,
    events: Recorder,
    unschedulable: Arc<UnschedulablePods>,
    /// The nodes of pods (by uid) whose binding the informer has not seen yet.
    assumed: Mutex<BTreeMap<String, String>>,
}

/// Pods without a suitable node, which are retried when nodes or pods change.
#[derive(Default)]
struct UnschedulablePods(Mutex<BTreeSet<ObjectKey>>);

/// Creates the scheduler and registers its event handlers.
pub(crate) fn controller(informers: &Arc<Informers>) -> Controller<SchedulingReconciler> {
    let queue = Arc::new(Workqueue::default());
    let unschedulable = Arc::new(UnschedulablePods::default());
    let (enqueued, retried) = (queue.clone(), unschedulable.clone());
    informers.pods.add_event_handler(move |old, new| {
        if let Some(pod) = new.filter(|pod| is_pending(pod)) {
            // The scheduler's own condition changes the status only.
            if old.is_none_or(|old| old.spec != pod.spec) {
                enqueued.add(ObjectKey::of(&**pod));
            }
        }
        // A pod that ended or was deleted frees its room.
        if old.is_some_and(|pod| has_node(pod)) && new.is_none_or(|pod| is_finished(pod)) {
            retried.retry(&enqueued);
        }
    });
    let (enqueued, retried) = (queue.clone(), unschedulable.clone());
    informers.nodes.add_event_handler(move |old, new| {
        // A heartbeat makes no pod schedulable.
        if old.is_none_or(|old| new.is_some_and(|new| is_relevant_change(old, new))) {
            retried.retry(&enqueued);
        }
    });
    let events = Recorder::new(informers.client.clone(), NAME, "");
    let reconciler = SchedulingReconciler {
        informers: informers.clone(),
        events,
        unschedulable,
        assumed: Mutex::default(),
    };
    Controller::new(NAME, WORKERS, queue, reconciler)
}

impl Reconciler for SchedulingReconciler {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        // Before anything is read: any change from here on retries the pod.
        self.unschedulable.lock().insert(key.clone());
        match self.schedule(key).await {
            Ok(true) => {
                self.unschedulable.lock().remove(key);
                Ok(None)
            }
            Ok(false) => Ok(None),
            // Deleted; the watch reports it.
            Err(error) if patch::is_status(&error, 404) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl SchedulingReconciler {
    /// Returns `false` if the pod has to be retried.
    async fn schedule(&self, key: &ObjectKey) -> kube::Result<bool> {
        let informers = &self.informers;
        let pods = informers.pods.list();
        let assumed = self.assumed_nodes(&pods);
        let Some(pod) = informers.pods.get(key).filter(|pod| is_pending(pod)) else {
            return Ok(true);
        };
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if assumed.contains_key(&uid) {
            return Ok(true);
        }
        let nodes = informers.nodes.list();
        let services = informers.services.list_namespaced(&key.namespace);
        match decide(&pod, &nodes, &pods, &assumed, &services) {
            Decision::Bind(node) => {
                tracing::debug!(node, "binding");
                self.bind(key, &pod, &node).await?;
                self.lock_assumed().insert(uid, node);
                Ok(true)
            }
            Decision::Unschedulable(message) => {
                tracing::debug!(message, "unschedulable");
                self.report_unschedulable(key, &pod, message).await?;
                Ok(false)
            }
        }
    }

    /// Returns the assumed nodes, after removing those of pods that are bound or deleted by now.
    fn assumed_nodes(&self, pods: &[Arc<Pod>]) -> BTreeMap<String, String> {
        let mut assumed = self.lock_assumed();
        assumed.retain(|uid, _| {
            pods.iter().any(|pod| pod.metadata.uid.as_ref() == Some(uid) && !has_node(pod))
        });
        assumed.clone()
    }

    fn lock_assumed(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.assumed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn bind(&self, key: &ObjectKey, pod: &Pod, node: &str) -> kube::Result<()> {
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(key.name.clone()),
                namespace: Some(key.namespace.clone()),
                uid: pod.metadata.uid.clone(),
                ..Default::default()
            },
            target: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Node".into()),
                name: Some(node.to_owned()),
                ..Default::default()
            },
        };
        let api: Api<Pod> = Api::namespaced(self.informers.client.clone(), &key.namespace);
        let params = patch::post_params();
        let _: Status = api.create_subresource("binding", &key.name, &params, &binding).await?;
        let note = format!("Successfully assigned {key} to {node}");
        self.events.publish(&events::about(pod), "Normal", "Scheduled", &note);
        Ok(())
    }

    async fn report_unschedulable(
        &self,
        key: &ObjectKey,
        pod: &Pod,
        message: String,
    ) -> kube::Result<()> {
        self.events.publish(&events::about(pod), "Warning", "FailedScheduling", &message);
        let api: Api<Pod> = Api::namespaced(self.informers.client.clone(), &key.namespace);
        let mut new = pod.clone();
        set_unschedulable(&mut new, message);
        patch::update_status(&api, &self.informers.pods, pod, &new).await
    }
}

impl UnschedulablePods {
    /// Enqueues all unschedulable pods.
    fn retry(&self, queue: &Workqueue<ObjectKey>) {
        let pods = std::mem::take(&mut *self.lock());
        pods.into_iter().for_each(|key| queue.add(key));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<ObjectKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn has_node(pod: &Pod) -> bool {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    node.is_some_and(|node| !node.is_empty())
}

/// Returns `true` if this scheduler has to find a node for the pod.
fn is_pending(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let scheduler = spec.and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or(NAME);
    let gates = spec.and_then(|spec| spec.scheduling_gates.as_ref());
    !has_node(pod)
        && scheduler == NAME
        && gates.is_none_or(Vec::is_empty)
        && pod.metadata.deletion_timestamp.is_none()
        && !is_finished(pod)
}

/// Returns `true` if a node changed in a way that can make a pod schedulable.
fn is_relevant_change(old: &Node, new: &Node) -> bool {
    let allocatable = |node: &Node| node.status.as_ref().and_then(|s| s.allocatable.clone());
    old.spec != new.spec
        || old.metadata.labels != new.metadata.labels
        || allocatable(old) != allocatable(new)
        || filter::is_ready(old) != filter::is_ready(new)
}

/// Sets the PodScheduled condition to false. Its transition time stays if it was false before.
fn set_unschedulable(pod: &mut Pod, message: String) {
    let generation = pod.metadata.generation;
    let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    let known = conditions.iter().find(|condition| condition.type_ == "PodScheduled");
    let since = known
        .filter(|known| known.status == "False")
        .and_then(|known| known.last_transition_time.clone())
        .unwrap_or_else(time::now);
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

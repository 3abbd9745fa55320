//! Evicts pods from nodes with taints of the effect `NoExecute` that they do not tolerate, or not any longer
//! (kube-controller-manager's `taint-eviction-controller`).

mod plan;

use crate::{
    controller::{Controller, Reconciler},
    informers::Informers,
    patch,
    pod::{is_terminating, node_name},
};
use k8s_openapi::{
    api::core::v1::{Node, Pod, PodCondition, Taint},
    jiff::Timestamp,
};
use kube::Api;
use kube_embedded_core::{
    events::{self, Recorder},
    informer::ObjectKey,
    time,
    workqueue::Workqueue,
};
use plan::toleration_time;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

const NAME: &str = "taint-eviction-controller";
/// The number of workers that update pods in Kubernetes (`UpdateWorkerSize`).
const WORKERS: usize = 8;

/// Evicts one pod, if it has to leave its node.
pub(crate) struct TaintEvictionReconciler {
    informers: Arc<Informers>,
    events: Recorder,
    scheduled: Mutex<HashMap<ObjectKey, Eviction>>,
}

/// An eviction that a toleration delays.
#[derive(Clone)]
struct Eviction {
    uid: Option<String>,
    /// The time at which the taints were noticed.
    since: Timestamp,
}

/// Creates the controller and registers its event handlers.
pub(crate) fn controller(informers: &Arc<Informers>) -> Controller<TaintEvictionReconciler> {
    let queue = Arc::new(Workqueue::default());
    let enqueued = queue.clone();
    informers.pods.add_event_handler(move |old, new| {
        let tolerated = |pod: &Arc<Pod>| {
            let spec = pod.spec.as_ref();
            spec.map(|spec| (spec.node_name.clone(), spec.tolerations.clone()))
        };
        let Some(pod) = new.or(old) else { return };
        let is_changed = old.map(tolerated) != new.map(tolerated);
        if is_changed && node_name(pod).is_some() {
            enqueued.add(ObjectKey::of(&**pod));
        }
    });
    let (enqueued, weak) = (queue.clone(), Arc::downgrade(informers));
    informers.nodes.add_event_handler(move |old, new| {
        let taints = |node: Option<&Arc<Node>>| node.map(|node| no_execute(node));
        let (Some(informers), Some(node)) = (weak.upgrade(), new) else { return };
        if taints(old).unwrap_or_default() == taints(new).unwrap_or_default() {
            return;
        }
        let on_node = |pod: &Arc<Pod>| {
            node_name(pod).is_some_and(|n| Some(n) == node.metadata.name.as_deref())
        };
        for pod in informers.pods.list().into_iter().filter(on_node) {
            enqueued.add(ObjectKey::of(&*pod));
        }
    });
    let events = Recorder::new(informers.client.clone(), NAME, "");
    let scheduled = Mutex::default();
    let reconciler = TaintEvictionReconciler { informers: informers.clone(), events, scheduled };
    Controller::new(NAME, WORKERS, queue, reconciler)
}

impl Reconciler for TaintEvictionReconciler {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let informers = &self.informers;
        let pod = informers.pods.get(key).filter(|pod| !is_terminating(pod));
        let Some(pod) = pod else {
            self.scheduled().remove(key);
            return Ok(None);
        };
        let node =
            node_name(&pod).and_then(|name| informers.nodes.get(&ObjectKey::cluster_scoped(name)));
        let taints = node.map(|node| no_execute(&node)).unwrap_or_default();
        let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref());
        let Some(tolerated) = toleration_time(&taints, tolerations.unwrap_or_default()) else {
            if self.scheduled().remove(key).is_some() {
                let note = format!("Cancelling deletion of Pod {key}");
                self.events.publish(&events::about(&*pod), "Normal", "TaintManagerEviction", &note);
            }
            return Ok(None);
        };
        let left = self.left(key, &pod, tolerated);
        if !left.is_zero() {
            return Ok(Some(left));
        }
        let evicted = self.evict(key, &pod).await;
        if evicted.is_ok() {
            self.scheduled().remove(key);
        }
        evicted.map(|()| None)
    }
}

impl TaintEvictionReconciler {
    fn scheduled(&self) -> MutexGuard<'_, HashMap<ObjectKey, Eviction>> {
        self.scheduled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the time that a pod has left, counted from when its taints were first noticed.
    fn left(&self, key: &ObjectKey, pod: &Pod, tolerated: Duration) -> Duration {
        let (uid, now) = (pod.metadata.uid.clone(), Timestamp::now());
        let mut scheduled = self.scheduled();
        let known = scheduled.get(key).filter(|known| known.uid == uid).cloned();
        let eviction = known.unwrap_or(Eviction { uid, since: now });
        let elapsed = now.duration_since(eviction.since).unsigned_abs();
        scheduled.insert(key.clone(), eviction);
        tolerated.saturating_sub(elapsed)
    }

    /// Says in the status of the pod why it is deleted, and deletes it.
    async fn evict(&self, key: &ObjectKey, pod: &Pod) -> kube::Result<()> {
        let pods = &self.informers.pods;
        let api: Api<Pod> = Api::namespaced(self.informers.client.clone(), &key.namespace);
        let note = format!("Marking for deletion Pod {key}");
        self.events.publish(&events::about(pod), "Normal", "TaintManagerEviction", &note);
        let mut new = pod.clone();
        let conditions = new.status.get_or_insert_default().conditions.get_or_insert_default();
        if !conditions
            .iter()
            .any(|known| known.type_ == "DisruptionTarget" && known.status == "True")
        {
            conditions.retain(|known| known.type_ != "DisruptionTarget");
            conditions.push(PodCondition {
                type_: "DisruptionTarget".into(),
                status: "True".into(),
                reason: Some("DeletionByTaintManager".into()),
                message: Some("Taint manager: deleting due to NoExecute taint".into()),
                last_transition_time: Some(time::now()),
                observed_generation: pod.metadata.generation,
                ..Default::default()
            });
        }
        match patch::update_status(&api, pods, pod, &new).await {
            // Deleted in the meantime.
            Err(error) if patch::is_status(&error, 404) => return Ok(()),
            other => other?,
        }
        patch::delete(&api, pods, pod).await
    }
}

/// Returns the taints of a node by which pods are evicted.
fn no_execute(node: &Node) -> Vec<Taint> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.filter(|taint| taint.effect == "NoExecute").cloned().collect()
}

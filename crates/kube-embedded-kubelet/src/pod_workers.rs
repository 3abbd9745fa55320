//! The workers of the pods of all nodes (the kubelet's pod workers).

use crate::{
    node_runtime::NodeRuntime,
    pod::{
        handle::PodHandle,
        worker::{self, Update},
    },
};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use kube_embedded_core::task::{Name, TaskError, TaskSet, catch};
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::sync::watch;
use tracing::Instrument;

/// The workers by the uid of their pods.
#[derive(Default)]
pub(crate) struct PodWorkers(Mutex<HashMap<String, Worker>>);

struct Worker {
    pod: Arc<PodHandle>,
    updates: watch::Sender<Update>,
    /// The name of the worker's task.
    task: Name,
}

impl PodWorkers {
    /// Returns a pod by name.
    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<Arc<PodHandle>> {
        let workers = self.lock();
        let named = workers.values().filter(|w| w.pod.namespace == namespace && w.pod.name == name);
        // A deleted pod of the same name may still be terminating.
        named.min_by_key(|w| w.updates.borrow().deleted).map(|w| w.pod.clone())
    }

    /// Drops all workers, which kills the processes of their pods.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    fn mark_deleted(&self, is_deleted: impl Fn(&str) -> bool) {
        for (_, worker) in self.lock().iter().filter(|(uid, _)| is_deleted(uid)) {
            worker.updates.send_modify(|u| u.deleted = true);
        }
    }

    fn shut_down(&self) {
        self.lock().values().for_each(|w| w.updates.send_modify(|u| u.shutdown = true));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Worker>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Watches pods and runs a worker for each, until `stop` is set. Dropping the future drops the
/// workers.
pub(crate) async fn run(
    runtime: Arc<NodeRuntime>,
    workers: Arc<PodWorkers>,
    mut stop: watch::Receiver<bool>,
) {
    let api: Api<Pod> = Api::all(runtime.client.clone());
    let mut events =
        kube::runtime::watcher(api, watcher::Config::default()).default_backoff().boxed();
    let mut tasks: TaskSet<String> = TaskSet::default();
    let mut listed: HashSet<String> = HashSet::new();
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(Event::Init)) => listed.clear(),
                Some(Ok(Event::InitApply(pod))) => {
                    listed.insert(pod.uid().unwrap_or_default());
                    apply(&runtime, &workers, &mut tasks, pod);
                }
                Some(Ok(Event::InitDone)) => workers.mark_deleted(|uid| !listed.contains(uid)),
                Some(Ok(Event::Apply(pod))) => apply(&runtime, &workers, &mut tasks, pod),
                Some(Ok(Event::Delete(pod))) => {
                    workers.mark_deleted(|uid| Some(uid) == pod.metadata.uid.as_deref());
                }
                // The watcher restarts by itself, with a back-off.
                Some(Err(error)) => tracing::warn!(%error, "watch of pods failed; restarting it"),
                None => return,
            },
            Some((task, ended)) = tasks.join_next() => remove(&workers, &task, ended),
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    drop(events);
    tracing::debug!("stopping all pods");
    workers.shut_down();
    while let Some((task, ended)) = tasks.join_next().await {
        remove(&workers, &task, ended);
    }
    workers.clear();
}

/// Starts a worker for a pod that is new, or passes the object on to its worker.
fn apply(
    runtime: &Arc<NodeRuntime>,
    workers: &PodWorkers,
    tasks: &mut TaskSet<String>,
    object: Pod,
) {
    let Some(node_name) = object.spec.as_ref().and_then(|s| s.node_name.as_deref()) else { return };
    let Some(node) = runtime.nodes.get(node_name).cloned() else { return };
    let uid = object.uid().unwrap_or_default();
    let mut workers = workers.lock();
    if let Some(worker) = workers.get(&uid) {
        let object = Arc::new(object);
        worker.pod.observe(object.clone());
        worker.updates.send_modify(|u| u.pod = object);
        return;
    }
    let span = tracing::debug_span!(
        "pod",
        namespace = object.metadata.namespace,
        name = object.metadata.name,
        node = node_name
    );
    tracing::debug!(parent: &span, uid, "pod observed");
    let object = Arc::new(object);
    let pod = Arc::new(PodHandle::new(runtime.clone(), node, object.clone()));
    let (updates, receiver) =
        watch::channel(Update { pod: object, deleted: false, shutdown: false });
    let task = Name::from(format!("pod {}/{} ({uid})", pod.namespace, pod.name));
    tasks.spawn(task.clone(), supervise(task.clone(), pod.clone(), receiver).instrument(span));
    workers.insert(uid, Worker { pod, updates, task });
}

/// Runs the worker of a pod, and returns the pod's uid when it ends. If the worker panics, the pod
/// fails, so that it can be deleted and replaced.
async fn supervise(task: Name, pod: Arc<PodHandle>, updates: watch::Receiver<Update>) -> String {
    let ended = catch(task, worker::run(&pod, updates.clone())).await;
    if let Err(TaskError::Panicked { message, .. }) = ended {
        worker::fail(&pod, &message, updates).await;
    }
    pod.uid.clone()
}

/// Removes a worker that has ended. If failing the pod of a worker panicked as well, the next event
/// of the pod starts another worker.
fn remove(workers: &PodWorkers, task: &Name, ended: Result<String, TaskError>) {
    match ended {
        Ok(uid) => drop(workers.lock().remove(&uid)),
        Err(error) => {
            tracing::error!(%error, "pod worker failed");
            workers.lock().retain(|_, worker| worker.task != *task);
        }
    }
}

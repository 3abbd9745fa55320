//! The state of a pod that its worker, its containers and clients of the kubelet share.

use super::stop::StopSignal;
use crate::{
    container::network_files,
    env::ReferencedObjects,
    exec_attach::RunningContainer,
    logs::Log,
    node_runtime::{Node, NodeRuntime},
    status::{self, ContainerView, PodView, State},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, ContainerStatus, ObjectReference, Pod, Secret, Service,
};
use kube::{Api, api::ListParams};
use kube_embedded_core::backoff::Backoff;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// The delays before restarts, as the kubelet's: none before the first, then 10 s, doubling to 300 s.
const CRASH_LOOP: Backoff =
    Backoff::new(Duration::from_secs(10), Duration::from_secs(300)).with_immediate_first();

/// The back-off of a container, which outlives the sandbox that the container ran in.
#[derive(Clone, Debug)]
pub(crate) struct RestartBackoff {
    pub(crate) backoff: Backoff,
    /// The end of a delay that is not over yet.
    pub(crate) until: Option<Instant>,
}

/// A pod on a node.
pub(crate) struct PodHandle {
    pub(crate) runtime: Arc<NodeRuntime>,
    pub(crate) node: Arc<Node>,
    /// The object as it was when the kubelet first saw it.
    pub(crate) pod: Arc<Pod>,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) init_logs: Vec<Arc<Log>>,
    pub(crate) logs: Vec<Arc<Log>>,
    ephemeral_logs: Mutex<Vec<Arc<Log>>>,
    /// The object as last seen.
    object: watch::Sender<Arc<Pod>>,
    view: watch::Sender<PodView>,
    /// By name of the container.
    backoffs: Mutex<HashMap<String, RestartBackoff>>,
    /// Running containers by name.
    running: Mutex<HashMap<String, Arc<RunningContainer>>>,
    /// Set once the pod has to end.
    pub(crate) stop: StopSignal,
    directory: PathBuf,
}

impl PodHandle {
    pub(crate) fn new(runtime: Arc<NodeRuntime>, node: Arc<Node>, pod: Arc<Pod>) -> Self {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let (namespace, name, uid) =
            (text(&pod.metadata.namespace), text(&pod.metadata.name), text(&pod.metadata.uid));
        let directory = runtime.state.join("pods").join(&uid);
        let containers = |init: bool| -> Vec<Container> {
            let spec = pod.spec.clone().unwrap_or_default();
            if init { spec.init_containers.unwrap_or_default() } else { spec.containers }
        };
        let log = |c: &Container| Log::new(directory.join("logs").join(&c.name));
        Self {
            init_logs: containers(true).iter().map(log).collect(),
            logs: containers(false).iter().map(log).collect(),
            ephemeral_logs: Mutex::default(),
            object: watch::Sender::new(pod.clone()),
            view: watch::Sender::new(initial_view(&pod, node.ip)),
            backoffs: Mutex::default(),
            runtime,
            node,
            namespace,
            name,
            uid,
            running: Mutex::default(),
            stop: StopSignal::default(),
            directory,
            pod,
        }
    }

    /// Changes the view and has the status written.
    pub(crate) fn change(&self, change: impl FnOnce(&mut PodView)) {
        self.view.send_modify(change);
    }

    /// Returns the view. Not to be held across an await or a change.
    pub(crate) fn view(&self) -> watch::Ref<'_, PodView> {
        self.view.borrow()
    }

    /// Returns a receiver of the view.
    pub(crate) fn views(&self) -> watch::Receiver<PodView> {
        self.view.subscribe()
    }

    /// Returns the object as last seen.
    pub(crate) fn object(&self) -> Arc<Pod> {
        self.object.borrow().clone()
    }

    /// Returns a receiver of the object.
    pub(crate) fn objects(&self) -> watch::Receiver<Arc<Pod>> {
        self.object.subscribe()
    }

    /// Passes on an update of the object.
    pub(crate) fn observe(&self, object: Arc<Pod>) {
        self.object.send_replace(object);
    }

    /// Changes the back-off of a container.
    pub(crate) fn with_backoff<T>(
        &self,
        container: &str,
        change: impl FnOnce(&mut RestartBackoff) -> T,
    ) -> T {
        let mut all = self.backoffs.lock().unwrap_or_else(|e| e.into_inner());
        let new = || RestartBackoff { backoff: CRASH_LOOP, until: None };
        change(all.entry(container.to_owned()).or_insert_with(new))
    }

    /// Returns the time that the pod's containers have to exit.
    pub(crate) fn grace_period(&self) -> Duration {
        let spec = self.pod.spec.as_ref();
        let seconds = spec.and_then(|s| s.termination_grace_period_seconds).unwrap_or(30);
        Duration::from_secs(seconds.max(0) as u64)
    }

    /// Returns the running containers by name.
    pub(crate) fn running(&self) -> MutexGuard<'_, HashMap<String, Arc<RunningContainer>>> {
        self.running.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Returns the logs of ephemeral containers, in the order of the view.
    pub(crate) fn ephemeral_logs(&self) -> MutexGuard<'_, Vec<Arc<Log>>> {
        self.ephemeral_logs.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Adds an ephemeral container that is about to start. Returns its position and its log.
    pub(crate) fn add_ephemeral(&self, container: &Container) -> (usize, Arc<Log>) {
        let log = Log::new(self.directory.join("logs").join(&container.name));
        let index = {
            let mut logs = self.ephemeral_logs();
            logs.push(log.clone());
            logs.len() - 1
        };
        self.change(|view| {
            view.ephemeral.push(ContainerView {
                name: container.name.clone(),
                image: container.image.clone().unwrap_or_default(),
                ..ContainerView::default()
            });
        });
        (index, log)
    }

    /// Requires every container to have exited by this time, unless an earlier one is set already.
    pub(crate) fn stop_by(&self, deadline: Instant) {
        if self.stop.stop_by(deadline) {
            let grace = deadline.saturating_duration_since(Instant::now());
            tracing::debug!(?grace, "pod has to stop");
        }
    }

    /// Returns the object that events about the pod, or about a field of it, refer to.
    pub(crate) fn reference(&self, field: Option<String>) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(self.namespace.clone()),
            name: Some(self.name.clone()),
            uid: Some(self.uid.clone()),
            resource_version: self.pod.metadata.resource_version.clone(),
            field_path: field,
        }
    }

    /// Publishes an event of type `Normal` about the pod.
    pub(crate) fn normal(&self, reason: &str, message: &str) {
        self.node.normal(&self.reference(None), reason, message);
    }

    /// Publishes an event of type `Warning` about the pod.
    pub(crate) fn warning(&self, reason: &str, message: &str) {
        self.node.warning(&self.reference(None), reason, message);
    }

    /// The private directory of the pod on the host.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The private directory of the pod's volumes in memory; `None` if there can be none.
    pub(crate) fn memory(&self) -> Option<PathBuf> {
        self.runtime.memory.as_ref().map(|memory| memory.join(&self.uid))
    }

    /// Returns `fsGroup`, where files can be given to a group: an ordinary user has only groups that no
    /// pod has.
    pub(crate) fn fs_group(&self) -> Option<u32> {
        let context = self.pod.spec.as_ref()?.security_context.as_ref()?;
        let group = context.fs_group.and_then(|group| u32::try_from(group).ok())?;
        rustix::process::geteuid().is_root().then_some(group)
    }

    /// Returns the user and group ids that the pod's programs see. All containers share them: an
    /// ordinary user may map no more than one of each into a namespace.
    pub(crate) fn user(&self) -> (u32, u32) {
        let Some(spec) = &self.pod.spec else { return (0, 0) };
        let pod = spec.security_context.as_ref();
        let first = spec.containers.first();
        let own = first.and_then(|c| c.security_context.as_ref());
        let image = first.and_then(|c| c.image.as_deref());
        let image = image.and_then(|name| self.runtime.images.resolve(name));
        let image_user = image.and_then(|i| i.config.user.split(':').next()?.parse::<i64>().ok());
        let user =
            own.and_then(|c| c.run_as_user).or(pod.and_then(|c| c.run_as_user)).or(image_user);
        let group = own.and_then(|c| c.run_as_group).or(pod.and_then(|c| c.run_as_group));
        let number = |n: Option<i64>| n.and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        (number(user), number(group))
    }

    /// Returns the host name that the pod's programs see.
    pub(crate) fn hostname(&self) -> String {
        network_files::hostname(&self.pod).unwrap_or_default()
    }

    /// Fetches objects of the pod's namespace by name.
    pub(crate) async fn fetch(
        &self,
        config_maps: Vec<String>,
        secrets: Vec<String>,
        services: bool,
    ) -> Result<ReferencedObjects, String> {
        let mut referenced = ReferencedObjects::default();
        let client = &self.runtime.client;
        let text = |e: kube::Error| e.to_string();
        for name in config_maps {
            let api: Api<ConfigMap> = Api::namespaced(client.clone(), &self.namespace);
            referenced.config_maps.insert(name.clone(), api.get_opt(&name).await.map_err(text)?);
        }
        for name in secrets {
            let api: Api<Secret> = Api::namespaced(client.clone(), &self.namespace);
            referenced.secrets.insert(name.clone(), api.get_opt(&name).await.map_err(text)?);
        }
        if services {
            let api: Api<Service> = Api::namespaced(client.clone(), &self.namespace);
            referenced.services = api.list(&ListParams::default()).await.map_err(text)?.items;
        }
        Ok(referenced)
    }
}

/// The view of a pod that has not started yet. Restart counts go on from the status in the object: a
/// container that had an ID was started before a restart of the cluster.
fn initial_view(pod: &Pod, host_ip: std::net::Ipv4Addr) -> PodView {
    let (status, spec) = (pod.status.as_ref(), pod.spec.clone().unwrap_or_default());
    let init = spec.init_containers.unwrap_or_default();
    let known = |name: &str| -> Option<&ContainerStatus> {
        let of_init = status?.init_container_statuses.iter().flatten();
        let mut all = status?.container_statuses.iter().flatten().chain(of_init);
        all.find(|known| known.name == name)
    };
    let view = |c: &Container, reason: &str| ContainerView {
        name: c.name.clone(),
        image: c.image.clone().unwrap_or_default(),
        state: State::Waiting { reason: reason.to_owned(), message: None },
        restarts: known(&c.name)
            .map_or(0, |k| k.restart_count + i32::from(k.container_id.is_some())),
        ..ContainerView::default()
    };
    let first = if init.is_empty() { "ContainerCreating" } else { "PodInitializing" };
    let started_at = status.and_then(|s| s.start_time.as_ref());
    PodView {
        host_ip: Some(host_ip),
        started_at: Some(started_at.map_or_else(Timestamp::now, |t| t.0)),
        init: init
            .iter()
            .map(|c| ContainerView { sidecar: status::is_sidecar(c), ..view(c, "PodInitializing") })
            .collect(),
        containers: spec.containers.iter().map(|c| view(c, first)).collect(),
        ..PodView::default()
    }
}

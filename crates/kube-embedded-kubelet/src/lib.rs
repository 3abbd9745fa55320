//! Nodes and the pods on them: images, sandboxed processes, probes, logs and their end.
//!
//! One task watches the pods of all nodes and gives each bound one a worker ([`pod::PodWorker`]).
//! All that happens to a pod happens in its worker; when that is dropped, its processes are gone.

mod addresses;
mod backoff;
mod container;
mod env;
mod host;
pub mod images;
mod lease;
mod limits;
mod live;
mod logs;
mod node;
mod pod;
mod probe;
mod sandbox;
mod status;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod volumes;

use crate::images::ImageStore;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::BoxStream};
use host::{Host, Node};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::{
    Api, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use kube_embedded_core::{
    events::Recorder,
    network::{Addresses, Network, Sandbox},
    node_api::{LogOptions, NodeApi, NodeError, Session, StreamOptions},
};
use live::Live;
use pod::{PodWorker, Update};
use std::{
    collections::{HashMap, HashSet},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize},
    },
};
use tokio::{
    net::TcpStream,
    sync::watch,
    task::{AbortHandle, JoinSet},
};

/// What the kubelets of a cluster need.
pub struct Config {
    /// Name and internal address of each node; the first is the control plane.
    pub nodes: Vec<(String, Ipv4Addr)>,
    /// Where pods get their addresses from, and which sandbox they run in.
    pub addresses: Addresses,
    /// The images that containers may be started from.
    pub images: Arc<ImageStore>,
    /// Where pods make themselves known.
    pub network: Arc<Network>,
    /// A private folder for root file systems, volumes and logs.
    pub state: PathBuf,
    /// Where the API server listens on the host.
    pub api_server: SocketAddr,
}

/// Why the kubelets could not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the kubelet: {0}")]
pub struct KubeletError(pub String);

/// The kubelets of all nodes of a cluster. Dropped, it kills what is left of the pods.
pub struct Kubelet {
    pods: Arc<Pods>,
    stop: watch::Sender<bool>,
    stopped: watch::Receiver<bool>,
    task: AbortHandle,
}

/// The workers by the uid of their pods.
type Pods = Mutex<HashMap<String, Handle>>;

struct Handle {
    worker: Arc<PodWorker>,
    updates: watch::Sender<Update>,
}

/// The best sandbox that works here, found by trying, and why it is not a better one. Takes a few
/// milliseconds.
pub fn detect() -> (Sandbox, String) {
    sandbox::detect()
}

impl Kubelet {
    /// Registers the nodes and runs the pods that are bound to them, until stopped or dropped.
    ///
    /// # Errors
    /// When the state folder cannot be written, no process can be started, or the API refuses the
    /// nodes.
    pub async fn start(client: kube::Client, config: Config) -> Result<Arc<Self>, KubeletError> {
        let state = config.state;
        // Pods of an earlier life are gone, and with them what is left of their folders.
        let _ = std::fs::remove_dir_all(state.join("pods"));
        std::fs::create_dir_all(&state)
            .map_err(|e| KubeletError(format!("cannot make {}: {e}", state.display())))?;
        // Paths are used by processes whose working directory is another.
        let state = state
            .canonicalize()
            .map_err(|e| KubeletError(format!("cannot find {}: {e}", state.display())))?;
        let spawner = sandbox::Spawner::new(limits::raise_open_files())
            .map_err(|e| KubeletError(format!("cannot prepare for starting processes: {e}")))?;
        let images = config.images.list();
        let mut nodes = HashMap::new();
        for (index, (name, ip)) in (0_u8..).zip(&config.nodes) {
            let range = config.addresses.pods(index);
            node::register(&client, name, *ip, range, index == 0, &images).await?;
            let recorder = Recorder::new(client.clone(), "kubelet", name);
            let object = ObjectReference {
                kind: Some("Node".to_owned()),
                name: Some(name.clone()),
                uid: Some(name.clone()),
                ..ObjectReference::default()
            };
            recorder.publish(&object, "Normal", "Starting", "Starting kubelet.");
            let addresses = Mutex::new(addresses::Range::new(range));
            nodes.insert(name.clone(), Arc::new(Node { ip: *ip, addresses, recorder }));
        }
        let api = match (config.addresses.sandbox, config.api_server) {
            // The Service is reached through the pod's namespace; without one, directly.
            (Sandbox::Plain, SocketAddr::V4(server)) => server,
            _ => {
                SocketAddrV4::new(Ipv4Addr::from(u32::from(config.addresses.services().0) + 1), 443)
            }
        };
        let host = Arc::new(Host {
            client,
            images: config.images,
            network: config.network,
            sandbox: config.addresses.sandbox,
            spawner,
            state,
            api,
            no_overlay: AtomicBool::new(false),
            told_images: AtomicUsize::new(images.len()),
            nodes,
        });
        let pods: Arc<Pods> = Arc::default();
        let stop = watch::Sender::new(false);
        let (tell_stopped, stopped) = watch::channel(false);
        let leases = lease::keep(host.client.clone(), host.nodes.keys().cloned().collect());
        let work = work(host, pods.clone(), stop.subscribe());
        let task = tokio::spawn(async move {
            tokio::select! {
                () = work => {}
                () = leases => {}
            }
            tell_stopped.send_replace(true);
        });
        Ok(Arc::new(Self { pods, stop, stopped, task: task.abort_handle() }))
    }

    /// Ends the processes of every pod, gracefully for a moment, then by force. The objects stay.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        let mut stopped = self.stopped.clone();
        // An error means that the task is gone, and every process with it.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.task.abort();
        lock(&self.pods).clear();
    }
}

impl NodeApi for Kubelet {
    fn logs(
        &self,
        namespace: &str,
        pod: &str,
        options: LogOptions,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Bytes>, NodeError>> {
        let result = self.pod(namespace, pod).and_then(|worker| worker.read_log(&options));
        async move { result }.boxed()
    }

    fn exec(
        &self,
        namespace: &str,
        pod: &str,
        command: Vec<String>,
        options: StreamOptions,
    ) -> BoxFuture<'_, Result<Session, NodeError>> {
        let live = self.live(namespace, pod, &options.container);
        async move { live?.exec(command, &options).await }.boxed()
    }

    fn attach(
        &self,
        namespace: &str,
        pod: &str,
        options: StreamOptions,
    ) -> BoxFuture<'_, Result<Session, NodeError>> {
        let live = self.live(namespace, pod, &options.container);
        async move { Ok(live?.attach(&options).await) }.boxed()
    }

    fn connect(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
    ) -> BoxFuture<'_, Result<TcpStream, NodeError>> {
        let worker = self.pod(namespace, pod);
        async move { worker?.connect(port).await }.boxed()
    }
}

impl Kubelet {
    fn pod(&self, namespace: &str, pod: &str) -> Result<Arc<PodWorker>, NodeError> {
        let pods = lock(&self.pods);
        let found = pods
            .values()
            .filter(|h| h.worker.namespace == namespace && h.worker.name == pod)
            // A pod of the same name that is gone may still be ending.
            .min_by_key(|h| h.updates.borrow().gone);
        let found = found.map(|h| h.worker.clone());
        found.ok_or_else(|| NodeError::NotFound(format!("pods {pod:?} not found")))
    }

    fn live(&self, namespace: &str, pod: &str, container: &str) -> Result<Arc<Live>, NodeError> {
        let live = self.pod(namespace, pod)?.running().get(container).cloned();
        live.ok_or_else(|| NodeError::Internal(format!("container not found ({container:?})")))
    }
}

impl PodWorker {
    /// Connects to a port as if from inside the pod: a program may listen on its loopback alone.
    async fn connect(&self, port: u16) -> Result<TcpStream, NodeError> {
        let (ip, running) = {
            let view = self.view();
            (view.ip, view.sandbox)
        };
        let Some(ip) = ip.filter(|_| running) else {
            return Err(NodeError::Internal(format!("pod {:?} is not running", self.name)));
        };
        let host = &self.host;
        let stream = match host.sandbox {
            Sandbox::Namespaced => {
                let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                host.network.connect_from(ip.into(), to).await
            }
            Sandbox::Plain => host.network.connect(SocketAddr::from((ip, port))).await,
        };
        stream.map_err(|e| {
            NodeError::Internal(format!(
                "failed to connect to localhost:{port} inside namespace of pod {:?}: {e}",
                self.name
            ))
        })
    }

    fn read_log(&self, options: &LogOptions) -> Result<BoxStream<'static, Bytes>, NodeError> {
        let view = self.view();
        let all =
            || view.containers.iter().zip(&self.logs).chain(view.init.iter().zip(&self.init_logs));
        let name = match (&options.container, view.containers.as_slice()) {
            (Some(name), _) => name.clone(),
            (None, [only]) => only.name.clone(),
            (None, several) => {
                let names: Vec<&str> = several.iter().map(|v| v.name.as_str()).collect();
                return Err(NodeError::BadRequest(format!(
                    "a container name must be specified for pod {}, choose one of: [{}]",
                    self.name,
                    names.join(" ")
                )));
            }
        };
        let Some((view, log)) = all().find(|(v, _)| v.name == name) else {
            return Err(NodeError::BadRequest(format!(
                "container {name} is not valid for pod {}",
                self.name
            )));
        };
        let waiting = match &view.state {
            status::State::Waiting { reason, .. } => reason.as_str(),
            _ => "ContainerCreating",
        };
        log.read(options, &name, &self.name, waiting)
    }
}

/// Watches pods and keeps a worker for each. Dropped, it drops the workers.
async fn work(host: Arc<Host>, pods: Arc<Pods>, mut stop: watch::Receiver<bool>) {
    let api: Api<Pod> = Api::all(host.client.clone());
    let mut events =
        kube::runtime::watcher(api, watcher::Config::default()).default_backoff().boxed();
    let mut workers: JoinSet<String> = JoinSet::new();
    let mut listed: HashSet<String> = HashSet::new();
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(Event::Init)) => listed.clear(),
                Some(Ok(Event::InitApply(pod))) => {
                    listed.insert(pod.uid().unwrap_or_default());
                    seen(&host, &pods, &mut workers, pod);
                }
                Some(Ok(Event::InitDone)) => {
                    lock(&pods).iter().filter(|(uid, _)| !listed.contains(*uid)).for_each(|(_, handle)| {
                        handle.updates.send_modify(|u| u.gone = true);
                    });
                }
                Some(Ok(Event::Apply(pod))) => seen(&host, &pods, &mut workers, pod),
                Some(Ok(Event::Delete(pod))) => {
                    if let Some(handle) = lock(&pods).get(&pod.uid().unwrap_or_default()) {
                        handle.updates.send_modify(|u| u.gone = true);
                    }
                }
                // The watcher starts anew by itself, with a growing wait.
                Some(Err(_)) => {}
                None => return,
            },
            Some(ended) = workers.join_next() => {
                if let Ok(uid) = ended {
                    lock(&pods).remove(&uid);
                }
            }
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    drop(events);
    lock(&pods).values().for_each(|handle| handle.updates.send_modify(|u| u.stop = true));
    while workers.join_next().await.is_some() {}
    lock(&pods).clear();
}

fn seen(host: &Arc<Host>, pods: &Pods, workers: &mut JoinSet<String>, pod: Pod) {
    let Some(name) = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) else { return };
    let Some(node) = host.nodes.get(name).cloned() else { return };
    let uid = pod.uid().unwrap_or_default();
    let mut pods = lock(pods);
    if let Some(handle) = pods.get(&uid) {
        handle.updates.send_modify(|u| u.pod = Arc::new(pod));
        return;
    }
    let pod = Arc::new(pod);
    let worker = Arc::new(PodWorker::new(host.clone(), node, pod.clone()));
    let (updates, told) = watch::channel(Update { pod, gone: false, stop: false });
    let run = worker.clone();
    workers.spawn({
        let uid = uid.clone();
        async move {
            run.run(told).await;
            uid
        }
    });
    pods.insert(uid, Handle { worker, updates });
}

fn lock(pods: &Pods) -> MutexGuard<'_, HashMap<String, Handle>> {
    pods.lock().unwrap_or_else(|e| e.into_inner())
}

//! Starts and stops the kubelets of all nodes.

use crate::{
    cgroups::Cgroups,
    error::KubeletError,
    image_store::{Image, ImageStore},
    ip_pool::IpPool,
    node, node_lease,
    node_runtime::{Node, NodeRuntime},
    pod_workers::{self, PodWorkers},
    rlimit,
    runtime::{ContainerRuntime, Router},
};
use k8s_openapi::api::core::v1::ObjectReference;
use kube_embedded_core::{
    backoff::Backoff,
    events::Recorder,
    network::{Addresses, Network, Sandbox},
    task::{Task, restart_on_panic, spawn_named},
};
use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize},
    },
    time::Duration,
};
use tokio::{sync::watch, task::spawn_blocking};

/// The delays before the lease loop is started again after a panic, shorter than a lease lasts.
const LEASE_RESTART: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(20));

/// The settings of the kubelets of a cluster.
pub struct Config {
    /// Name and internal address of each node; the first is the control plane.
    pub nodes: Vec<(String, Ipv4Addr)>,
    /// The ranges that pods get their addresses from, and the sandbox they run in.
    pub addresses: Addresses,
    /// What starts the pods, of the same sandbox.
    pub runtime: ContainerRuntime,
    /// The images that containers may be started from.
    pub images: Arc<ImageStore>,
    /// The network that pods are attached to.
    pub network: Arc<Network>,
    /// A private directory for root file systems, volumes and logs.
    pub state: PathBuf,
    /// The folders of the host that `hostPath` volumes may be in; no symbolic link leads out of them.
    pub allow_host_path: Vec<PathBuf>,
    /// A private directory on a file system in memory, for `emptyDir` volumes that ask for it.
    pub memory: Option<PathBuf>,
    /// The address of the API server on the host.
    pub api_server: SocketAddr,
}

/// The kubelets of all nodes of a cluster. Dropping it kills the processes of all pods.
pub struct Kubelet {
    pub(crate) workers: Arc<PodWorkers>,
    stop: watch::Sender<bool>,
    stopped: watch::Receiver<bool>,
    task: Task<()>,
    sandbox_reason: String,
}

impl Kubelet {
    /// Registers the nodes and runs the pods that are bound to them, until stopped or dropped.
    ///
    /// # Errors
    /// When the state directory cannot be written, no process can be started, or the API refuses the
    /// nodes.
    pub async fn start(client: kube::Client, config: Config) -> Result<Arc<Self>, KubeletError> {
        let state = prepare_state(&config.state)?;
        rlimit::raise_open_files();
        let (container_runtime, router) = create_router(config.runtime, &config.addresses).await?;
        if let Some(router) = &router {
            config.network.set_router(router.clone());
        }
        let ContainerRuntime { reason: sandbox_reason, spawner, attempt, .. } = container_runtime;
        let images = config.images.list();
        let nodes = register_nodes(&client, &config.nodes, &config.addresses, &images).await?;
        let runtime = Arc::new(NodeRuntime {
            client,
            images: config.images,
            network: config.network,
            sandbox: config.addresses.sandbox,
            spawner,
            _attempt: attempt,
            router,
            state,
            allow_host_path: config.allow_host_path,
            memory: config.memory,
            cgroups: create_cgroups(),
            api: api_address(&config.addresses, config.api_server),
            dns: config.addresses.dns(),
            no_overlay: AtomicBool::new(false),
            reported_images: AtomicUsize::new(images.len()),
            nodes,
        });
        let workers: Arc<PodWorkers> = Arc::default();
        let stop = watch::Sender::new(false);
        let (stopped_sender, stopped) = watch::channel(false);
        let leases = keep_leases(runtime.clone());
        let router = watch_router(runtime.clone());
        let pods = pod_workers::run(runtime, workers.clone(), stop.subscribe());
        let task = spawn_named("kubelet", async move {
            tokio::select! {
                () = pods => {}
                () = leases => {}
                () = router => {}
            }
            stopped_sender.send_replace(true);
        });
        Ok(Arc::new(Self { workers, stop, stopped, task, sandbox_reason }))
    }

    /// Returns the reason for the sandbox, and what does not work in it.
    pub fn sandbox_reason(&self) -> &str {
        &self.sandbox_reason
    }

    /// Ends the processes of every pod, with a short grace period. The objects stay.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        let mut stopped = self.stopped.clone();
        // An error means that the task has ended, and with it every process.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.task.abort();
        self.workers.clear();
    }
}

/// Creates the state directory and removes what pods left there before a restart: their processes
/// have died with the cluster. The path is absolute, because processes with other working directories
/// use it.
fn prepare_state(state: &Path) -> Result<PathBuf, KubeletError> {
    let _ = std::fs::remove_dir_all(state.join("pods"));
    std::fs::create_dir_all(state)
        .and_then(|()| state.canonicalize())
        .map_err(|e| KubeletError(format!("failed to create {}: {e}", state.display())))
}

/// Waits for the network between the pods. Where there is none, pods reach Services alone.
async fn create_router(
    mut runtime: ContainerRuntime,
    addresses: &Addresses,
) -> Result<(ContainerRuntime, Option<Arc<Router>>), KubeletError> {
    let taken = spawn_blocking(move || {
        let network = runtime.take_network();
        (runtime, network)
    });
    let (runtime, network) = taken.await.map_err(|e| KubeletError(e.to_string()))?;
    let router = network.map(|held| Router::new(held, addresses)).transpose();
    let router = router.map_err(|e| KubeletError(e.to_string()))?;
    Ok((runtime, router.map(Arc::new)))
}

/// Never returns. The links of pods outlive the process that made them; there are no new ones without it.
async fn watch_router(runtime: Arc<NodeRuntime>) {
    if let Some(router) = &runtime.router {
        let ended = router.lost().await;
        tracing::error!(?ended, "the router has died: pods that start from now on fail");
    }
    std::future::pending().await
}

fn create_cgroups() -> Option<Cgroups> {
    let created = Cgroups::create();
    if let Err(reason) = &created {
        tracing::debug!(reason, "no cgroups; memory limits are enforced by measuring");
    }
    created.ok()
}

async fn register_nodes(
    client: &kube::Client,
    nodes: &[(String, Ipv4Addr)],
    addresses: &Addresses,
    images: &[Arc<Image>],
) -> Result<HashMap<String, Arc<Node>>, KubeletError> {
    let mut registered = HashMap::new();
    for (index, (name, ip)) in (0_u8..).zip(nodes) {
        let range = addresses.pods(index);
        node::register(client, name, *ip, range, index == 0, images).await?;
        let recorder = Recorder::new(client.clone(), "kubelet", name);
        // The kubelet uses the name of the node as its uid in events.
        let object = ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(name.clone()),
            uid: Some(name.clone()),
            ..ObjectReference::default()
        };
        recorder.publish(&object, "Normal", "Starting", "Starting kubelet.");
        let addresses = Mutex::new(IpPool::new(range));
        registered.insert(name.clone(), Arc::new(Node { ip: *ip, addresses, recorder }));
    }
    Ok(registered)
}

/// Returns the address of the API server for pods. Pods with a network namespace reach it through the
/// Service `kubernetes`, the first address of the Service range; plain processes directly.
fn api_address(addresses: &Addresses, api_server: SocketAddr) -> SocketAddrV4 {
    match (addresses.sandbox, api_server) {
        (Sandbox::Plain, SocketAddr::V4(server)) => server,
        _ => SocketAddrV4::new(Ipv4Addr::from(u32::from(addresses.services().0) + 1), 443),
    }
}

/// Keeps the Leases of all nodes. Never returns: a panic is logged, and the loop is started again.
async fn keep_leases(runtime: Arc<NodeRuntime>) {
    restart_on_panic("node leases", LEASE_RESTART, || {
        node_lease::keep(runtime.client.clone(), runtime.nodes.keys().cloned().collect())
    })
    .await;
}

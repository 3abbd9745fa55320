//! The sandbox of a pod: its address, its namespaces and its volumes.

use super::{handle::PodHandle, volume_manager::VolumeManager};
use crate::{
    container::network_files,
    env::Location,
    node_runtime::{Node, NodeRuntime},
    runtime::{LaunchError, NamespaceSockets, Pause, PauseConfig},
    sysctls,
    volumes::PreparedVolume,
};
use kube_embedded_core::{
    backoff::Backoff,
    network::{DNS_PORT, HostSockets, PodSockets, Sandbox},
};
use std::{
    collections::BTreeMap,
    ffi::CString,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};
use tokio::time::sleep;

/// The delays between attempts to create a sandbox.
const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));

/// The sandbox of a running pod. Dropping it removes the namespaces and releases the address.
pub(crate) struct PodSandbox {
    pub(crate) location: Location,
    /// The pod's namespaces; `None` in the plain sandbox.
    pub(crate) pause: Option<Pause>,
    pub(crate) volumes: BTreeMap<String, PreparedVolume>,
    runtime: Arc<NodeRuntime>,
    node: Arc<Node>,
}

impl Drop for PodSandbox {
    fn drop(&mut self) {
        self.runtime.network.detach(IpAddr::V4(self.location.pod_ip));
        self.node.addresses().release(self.location.pod_ip);
    }
}

impl PodSandbox {
    /// Waits until the pause process has died, and the namespaces with it. Where the sandbox has none,
    /// never returns.
    pub(super) async fn lost(&self) {
        let Some(pause) = &self.pause else { return std::future::pending().await };
        match pause.process.wait().await {
            Ok(exit) => tracing::warn!(?exit, "pause process died"),
            Err(error) => {
                tracing::warn!(%error, "failed to watch a pause process");
                std::future::pending::<()>().await;
            }
        }
    }

    /// Creates the sandbox of a pod, with as many attempts as it takes.
    pub(super) async fn create(pod: &PodHandle, volumes: &VolumeManager<'_>) -> Self {
        let mut backoff = RETRY;
        loop {
            match Self::try_create(pod, volumes).await {
                Ok(sandbox) => {
                    let ip = sandbox.location.pod_ip;
                    let volumes = sandbox.volumes.len();
                    tracing::debug!(%ip, mode = ?pod.runtime.sandbox, volumes, "pod sandbox created");
                    let user = pod.user();
                    pod.change(|view| {
                        view.ip = Some(ip);
                        view.user = user;
                        view.sandbox = true;
                    });
                    return sandbox;
                }
                Err((reason, message)) => {
                    tracing::warn!(reason, error = message, "failed to create a pod sandbox");
                    pod.warning(reason, &message);
                }
            }
            sleep(backoff.next_delay()).await;
        }
    }

    /// On failure, returns the reason and message of the event.
    async fn try_create(
        pod: &PodHandle,
        volumes: &VolumeManager<'_>,
    ) -> Result<Self, (&'static str, String)> {
        let volumes = volumes.prepare(&pod.object()).await.map_err(|e| ("FailedMount", e))?;
        let failed =
            |e: String| ("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {e}"));
        network_files::hostname(&pod.pod).map_err(failed)?;
        let allocated = pod.node.addresses().allocate();
        let pod_ip =
            allocated.ok_or_else(|| failed("the node has no free pod addresses".to_owned()))?;
        // Owns the address from here on, so that every early return releases it.
        let mut sandbox = Self {
            location: Location { pod_ip, host_ip: pod.node.ip },
            pause: None,
            volumes,
            runtime: pod.runtime.clone(),
            node: pod.node.clone(),
        };
        let sockets: Arc<dyn PodSockets> = match pod.runtime.sandbox {
            Sandbox::Plain => Arc::new(HostSockets),
            Sandbox::Namespaced => {
                let sysctls = sysctls::files(&pod.pod).map_err(failed)?;
                let pause = create_namespaces(pod, pod_ip, sysctls).await;
                let pause = pause.map_err(|e| failed(e.to_string()))?;
                if let Some(router) = &pod.runtime.router {
                    let connected = router.connect_pod(&pause, pod_ip).await;
                    connected.map_err(|e| failed(e.to_string()))?;
                }
                let sockets = sockets(pod, &pause).await.map_err(|e| failed(e.to_string()))?;
                sandbox.pause = Some(pause);
                Arc::new(sockets)
            }
        };
        pod.runtime.network.attach(IpAddr::V4(pod_ip), sockets);
        Ok(sandbox)
    }
}

/// Opens the sockets by which the cluster reaches the pod and, if it has no link, the pod its name
/// server. A pod that serves DNS itself has none: its program needs the port on every address.
async fn sockets(pod: &PodHandle, pause: &Pause) -> io::Result<NamespaceSockets> {
    let is_linked = pod.runtime.router.is_some();
    let mut sockets = NamespaceSockets::new(pause, is_linked)?;
    if is_linked {
        return Ok(sockets);
    }
    let containers = pod.pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    if !ports.any(|port| port.container_port == i32::from(DNS_PORT)) {
        sockets.receive_dns_queries(SocketAddrV4::new(pod.runtime.dns, DNS_PORT)).await?;
    }
    Ok(sockets)
}

async fn create_namespaces(
    pod: &PodHandle,
    address: Ipv4Addr,
    sysctls: Vec<(CString, CString)>,
) -> Result<Pause, LaunchError> {
    let (user, group) = pod.user();
    let link = pod.runtime.router.as_ref().map(|router| router.link());
    let config = PauseConfig { hostname: pod.hostname(), address, link, user, group, sysctls };
    pod.runtime.spawner.pause(config).await
}

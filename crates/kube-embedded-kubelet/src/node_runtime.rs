//! The state that the pods of a cluster share: client, images, network, spawner, nodes.

use crate::{
    cgroups::Cgroups,
    image_store::ImageStore,
    ip_pool::IpPool,
    node,
    runtime::{Pause, Router, Spawner},
};
use k8s_openapi::api::core::v1::ObjectReference;
use kube_embedded_core::{
    events::Recorder,
    network::{Network, Sandbox},
};
use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddrV4},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

/// The runtime that all nodes of a cluster share.
pub(crate) struct NodeRuntime {
    pub(crate) client: kube::Client,
    pub(crate) images: Arc<ImageStore>,
    pub(crate) network: Arc<Network>,
    pub(crate) sandbox: Sandbox,
    pub(crate) spawner: Arc<Spawner>,
    /// The namespaces by which the sandbox was found to work.
    pub(crate) _attempt: Option<Pause>,
    /// The network between the pods, where there can be one.
    pub(crate) router: Option<Arc<Router>>,
    /// A private directory for root file systems, volumes and logs.
    pub(crate) state: PathBuf,
    /// The folders of the host that `hostPath` volumes may be in.
    pub(crate) allow_host_path: Vec<PathBuf>,
    /// A private directory in memory, for volumes that ask for it.
    pub(crate) memory: Option<PathBuf>,
    /// `None` where the kernel lets this process create none.
    pub(crate) cgroups: Option<Cgroups>,
    /// The address of the API server, as pods reach it.
    pub(crate) api: SocketAddrV4,
    /// The address of the cluster's name server, as pods reach it.
    pub(crate) dns: Ipv4Addr,
    /// Set once overlays turned out not to work in a user namespace of this machine.
    pub(crate) no_overlay: AtomicBool,
    /// The number of images in the status of the nodes.
    pub(crate) reported_images: AtomicUsize,
    pub(crate) nodes: HashMap<String, Arc<Node>>,
}

impl NodeRuntime {
    /// Updates the images in the status of the nodes, if some were loaded since the last update.
    pub(crate) async fn report_images(&self) {
        let images = self.images.list();
        if self.reported_images.swap(images.len(), Ordering::Relaxed) != images.len() {
            for name in self.nodes.keys() {
                node::report_images(&self.client, name, &images).await;
            }
        }
    }
}

/// One node.
pub(crate) struct Node {
    pub(crate) ip: Ipv4Addr,
    pub(crate) addresses: Mutex<IpPool>,
    pub(crate) recorder: Recorder,
}

impl Node {
    pub(crate) fn addresses(&self) -> MutexGuard<'_, IpPool> {
        self.addresses.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Publishes an event of type `Normal`.
    pub(crate) fn normal(&self, object: &ObjectReference, reason: &str, message: &str) {
        self.recorder.publish(object, "Normal", reason, message);
    }

    /// Publishes an event of type `Warning`.
    pub(crate) fn warning(&self, object: &ObjectReference, reason: &str, message: &str) {
        self.recorder.publish(object, "Warning", reason, message);
    }
}

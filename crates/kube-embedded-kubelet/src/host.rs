//! What all pods of a cluster share.

use super::{addresses::Range, sandbox::Spawner};
use crate::images::ImageStore;
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
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

pub(crate) struct Host {
    pub(crate) client: kube::Client,
    pub(crate) images: Arc<ImageStore>,
    pub(crate) network: Arc<Network>,
    pub(crate) sandbox: Sandbox,
    pub(crate) spawner: Arc<Spawner>,
    pub(crate) state: PathBuf,
    /// Where pods find the API.
    pub(crate) api: SocketAddrV4,
    /// Set once overlays turned out not to work in a user namespace here.
    pub(crate) no_overlay: AtomicBool,
    /// How many images the nodes tell of.
    pub(crate) told_images: AtomicUsize,
    pub(crate) nodes: HashMap<String, Arc<Node>>,
}

impl Host {
    /// Has the nodes tell of images that were loaded since they last did.
    pub(crate) async fn report_images(&self) {
        let images = self.images.list();
        if self.told_images.swap(images.len(), Ordering::Relaxed) != images.len() {
            for name in self.nodes.keys() {
                super::node::report_images(&self.client, name, &images).await;
            }
        }
    }
}

/// One node.
pub(crate) struct Node {
    pub(crate) ip: Ipv4Addr,
    pub(crate) addresses: Mutex<Range>,
    pub(crate) recorder: Recorder,
}

impl Node {
    pub(crate) fn normal(&self, object: &ObjectReference, reason: &str, message: &str) {
        self.recorder.publish(object, "Normal", reason, message);
    }

    pub(crate) fn warning(&self, object: &ObjectReference, reason: &str, message: &str) {
        self.recorder.publish(object, "Warning", reason, message);
    }
}

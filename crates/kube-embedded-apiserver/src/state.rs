//! The state behind the API of one cluster, which all requests share.

use crate::{
    admission::policies::index::PolicyIndex, authentication::signer::Signer,
    authorization::authorizer::Authorizer, crd::registry::CrdRegistry, ip_allocator::Allocators,
    store::Store,
};
use kube_embedded_core::{network::Addresses, node_api::NodeApi};
use std::{
    path::PathBuf,
    sync::{Arc, OnceLock, Weak},
};

/// See the module.
pub(crate) struct ServerState {
    pub(crate) store: Store,
    pub(crate) addresses: Addresses,
    /// The kubelets, once there are some.
    pub(crate) nodes: OnceLock<Weak<dyn NodeApi>>,
    /// Signs the tokens of service accounts.
    pub(crate) signer: Signer,
    pub(crate) authorizer: Authorizer,
    pub(crate) policies: PolicyIndex,
    pub(crate) allocators: Allocators,
    pub(crate) crds: CrdRegistry,
    /// The directories below which hostPath volumes are allowed; unset for none.
    pub(crate) host_paths: OnceLock<Vec<PathBuf>>,
    /// Becomes true when the server stops, which ends watches and streams.
    pub(crate) stopping: tokio::sync::watch::Sender<bool>,
}

impl ServerState {
    /// The state of a new cluster over the objects of `store`.
    pub(crate) fn new(store: Store, addresses: Addresses) -> Self {
        Self {
            authorizer: Authorizer::new(store.clone()),
            policies: PolicyIndex::new(store.clone()),
            store,
            allocators: Allocators::new(addresses),
            addresses,
            nodes: OnceLock::new(),
            signer: Signer::default(),
            crds: CrdRegistry::default(),
            host_paths: OnceLock::new(),
            stopping: tokio::sync::watch::Sender::new(false),
        }
    }

    /// The backend of logs, exec, attach and port-forward, while it runs.
    pub(crate) fn nodes(&self) -> Option<Arc<dyn NodeApi>> {
        self.nodes.get().and_then(Weak::upgrade)
    }
}

//! The custom resources that a cluster serves now.

use crate::resources::{crd::CustomResource, registry::ResourceRegistry};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::watch;

/// See the module.
#[derive(Default)]
pub(crate) struct CrdRegistry {
    served: RwLock<Arc<ResourceRegistry>>,
    /// Locked while definitions are reconciled.
    versions: Mutex<ServedVersions>,
    /// A task retries a reconciliation that failed.
    pub(crate) retries: AtomicBool,
    /// Reconciliations that fail on purpose.
    #[cfg(test)]
    pub(crate) injected_failures: std::sync::atomic::AtomicUsize,
}

/// By uid of the definition and name of the version; dropping a sender ends the watches of the version.
pub(crate) type ServedVersions = HashMap<(String, String), watch::Sender<()>>;

impl CrdRegistry {
    /// Returns a snapshot of the resources that are served, which a request keeps to.
    pub(crate) fn served(&self) -> Arc<ResourceRegistry> {
        self.served.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Locks the registry for a reconciliation. Each publishes the whole, so a panic of another leaves nothing that
    /// matters.
    pub(crate) fn lock(&self) -> MutexGuard<'_, ServedVersions> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes custom resources in place of those before.
    pub(crate) fn publish(&self, resources: Vec<Arc<CustomResource>>) {
        *self.served.write().unwrap_or_else(PoisonError::into_inner) =
            Arc::new(ResourceRegistry::new(resources));
    }

    /// Returns true for the caller that is to start the task that retries.
    pub(crate) fn starts_retries(&self) -> bool {
        !self.retries.swap(true, Ordering::AcqRel)
    }
}

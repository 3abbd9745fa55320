//! Keeps the table of names up to date with the Services, EndpointSlices and namespaces of the API.

use super::records::{Records, ServiceRecords};
use k8s_openapi::api::{
    core::v1::{Namespace, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Api, Client, runtime::watcher::Config};
use kube_embedded_core::{
    informer::{Index, Informer, ObjectKey, WATCH_BACKOFF},
    network::Addresses,
};
use std::{
    collections::BTreeSet,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};
use tokio::sync::Notify;

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The objects that names come from.
pub(super) struct Objects {
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    slices_by_service: Arc<Index<ObjectKey, EndpointSlice>>,
    namespaces: Informer<Namespace>,
    records: Arc<RwLock<Records>>,
    changes: Arc<Changes>,
}

/// The Services whose records are out of date.
#[derive(Default)]
struct Changes {
    services: Mutex<BTreeSet<ObjectKey>>,
    notify: Notify,
}

impl Changes {
    fn add(&self, services: impl IntoIterator<Item = ObjectKey>) {
        self.lock().extend(services);
        self.notify.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<ObjectKey>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Objects {
    pub(super) fn new(addresses: Addresses) -> Self {
        let records = Arc::new(RwLock::new(Records::new(addresses)));
        let changes = Arc::<Changes>::default();
        let services = Informer::<Service>::default();
        let queue = changes.clone();
        services.add_event_handler(
            move |old: Option<&Arc<Service>>, new: Option<&Arc<Service>>| {
                queue.add(new.or(old).map(|service| ObjectKey::of(&**service)));
            },
        );
        let slices = Informer::<EndpointSlice>::default();
        let slices_by_service = slices.add_index(service_of);
        let queue = changes.clone();
        slices.add_event_handler(
            move |old: Option<&Arc<EndpointSlice>>, new: Option<&Arc<EndpointSlice>>| {
                queue.add(old.into_iter().chain(new).filter_map(|slice| service_of(slice)));
            },
        );
        let namespaces = Informer::<Namespace>::with_transform("namespaces", strip);
        let table = records.clone();
        namespaces.add_event_handler(
            move |old: Option<&Arc<Namespace>>, new: Option<&Arc<Namespace>>| {
                if let Some(name) = new.or(old).and_then(|n| n.metadata.name.as_deref()) {
                    let mut table = table.write().unwrap_or_else(PoisonError::into_inner);
                    table.set_namespace(name, new.is_some());
                }
            },
        );
        Self { services, slices, slices_by_service, namespaces, records, changes }
    }

    pub(super) fn records(&self) -> Arc<RwLock<Records>> {
        self.records.clone()
    }

    /// Waits until the table has all that exists.
    pub(super) async fn wait_synced(&self) {
        tokio::join!(
            self.services.wait_synced(),
            self.slices.wait_synced(),
            self.namespaces.wait_synced()
        );
        self.update();
    }

    /// Watches the API and updates the table, until dropped.
    pub(super) async fn watch(&self, client: &Client) {
        let config = Config::default;
        let update = async {
            loop {
                self.changes.notify.notified().await;
                self.update();
            }
        };
        tokio::join!(
            self.services.watch(Api::all(client.clone()), config(), WATCH_BACKOFF),
            self.slices.watch(Api::all(client.clone()), config(), WATCH_BACKOFF),
            self.namespaces.watch(Api::all(client.clone()), config(), WATCH_BACKOFF),
            update
        );
    }

    /// Updates the records of the Services that have changed.
    fn update(&self) {
        let changed = mem::take(&mut *self.changes.lock());
        for key in changed {
            let service = self
                .services
                .get(&key)
                .map(|service| ServiceRecords::new(&service, &self.slices_by_service.get(&key)));
            let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
            records.set_service(&key, service);
        }
    }
}

/// Only the name of a namespace matters.
fn strip(namespace: &mut Namespace) {
    namespace.spec = None;
    namespace.status = None;
    namespace.metadata.annotations = None;
}

fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(ObjectKey::new(slice.metadata.namespace.as_deref()?, name))
}

//! The objects of the Ingress controller as last seen, and which namespaces are to be reconciled.
//!
//! Services and their endpoints are watched only once there is an Ingress to serve. Of all Secrets
//! only those that Ingresses name are watched, one by one, and only what is needed to serve their
//! certificates is kept.

use super::plan;
use crate::{
    secrets::{SecretEvent, Secrets},
    services::objects::{ObjectEvent as ServiceEvent, Objects as ServiceObjects},
    watches::events,
};
use futures::{
    StreamExt,
    stream::{BoxStream, SelectAll},
};
use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::EndpointSlice,
    networking::v1::{Ingress, IngressClass},
};
use kube::{Client, runtime::watcher::Event};
use kube_embedded_core::informer::{Informer, ObjectKey};
use std::{
    collections::BTreeSet,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The `spec.controller` of IngressClasses that are served here.
pub const INGRESS_CONTROLLER: &str = "canary-labs.dev/edge";

/// The name of the IngressClass of this controller.
pub const INGRESS_CLASS: &str = "edge";

/// An event of one of the watches.
#[expect(clippy::large_enum_variant, reason = "one exists at a time, and is consumed at once")]
pub(super) enum IngressEvent {
    Ingress(Event<Ingress>),
    Class(Event<IngressClass>),
    Service(ServiceEvent),
    Secret(SecretEvent),
}

/// The Ingresses, their classes, and the Services that they name.
pub(super) struct Objects {
    client: Client,
    ingresses: Informer<Ingress>,
    classes: Informer<IngressClass>,
    /// `None` until there is an Ingress to serve.
    services: Option<ServiceObjects>,
    changes: Arc<Mutex<Changes>>,
}

/// What has changed since the last reconcile.
#[derive(Default)]
struct Changes {
    /// Namespaces whose Ingresses, classes or Secrets have changed.
    namespaces: BTreeSet<String>,
    /// Services that have changed, or their endpoints.
    services: BTreeSet<ObjectKey>,
    /// Ingresses of which at most the status has changed.
    statuses: BTreeSet<ObjectKey>,
    classes: bool,
}

/// All watches; grows with the Secrets that Ingresses name.
pub(super) type Watches = SelectAll<BoxStream<'static, IngressEvent>>;

impl Objects {
    pub(super) fn new(client: Client, watches: &mut Watches) -> Self {
        watches.push(events::<Ingress>(&client).map(IngressEvent::Ingress).boxed());
        watches.push(events::<IngressClass>(&client).map(IngressEvent::Class).boxed());
        let changes = Arc::<Mutex<Changes>>::default();
        let ingresses = Informer::default();
        let queue = changes.clone();
        ingresses.add_event_handler(
            move |old: Option<&Arc<Ingress>>, new: Option<&Arc<Ingress>>| {
                let Some(key) = old.or(new).map(|ingress| ObjectKey::of(&**ingress)) else {
                    return;
                };
                if old.zip(new).is_some_and(|(old, new)| only_status_differs(old, new)) {
                    lock(&queue).statuses.insert(key);
                } else {
                    lock(&queue).namespaces.insert(key.namespace);
                }
            },
        );
        let classes = Informer::default();
        let queue = changes.clone();
        classes.add_event_handler(move |_: Option<&Arc<IngressClass>>, _: Option<&Arc<_>>| {
            lock(&queue).classes = true;
        });
        Self { client, ingresses, classes, services: None, changes }
    }

    pub(super) fn apply(&self, event: IngressEvent, secrets: &mut Secrets<IngressEvent>) {
        match event {
            IngressEvent::Ingress(event) => {
                self.ingresses.observe(event);
            }
            IngressEvent::Class(event) => {
                self.classes.observe(event);
                if mem::take(&mut lock(&self.changes).classes) {
                    self.requeue_all();
                }
            }
            IngressEvent::Service(event) => {
                let Some(services) = &self.services else { return };
                services.apply(event);
                let dirty = services.take_dirty();
                lock(&self.changes).services.extend(dirty);
            }
            IngressEvent::Secret(event) => {
                if secrets.apply(&event) {
                    self.requeue(event.0.namespace);
                }
            }
        }
    }

    /// Returns whether enough is known to plan. Watches Services and endpoints from the first
    /// Ingress on.
    pub(super) fn synced(&mut self, watches: &mut Watches) -> bool {
        if !self.ingresses.has_synced() || !self.classes.has_synced() {
            return false;
        }
        match &self.services {
            Some(services) => services.synced(),
            None if self.ingresses.list().iter().any(|ingress| self.is_ours(ingress)) => {
                let services = events::<Service>(&self.client).map(ServiceEvent::Service);
                let slices = events::<EndpointSlice>(&self.client).map(ServiceEvent::Slice);
                watches.push(services.map(IngressEvent::Service).boxed());
                watches.push(slices.map(IngressEvent::Service).boxed());
                self.services = Some(ServiceObjects::default());
                false
            }
            None => true,
        }
    }

    /// Returns the namespaces to reconcile, and clears them.
    pub(super) fn take_dirty(&self) -> BTreeSet<String> {
        mem::take(&mut lock(&self.changes).namespaces)
    }

    /// Returns the Services whose endpoints are to be looked at, and clears them.
    pub(super) fn take_services_changed(&self) -> BTreeSet<ObjectKey> {
        mem::take(&mut lock(&self.changes).services)
    }

    /// Returns the Ingresses of which at most the status has changed, and clears them.
    pub(super) fn take_status_changed(&self) -> BTreeSet<ObjectKey> {
        mem::take(&mut lock(&self.changes).statuses)
    }

    pub(super) fn requeue_status(&self, ingress: ObjectKey) {
        lock(&self.changes).statuses.insert(ingress);
    }

    pub(super) fn requeue(&self, namespace: String) {
        lock(&self.changes).namespaces.insert(namespace);
    }

    pub(super) fn requeue_all(&self) {
        let all = self.ingresses.list();
        let namespaces = all.iter().filter_map(|ingress| ingress.metadata.namespace.clone());
        lock(&self.changes).namespaces.extend(namespaces);
    }

    pub(super) fn ingress(&self, key: &ObjectKey) -> Option<Arc<Ingress>> {
        self.ingresses.get(key)
    }

    pub(super) fn ingresses(&self, namespace: &str) -> Vec<Arc<Ingress>> {
        self.ingresses.list_namespaced(namespace)
    }

    /// Returns whether this controller is to serve the Ingress. One that is being deleted is not
    /// served.
    pub(super) fn is_ours(&self, ingress: &Ingress) -> bool {
        let is_our_class = |name: &str| {
            let class = self.classes.get(&ObjectKey::cluster_scoped(name));
            let controller = class.and_then(|class| class.spec.as_ref()?.controller.clone());
            controller.as_deref() == Some(INGRESS_CONTROLLER)
        };
        ingress.metadata.deletion_timestamp.is_none() && plan::is_ours(ingress, is_our_class)
    }

    pub(super) fn service(&self, key: &ObjectKey) -> Option<Arc<Service>> {
        self.services.as_ref()?.service(key)
    }

    pub(super) fn slices_of(&self, service: &ObjectKey) -> Vec<Arc<EndpointSlice>> {
        self.services.as_ref().map(|services| services.slices_of(service)).unwrap_or_default()
    }
}

fn lock(changes: &Mutex<Changes>) -> MutexGuard<'_, Changes> {
    changes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns whether everything that affects the rules is unchanged.
fn only_status_differs(before: &Ingress, now: &Ingress) -> bool {
    let desired = |ingress: &Ingress| {
        let meta = &ingress.metadata;
        (meta.uid.clone(), meta.generation, meta.deletion_timestamp.is_some())
    };
    desired(before) == desired(now) && plan::class(before) == plan::class(now)
}

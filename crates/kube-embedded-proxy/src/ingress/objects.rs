//! The objects of the Ingress controller as last seen, and which namespaces are to be reconciled.
//!
//! Services and their endpoints are watched only once there is an Ingress to serve. Of all Secrets
//! only those that Ingresses name are watched, one by one, and only what is needed to serve their
//! certificates is kept.

use super::{plan, tls_secret::TlsSecret};
use crate::{
    services::objects::{ObjectEvent as ServiceEvent, Objects as ServiceObjects},
    watch_cache::{Change, Key, ObjectStore, events, strip_managed_fields},
};
use futures::{
    StreamExt,
    stream::{BoxStream, SelectAll},
};
use k8s_openapi::api::{
    core::v1::{Secret, Service},
    discovery::v1::EndpointSlice,
    networking::v1::{Ingress, IngressClass},
};
use kube::{
    Api, Client,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    ops::Bound,
};
use tokio::sync::oneshot;

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
    Secret(Key, watcher::Result<Option<Secret>>),
}

/// The state of a Secret that an Ingress names.
#[derive(Clone, Debug)]
pub(super) enum SecretState {
    Missing,
    /// Why it cannot be used, as the rest of a sentence that begins with the Secret.
    Invalid(String),
    Valid(TlsSecret),
}

/// The Ingresses, their classes, and the Services that they name.
pub(super) struct Objects {
    client: Client,
    ingresses: ObjectStore<Ingress>,
    /// The controller of each class.
    classes: ObjectStore<Option<String>>,
    /// `None` until there is an Ingress to serve.
    services: Option<ServiceObjects>,
    dirty: BTreeSet<String>,
    status_changed: BTreeSet<Key>,
}

/// The Secrets that Ingresses name.
pub(super) struct Secrets {
    client: Client,
    watched: BTreeMap<Key, WatchedSecret>,
}

struct WatchedSecret {
    /// `None` until it is known.
    state: Option<SecretState>,
    /// Dropping it ends the watch.
    _end: oneshot::Sender<()>,
}

/// All watches; grows with the Secrets that Ingresses name.
pub(super) type Watches = SelectAll<BoxStream<'static, IngressEvent>>;

impl Objects {
    pub(super) fn new(client: Client, watches: &mut Watches) -> Self {
        watches.push(events::<Ingress>(&client).map(IngressEvent::Ingress).boxed());
        watches.push(events::<IngressClass>(&client).map(IngressEvent::Class).boxed());
        Self {
            client,
            ingresses: ObjectStore::default(),
            classes: ObjectStore::default(),
            services: None,
            dirty: BTreeSet::new(),
            status_changed: BTreeSet::new(),
        }
    }

    pub(super) fn apply(&mut self, event: IngressEvent, secrets: &mut Secrets) {
        match event {
            IngressEvent::Ingress(event) => {
                for Change { key, before } in self.ingresses.apply(event, strip_managed_fields) {
                    let now = self.ingresses.objects.get(&key);
                    if before
                        .zip(now)
                        .is_some_and(|(before, now)| only_status_differs(&before, now))
                    {
                        self.status_changed.insert(key);
                    } else {
                        self.dirty.insert(key.0);
                    }
                }
            }
            IngressEvent::Class(event) => {
                let controller = |class: IngressClass| class.spec?.controller;
                if !self.classes.apply(event, controller).is_empty() {
                    self.requeue_all();
                }
            }
            IngressEvent::Service(event) => {
                let Some(services) = &mut self.services else { return };
                services.apply(event);
                let dirty = services.take_dirty();
                self.dirty.extend(dirty.into_iter().map(|(namespace, _)| namespace));
            }
            IngressEvent::Secret(key, secret) => {
                if secrets.apply(&key, secret) {
                    self.dirty.insert(key.0);
                }
            }
        }
    }

    /// Returns whether enough is known to plan. Watches Services and endpoints from the first
    /// Ingress on.
    pub(super) fn synced(&mut self, watches: &mut Watches) -> bool {
        if !self.ingresses.synced || !self.classes.synced {
            return false;
        }
        match &self.services {
            Some(services) => services.synced(),
            None if self.ingresses.objects.values().any(|ingress| self.is_ours(ingress)) => {
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
    pub(super) fn take_dirty(&mut self) -> BTreeSet<String> {
        mem::take(&mut self.dirty)
    }

    /// Returns the Ingresses of which at most the status has changed, and clears them.
    pub(super) fn take_status_changed(&mut self) -> BTreeSet<Key> {
        mem::take(&mut self.status_changed)
    }

    pub(super) fn requeue_status(&mut self, ingress: Key) {
        self.status_changed.insert(ingress);
    }

    pub(super) fn requeue(&mut self, namespace: String) {
        self.dirty.insert(namespace);
    }

    pub(super) fn requeue_all(&mut self) {
        let all = self.ingresses.objects.keys();
        self.dirty.extend(all.map(|(namespace, _)| namespace.clone()));
    }

    pub(super) fn ingress(&self, key: &Key) -> Option<&Ingress> {
        self.ingresses.objects.get(key)
    }

    pub(super) fn ingresses(&self, namespace: &str) -> impl Iterator<Item = &Ingress> {
        let first = (namespace.to_owned(), String::new());
        let from = self.ingresses.objects.range((Bound::Included(first), Bound::Unbounded));
        let inside = from.take_while(move |((other, _), _)| other == namespace);
        inside.map(|(_, ingress)| ingress)
    }

    /// Returns whether this controller is to serve the Ingress. One that is being deleted is not
    /// served.
    pub(super) fn is_ours(&self, ingress: &Ingress) -> bool {
        let is_our_class = |name: &str| {
            // Classes are cluster-scoped.
            let class = self.classes.objects.get(&(String::new(), name.to_owned()));
            class.is_some_and(|controller| controller.as_deref() == Some(INGRESS_CONTROLLER))
        };
        ingress.metadata.deletion_timestamp.is_none() && plan::is_ours(ingress, is_our_class)
    }

    pub(super) fn service(&self, key: &Key) -> Option<&Service> {
        self.services.as_ref()?.service(key)
    }

    pub(super) fn slices_of(&self, key: &Key) -> impl Iterator<Item = &EndpointSlice> {
        let services = self.services.as_ref();
        services.into_iter().flat_map(move |services| services.slices_of(key))
    }
}

/// Returns whether everything that affects the rules is unchanged.
fn only_status_differs(before: &Ingress, now: &Ingress) -> bool {
    let desired = |ingress: &Ingress| {
        let meta = &ingress.metadata;
        (meta.uid.clone(), meta.generation, meta.deletion_timestamp.is_some())
    };
    desired(before) == desired(now) && plan::class(before) == plan::class(now)
}

impl Secrets {
    pub(super) fn new(client: Client) -> Self {
        Self { client, watched: BTreeMap::new() }
    }

    /// Returns whether the state of the Secret may have changed.
    fn apply(&mut self, key: &Key, secret: watcher::Result<Option<Secret>>) -> bool {
        let Some(watched) = self.watched.get_mut(key) else { return false };
        watched.state = Some(match secret {
            Ok(None) => SecretState::Missing,
            Ok(Some(secret)) => match TlsSecret::read(&secret) {
                Ok(certificate) => SecretState::Valid(certificate),
                Err(why) => SecretState::Invalid(why),
            },
            // What was read before is still the best that is known.
            Err(_) if watched.state.is_some() => return false,
            Err(error) => SecretState::Invalid(format!("cannot be read: {error}")),
        });
        true
    }

    /// Watches exactly the Secrets that Ingresses of the namespace name.
    pub(super) fn sync(&mut self, namespace: &str, named: &BTreeSet<&str>, watches: &mut Watches) {
        self.watched.retain(|(other, name), _| other != namespace || named.contains(&**name));
        for name in named {
            let key = (namespace.to_owned(), (*name).to_owned());
            self.watched.entry(key.clone()).or_insert_with(|| {
                let (end, ended) = oneshot::channel();
                let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
                let secret = watcher::watch_object(api, name).default_backoff();
                let event = secret.map(move |secret| IngressEvent::Secret(key.clone(), secret));
                watches.push(event.take_until(ended).boxed());
                WatchedSecret { state: None, _end: end }
            });
        }
    }

    /// Returns the state of a Secret, or `None` while it is not known yet.
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<&SecretState> {
        self.watched.get(&(namespace.to_owned(), name.to_owned()))?.state.as_ref()
    }
}

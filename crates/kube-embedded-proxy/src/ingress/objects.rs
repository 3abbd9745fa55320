//! What the Ingress controller last saw of a cluster, and which namespaces need another look.
//!
//! Services and their endpoints are looked at only once there is an Ingress to serve, and of all
//! Secrets only those that Ingresses name: each has a watch of its own, and only what is needed to
//! serve its certificate is kept.

use super::{CONTROLLER, certificate::Certificate, plan};
use crate::{
    events,
    objects::{self as services, Change, Key, Mirror},
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
    ops::Bound,
};
use tokio::sync::oneshot;

/// One event of one of the watches.
#[expect(clippy::large_enum_variant, reason = "one lives at a time, and is looked at at once")]
pub(super) enum Seen {
    Ingress(Event<Ingress>),
    Class(Event<IngressClass>),
    Service(services::Seen),
    Secret(Key, watcher::Result<Option<Secret>>),
}

/// What is known of a Secret that an Ingress names.
#[derive(Clone, Debug)]
pub(super) enum SecretSeen {
    Missing,
    /// Why it is of no use, as the end of a sentence that begins with it.
    Bad(String),
    Good(Certificate),
}

pub(super) struct Objects {
    client: Client,
    ingresses: Mirror<Ingress>,
    /// The controller of each class.
    classes: Mirror<Option<String>>,
    services: Option<services::Objects>,
    dirty: BTreeSet<String>,
    restated: BTreeSet<Key>,
}

/// The Secrets that Ingresses name.
pub(super) struct Secrets {
    client: Client,
    watched: BTreeMap<Key, Watched>,
}

struct Watched {
    seen: Option<SecretSeen>,
    /// Dropping it ends the watch.
    _end: oneshot::Sender<()>,
}

/// All watches; grows with what Ingresses name.
pub(super) type Watches = SelectAll<BoxStream<'static, Seen>>;

impl Objects {
    pub(super) fn new(client: Client, watches: &mut Watches) -> Self {
        watches.push(events::<Ingress>(&client).map(Seen::Ingress).boxed());
        watches.push(events::<IngressClass>(&client).map(Seen::Class).boxed());
        Self {
            client,
            ingresses: Mirror::default(),
            classes: Mirror::default(),
            services: None,
            dirty: BTreeSet::new(),
            restated: BTreeSet::new(),
        }
    }

    pub(super) fn see(&mut self, seen: Seen, secrets: &mut Secrets) {
        match seen {
            Seen::Ingress(event) => {
                for Change { key, before } in self.ingresses.apply(event, services::light) {
                    let now = self.ingresses.items.get(&key);
                    if before.zip(now).is_some_and(|(before, now)| asks_the_same(&before, now)) {
                        self.restated.insert(key);
                    } else {
                        self.dirty.insert(key.0);
                    }
                }
            }
            Seen::Class(event) => {
                let controller = |class: IngressClass| class.spec?.controller;
                if !self.classes.apply(event, controller).is_empty() {
                    self.look_at_all();
                }
            }
            Seen::Service(seen) => {
                let Some(services) = &mut self.services else { return };
                services.see(seen);
                let dirty = services.take_dirty();
                self.dirty.extend(dirty.into_iter().map(|(namespace, _)| namespace));
            }
            Seen::Secret(key, seen) => {
                if secrets.see(&key, seen) {
                    self.dirty.insert(key.0);
                }
            }
        }
    }

    /// Whether enough is known to plan. Services and endpoints are asked for with the first Ingress.
    pub(super) fn complete(&mut self, watches: &mut Watches) -> bool {
        if !self.ingresses.complete || !self.classes.complete {
            return false;
        }
        match &self.services {
            Some(services) => services.complete(),
            None if self.ingresses.items.values().any(|ingress| self.is_ours(ingress)) => {
                let services = events::<Service>(&self.client).map(services::Seen::Service);
                let slices = events::<EndpointSlice>(&self.client).map(services::Seen::Slice);
                watches.push(services.map(Seen::Service).boxed());
                watches.push(slices.map(Seen::Service).boxed());
                self.services = Some(services::Objects::default());
                false
            }
            None => true,
        }
    }

    /// The namespaces to look at again.
    pub(super) fn take_dirty(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.dirty)
    }

    /// Ingresses of which no more than the status may be other than it was.
    pub(super) fn take_restated(&mut self) -> BTreeSet<Key> {
        std::mem::take(&mut self.restated)
    }

    pub(super) fn restate(&mut self, ingress: Key) {
        self.restated.insert(ingress);
    }

    pub(super) fn look_again(&mut self, namespace: String) {
        self.dirty.insert(namespace);
    }

    pub(super) fn look_at_all(&mut self) {
        let all = self.ingresses.items.keys();
        self.dirty.extend(all.map(|(namespace, _)| namespace.clone()));
    }

    pub(super) fn ingress(&self, key: &Key) -> Option<&Ingress> {
        self.ingresses.items.get(key)
    }

    pub(super) fn ingresses(&self, namespace: &str) -> impl Iterator<Item = &Ingress> {
        let first = (namespace.to_owned(), String::new());
        let from = self.ingresses.items.range((Bound::Included(first), Bound::Unbounded));
        let inside = from.take_while(move |((there, _), _)| there == namespace);
        inside.map(|(_, ingress)| ingress)
    }

    /// Whether the Ingress is to be served here. One that is being deleted is not.
    pub(super) fn is_ours(&self, ingress: &Ingress) -> bool {
        let is_our_class = |name: &str| {
            // Classes belong to no namespace.
            let class = self.classes.items.get(&(String::new(), name.to_owned()));
            class.is_some_and(|controller| controller.as_deref() == Some(CONTROLLER))
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

/// Whether all that counts for the rules is as before; a status is not among it.
fn asks_the_same(before: &Ingress, now: &Ingress) -> bool {
    let asks = |ingress: &Ingress| {
        let meta = &ingress.metadata;
        (meta.uid.clone(), meta.generation, meta.deletion_timestamp.is_some())
    };
    asks(before) == asks(now) && plan::class(before) == plan::class(now)
}

impl Secrets {
    pub(super) fn new(client: Client) -> Self {
        Self { client, watched: BTreeMap::new() }
    }

    /// Whether more is known than before.
    fn see(&mut self, key: &Key, seen: watcher::Result<Option<Secret>>) -> bool {
        let Some(watched) = self.watched.get_mut(key) else { return false };
        watched.seen = Some(match seen {
            Ok(None) => SecretSeen::Missing,
            Ok(Some(secret)) => match Certificate::read(&secret) {
                Ok(certificate) => SecretSeen::Good(certificate),
                Err(why) => SecretSeen::Bad(why),
            },
            // What was read before is still the best that is known.
            Err(_) if watched.seen.is_some() => return false,
            Err(error) => SecretSeen::Bad(format!("cannot be read: {error}")),
        });
        true
    }

    /// Watches exactly the Secrets that Ingresses of the namespace name.
    pub(super) fn keep(&mut self, namespace: &str, named: &BTreeSet<&str>, watches: &mut Watches) {
        self.watched.retain(|(there, name), _| there != namespace || named.contains(&**name));
        for name in named {
            let key = (namespace.to_owned(), (*name).to_owned());
            self.watched.entry(key.clone()).or_insert_with(|| {
                let (end, ended) = oneshot::channel();
                let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
                let secret = watcher::watch_object(api, name).default_backoff();
                let seen = secret.map(move |seen| Seen::Secret(key.clone(), seen));
                watches.push(seen.take_until(ended).boxed());
                Watched { seen: None, _end: end }
            });
        }
    }

    /// `None` while it is not known yet.
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<&SecretSeen> {
        self.watched.get(&(namespace.to_owned(), name.to_owned()))?.seen.as_ref()
    }
}

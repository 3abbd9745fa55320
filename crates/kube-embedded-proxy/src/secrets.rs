//! The Secrets and ConfigMaps with certificates that Ingresses and Gateways name. Only these are watched,
//! one by one, and only what is needed of them is kept.

use crate::http_proxy::tls_secret::{TlsSecret, authorities};
use futures::{
    StreamExt,
    stream::{BoxStream, SelectAll},
};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client, Resource,
    runtime::{WatchStreamExt, watcher},
};
use kube_embedded_core::informer::ObjectKey;
use serde::de::DeserializeOwned;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
};
use tokio::sync::oneshot;
use tokio_rustls::rustls::pki_types::CertificateDer;

/// A kind of object that is named, and what is kept of one.
pub(crate) trait Named:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + 'static
{
    type Content;

    /// Reads what is needed, or returns why it cannot be used, as the rest of a sentence.
    fn read(&self) -> Result<Self::Content, String>;
}

impl Named for Secret {
    type Content = TlsSecret;

    fn read(&self) -> Result<TlsSecret, String> {
        TlsSecret::read(self)
    }
}

impl Named for ConfigMap {
    type Content = Vec<CertificateDer<'static>>;

    fn read(&self) -> Result<Self::Content, String> {
        authorities(self)
    }
}

/// An event of the watch of one object.
pub(crate) struct NamedEvent<K>(
    pub(crate) ObjectKey,
    /// `None` if there is no such object.
    pub(crate) watcher::Result<Option<K>>,
);

/// The state of an object that is named.
#[derive(Clone, Debug)]
pub(crate) enum NamedState<T> {
    Missing,
    /// Why it cannot be used, as the rest of a sentence that begins with the object.
    Invalid(String),
    Valid(T),
}

/// The objects that are named. `E` is the type of the events among which theirs are.
pub(crate) struct NamedObjects<K: Named, E> {
    client: Client,
    watched: BTreeMap<ObjectKey, Watched<K::Content>>,
    event: fn(NamedEvent<K>) -> E,
}

pub(crate) type SecretEvent = NamedEvent<Secret>;
pub(crate) type SecretState = NamedState<TlsSecret>;
pub(crate) type Secrets<E> = NamedObjects<Secret, E>;

struct Watched<T> {
    /// `None` until it is known.
    state: Option<NamedState<T>>,
    /// Dropping it ends the watch.
    _end: oneshot::Sender<()>,
}

impl<K: Named, E: Send + 'static> NamedObjects<K, E> {
    pub(crate) fn new(client: Client, event: fn(NamedEvent<K>) -> E) -> Self {
        Self { client, watched: BTreeMap::new(), event }
    }

    /// Returns whether the state of the object may have changed.
    pub(crate) fn apply(&mut self, NamedEvent(key, object): &NamedEvent<K>) -> bool {
        let Some(watched) = self.watched.get_mut(key) else { return false };
        watched.state = Some(match object {
            Ok(None) => NamedState::Missing,
            Ok(Some(object)) => match object.read() {
                Ok(content) => NamedState::Valid(content),
                Err(why) => NamedState::Invalid(why),
            },
            // What was read before is still the best that is known.
            Err(_) if watched.state.is_some() => return false,
            Err(error) => NamedState::Invalid(format!("cannot be read: {error}")),
        });
        true
    }

    /// Watches exactly the objects that are named, of one namespace or of all.
    pub(crate) fn sync(
        &mut self,
        namespace: Option<&str>,
        named: &BTreeSet<ObjectKey>,
        watches: &mut SelectAll<BoxStream<'static, E>>,
    ) {
        self.watched.retain(|key, _| {
            namespace.is_some_and(|namespace| key.namespace != namespace) || named.contains(key)
        });
        let make = self.event;
        for key in named {
            self.watched.entry(key.clone()).or_insert_with(|| {
                let (end, ended) = oneshot::channel();
                let api: Api<K> = Api::namespaced(self.client.clone(), &key.namespace);
                let object = watcher::watch_object(api, &key.name).default_backoff();
                let key = key.clone();
                let event = object.map(move |object| make(NamedEvent(key.clone(), object)));
                watches.push(event.take_until(ended).boxed());
                Watched { state: None, _end: end }
            });
        }
    }

    /// Returns the state of an object, or `None` while it is not known yet.
    pub(crate) fn get(&self, key: &ObjectKey) -> Option<&NamedState<K::Content>> {
        self.watched.get(key)?.state.as_ref()
    }

    /// Returns the content of an object, or why there is none, as the rest of a sentence.
    pub(crate) fn content(&self, key: &ObjectKey) -> Result<&K::Content, String> {
        match self.get(key) {
            Some(NamedState::Valid(content)) => Ok(content),
            Some(NamedState::Invalid(why)) => Err(why.clone()),
            Some(NamedState::Missing) | None => Err("does not exist".to_owned()),
        }
    }
}

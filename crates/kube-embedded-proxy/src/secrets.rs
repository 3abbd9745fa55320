//! The Secrets with certificates that Ingresses and Gateways name. Only these are watched, one by one,
//! and only what is needed to serve their certificates is kept.

use crate::http_proxy::tls_secret::TlsSecret;
use futures::{
    StreamExt,
    stream::{BoxStream, SelectAll},
};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher},
};
use kube_embedded_core::informer::ObjectKey;
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::oneshot;

/// An event of the watch of one Secret.
pub(crate) struct SecretEvent(pub(crate) ObjectKey, watcher::Result<Option<Secret>>);

/// The state of a Secret that is named.
#[derive(Clone, Debug)]
pub(crate) enum SecretState {
    Missing,
    /// Why it cannot be used, as the rest of a sentence that begins with the Secret.
    Invalid(String),
    Valid(TlsSecret),
}

/// The Secrets that are named. `E` is the type of the events among which theirs are.
pub(crate) struct Secrets<E> {
    client: Client,
    watched: BTreeMap<ObjectKey, WatchedSecret>,
    event: fn(SecretEvent) -> E,
}

struct WatchedSecret {
    /// `None` until it is known.
    state: Option<SecretState>,
    /// Dropping it ends the watch.
    _end: oneshot::Sender<()>,
}

impl<E: Send + 'static> Secrets<E> {
    pub(crate) fn new(client: Client, event: fn(SecretEvent) -> E) -> Self {
        Self { client, watched: BTreeMap::new(), event }
    }

    /// Returns whether the state of the Secret may have changed.
    pub(crate) fn apply(&mut self, SecretEvent(key, secret): &SecretEvent) -> bool {
        let Some(watched) = self.watched.get_mut(key) else { return false };
        watched.state = Some(match secret {
            Ok(None) => SecretState::Missing,
            Ok(Some(secret)) => match TlsSecret::read(secret) {
                Ok(certificate) => SecretState::Valid(certificate),
                Err(why) => SecretState::Invalid(why),
            },
            // What was read before is still the best that is known.
            Err(_) if watched.state.is_some() => return false,
            Err(error) => SecretState::Invalid(format!("cannot be read: {error}")),
        });
        true
    }

    /// Watches exactly the Secrets that are named, of one namespace or of all.
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
                let api: Api<Secret> = Api::namespaced(self.client.clone(), &key.namespace);
                let secret = watcher::watch_object(api, &key.name).default_backoff();
                let key = key.clone();
                let event = secret.map(move |secret| make(SecretEvent(key.clone(), secret)));
                watches.push(event.take_until(ended).boxed());
                WatchedSecret { state: None, _end: end }
            });
        }
    }

    /// Returns the state of a Secret, or `None` while it is not known yet.
    pub(crate) fn get(&self, key: &ObjectKey) -> Option<&SecretState> {
        self.watched.get(key)?.state.as_ref()
    }
}

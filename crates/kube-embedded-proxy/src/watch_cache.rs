//! Watches, and the objects that they deliver: what client-go calls an informer's store.

use futures::{Stream, StreamExt, future};
use kube::{
    Api, Client, Resource,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use std::{collections::BTreeMap, fmt::Debug, mem};

/// Events applied before a reconciler runs, so that a long list cannot hold it up.
pub(crate) const EVENTS_PER_ROUND: usize = 1024;

/// Namespace and name of an object.
pub(crate) type Key = (String, String);

pub(crate) fn key(object: &impl Resource) -> Key {
    let meta = object.meta();
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// Watches a resource in all namespaces. Errors are retried with back-off; the list that follows
/// brings what was missed.
pub(crate) fn events<K>(client: &Client) -> impl Stream<Item = Event<K>> + Send + use<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut failing = false;
    watcher(Api::<K>::all(client.clone()), watcher::Config::default()).default_backoff().filter_map(
        move |event| {
            match &event {
                Err(error) if !mem::replace(&mut failing, true) => {
                    tracing::warn!(resource = %K::plural(&()), %error, "failed to watch; retrying");
                }
                Ok(_) if mem::replace(&mut failing, false) => {
                    tracing::info!(resource = %K::plural(&()), "watching again");
                }
                _ => {}
            }
            future::ready(event.ok())
        },
    )
}

/// Removes the managed fields, which are often larger than the rest and are not used here.
pub(crate) fn strip_managed_fields<K: Resource>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}

/// All objects of a resource, kept when a watch is lost: a new list replaces them as a whole.
pub(crate) struct ObjectStore<V> {
    pub(crate) objects: BTreeMap<Key, V>,
    listing: Option<BTreeMap<Key, V>>,
    /// Whether a list was received completely.
    pub(crate) synced: bool,
}

/// An object that was added, updated or removed.
pub(crate) struct Change<V> {
    pub(crate) key: Key,
    pub(crate) before: Option<V>,
}

impl<V> Default for ObjectStore<V> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), listing: None, synced: false }
    }
}

impl<V> ObjectStore<V> {
    /// Applies an event, storing the `view` of its object, and returns what changed.
    pub(crate) fn apply<K: Resource>(
        &mut self,
        event: Event<K>,
        view: impl Fn(K) -> V,
    ) -> Vec<Change<V>> {
        match event {
            Event::Init => {
                self.listing = Some(BTreeMap::new());
                Vec::new()
            }
            Event::InitApply(object) => {
                let listing = self.listing.get_or_insert_default();
                listing.insert(key(&object), view(object));
                Vec::new()
            }
            Event::InitDone => {
                self.synced = true;
                let listed = self.listing.take().unwrap_or_default();
                let mut before = mem::replace(&mut self.objects, listed);
                let mut changes: Vec<Change<V>> = self
                    .objects
                    .keys()
                    .map(|key| Change { key: key.clone(), before: before.remove(key) })
                    .collect();
                changes.extend(before.into_iter().map(|(key, v)| Change { key, before: Some(v) }));
                changes
            }
            Event::Apply(object) => {
                let key = key(&object);
                let before = self.objects.insert(key.clone(), view(object));
                vec![Change { key, before }]
            }
            Event::Delete(object) => {
                let key = key(&object);
                let before = self.objects.remove(&key);
                vec![Change { key, before }]
            }
        }
    }
}

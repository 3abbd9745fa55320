//! An informer as in client-go: the objects of one resource, kept up to date by a watch, with event
//! handlers and indexes.
//!
//! A controller's own writes are observed at once, so that its next plan is never made on a state
//! older than them: this is what keeps a replica set from creating a pod twice. client-go counts
//! expectations for the same purpose.

use crate::{backoff::Backoff, task::restart_on_panic};
use futures::{Stream, StreamExt};
use kube::{Api, Resource, runtime::watcher};
use serde::de::DeserializeOwned;
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    fmt::{self, Debug, Display, Formatter},
    mem,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{sync::watch, time::sleep};

/// The delays between attempts to watch: changes are not seen meanwhile.
pub const WATCH_BACKOFF: Backoff = Backoff::new(Duration::from_millis(1), Duration::from_secs(1));

/// Namespace (empty for cluster-scoped objects) and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl ObjectKey {
    /// Creates the key of an object in a namespace.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// Creates the key of a cluster-scoped object.
    pub fn cluster_scoped(name: &str) -> Self {
        Self::new("", name)
    }

    /// Returns the key of `object`.
    pub fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }
}

impl Display for ObjectKey {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &*self.namespace {
            "" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

type Handler<K> = Box<dyn Fn(Option<&Arc<K>>, Option<&Arc<K>>) + Send + Sync>;

/// The objects of one resource as last seen.
pub struct Informer<K> {
    resource: Cow<'static, str>,
    transform: fn(&mut K),
    state: Mutex<State<K>>,
    synced: watch::Sender<bool>,
}

struct State<K> {
    objects: BTreeMap<ObjectKey, Arc<K>>,
    handlers: Vec<Handler<K>>,
    /// The watch has reported everything up to this resource version.
    resource_version: u64,
    /// Uids of objects whose deletion is known before the watch reports it.
    deleted: HashSet<String>,
    /// A list that is still being received.
    listing: Option<BTreeMap<ObjectKey, Arc<K>>>,
}

impl<K: Resource<DynamicType = ()>> Default for Informer<K> {
    fn default() -> Self {
        Self::new(K::plural(&()))
    }
}

impl<K: Resource> Informer<K> {
    /// Creates an informer that knows no objects yet. `resource` is its name in logs.
    pub fn new(resource: impl Into<Cow<'static, str>>) -> Self {
        Self::with_transform(resource, |_| {})
    }

    /// Creates an informer that stores only what `transform` leaves of each object. Managed fields
    /// are removed in any case: they are half of a small object, and nothing here reads them.
    pub fn with_transform(resource: impl Into<Cow<'static, str>>, transform: fn(&mut K)) -> Self {
        Self {
            resource: resource.into(),
            transform,
            state: Mutex::new(State {
                objects: BTreeMap::new(),
                handlers: Vec::new(),
                resource_version: 0,
                deleted: HashSet::new(),
                listing: None,
            }),
            synced: watch::Sender::new(false),
        }
    }

    /// Returns an object by its key.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.lock().objects.get(key).cloned()
    }

    /// Returns all objects, by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.lock().objects.values().cloned().collect()
    }

    /// Returns the objects in a namespace, by name.
    pub fn list_namespaced(&self, namespace: &str) -> Vec<Arc<K>> {
        let state = self.lock();
        let from = state.objects.range(ObjectKey::new(namespace, "")..);
        let inside = from.take_while(|(key, _)| key.namespace == namespace);
        inside.map(|(_, object)| object.clone()).collect()
    }

    /// Adds a handler of changes (old, new), which is called at once for every known object.
    ///
    /// It runs while the informer is locked: it may enqueue keys and read other informers, but never
    /// this one. Informers must be read in one order only, or two handlers deadlock.
    pub fn add_event_handler(
        &self,
        handler: impl Fn(Option<&Arc<K>>, Option<&Arc<K>>) + Send + Sync + 'static,
    ) {
        let mut state = self.lock();
        for object in state.objects.values() {
            handler(None, Some(object));
        }
        state.handlers.push(Box::new(handler));
    }

    /// Adds an index by the values that `values` derives from each object.
    ///
    /// Handlers that are added later see it up to date. It has a lock of its own, so they may read it.
    pub fn add_index<I, V>(
        &self,
        values: impl Fn(&K) -> V + Send + Sync + 'static,
    ) -> Arc<Index<I, K>>
    where
        I: Ord + Send + 'static,
        V: IntoIterator<Item = I>,
        K: Send + Sync + 'static,
    {
        let index = Arc::new(Index::default());
        let updated = index.clone();
        self.add_event_handler(move |old, new| {
            updated.update(old, new, |object| values(object).into_iter());
        });
        index
    }

    /// Returns `true` once the first list is complete.
    pub fn has_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Waits until the first list is complete: a plan made on half a list creates what exists.
    pub async fn wait_synced(&self) {
        // The sender is a field of ours, so it is still there.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Stores an object as the API server returned it for a write of our own.
    pub fn observe_own_write(&self, object: K) {
        let mut state = self.lock();
        let key = ObjectKey::of(&object);
        let newer = match state.objects.get(&key) {
            Some(known) => is_newer(&object, known),
            // An older version belongs to an object that the watch has reported deleted.
            None => version(&object).is_none_or(|version| version > state.resource_version),
        };
        if newer && !uid(&object).is_some_and(|uid| state.deleted.contains(uid)) {
            self.insert(&mut state, key, object);
        }
    }

    /// Removes an object that a request of our own deleted for good.
    pub fn observe_own_deletion(&self, key: &ObjectKey, uid: &str) {
        let mut state = self.lock();
        if state.objects.get(key).is_some_and(|known| self::uid(known.as_ref()) == Some(uid)) {
            state.deleted.insert(uid.to_owned());
            state.remove(key);
        }
    }

    /// Follows a watch until it ends. After an error, waits for a back-off and lets the watch
    /// resume. Of errors in a row, the first is logged as a warning.
    pub async fn run(
        &self,
        events: impl Stream<Item = watcher::Result<watcher::Event<K>>>,
        mut backoff: Backoff,
    ) {
        let mut events = pin!(events);
        let resource = &*self.resource;
        let mut failing = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    backoff.reset();
                    if mem::take(&mut failing) {
                        tracing::info!(resource, "watching again");
                    }
                    self.observe(event);
                }
                Err(error) => {
                    let delay = backoff.next_delay();
                    if mem::replace(&mut failing, true) {
                        tracing::debug!(resource, %error, ?delay, "failed to watch; retrying");
                    } else {
                        tracing::warn!(resource, %error, ?delay, "failed to watch; retrying");
                    }
                    sleep(delay).await;
                }
            }
        }
    }

    /// Stores what a watch event reports. Returns whether that may have changed an object: the watch also reports
    /// writes that were observed already.
    pub fn observe(&self, event: watcher::Event<K>) -> bool {
        let mut state = self.lock();
        match event {
            watcher::Event::Init => {
                if self.has_synced() {
                    tracing::debug!(resource = &*self.resource, "listing again");
                }
                state.listing = Some(BTreeMap::new());
                false
            }
            watcher::Event::InitApply(object) => {
                let object = self.strip(object);
                let listing = state.listing.get_or_insert_default();
                listing.insert(ObjectKey::of(&*object), object);
                false
            }
            watcher::Event::InitDone => {
                state.replace_all();
                drop(state);
                self.synced.send_replace(true);
                true
            }
            watcher::Event::Apply(object) => {
                state.observe_version(&object);
                let key = ObjectKey::of(&object);
                let deleted = uid(&object).is_some_and(|uid| state.deleted.contains(uid));
                let known = state.objects.get(&key);
                let changes = !deleted && known.is_none_or(|known| is_newer(&object, known));
                if changes {
                    self.insert(&mut state, key, object);
                }
                changes
            }
            watcher::Event::Delete(object) => {
                state.observe_version(&object);
                if let Some(uid) = uid(&object) {
                    state.deleted.remove(uid);
                }
                let key = ObjectKey::of(&object);
                let known = state.objects.get(&key);
                let changes = known.is_some_and(|known| uid(known.as_ref()) == uid(&object));
                if changes {
                    state.remove(&key);
                }
                changes
            }
        }
    }

    fn insert(&self, state: &mut State<K>, key: ObjectKey, object: K) {
        let object = self.strip(object);
        let old = state.objects.insert(key, object.clone());
        state.notify(old.as_ref(), Some(&object));
    }

    fn strip(&self, mut object: K) -> Arc<K> {
        object.meta_mut().managed_fields = None;
        (self.transform)(&mut object);
        Arc::new(object)
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        // After a panic in a handler the next list repairs whatever is missing.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl<K> Informer<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    /// Lists and watches `api` until dropped. If a handler panics, lists again.
    pub async fn watch(&self, api: Api<K>, config: watcher::Config, backoff: Backoff) {
        let name = format!("informer-{}", self.resource);
        restart_on_panic(name, backoff.clone(), || {
            self.run(watcher::watcher(api.clone(), config.clone()), backoff.clone())
        })
        .await;
    }
}

impl<K: Resource> State<K> {
    /// Replaces all objects by those of the list that has been received.
    fn replace_all(&mut self) {
        let listing = self.listing.take().unwrap_or_default();
        self.deleted.clear();
        let known = self.objects.keys();
        let absent: Vec<ObjectKey> =
            known.filter(|key| !listing.contains_key(key)).cloned().collect();
        for key in absent {
            self.remove(&key);
        }
        for (key, object) in listing {
            self.observe_version(&*object);
            let old = self.objects.insert(key, object.clone());
            self.notify(old.as_ref(), Some(&object));
        }
    }

    fn remove(&mut self, key: &ObjectKey) {
        if let Some(old) = self.objects.remove(key) {
            self.notify(Some(&old), None);
        }
    }

    fn observe_version(&mut self, object: &K) {
        self.resource_version = self.resource_version.max(version(object).unwrap_or(0));
    }

    fn notify(&self, old: Option<&Arc<K>>, new: Option<&Arc<K>>) {
        for handler in &self.handlers {
            handler(old, new);
        }
    }
}

/// Objects by values that are derived from them, kept up to date by an [`Informer`].
pub struct Index<I, K> {
    objects: Mutex<BTreeMap<I, BTreeMap<ObjectKey, Arc<K>>>>,
}

impl<I, K> Default for Index<I, K> {
    fn default() -> Self {
        Self { objects: Mutex::default() }
    }
}

impl<I: Ord, K: Resource> Index<I, K> {
    /// Returns the objects with this value, by namespace and name.
    pub fn get<Q>(&self, value: &Q) -> Vec<Arc<K>>
    where
        I: std::borrow::Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.lock().get(value).into_iter().flat_map(|objects| objects.values().cloned()).collect()
    }

    fn update<V: Iterator<Item = I>>(
        &self,
        old: Option<&Arc<K>>,
        new: Option<&Arc<K>>,
        values: impl Fn(&K) -> V,
    ) {
        let mut index = self.lock();
        if let Some(old) = old {
            let key = ObjectKey::of(&**old);
            for value in values(old) {
                let Some(objects) = index.get_mut(&value) else { continue };
                objects.remove(&key);
                if objects.is_empty() {
                    index.remove(&value);
                }
            }
        }
        if let Some(new) = new {
            for value in values(new) {
                index.entry(value).or_default().insert(ObjectKey::of(&**new), new.clone());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<I, BTreeMap<ObjectKey, Arc<K>>>> {
        self.objects.lock().unwrap_or_else(|e| e.into_inner())
    }
}

fn uid<K: Resource>(object: &K) -> Option<&str> {
    object.meta().uid.as_deref()
}

/// Resource versions of one resource can be compared (KEP-5504).
fn version<K: Resource>(object: &K) -> Option<u64> {
    object.meta().resource_version.as_deref().and_then(|version| version.parse().ok())
}

/// Versions that cannot be compared are taken in the order they arrive.
fn is_newer<K: Resource>(object: &K, known: &K) -> bool {
    version(object).zip(version(known)).is_none_or(|(version, known)| version > known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::ObjectMeta};
    use watcher::Event;

    fn pod(name: &str, version: u64) -> Pod {
        Pod {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some("shop".into()),
                uid: Some(format!("uid-{name}")),
                resource_version: Some(version.to_string()),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    fn on_node(mut pod: Pod, node: &str) -> Pod {
        pod.spec.get_or_insert_default().node_name = Some(node.into());
        pod
    }

    fn names(pods: &[Arc<Pod>]) -> Vec<String> {
        let version = |pod: &Pod| version(pod).unwrap();
        pods.iter().map(|pod| format!("{}@{}", ObjectKey::of(&**pod).name, version(pod))).collect()
    }

    fn listed(informer: &Informer<Pod>) -> Vec<String> {
        names(&informer.list())
    }

    #[test]
    fn own_writes_show_at_once_and_older_events_do_not_undo_them() {
        let informer = Informer::default();
        informer.observe(Event::Init);
        informer.observe(Event::InitApply(pod("a", 1)));
        informer.observe(Event::InitDone);
        informer.observe_own_write(pod("b", 5));
        informer.observe_own_write(pod("a", 6));
        assert_eq!(listed(&informer), ["a@6", "b@5"]);
        assert!(!informer.observe(Event::Apply(pod("a", 4))));
        assert!(!informer.observe(Event::Apply(pod("b", 5))), "nothing new");
        assert_eq!(listed(&informer), ["a@6", "b@5"]);
        assert!(informer.observe(Event::Apply(pod("a", 7))));
        assert_eq!(listed(&informer), ["a@7", "b@5"]);
    }

    #[test]
    fn response_that_arrives_after_the_deletion_restores_nothing() {
        let informer = Informer::default();
        informer.observe(Event::Apply(pod("a", 2)));
        assert!(informer.observe(Event::Delete(pod("a", 3))));
        informer.observe_own_write(pod("a", 2));
        assert_eq!(listed(&informer), [""; 0]);
    }

    #[test]
    fn own_deletion_holds_while_the_watch_lags() {
        let informer = Informer::default();
        informer.observe(Event::Apply(pod("a", 2)));
        informer.observe_own_deletion(&ObjectKey::new("shop", "a"), "uid-a");
        informer.observe(Event::Apply(pod("a", 3)));
        assert_eq!(listed(&informer), [""; 0]);
        informer.observe(Event::Delete(pod("a", 4)));
        assert!(informer.lock().deleted.is_empty());
    }

    #[test]
    fn new_list_removes_absent_objects_and_notifies() {
        let informer = Informer::default();
        let changes = Arc::new(Mutex::new(Vec::new()));
        let log = changes.clone();
        informer.observe(Event::Apply(pod("a", 2)));
        informer.add_event_handler(move |old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>| {
            let version = |pod: &Arc<Pod>| version(&**pod).unwrap();
            log.lock().unwrap().push((old.map(version), new.map(version)));
        });
        informer.observe(Event::Init);
        informer.observe(Event::InitApply(pod("b", 3)));
        assert!(!informer.has_synced());
        informer.observe(Event::InitDone);
        assert!(informer.has_synced());
        assert_eq!(listed(&informer), ["b@3"]);
        let changes = changes.lock().unwrap();
        assert_eq!(*changes, [(None, Some(2)), (Some(2), None), (None, Some(3))]);
    }

    #[test]
    fn namespaces_are_kept_apart() {
        let informer = Informer::default();
        for (namespace, name) in [("a", "z"), ("ab", "x"), ("b", "y")] {
            let mut pod = pod(name, 1);
            pod.metadata.namespace = Some(namespace.into());
            informer.observe(Event::Apply(pod));
        }
        assert_eq!(informer.list_namespaced("a").len(), 1);
        assert_eq!(informer.list_namespaced("c").len(), 0);
    }

    #[test]
    fn index_follows_changes_and_covers_known_objects() {
        let informer = Informer::default();
        informer.observe(Event::Apply(on_node(pod("a", 1), "one")));
        let by_node = informer.add_index(|pod: &Pod| pod.spec.as_ref()?.node_name.clone());
        informer.observe(Event::Apply(on_node(pod("b", 2), "one")));
        informer.observe(Event::Apply(pod("c", 3)));
        assert_eq!(names(&by_node.get("one")), ["a@1", "b@2"]);
        informer.observe(Event::Apply(on_node(pod("a", 4), "two")));
        informer.observe(Event::Delete(pod("b", 5)));
        assert_eq!(names(&by_node.get("one")), [""; 0]);
        assert_eq!(names(&by_node.get("two")), ["a@4"]);
    }

    #[test]
    fn stored_objects_are_stripped_and_transformed() {
        let informer = Informer::with_transform("pods", |pod: &mut Pod| pod.spec = None);
        let mut full = on_node(pod("a", 1), "one");
        full.metadata.managed_fields = Some(Vec::new());
        informer.observe(Event::Apply(full));
        assert_eq!(*informer.list()[0], pod("a", 1));
    }

    #[tokio::test(start_paused = true)]
    async fn failing_watch_is_followed_with_backoff() {
        let informer = Arc::new(Informer::default());
        let started = tokio::time::Instant::now();
        let failures = [(); 3].map(|()| Err(watcher::Error::NoResourceVersion));
        let events = failures.into_iter().chain([Ok(Event::Init), Ok(Event::InitDone)]);
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(2));
        informer.run(futures::stream::iter(events), backoff).await;
        informer.wait_synced().await;
        assert_eq!(started.elapsed(), Duration::from_secs(1 + 2 + 2));
        assert!(informer.list().is_empty(), "no pods: {:?}", listed(&informer));
    }
}

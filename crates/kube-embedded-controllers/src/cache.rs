//! What the API holds of one kind, shared by all controllers. What a controller has written itself
//! is in here before its next plan, so no plan is made on a state older than its own writes: that
//! is what keeps a replica set from creating a pod twice.

use super::backoff::Backoff;
use futures::{Stream, StreamExt};
use kube::{Resource, runtime::watcher};
use std::{
    collections::{BTreeMap, HashSet},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, RwLock},
    time::Duration,
};
use tokio::sync::watch;

/// Between two attempts to watch: what others do is not seen meanwhile.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Namespace (empty for what lives in none) and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub(crate) fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }
}

/// Is told of a change (before, after) while the cache is locked: it may take notes and wake
/// somebody up, but must not look into the same cache.
type Listener<K> = Box<dyn Fn(Option<&K>, Option<&K>) + Send + Sync>;

pub(crate) struct Cache<K> {
    state: Mutex<State<K>>,
    listeners: RwLock<Vec<Listener<K>>>,
    complete: watch::Sender<bool>,
}

struct State<K> {
    objects: BTreeMap<Key, Arc<K>>,
    /// The watch has told everything up to this resource version.
    seen: u64,
    /// Uids of objects that we saw removed before the watch told so.
    removed: HashSet<String>,
    /// A list under way.
    listing: Option<BTreeMap<Key, Arc<K>>>,
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                objects: BTreeMap::new(),
                seen: 0,
                removed: HashSet::new(),
                listing: None,
            }),
            listeners: RwLock::default(),
            complete: watch::Sender::new(false),
        }
    }
}

impl<K: Resource> Cache<K> {
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.lock().objects.get(key).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<K>> {
        self.lock().objects.values().cloned().collect()
    }

    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let state = self.lock();
        let from = Key::new(namespace, "");
        state
            .objects
            .range(from..)
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// Adds somebody to be told of changes from now on.
    pub(crate) fn on_change(
        &self,
        listener: impl Fn(Option<&K>, Option<&K>) + Send + Sync + 'static,
    ) {
        self.listeners.write().unwrap_or_else(|e| e.into_inner()).push(Box::new(listener));
    }

    /// Waits for the first list to be complete.
    pub(crate) async fn complete(&self) {
        // The sender is ours, so it cannot have gone.
        let _ = self.complete.subscribe().wait_for(|complete| *complete).await;
    }

    /// Takes in what the API answered to a write of ours.
    pub(crate) fn wrote(&self, object: K) {
        let mut state = self.lock();
        let (key, version) = (Key::of(&object), version(&object));
        let newer = match state.objects.get(&key) {
            Some(known) => version > self::version(known.as_ref()),
            // The watch is ahead of us: the object is gone already.
            None => version > state.seen,
        };
        if newer && !uid(&object).is_some_and(|uid| state.removed.contains(uid)) {
            self.put(&mut state, key, object);
        }
    }

    /// Takes in that the API removed an object for good.
    pub(crate) fn removed(&self, key: &Key, uid: &str) {
        let mut state = self.lock();
        if state.objects.get(key).is_some_and(|known| self::uid(known.as_ref()) == Some(uid)) {
            state.removed.insert(uid.to_owned());
            self.take(&mut state, key);
        }
    }

    /// Follows a watch until it ends; dropped with the controllers.
    pub(crate) async fn follow(
        &self,
        events: impl Stream<Item = watcher::Result<watcher::Event<K>>>,
    ) {
        let mut events = pin!(events);
        let mut backoff = Backoff::up_to(LONGEST_PAUSE);
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    backoff.succeeded();
                    self.observe(event);
                }
                // An expired watch lists anew at once; a server in trouble is not hammered.
                Err(_) => tokio::time::sleep(backoff.failed()).await,
            }
        }
    }

    fn observe(&self, event: watcher::Event<K>) {
        let mut state = self.lock();
        match event {
            watcher::Event::Init => state.listing = Some(BTreeMap::new()),
            watcher::Event::InitApply(mut object) => {
                slim(&mut object);
                if let Some(listing) = &mut state.listing {
                    listing.insert(Key::of(&object), Arc::new(object));
                }
            }
            watcher::Event::InitDone => {
                let listing = state.listing.take().unwrap_or_default();
                state.removed.clear();
                let gone: Vec<Key> = state
                    .objects
                    .keys()
                    .filter(|key| !listing.contains_key(key))
                    .cloned()
                    .collect();
                for key in gone {
                    self.take(&mut state, &key);
                }
                for (key, object) in listing {
                    state.seen = state.seen.max(version(object.as_ref()));
                    let before = state.objects.insert(key, object.clone());
                    self.tell(before.as_deref(), Some(&object));
                }
                self.complete.send_replace(true);
            }
            watcher::Event::Apply(object) => {
                let (key, version) = (Key::of(&object), version(&object));
                state.seen = state.seen.max(version);
                let known = state.objects.get(&key).map(|known| self::version(known.as_ref()));
                let removed = uid(&object).is_some_and(|uid| state.removed.contains(uid));
                if !removed && known.is_none_or(|known| version > known) {
                    self.put(&mut state, key, object);
                }
            }
            watcher::Event::Delete(object) => {
                let key = Key::of(&object);
                state.seen = state.seen.max(version(&object));
                if let Some(uid) = uid(&object) {
                    state.removed.remove(uid);
                }
                if state.objects.get(&key).is_some_and(|known| uid(known.as_ref()) == uid(&object))
                {
                    self.take(&mut state, &key);
                }
            }
        }
    }

    fn put(&self, state: &mut State<K>, key: Key, mut object: K) {
        slim(&mut object);
        let object = Arc::new(object);
        let before = state.objects.insert(key, object.clone());
        self.tell(before.as_deref(), Some(&object));
    }

    fn take(&self, state: &mut State<K>, key: &Key) {
        if let Some(before) = state.objects.remove(key) {
            self.tell(Some(&before), None);
        }
    }

    fn tell(&self, before: Option<&K>, after: Option<&K>) {
        for listener in self.listeners.read().unwrap_or_else(|e| e.into_inner()).iter() {
            listener(before, after);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// No controller reads managed fields, and they are half of a small object.
fn slim<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

fn uid<K: Resource>(object: &K) -> Option<&str> {
    object.meta().uid.as_deref()
}

/// Resource versions are counted per store, so those of one kind can be compared (KEP-5504).
fn version<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
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

    fn names(cache: &Cache<Pod>) -> Vec<String> {
        cache
            .all()
            .iter()
            .map(|pod| format!("{}@{}", Key::of(&**pod).name, version(&**pod)))
            .collect()
    }

    #[test]
    fn own_writes_show_at_once_and_old_news_do_not_undo_them() {
        let cache = Cache::default();
        cache.observe(Event::Init);
        cache.observe(Event::InitApply(pod("a", 1)));
        cache.observe(Event::InitDone);
        cache.wrote(pod("b", 5));
        cache.wrote(pod("a", 6));
        assert_eq!(names(&cache), ["a@6", "b@5"]);
        cache.observe(Event::Apply(pod("a", 4)));
        cache.observe(Event::Apply(pod("b", 5)));
        assert_eq!(names(&cache), ["a@6", "b@5"]);
        cache.observe(Event::Apply(pod("a", 7)));
        assert_eq!(names(&cache), ["a@7", "b@5"]);
    }

    #[test]
    fn an_answer_that_comes_after_the_deletion_brings_nothing_back() {
        let cache = Cache::default();
        cache.observe(Event::Apply(pod("a", 2)));
        cache.observe(Event::Delete(pod("a", 3)));
        cache.wrote(pod("a", 2));
        assert_eq!(names(&cache), [""; 0]);
    }

    #[test]
    fn what_was_removed_stays_so_while_the_watch_lags() {
        let cache = Cache::default();
        cache.observe(Event::Apply(pod("a", 2)));
        cache.removed(&Key::new("shop", "a"), "uid-a");
        cache.observe(Event::Apply(pod("a", 3)));
        assert_eq!(names(&cache), [""; 0]);
        cache.observe(Event::Delete(pod("a", 4)));
        assert!(cache.lock().removed.is_empty());
    }

    #[test]
    fn a_new_list_drops_what_it_lacks_and_tells() {
        let cache = Cache::default();
        let told = Arc::new(Mutex::new(Vec::new()));
        let notes = told.clone();
        cache.on_change(move |before: Option<&Pod>, after: Option<&Pod>| {
            notes.lock().unwrap().push((before.map(version), after.map(version)));
        });
        cache.observe(Event::Apply(pod("a", 2)));
        cache.observe(Event::Init);
        cache.observe(Event::InitApply(pod("b", 3)));
        cache.observe(Event::InitDone);
        assert_eq!(names(&cache), ["b@3"]);
        let told = told.lock().unwrap();
        assert_eq!(*told, [(None, Some(2)), (Some(2), None), (None, Some(3))]);
    }

    #[test]
    fn namespaces_are_kept_apart() {
        let cache = Cache::default();
        for (namespace, name) in [("a", "z"), ("ab", "x"), ("b", "y")] {
            let mut pod = pod(name, 1);
            pod.metadata.namespace = Some(namespace.into());
            cache.observe(Event::Apply(pod));
        }
        assert_eq!(cache.in_namespace("a").len(), 1);
        assert_eq!(cache.in_namespace("c").len(), 0);
    }
}

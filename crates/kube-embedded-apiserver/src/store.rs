//! Objects by key, one revision counter and the history that watchers read. Knows no Kubernetes:
//! a resource is a name, an object a JSON value, and who writes decides what a revision looks like
//! inside it.
//!
//! Writers never wait for watchers. A watcher remembers a revision and reads the shared history
//! from there; one that falls further behind than the history reaches is told so.

use bytes::Bytes;
use serde_json::Value;
use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    hash::{Hash, Hasher},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, OnceLock},
};
use tokio::sync::watch;

/// Events kept for each resource; older ones are forgotten.
const HISTORY: usize = 2048;

/// The name of a resource, in two parts (group and plural). Cheap to clone.
#[derive(Clone)]
pub struct Resource(Name);

#[derive(Clone)]
enum Name {
    Fixed(&'static str, &'static str),
    Shared(Arc<(String, String)>),
}

impl Resource {
    /// A resource whose name is known to the program.
    pub const fn fixed(group: &'static str, plural: &'static str) -> Self {
        Self(Name::Fixed(group, plural))
    }

    /// A resource that somebody named at run time.
    pub fn named(group: &str, plural: &str) -> Self {
        Self(Name::Shared(Arc::new((group.to_owned(), plural.to_owned()))))
    }

    /// Group and plural.
    pub fn parts(&self) -> (&str, &str) {
        match &self.0 {
            Name::Fixed(group, plural) => (group, plural),
            Name::Shared(name) => (&name.0, &name.1),
        }
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts().fmt(f)
    }
}

impl PartialEq for Resource {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for Resource {}

impl PartialOrd for Resource {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Resource {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts().cmp(&other.parts())
    }
}

impl Hash for Resource {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

/// Where an object lives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The resource that the object is one of.
    pub resource: Resource,
    /// Empty for objects without a namespace.
    pub namespace: String,
    /// Unique within resource and namespace.
    pub name: String,
}

/// One state of an object.
#[derive(Debug)]
pub struct Object {
    /// Where it lives.
    pub key: Key,
    /// The write that made it.
    pub revision: u64,
    /// What was written.
    pub value: Value,
    encoded: OnceLock<Bytes>,
}

impl Object {
    /// The object as bytes: encoded once, whoever asks.
    pub fn encoded(&self, encode: impl FnOnce(&Value) -> Bytes) -> &Bytes {
        self.encoded.get_or_init(|| encode(&self.value))
    }
}

/// What happened to an object.
#[derive(Debug)]
pub struct Event {
    /// When.
    pub revision: u64,
    /// The state before, if there was one.
    pub before: Option<Arc<Object>>,
    /// The state after; of a removed object its last state, with the revision of the removal.
    pub object: Arc<Object>,
    /// Whether the object was removed.
    pub removed: bool,
}

/// Why a write did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// There is an object under the key already.
    #[error("the key is taken")]
    Exists,
    /// There is no object under the key.
    #[error("there is no such key")]
    Missing,
    /// The object has another revision than the writer saw.
    #[error("the object has changed")]
    Changed,
}

/// The history no longer reaches back to the revision asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("revision {asked} is too old; the history starts at {oldest}")]
pub struct Compacted {
    /// The revision asked for.
    pub asked: u64,
    /// The oldest revision that a watch may start from.
    pub oldest: u64,
}

/// A part of a resource's objects, in the order of their keys.
#[derive(Debug)]
pub struct Page {
    /// The objects.
    pub objects: Vec<Arc<Object>>,
    /// The revision of the store when they were read.
    pub revision: u64,
}

/// The objects of a cluster. A clone is another handle to the same objects.
#[derive(Clone, Debug, Default)]
pub struct Store {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    revision: u64,
    tables: HashMap<Resource, Table>,
}

#[derive(Debug)]
struct Table {
    objects: BTreeMap<(String, String), Arc<Object>>,
    history: VecDeque<Arc<Event>>,
    /// Revision of the newest event that was forgotten.
    compacted_revision: u64,
    notify: watch::Sender<u64>,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            compacted_revision: 0,
            notify: watch::Sender::new(0),
        }
    }
}

impl Store {
    /// The revision of the newest write.
    pub fn revision(&self) -> u64 {
        self.lock().revision
    }

    /// One object.
    pub fn get(&self, key: &Key) -> Option<Arc<Object>> {
        let inner = self.lock();
        let table = inner.tables.get(&key.resource)?;
        table.objects.get(&(key.namespace.clone(), key.name.clone())).cloned()
    }

    /// The objects of a resource, of all namespaces if `namespace` is `None`, that come after
    /// `after` (namespace and name).
    pub fn list(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        after: Option<(String, String)>,
    ) -> Page {
        let inner = self.lock();
        let start = match (after, namespace) {
            (Some(after), _) => Bound::Excluded(after),
            (None, Some(namespace)) => Bound::Included((namespace.to_owned(), String::new())),
            (None, None) => Bound::Unbounded,
        };
        let objects = inner.tables.get(&resource).map_or_else(Vec::new, |table| {
            table
                .objects
                .range((start, Bound::Unbounded))
                .take_while(|((of, _), _)| namespace.is_none_or(|namespace| namespace == of))
                .map(|(_, object)| object.clone())
                .collect()
        });
        Page { objects, revision: inner.revision }
    }

    /// [`Store::list`] as it was at an earlier revision, as far as the history reaches back.
    pub fn list_at(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        after: Option<&(String, String)>,
        revision: u64,
    ) -> Result<Page, Compacted> {
        let inner = self.lock();
        let Some(table) = inner.tables.get(&resource) else {
            return Ok(Page { objects: Vec::new(), revision });
        };
        table.check_compaction(revision)?;
        let start = match (after, namespace) {
            (Some(after), _) => Bound::Excluded(after.clone()),
            (None, Some(namespace)) => Bound::Included((namespace.to_owned(), String::new())),
            (None, None) => Bound::Unbounded,
        };
        let listed = |at: &(String, String)| {
            namespace.is_none_or(|namespace| namespace == at.0)
                && after.is_none_or(|after| at > after)
        };
        let since = table.history.partition_point(|event| event.revision <= revision);
        let mut then = BTreeMap::new();
        // From the newest back, so that the oldest change has the last word.
        for event in table.history.range(since..).rev() {
            let key = &event.object.key;
            let at = (key.namespace.clone(), key.name.clone());
            if listed(&at) {
                then.insert(at, event.before.clone());
            }
        }
        let now = table.objects.range((start, Bound::Unbounded));
        let unchanged = now
            .take_while(|(at, _)| namespace.is_none_or(|namespace| namespace == at.0))
            .filter(|(at, _)| !then.contains_key(at));
        let changed = then.iter().filter_map(|(at, object)| Some((at, object.as_ref()?)));
        let objects = merge(unchanged, changed).cloned().collect();
        Ok(Page { objects, revision })
    }

    /// Puts an object where there is none. `make` gets the revision of the write.
    pub fn create(
        &self,
        key: Key,
        make: impl FnOnce(u64) -> Value,
    ) -> Result<Arc<Object>, WriteError> {
        let mut inner = self.lock();
        let revision = inner.revision + 1;
        let table = inner.tables.entry(key.resource.clone()).or_default();
        let at = (key.namespace.clone(), key.name.clone());
        if table.objects.contains_key(&at) {
            return Err(WriteError::Exists);
        }
        let object = new_object(key, revision, make(revision));
        table.objects.insert(at, object.clone());
        table.append_event(Event {
            revision,
            before: None,
            object: object.clone(),
            removed: false,
        });
        inner.revision = revision;
        Ok(object)
    }

    /// Puts another state in the place of the one that has the revision `seen`.
    pub fn replace(
        &self,
        key: &Key,
        seen: u64,
        make: impl FnOnce(u64) -> Value,
    ) -> Result<Arc<Object>, WriteError> {
        let mut inner = self.lock();
        let revision = inner.revision + 1;
        let table = inner.tables.get_mut(&key.resource).ok_or(WriteError::Missing)?;
        let place = table
            .objects
            .get_mut(&(key.namespace.clone(), key.name.clone()))
            .ok_or(WriteError::Missing)?;
        if place.revision != seen {
            return Err(WriteError::Changed);
        }
        let object = new_object(key.clone(), revision, make(revision));
        let before = std::mem::replace(place, object.clone());
        table.append_event(Event {
            revision,
            before: Some(before),
            object: object.clone(),
            removed: false,
        });
        inner.revision = revision;
        Ok(object)
    }

    /// Removes the object that has the revision `seen`; watchers get what `make` makes of the
    /// revision of the removal.
    pub fn remove(
        &self,
        key: &Key,
        seen: u64,
        make: impl FnOnce(u64) -> Value,
    ) -> Result<Arc<Object>, WriteError> {
        let mut inner = self.lock();
        let revision = inner.revision + 1;
        let table = inner.tables.get_mut(&key.resource).ok_or(WriteError::Missing)?;
        let at = (key.namespace.clone(), key.name.clone());
        let before = table.objects.get(&at).cloned().ok_or(WriteError::Missing)?;
        if before.revision != seen {
            return Err(WriteError::Changed);
        }
        table.objects.remove(&at);
        let object = new_object(key.clone(), revision, make(revision));
        table.append_event(Event {
            revision,
            before: Some(before),
            object: object.clone(),
            removed: true,
        });
        inner.revision = revision;
        Ok(object)
    }

    /// Follows a resource from the events after `revision` on.
    pub fn watch(&self, resource: Resource, revision: u64) -> Result<Watch, Compacted> {
        let mut inner = self.lock();
        let table = inner.tables.entry(resource.clone()).or_default();
        table.check_compaction(revision)?;
        let notify = table.notify.subscribe();
        Ok(Watch { store: self.clone(), resource, seen: revision, notify })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic under the lock could only come from `make`, before anything was changed.
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Table {
    fn append_event(&mut self, event: Event) {
        let revision = event.revision;
        if self.history.len() == HISTORY
            && let Some(oldest) = self.history.pop_front()
        {
            self.compacted_revision = oldest.revision;
        }
        self.history.push_back(Arc::new(event));
        self.notify.send_replace(revision);
    }

    fn check_compaction(&self, revision: u64) -> Result<(), Compacted> {
        if revision < self.compacted_revision {
            return Err(Compacted { asked: revision, oldest: self.compacted_revision });
        }
        Ok(())
    }
}

/// A place in a resource's history.
#[derive(Debug)]
pub struct Watch {
    store: Store,
    resource: Resource,
    seen: u64,
    notify: watch::Receiver<u64>,
}

impl Watch {
    /// Waits until there is something new. Cancelling loses nothing.
    pub async fn changed(&mut self) {
        let seen = self.seen;
        // The sender lives in the store, which this watch keeps.
        let _ = self.notify.wait_for(|newest| *newest > seen).await;
    }

    /// The events since the last call, at most `most`, and the revision up to which nothing is
    /// missing now.
    pub fn take(&mut self, most: usize) -> Result<(Vec<Arc<Event>>, u64), Compacted> {
        let inner = self.store.lock();
        let Some(table) = inner.tables.get(&self.resource) else {
            return Ok((Vec::new(), inner.revision));
        };
        table.check_compaction(self.seen)?;
        let first = table.history.partition_point(|event| event.revision <= self.seen);
        let events: Vec<_> = table.history.range(first..).take(most).cloned().collect();
        let whole = first + events.len() == table.history.len();
        self.seen = match events.last() {
            // A watch that starts in the future (a revision of another server) stays there.
            _ if whole => self.seen.max(inner.revision),
            Some(last) => last.revision,
            None => self.seen,
        };
        Ok((events, self.seen))
    }
}

/// Two sequences in order as one.
fn merge<'a, K: Ord + 'a, V: 'a>(
    one: impl Iterator<Item = (&'a K, &'a V)>,
    other: impl Iterator<Item = (&'a K, &'a V)>,
) -> impl Iterator<Item = &'a V> {
    let (mut one, mut other) = (one.peekable(), other.peekable());
    std::iter::from_fn(move || {
        let first = match (one.peek(), other.peek()) {
            (Some((a, _)), Some((b, _))) => a <= b,
            (a, _) => a.is_some(),
        };
        let next = if first { one.next() } else { other.next() };
        next.map(|(_, value)| value)
    })
}

fn new_object(key: Key, revision: u64, value: Value) -> Arc<Object> {
    Arc::new(Object { key, revision, value, encoded: OnceLock::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const THINGS: Resource = Resource::fixed("", "things");

    fn key(name: &str) -> Key {
        Key { resource: THINGS, namespace: "n".into(), name: name.into() }
    }

    #[test]
    fn writes_compare_and_swap() {
        let store = Store::default();
        let first = store.create(key("a"), |revision| json!({ "r": revision })).unwrap();
        assert_eq!((first.revision, &first.value), (1, &json!({ "r": 1 })));
        assert_eq!(store.create(key("a"), |_| json!(0)).unwrap_err(), WriteError::Exists);
        assert_eq!(store.replace(&key("b"), 1, |_| json!(0)).unwrap_err(), WriteError::Missing);
        assert_eq!(store.replace(&key("a"), 7, |_| json!(0)).unwrap_err(), WriteError::Changed);
        assert_eq!(store.revision(), 1, "a write that fails counts nothing up");
        assert_eq!(store.replace(&key("a"), 1, |_| json!(0)).unwrap().revision, 2);
        assert_eq!(store.remove(&key("a"), 1, |_| json!(0)).unwrap_err(), WriteError::Changed);
        assert_eq!(store.remove(&key("a"), 2, |_| json!(0)).unwrap().revision, 3);
        assert!(store.get(&key("a")).is_none());
    }

    #[test]
    fn lists_keep_to_their_namespace_and_continue_after_a_key() {
        let store = Store::default();
        for (namespace, name) in [("a", "1"), ("a", "2"), ("ab", "1"), ("b", "1")] {
            let key = Key { resource: THINGS, namespace: namespace.into(), name: name.into() };
            store.create(key, |_| json!(null)).unwrap();
        }
        let names = |namespace, after: Option<(&str, &str)>| -> Vec<String> {
            let after = after.map(|(a, b)| (a.to_owned(), b.to_owned()));
            let page = store.list(THINGS, namespace, after);
            page.objects.iter().map(|o| format!("{}/{}", o.key.namespace, o.key.name)).collect()
        };
        assert_eq!(names(None, None), ["a/1", "a/2", "ab/1", "b/1"]);
        assert_eq!(names(Some("a"), None), ["a/1", "a/2"]);
        assert_eq!(names(Some("a"), Some(("a", "1"))), ["a/2"]);
        assert_eq!(names(None, Some(("a", "2"))), ["ab/1", "b/1"]);
        assert!(store.list(Resource::fixed("", "others"), None, None).objects.is_empty());
    }

    #[test]
    fn lists_go_back_to_a_revision() {
        let store = Store::default();
        let of = |namespace: &str, name: &str| Key {
            resource: THINGS,
            namespace: namespace.into(),
            name: name.into(),
        };
        for (namespace, name) in [("a", "1"), ("a", "3"), ("b", "1")] {
            store.create(of(namespace, name), |_| json!("old")).unwrap();
        }
        let revision = store.revision();
        store.replace(&of("a", "1"), 1, |_| json!("new")).unwrap();
        store.create(of("a", "2"), |_| json!("new")).unwrap();
        store.remove(&of("a", "3"), 2, |_| json!("gone")).unwrap();
        let again = store.create(of("a", "3"), |_| json!("new")).unwrap();
        store.replace(&of("a", "3"), again.revision, |_| json!("newer")).unwrap();
        store.remove(&of("b", "1"), 3, |_| json!("gone")).unwrap();
        let list = |namespace, after: Option<(&str, &str)>, revision| -> Vec<String> {
            let after = after.map(|(a, b)| (a.to_owned(), b.to_owned()));
            let page = store.list_at(THINGS, namespace, after.as_ref(), revision).unwrap();
            page.objects
                .iter()
                .map(|o| {
                    format!("{}/{} {}", o.key.namespace, o.key.name, o.value.as_str().unwrap())
                })
                .collect()
        };
        assert_eq!(list(None, None, revision), ["a/1 old", "a/3 old", "b/1 old"]);
        assert_eq!(list(Some("a"), Some(("a", "1")), revision), ["a/3 old"]);
        assert_eq!(list(None, Some(("a", "1")), revision), ["a/3 old", "b/1 old"]);
        assert_eq!(list(None, None, 1), ["a/1 old"]);
        let now = store.revision();
        assert_eq!(list(None, None, now), ["a/1 new", "a/2 new", "a/3 newer"]);
        for _ in 0..=HISTORY {
            let seen = store.get(&of("a", "1")).unwrap().revision;
            store.replace(&of("a", "1"), seen, |_| json!("later")).unwrap();
        }
        assert!(store.list_at(THINGS, None, None, revision).is_err());
    }

    #[test]
    fn watches_read_on_where_they_stopped_and_expire() {
        let store = Store::default();
        store.create(key("a"), |_| json!(0)).unwrap();
        let mut watch = store.watch(THINGS, 0).unwrap();
        let (events, seen) = watch.take(9).unwrap();
        assert_eq!((events.len(), seen), (1, 1));
        store.replace(&key("a"), 1, |_| json!(1)).unwrap();
        store.remove(&key("a"), 2, |_| json!(2)).unwrap();
        let (events, seen) = watch.take(1).unwrap();
        assert_eq!((events[0].revision, events[0].removed, seen), (2, false, 2));
        let (events, seen) = watch.take(9).unwrap();
        assert_eq!((events[0].revision, events[0].removed, seen), (3, true, 3));
        assert_eq!(events[0].before.as_ref().unwrap().revision, 2);
        for _ in 0..=HISTORY {
            let made = store.create(key("b"), |_| json!(0)).unwrap();
            store.remove(&key("b"), made.revision, |_| json!(0)).unwrap();
        }
        assert!(watch.take(1).is_err());
        assert!(store.watch(THINGS, 3).is_err());
        assert!(store.watch(THINGS, store.revision()).is_ok());
        assert!(
            store.watch(Resource::fixed("", "others"), 1).is_ok(),
            "other resources forget nothing"
        );
    }

    #[tokio::test]
    async fn waiting_ends_with_a_write() {
        let store = Store::default();
        let mut watch = store.watch(THINGS, 0).unwrap();
        let (_, written) = tokio::join!(watch.changed(), async {
            tokio::task::yield_now().await;
            store.create(key("a"), |_| json!(0))
        });
        assert!(written.is_ok());
        assert_eq!(watch.take(9).unwrap().0.len(), 1);
    }
}

//! The store, in memory: a multi-version key-value store with the operations that kube-apiserver
//! uses of etcd (`k8s.io/apiserver/pkg/storage/etcd3`). There is one revision counter; every write
//! increments it, compares the revision that the writer read, and appends an event to the history
//! of its resource, from which watches and lists at an older revision read.
//!
//! Knows no Kubernetes: a resource is a name, an object a JSON value, and the writer decides how
//! the revision shows in it. Writers never wait for watchers: a watch is a position in the shared
//! history. One that falls behind the compacted revision fails, and the client lists again.

mod compaction;

use bytes::Bytes;
use compaction::Compaction;
use serde_json::Value;
use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    hash::{Hash, Hasher},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, OnceLock},
    time::Instant,
};
use tokio::sync::watch;

/// The number of events kept for each resource; older ones are compacted.
const HISTORY: usize = 2048;

/// The name of a resource, in two parts (group and plural): the prefix of its keys. Cheap to clone.
#[derive(Clone)]
pub struct Resource(Name);

/// Built-in names are constants, so that tables of types need no allocation.
#[derive(Clone)]
enum Name {
    Fixed(&'static str, &'static str),
    Shared(Arc<(String, String)>),
}

impl Resource {
    /// A built-in resource.
    pub const fn fixed(group: &'static str, plural: &'static str) -> Self {
        Self(Name::Fixed(group, plural))
    }

    /// A resource that is defined at run time.
    pub fn named(group: &str, plural: &str) -> Self {
        Self(Name::Shared(Arc::new((group.to_owned(), plural.to_owned()))))
    }

    /// Returns group and plural.
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

/// The key of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The resource of the object.
    pub resource: Resource,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// Unique within resource and namespace.
    pub name: String,
}

/// One version of an object.
#[derive(Debug)]
pub struct Object {
    /// The key.
    pub key: Key,
    /// The revision of the write (etcd's `mod_revision`).
    pub revision: u64,
    /// The value that was written.
    pub value: Value,
    encoded: OnceLock<Bytes>,
}

impl Object {
    /// Returns the encoded object. Encoded on first use and shared by all requests and watches.
    pub fn encoded(&self, encode: impl FnOnce(&Value) -> Bytes) -> &Bytes {
        self.encoded.get_or_init(|| encode(&self.value))
    }
}

/// A change to an object.
#[derive(Debug)]
pub struct Event {
    /// The revision of the change.
    pub revision: u64,
    /// The version before; `None` if the object was created (etcd's `prev_kv`).
    pub before: Option<Arc<Object>>,
    /// The version after; for a removed object its last version, with the revision of the removal.
    pub object: Arc<Object>,
    /// The object was removed.
    pub removed: bool,
}

/// The reason why a write failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// An object with the key exists.
    #[error("key already exists")]
    Exists,
    /// No object has the key.
    #[error("key not found")]
    Missing,
    /// The object has a newer revision than the writer read.
    #[error("revision has changed")]
    Changed,
}

/// The requested revision has been compacted (etcd's `ErrCompacted`; 410 `Expired` to clients).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("revision {asked} has been compacted; the history starts at {oldest}")]
pub struct Compacted {
    /// The requested revision.
    pub asked: u64,
    /// The oldest revision that a watch may start from.
    pub oldest: u64,
}

/// The objects of a list, in the order of their keys.
#[derive(Debug)]
pub struct Page {
    /// The objects.
    pub objects: Vec<Arc<Object>>,
    /// The revision of the store at which they were read.
    pub revision: u64,
}

/// The objects of a cluster. A clone is a handle to the same objects.
#[derive(Clone, Debug, Default)]
pub struct Store {
    inner: Arc<Mutex<Inner>>,
}

/// The state under the lock: one lock for all resources, because they share the revision.
#[derive(Debug, Default)]
struct Inner {
    revision: u64,
    tables: HashMap<Resource, Table>,
    compaction: Compaction,
}

impl Inner {
    /// Returns the revision of the next write.
    fn next_revision(&mut self) -> u64 {
        self.compact();
        self.revision + 1
    }

    /// Returns the oldest revision that lists can be read at.
    fn compact(&mut self) -> u64 {
        self.compaction.oldest(Instant::now(), self.revision)
    }
}

/// Namespace and name.
type ObjectName = (String, String);

/// The objects and the history of one resource.
#[derive(Debug)]
struct Table {
    objects: BTreeMap<ObjectName, Arc<Object>>,
    /// In the order of revisions.
    history: VecDeque<Arc<Event>>,
    /// The revision of the newest event that was compacted.
    compacted_revision: u64,
    /// The revision of the newest event, for watches that wait.
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
    /// Returns the revision of the newest write.
    pub fn revision(&self) -> u64 {
        self.lock().revision
    }

    /// Returns an object.
    pub fn get(&self, key: &Key) -> Option<Arc<Object>> {
        let inner = self.lock();
        let table = inner.tables.get(&key.resource)?;
        table.objects.get(&object_name(key)).cloned()
    }

    /// Lists the objects of a resource in a namespace (in all if `None`), those that follow `after`
    /// (namespace and name), which is how a list continues page by page.
    pub fn list(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        after: Option<(String, String)>,
    ) -> Page {
        let inner = self.lock();
        let objects = inner.tables.get(&resource).map_or_else(Vec::new, |table| {
            table.range(namespace, after.as_ref()).map(|(_, object)| object.clone()).collect()
        });
        Page { objects, revision: inner.revision }
    }

    /// Lists as of an older revision, which the pages of a list share.
    ///
    /// # Errors
    /// If the revision has been compacted.
    pub fn list_at(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        after: Option<&(String, String)>,
        revision: u64,
    ) -> Result<Page, Compacted> {
        let mut inner = self.lock();
        let oldest = inner.compact();
        if revision < oldest {
            return Err(Compacted { asked: revision, oldest });
        }
        let Some(table) = inner.tables.get(&resource) else {
            return Ok(Page { objects: Vec::new(), revision });
        };
        table.check_compaction(revision)?;
        let is_listed = |name: &ObjectName| {
            namespace.is_none_or(|namespace| namespace == name.0)
                && after.is_none_or(|after| name > after)
        };
        // Undo the events after the revision: an object that changed was then as before its first
        // change. Newest first, so that the oldest event is the last to set it.
        let mut changed = BTreeMap::new();
        for event in table.events_after(revision).rev() {
            let name = object_name(&event.object.key);
            if is_listed(&name) {
                changed.insert(name, event.before.clone());
            }
        }
        let unchanged =
            table.range(namespace, after).filter(|(name, _)| !changed.contains_key(name));
        let restored = changed.iter().filter_map(|(name, object)| Some((name, object.as_ref()?)));
        let objects = merge(unchanged, restored).cloned().collect();
        Ok(Page { objects, revision })
    }

    /// Creates an object. `make` gets the revision of the write.
    ///
    /// # Errors
    /// If the key exists.
    pub fn create(
        &self,
        key: Key,
        make: impl FnOnce(u64) -> Value,
    ) -> Result<Arc<Object>, WriteError> {
        let mut inner = self.lock();
        let revision = inner.next_revision();
        let table = inner.tables.entry(key.resource.clone()).or_default();
        let name = object_name(&key);
        if table.objects.contains_key(&name) {
            return Err(WriteError::Exists);
        }
        let object = new_object(key, revision, make(revision));
        table.objects.insert(name, object.clone());
        table.append_event(Event {
            revision,
            before: None,
            object: object.clone(),
            removed: false,
        });
        inner.revision = revision;
        Ok(object)
    }

    /// Replaces an object if it still has the revision `seen`: the compare-and-swap that every
    /// update is (an etcd transaction that compares `mod_revision`).
    ///
    /// # Errors
    /// If the key is missing or the object has another revision.
    pub fn replace(
        &self,
        key: &Key,
        seen: u64,
        make: impl FnOnce(u64) -> Value,
    ) -> Result<Arc<Object>, WriteError> {
        let mut inner = self.lock();
        let revision = inner.next_revision();
        let table = inner.tables.get_mut(&key.resource).ok_or(WriteError::Missing)?;
        let current = table.objects.get_mut(&object_name(key)).ok_or(WriteError::Missing)?;
        if current.revision != seen {
            return Err(WriteError::Changed);
        }
        let object = new_object(key.clone(), revision, make(revision));
        let before = std::mem::replace(current, object.clone());
        table.append_event(Event {
            revision,
            before: Some(before),
            object: object.clone(),
            removed: false,
        });
        inner.revision = revision;
        Ok(object)
    }

    /// Removes an object if it still has the revision `seen`. Watches get the value that `make`
    /// makes of the revision of the removal.
    ///
    /// # Errors
    /// If the key is missing or the object has another revision.
    pub fn remove(
        &self,
        key: &Key,
        seen: u64,
        make: impl FnOnce(u64) -> Value,
    ) -> Result<Arc<Object>, WriteError> {
        let mut inner = self.lock();
        let revision = inner.next_revision();
        let table = inner.tables.get_mut(&key.resource).ok_or(WriteError::Missing)?;
        let name = object_name(key);
        let before = table.objects.get(&name).cloned().ok_or(WriteError::Missing)?;
        if before.revision != seen {
            return Err(WriteError::Changed);
        }
        table.objects.remove(&name);
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

    /// Watches a resource from the events after `revision` on.
    ///
    /// # Errors
    /// If the revision has been compacted.
    pub fn watch(&self, resource: Resource, revision: u64) -> Result<Watch, Compacted> {
        let mut inner = self.lock();
        let table = inner.tables.entry(resource.clone()).or_default();
        table.check_compaction(revision)?;
        let notify = table.notify.subscribe();
        Ok(Watch { store: self.clone(), resource, seen: revision, notify })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Only `make` could panic under the lock, and it runs before anything is changed.
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Table {
    /// Iterates over the objects of a namespace (of all if `None`) that follow a name.
    fn range<'a>(
        &'a self,
        namespace: Option<&'a str>,
        after: Option<&ObjectName>,
    ) -> impl Iterator<Item = (&'a ObjectName, &'a Arc<Object>)> + use<'a> {
        let start = match (after, namespace) {
            (Some(after), _) => Bound::Excluded(after.clone()),
            (None, Some(namespace)) => Bound::Included((namespace.to_owned(), String::new())),
            (None, None) => Bound::Unbounded,
        };
        self.objects
            .range((start, Bound::Unbounded))
            .take_while(move |(name, _)| namespace.is_none_or(|namespace| namespace == name.0))
    }

    /// Iterates over the events after a revision.
    fn events_after(&self, revision: u64) -> impl DoubleEndedIterator<Item = &Arc<Event>> {
        let first = self.history.partition_point(|event| event.revision <= revision);
        self.history.range(first..)
    }

    /// Appends an event, compacts the oldest if the history is full, and wakes the watches.
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

    /// Returns an error if events after the revision have been compacted.
    fn check_compaction(&self, revision: u64) -> Result<(), Compacted> {
        if revision < self.compacted_revision {
            return Err(Compacted { asked: revision, oldest: self.compacted_revision });
        }
        Ok(())
    }
}

/// A position in the history of a resource.
#[derive(Debug)]
pub struct Watch {
    store: Store,
    resource: Resource,
    seen: u64,
    notify: watch::Receiver<u64>,
}

impl Watch {
    /// Waits for events. Cancel-safe: no event is lost.
    pub async fn changed(&mut self) {
        let seen = self.seen;
        // Cannot fail: the sender is in the store, of which this watch has a handle.
        let _ = self.notify.wait_for(|newest| *newest > seen).await;
    }

    /// Returns true if there are no events since the last call of [`Watch::take`]. Takes no lock of the store.
    pub fn is_current(&self) -> bool {
        *self.notify.borrow() <= self.seen
    }

    /// Returns the events since the last call, at most `limit`, and the revision up to which the
    /// watch is now complete (that of a bookmark).
    ///
    /// # Errors
    /// If events that were not taken have been compacted.
    pub fn take(&mut self, limit: usize) -> Result<(Vec<Arc<Event>>, u64), Compacted> {
        let inner = self.store.lock();
        let Some(table) = inner.tables.get(&self.resource) else {
            return Ok((Vec::new(), inner.revision));
        };
        table.check_compaction(self.seen)?;
        let mut pending = table.events_after(self.seen);
        let events: Vec<_> = pending.by_ref().take(limit).cloned().collect();
        let is_complete = pending.next().is_none();
        self.seen = match events.last() {
            // A watch from a future revision (one of another server) stays there.
            _ if is_complete => self.seen.max(inner.revision),
            Some(last) => last.revision,
            None => self.seen,
        };
        Ok((events, self.seen))
    }
}

/// Merges two ordered sequences.
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

/// The key within a table.
fn object_name(key: &Key) -> ObjectName {
    (key.namespace.clone(), key.name.clone())
}

fn new_object(key: Key, revision: u64, value: Value) -> Arc<Object> {
    Arc::new(Object { key, revision, value, encoded: OnceLock::new() })
}

#[cfg(test)]
mod tests;

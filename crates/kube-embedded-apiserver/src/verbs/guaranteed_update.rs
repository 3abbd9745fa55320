//! The one optimistic loop behind every write (`GuaranteedUpdate` of apiserver's storage interface).

use crate::{
    http::status::ApiResult,
    store::{Key, Object, Store, WriteError},
};
use serde_json::Value;
use std::sync::{Arc, MutexGuard};

/// The change that an attempt decided on.
pub(crate) enum Change<'g, K> {
    /// Nothing is stored: the write changes nothing, or is a dry run.
    Keep(K),
    /// Stores an object where there is none. The guard is held until it is stored.
    Create(Value, Option<MutexGuard<'g, ()>>),
    /// Replaces the stored object.
    Replace(Value, Option<MutexGuard<'g, ()>>),
    /// Removes the stored object; watchers see this as its last state.
    Remove(Value),
}

/// The result of a write.
pub(crate) enum Outcome<K> {
    Kept(K),
    Stored(Arc<Object>),
    Removed(Arc<Object>),
}

/// Reads the object, lets `attempt` decide on a change, and commits it. Starts again if another writer was faster,
/// so `attempt` always decides on the current state.
pub(crate) fn guaranteed_update<'g, K>(
    store: &Store,
    key: &Key,
    mut attempt: impl FnMut(Option<&Arc<Object>>) -> ApiResult<Change<'g, K>>,
) -> ApiResult<Outcome<K>> {
    loop {
        let stored = store.get(key);
        // No object has the revision `MAX`: changing an object that does not exist is a conflict.
        let seen = stored.as_ref().map_or(u64::MAX, |stored| stored.revision);
        let committed: Result<_, WriteError> = match attempt(stored.as_ref())? {
            Change::Keep(kept) => return Ok(Outcome::Kept(kept)),
            Change::Create(new, _guard) => {
                store.create(key.clone(), |revision| with_revision(new, revision))
            }
            Change::Replace(new, _guard) => {
                store.replace(key, seen, |revision| with_revision(new, revision))
            }
            Change::Remove(last) => {
                let removed = store.remove(key, seen, |revision| with_revision(last, revision));
                if let Ok(object) = removed {
                    return Ok(Outcome::Removed(object));
                }
                removed
            }
        };
        if let Ok(object) = committed {
            return Ok(Outcome::Stored(object));
        }
    }
}

/// Sets the resource version of an object that is stored.
pub(crate) fn with_revision(mut object: Value, revision: u64) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.insert("resourceVersion".into(), revision.to_string().into());
    }
    object
}

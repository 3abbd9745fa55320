//! A hash map whose copies share what neither of them changes. A route table is replaced as a whole, so
//! that a request sees one of them, but of a thousand routes mostly one changes: only the buckets on the
//! way to it are copied. Persistent maps of other crates hash a key as a whole; here one pass over a path
//! hashes all of its prefixes, which a request looks up.

use std::{
    fmt::{self, Debug, Formatter},
    hash::{BuildHasher, Hasher, RandomState},
    mem,
    sync::{Arc, LazyLock},
};

/// Seeded at random, so that no author of routes can choose keys that share a bucket.
static STATE: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Entries a bucket, on average, at which the number of buckets is doubled.
const LOAD: usize = 4;

/// A map from texts. Values are copied when they are changed in one of several copies of the map.
#[derive(Clone)]
pub(crate) struct SharedMap<V> {
    /// None while the map is empty, else a power of two.
    buckets: Vec<Arc<Vec<Slot<V>>>>,
    len: usize,
}

#[derive(Clone)]
struct Slot<V> {
    hash: u64,
    key: Box<str>,
    value: Arc<V>,
}

impl<V> Default for SharedMap<V> {
    fn default() -> Self {
        Self { buckets: Vec::new(), len: 0 }
    }
}

impl<V: Debug> Debug for SharedMap<V> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// A prefix of a path, with its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix<'a> {
    pub(crate) text: &'a str,
    hash: u64,
}

/// Returns the empty prefix, those that end before a later slash, and the whole text, the shortest first.
/// All of them are hashed in one pass.
pub(crate) fn prefixes(text: &str) -> impl Iterator<Item = Prefix<'_>> {
    let mut hasher = STATE.build_hasher();
    let before_slashes = text.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0);
    let whole = (!text.is_empty()).then_some(text.len());
    let mut from = 0;
    [0].into_iter().chain(before_slashes).chain(whole).map(move |end| {
        hasher.write(&text.as_bytes()[from..end]);
        from = end;
        Prefix { text: &text[..end], hash: hasher.finish() }
    })
}

impl<'a> Prefix<'a> {
    /// Returns the whole text. What is written at once may have another hash than its parts.
    fn whole(text: &'a str) -> Self {
        if text.bytes().skip(1).any(|byte| byte == b'/')
            && let Some(whole) = prefixes(text).last()
        {
            return whole;
        }
        let mut hasher = STATE.build_hasher();
        hasher.write(text.as_bytes());
        Self { text, hash: hasher.finish() }
    }
}

impl<V> SharedMap<V> {
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn get(&self, key: &str) -> Option<&V> {
        // Most maps of most tables are empty.
        (!self.is_empty()).then(|| self.get_prefix(Prefix::whole(key)))?
    }

    pub(crate) fn get_prefix(&self, key: Prefix<'_>) -> Option<&V> {
        let bucket = self.buckets.get(self.bucket_of(key.hash)?)?;
        let slot = bucket.iter().find(|slot| slot.is(key))?;
        Some(&slot.value)
    }

    fn bucket_of(&self, hash: u64) -> Option<usize> {
        // The lower half of a hash is as good as all of it.
        (hash as usize).checked_rem(self.buckets.len())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &V)> {
        let slots = self.buckets.iter().flat_map(|bucket| bucket.iter());
        slots.map(|slot| (&*slot.key, &*slot.value))
    }
}

impl<V: Clone + Default> SharedMap<V> {
    /// Returns the value of a key for a change; there is one from now on.
    pub(crate) fn entry(&mut self, key: &str) -> &mut V {
        let prefix = Prefix::whole(key);
        if self.get_prefix(prefix).is_none() {
            if self.len >= self.buckets.len() * LOAD {
                self.grow();
            }
            let slot = Slot { hash: prefix.hash, key: key.into(), value: Arc::default() };
            let bucket = self.bucket_of(prefix.hash).unwrap_or_default();
            Arc::make_mut(&mut self.buckets[bucket]).push(slot);
            self.len += 1;
        }
        let bucket = self.bucket_of(prefix.hash).unwrap_or_default();
        let bucket = Arc::make_mut(&mut self.buckets[bucket]);
        let at = bucket.iter().position(|slot| slot.is(prefix)).unwrap_or_default();
        Arc::make_mut(&mut bucket[at].value)
    }

    pub(crate) fn remove(&mut self, key: &str) {
        let prefix = Prefix::whole(key);
        let Some(bucket) = self.bucket_of(prefix.hash) else { return };
        if self.get_prefix(prefix).is_some() {
            Arc::make_mut(&mut self.buckets[bucket]).retain(|slot| !slot.is(prefix));
            self.len -= 1;
        }
        if self.is_empty() {
            self.buckets = Vec::new();
        }
    }

    fn grow(&mut self) {
        let old = mem::take(&mut self.buckets);
        let mut buckets = vec![Vec::new(); (old.len() * 2).max(1)];
        let slots = old.into_iter().flat_map(Arc::unwrap_or_clone);
        let count = buckets.len();
        slots.for_each(|slot| buckets[slot.hash as usize % count].push(slot));
        self.buckets = buckets.into_iter().map(Arc::new).collect();
    }
}

impl<V> Slot<V> {
    fn is(&self, key: Prefix<'_>) -> bool {
        self.hash == key.hash && *self.key == *key.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Copies are compared at the end: none may have changed since it was made.
        #[test]
        fn every_copy_stays_as_it_was(
            changes in proptest::collection::vec((0_u8..40, any::<Option<u8>>(), any::<bool>()), 0..200)
        ) {
            let (mut map, mut model) = (SharedMap::default(), BTreeMap::new());
            let mut copies = Vec::new();
            for (key, value, copy) in changes {
                let key = format!("/{}/{key}", key % 3);
                match value {
                    Some(value) => {
                        *map.entry(&key) = value;
                        model.insert(key, value);
                    }
                    None => {
                        map.remove(&key);
                        model.remove(&key);
                    }
                }
                if copy {
                    copies.push((map.clone(), model.clone()));
                }
            }
            copies.push((map, model));
            for (map, model) in copies {
                let found: BTreeMap<_, _> = map.iter().map(|(k, v)| (k.to_owned(), *v)).collect();
                prop_assert_eq!(&found, &model);
                prop_assert_eq!(map.is_empty(), model.is_empty());
                for key in (0..40).map(|key| format!("/{}/{key}", key % 3)) {
                    prop_assert_eq!(map.get(&key), model.get(&key));
                }
            }
        }

        #[test]
        fn prefix_has_the_hash_of_the_same_text(text in "(/[ab]{0,2}){0,6}") {
            for prefix in prefixes(&text) {
                prop_assert_eq!(Prefix::whole(prefix.text), prefix);
            }
        }
    }

    #[test]
    fn prefixes_end_before_slashes() {
        for (text, expected) in [
            ("", vec![""]),
            ("/", vec!["", "/"]),
            ("/a/b", vec!["", "/a", "/a/b"]),
            ("/a//b/", vec!["", "/a", "/a/", "/a//b", "/a//b/"]),
            ("*", vec!["", "*"]),
        ] {
            let found: Vec<_> = prefixes(text).map(|prefix| prefix.text).collect();
            assert_eq!(found, expected, "{text:?}");
        }
    }
}

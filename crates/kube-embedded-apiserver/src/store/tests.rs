//! Compare-and-swap, lists, watches and compaction.

use super::*;
use proptest::prelude::*;
use serde_json::json;

const THINGS: Resource = Resource::fixed("", "things");

fn key(name: &str) -> Key {
    Key { resource: THINGS, namespace: "n".into(), name: name.into() }
}

#[test]
fn write_with_stale_revision_fails_and_consumes_no_revision() {
    let store = Store::default();
    let first = store.create(key("a"), |revision| json!({ "r": revision })).unwrap();
    assert_eq!((first.revision, &first.value), (1, &json!({ "r": 1 })));
    assert_eq!(store.create(key("a"), |_| json!(0)).unwrap_err(), WriteError::Exists);
    assert_eq!(store.replace(&key("b"), 1, |_| json!(0)).unwrap_err(), WriteError::Missing);
    assert_eq!(store.replace(&key("a"), 7, |_| json!(0)).unwrap_err(), WriteError::Changed);
    assert_eq!(store.revision(), 1, "a failed write consumes no revision");
    assert_eq!(store.replace(&key("a"), 1, |_| json!(0)).unwrap().revision, 2);
    assert_eq!(store.remove(&key("a"), 1, |_| json!(0)).unwrap_err(), WriteError::Changed);
    assert_eq!(store.remove(&key("a"), 2, |_| json!(0)).unwrap().revision, 3);
    assert!(store.get(&key("a")).is_none());
}

#[test]
fn list_is_limited_to_its_namespace_and_continues_after_a_key() {
    let store = Store::default();
    for (namespace, name) in [("a", "1"), ("a", "2"), ("ab", "1"), ("b", "1")] {
        let key = Key { resource: THINGS, namespace: namespace.into(), name: name.into() };
        store.create(key, |_| json!(null)).unwrap();
    }
    let names = |namespace, after: Option<(&str, &str)>| -> Vec<String> {
        let after = after.map(|(a, b)| (a.to_owned(), format!("{b}\0")));
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
fn list_at_revision_restores_later_changes() {
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
        let after = after.map(|(a, b)| (a.to_owned(), format!("{b}\0")));
        let page = store.list_at(THINGS, namespace, after.as_ref(), revision).unwrap();
        page.objects
            .iter()
            .map(|o| format!("{}/{} {}", o.key.namespace, o.key.name, o.value.as_str().unwrap()))
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
fn watch_resumes_at_its_revision_and_fails_when_compacted() {
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
        let created = store.create(key("b"), |_| json!(0)).unwrap();
        store.remove(&key("b"), created.revision, |_| json!(0)).unwrap();
    }
    assert!(watch.take(1).is_err());
    assert!(store.watch(THINGS, 3).is_err());
    assert!(store.watch(THINGS, store.revision()).is_ok());
    assert!(
        store.watch(Resource::fixed("", "others"), 1).is_ok(),
        "each resource has a history of its own"
    );
}

#[tokio::test]
async fn write_wakes_waiting_watch() {
    let store = Store::default();
    let mut watch = store.watch(THINGS, 0).unwrap();
    let (_, written) = tokio::join!(watch.changed(), async {
        tokio::task::yield_now().await;
        store.create(key("a"), |_| json!(0))
    });
    assert!(written.is_ok());
    assert_eq!(watch.take(9).unwrap().0.len(), 1);
}

/// A write to one of six keys: 0 removes, other values are stored.
fn writes() -> impl Strategy<Value = Vec<(bool, u8, u8)>> {
    prop::collection::vec((any::<bool>(), 0..3u8, 0..4u8), 0..40)
}

fn write(store: &Store, (other_namespace, name, value): (bool, u8, u8)) {
    let namespace = if other_namespace { "b" } else { "a" };
    let key = Key { resource: THINGS, namespace: namespace.into(), name: name.to_string() };
    match store.get(&key) {
        None if value == 0 => {}
        None => drop(store.create(key, |_| value.into()).unwrap()),
        Some(old) if value == 0 => {
            drop(store.remove(&key, old.revision, |_| value.into()).unwrap());
        }
        Some(old) => drop(store.replace(&key, old.revision, |_| value.into()).unwrap()),
    }
}

fn contents<'a>(objects: impl IntoIterator<Item = &'a Arc<Object>>) -> Vec<(Key, u64, Value)> {
    let objects = objects.into_iter();
    objects.map(|o| (o.key.clone(), o.revision, o.value.clone())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn list_at_revision_equals_replay_of_events(writes in writes()) {
        let store = Store::default();
        let mut lists = vec![(0, Vec::new())];
        for one in writes {
            write(&store, one);
            let page = store.list(THINGS, None, None);
            lists.push((page.revision, contents(&page.objects)));
        }
        for (revision, list) in lists {
            let page = store.list_at(THINGS, None, None, revision).unwrap();
            prop_assert_eq!(contents(&page.objects), list.clone());

            let mut replayed = BTreeMap::new();
            let (events, _) = store.watch(THINGS, 0).unwrap().take(usize::MAX).unwrap();
            for event in events.iter().filter(|event| event.revision <= revision) {
                match event.removed {
                    true => replayed.remove(&event.object.key),
                    false => replayed.insert(event.object.key.clone(), event.object.clone()),
                };
            }
            prop_assert_eq!(contents(replayed.values()), list);
        }
    }

    #[test]
    fn pages_at_a_revision_make_up_the_whole_list(
        writes in writes(),
        later in writes(),
        namespace in prop::option::of(Just("a")),
    ) {
        let store = Store::default();
        writes.into_iter().for_each(|one| write(&store, one));
        let whole = store.list(THINGS, namespace, None);
        later.into_iter().for_each(|one| write(&store, one));
        let (mut paged, mut after) = (Vec::new(), None);
        loop {
            let page = store.list_at(THINGS, namespace, after.as_ref(), whole.revision).unwrap();
            let Some(first) = page.objects.first() else { break };
            let (namespace, name) = object_name(&first.key);
            after = Some((namespace, format!("{name}\0")));
            paged.push(first.clone());
        }
        prop_assert_eq!(contents(&paged), contents(&whole.objects));
    }
}

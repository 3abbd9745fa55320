//! Changes of the graph.

use super::*;

pub(crate) fn node(
    name: &str,
    owners: &[(&str, bool)],
    finalizers: &[&str],
    terminating: bool,
) -> Node {
    Node {
        kind: Arc::new(ResourceKind { api_version: "v1".into(), kind: "Thing".into() }),
        key: ObjectKey::new("shop", name),
        uid: name.into(),
        resource_version: None,
        owners: owners
            .iter()
            .map(|(uid, block)| OwnerReference {
                kind: "Thing".into(),
                name: (*uid).into(),
                uid: (*uid).into(),
                block_owner_deletion: Some(*block),
                ..Default::default()
            })
            .collect(),
        finalizers: finalizers.iter().map(|f| (*f).to_owned()).collect(),
        terminating,
    }
}

#[test]
fn changes_return_objects_to_collect() {
    let mut graph = Graph::default();
    let owner = node("owner", &[], &[], false);
    let child = node("child", &[("owner", true)], &[], false);
    assert_eq!(graph.insert(owner.clone()), [""; 0]);
    assert_eq!(graph.insert(child.clone()), ["child"]);
    assert_eq!(graph.insert(child.clone()), [""; 0]);
    assert_eq!(graph.unknown_owners(&child), []);
    assert_eq!(graph.remove("owner"), ["child"]);
    assert_eq!(graph.unknown_owners(&child).len(), 1);
    graph.insert(node("owner", &[], &["foregroundDeletion"], true));
    assert_eq!(graph.remove("child"), ["owner"]);
    assert!(graph.dependents.is_empty());
}

#[test]
fn removed_resource_returns_its_dependents_to_collect() {
    let mut graph = Graph::default();
    let count = MAX_DELETED + 2;
    for n in 0..count {
        let mut owner = node(&format!("owner{n}"), &[], &[], false);
        owner.kind =
            Arc::new(ResourceKind { api_version: "shop.example/v1".into(), kind: "Thing".into() });
        graph.insert(owner);
        graph.insert(node(&format!("child{n}"), &[(&format!("owner{n}"), true)], &[], false));
    }
    assert!(graph.remove_all("other.example", "Thing").0.is_empty());
    let (affected, namespaces) = graph.remove_all("shop.example", "Thing");
    assert_eq!(affected.len(), count);
    assert_eq!(namespaces, BTreeSet::from(["shop".to_owned()]));
    // None is forgotten as long as an object names it.
    assert!((0..count).all(|n| graph.was_deleted(&format!("owner{n}"))));
    (0..count).for_each(|n| drop(graph.remove(&format!("child{n}"))));
    assert!(graph.deleted_owners.is_empty() && graph.nodes.is_empty());
}

#[test]
fn owner_in_other_namespace_does_not_count() {
    let mut graph = Graph::default();
    let mut owner = node("owner", &[], &[], false);
    owner.key.namespace = "elsewhere".into();
    graph.insert(owner);
    let child = node("child", &[("owner", true)], &[], false);
    assert_eq!(graph.unknown_owners(&child).len(), 1);
}

//! Who owns whom, kept up to date by every watch, and what follows from it for one object.

use super::super::cache::Key;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// What is known of one object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item {
    /// `apps/v1` and `Deployment`.
    pub(crate) kind: Arc<(String, String)>,
    pub(crate) key: Key,
    pub(crate) uid: String,
    pub(crate) version: Option<String>,
    pub(crate) owners: Vec<OwnerReference>,
    pub(crate) finalizers: Vec<String>,
    pub(crate) leaving: bool,
}

impl Item {
    pub(crate) fn new(kind: Arc<(String, String)>, meta: &ObjectMeta) -> Self {
        Self {
            kind,
            key: Key::new(
                meta.namespace.as_deref().unwrap_or_default(),
                meta.name.as_deref().unwrap_or_default(),
            ),
            uid: meta.uid.clone().unwrap_or_default(),
            version: meta.resource_version.clone(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
            leaving: meta.deletion_timestamp.is_some(),
        }
    }

    fn has(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|known| known == finalizer)
    }

    /// Whether it goes only after those that depend on it.
    fn waits(&self) -> bool {
        self.leaving && self.has(FOREGROUND)
    }
}

/// All objects and their owners, by uid.
#[derive(Default)]
pub(crate) struct Graph {
    items: HashMap<String, Item>,
    dependents: BTreeMap<String, BTreeSet<String>>,
    /// The last that went: whoever names one of them as owner need not ask, and of a custom
    /// resource that is served no longer nobody could.
    gone: HashSet<String>,
    in_order: VecDeque<String>,
    /// Those of them that had dependents, as long as they have.
    missed: HashSet<String>,
}

/// How many of those that went are remembered.
const REMEMBERED: usize = 4096;

impl Graph {
    pub(crate) fn get(&self, uid: &str) -> Option<&Item> {
        self.items.get(uid)
    }

    /// Takes in an object as it is now. The uids that have to be looked at.
    pub(crate) fn put(&mut self, item: Item) -> Vec<String> {
        let uid = item.uid.clone();
        let mut look = Vec::new();
        if let Some(before) = self.items.get(&uid) {
            if before.owners == item.owners
                && before.finalizers == item.finalizers
                && before.leaving == item.leaving
            {
                // Its version is all that is new.
                self.items.insert(uid, item);
                return look;
            }
            // An owner may have waited for what is leaving or has let go.
            look.extend(before.owners.iter().map(|owner| owner.uid.clone()));
            self.unlink(&uid);
        }
        for owner in &item.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
            if self.items.get(&owner.uid).is_some_and(|owner| owner.leaving) {
                look.push(owner.uid.clone());
            }
        }
        if !item.owners.is_empty() || item.leaving {
            look.push(uid.clone());
        }
        self.items.insert(uid, item);
        look
    }

    /// Forgets an object. The uids that have to be looked at.
    pub(crate) fn remove(&mut self, uid: &str) -> Vec<String> {
        self.unlink(uid);
        let Some(item) = self.items.remove(uid) else { return Vec::new() };
        if self.dependents.contains_key(uid) {
            self.missed.insert(uid.to_owned());
        }
        if self.gone.insert(uid.to_owned()) {
            self.in_order.push_back(uid.to_owned());
        }
        while self.in_order.len() > REMEMBERED
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.gone.remove(&oldest);
        }
        let dependents = self.dependents.get(uid).into_iter().flatten().cloned();
        dependents.chain(item.owners.into_iter().map(|owner| owner.uid)).collect()
    }

    /// Whether an object was seen to go. Uids are never used again.
    pub(crate) fn is_gone(&self, uid: &str) -> bool {
        self.gone.contains(uid) || self.missed.contains(uid)
    }

    /// Forgets all objects of a kind that is no more. The uids that have to be looked at, and the
    /// namespaces that have lost something.
    pub(crate) fn remove_kind(
        &mut self,
        group: &str,
        kind: &str,
    ) -> (BTreeSet<String>, BTreeSet<String>) {
        let is_one = |item: &&Item| item.kind.1 == kind && super::group(&item.kind.0) == group;
        let items: Vec<Item> = self.items.values().filter(is_one).cloned().collect();
        let look = items.iter().flat_map(|item| self.remove(&item.uid)).collect();
        (look, items.into_iter().map(|item| item.key.namespace).collect())
    }

    fn unlink(&mut self, uid: &str) {
        let Some(item) = self.items.get(uid) else { return };
        for owner in &item.owners {
            if let Some(siblings) = self.dependents.get_mut(&owner.uid) {
                siblings.remove(uid);
                if siblings.is_empty() {
                    self.dependents.remove(&owner.uid);
                    self.missed.remove(&owner.uid);
                }
            }
        }
    }

    fn dependents(&self, uid: &str) -> impl Iterator<Item = &Item> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|uid| self.items.get(uid))
    }

    /// The owners of an object that the graph does not hold: the API must say whether they exist.
    pub(crate) fn unknown_owners(&self, item: &Item) -> Vec<OwnerReference> {
        let known = |owner: &&OwnerReference| {
            self.items.get(&owner.uid).is_none_or(|known| !is_named(known, item, owner))
        };
        item.owners.iter().filter(known).cloned().collect()
    }
}

/// Whether an object is the one that a reference names; owners live beside their dependents or in no
/// namespace.
fn is_named(owner: &Item, item: &Item, reference: &OwnerReference) -> bool {
    owner.key.name == reference.name
        && owner.kind.1 == reference.kind
        && (owner.key.namespace.is_empty() || owner.key.namespace == item.key.namespace)
}

/// How an object is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Background,
    Foreground,
    Orphan,
}

/// What to do about one object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    Delete(Item, Policy),
    /// Write an object's owners anew.
    Owners(Item, Vec<OwnerReference>),
    /// Write an object's finalizers anew.
    Finalizers(Item, Vec<String>),
}

/// Plans what follows for an object. `gone` are the uids of owners that the API says do not exist.
pub(crate) fn plan(graph: &Graph, item: &Item, gone: &BTreeSet<String>) -> Vec<Action> {
    if item.leaving && item.has(ORPHAN) {
        let mut actions: Vec<Action> = graph
            .dependents(&item.uid)
            .map(|dependent| {
                let owners = dependent.owners.iter().filter(|owner| owner.uid != item.uid);
                Action::Owners(dependent.clone(), owners.cloned().collect())
            })
            .collect();
        actions.push(without(item, ORPHAN));
        return actions;
    }
    if item.waits() {
        let blocking = graph.dependents(&item.uid).any(|dependent| {
            let mut owners = dependent.owners.iter();
            owners.any(|o| o.uid == item.uid && o.block_owner_deletion == Some(true))
        });
        let mut actions: Vec<Action> = graph
            .dependents(&item.uid)
            .filter(|dependent| !dependent.leaving)
            .flat_map(|dependent| plan(graph, dependent, &BTreeSet::new()))
            .collect();
        if !blocking {
            actions.push(without(item, FOREGROUND));
        }
        return actions;
    }
    if item.leaving || item.owners.is_empty() {
        return Vec::new();
    }
    let waits = |owner: &OwnerReference| {
        owner.block_owner_deletion == Some(true) && graph.get(&owner.uid).is_some_and(Item::waits)
    };
    let (solid, others): (Vec<&OwnerReference>, Vec<&OwnerReference>) =
        item.owners.iter().partition(|owner| !gone.contains(&owner.uid) && !waits(owner));
    if !solid.is_empty() {
        // One good owner keeps it; the references to the others are of no use any more.
        let owners = solid.into_iter().cloned().collect();
        return if others.is_empty() { vec![] } else { vec![Action::Owners(item.clone(), owners)] };
    }
    let has_dependents = graph.dependents(&item.uid).next().is_some();
    let policy = if others.iter().any(|owner| waits(owner)) && has_dependents {
        Policy::Foreground
    } else if item.has(ORPHAN) {
        Policy::Orphan
    } else if item.has(FOREGROUND) {
        Policy::Foreground
    } else {
        Policy::Background
    };
    vec![Action::Delete(item.clone(), policy)]
}

fn without(item: &Item, finalizer: &str) -> Action {
    let left = item.finalizers.iter().filter(|known| *known != finalizer).cloned().collect();
    Action::Finalizers(item.clone(), left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &str, owners: &[(&str, bool)], finalizers: &[&str], leaving: bool) -> Item {
        Item {
            kind: Arc::new(("v1".into(), "Thing".into())),
            key: Key::new("shop", name),
            uid: name.into(),
            version: None,
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
            leaving,
        }
    }

    fn graph(items: &[Item]) -> Graph {
        let mut graph = Graph::default();
        for item in items {
            graph.put(item.clone());
        }
        graph
    }

    /// The plan in short: what happens to whom.
    fn planned(items: &[Item], uid: &str, gone: &[&str]) -> Vec<String> {
        let graph = graph(items);
        let gone = gone.iter().map(|uid| (*uid).to_owned()).collect();
        let item = items.iter().find(|item| item.uid == uid).unwrap();
        let show = |action| match action {
            Action::Delete(item, policy) => format!("delete {} {policy:?}", item.uid),
            Action::Owners(item, owners) => {
                let owners: Vec<&str> = owners.iter().map(|owner| &*owner.uid).collect();
                format!("owners {} [{}]", item.uid, owners.join(" "))
            }
            Action::Finalizers(item, left) => {
                format!("finalizers {} [{}]", item.uid, left.join(" "))
            }
        };
        plan(&graph, item, &gone).into_iter().map(show).collect()
    }

    #[test]
    fn what_has_no_owner_left_goes() {
        let child = item("child", &[("a", true), ("b", true)], &[], false);
        let a = item("a", &[], &[], false);
        let cases: [(&[&str], &[&str]); 3] = [
            (&[], &[]),
            (&["b"], &["owners child [a]"]),
            (&["a", "b"], &["delete child Background"]),
        ];
        for (gone, expected) in cases {
            assert_eq!(planned(&[a.clone(), child.clone()], "child", gone), expected, "{gone:?}");
        }
    }

    #[test]
    fn foreground_deletes_dependents_first_and_only_blocking_ones_hold_it_up() {
        let owner = item("owner", &[], &["foregroundDeletion", "other"], true);
        let free = item("free", &[("owner", false)], &[], false);
        let blocking = item("blocking", &[("owner", true)], &[], false);
        let leaf = item("leaf", &[("blocking", true)], &[], false);
        let going = item("blocking", &[("owner", true)], &[], true);
        let all = [owner.clone(), free.clone(), blocking, leaf];
        assert_eq!(planned(&all, "owner", &[]), ["delete blocking Foreground"]);
        assert_eq!(planned(&all, "blocking", &[]), ["delete blocking Foreground"]);
        assert_eq!(planned(&[owner.clone(), going], "owner", &[]), [""; 0]);
        assert_eq!(planned(&[owner, free], "owner", &[]), ["finalizers owner [other]"]);
    }

    #[test]
    fn orphans_lose_their_owner_before_it_goes() {
        let owner = item("owner", &[], &["orphan"], true);
        let child = item("child", &[("owner", true), ("b", false)], &[], false);
        assert_eq!(
            planned(&[owner, child], "owner", &[]),
            ["owners child [b]", "finalizers owner []"]
        );
    }

    #[test]
    fn changes_name_whom_to_look_at() {
        let mut graph = Graph::default();
        let owner = item("owner", &[], &[], false);
        let child = item("child", &[("owner", true)], &[], false);
        assert_eq!(graph.put(owner.clone()), [""; 0]);
        assert_eq!(graph.put(child.clone()), ["child"]);
        assert_eq!(graph.put(child.clone()), [""; 0]);
        assert_eq!(graph.unknown_owners(&child), []);
        assert_eq!(graph.remove("owner"), ["child"]);
        assert_eq!(graph.unknown_owners(&child).len(), 1);
        graph.put(item("owner", &[], &["foregroundDeletion"], true));
        assert_eq!(graph.remove("child"), ["owner"]);
        assert!(graph.dependents.is_empty());
    }

    #[test]
    fn a_kind_that_is_no_more_leaves_its_dependents_to_be_looked_at() {
        let mut graph = Graph::default();
        let count = REMEMBERED + 2;
        for n in 0..count {
            let mut owner = item(&format!("owner{n}"), &[], &[], false);
            owner.kind = Arc::new(("shop.example/v1".into(), "Thing".into()));
            graph.put(owner);
            graph.put(item(&format!("child{n}"), &[(&format!("owner{n}"), true)], &[], false));
        }
        assert!(graph.remove_kind("other.example", "Thing").0.is_empty());
        let (look, namespaces) = graph.remove_kind("shop.example", "Thing");
        assert_eq!(look.len(), count);
        assert_eq!(namespaces, BTreeSet::from(["shop".to_owned()]));
        // None is forgotten as long as somebody names it.
        assert!((0..count).all(|n| graph.is_gone(&format!("owner{n}"))));
        (0..count).for_each(|n| drop(graph.remove(&format!("child{n}"))));
        assert!(graph.missed.is_empty() && graph.items.is_empty());
    }

    #[test]
    fn an_owner_of_another_namespace_is_none() {
        let mut graph = Graph::default();
        let mut owner = item("owner", &[], &[], false);
        owner.key.namespace = "elsewhere".into();
        graph.put(owner);
        let child = item("child", &[("owner", true)], &[], false);
        assert_eq!(graph.unknown_owners(&child).len(), 1);
    }
}

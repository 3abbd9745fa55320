//! The graph of all objects and their owners, which event handlers keep up to date.

use crate::discovery::group;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube_embedded_core::informer::ObjectKey;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
};

/// The finalizer that keeps an object until its dependents are deleted.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer that keeps an object until its dependents are orphaned.
pub(crate) const ORPHAN: &str = "orphan";
/// The number of deleted uids to remember.
const MAX_DELETED: usize = 4096;

/// The resource of an object, such as `apps/v1` and `Deployment`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ResourceKind {
    pub(crate) api_version: String,
    pub(crate) kind: String,
}

/// One object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) kind: Arc<ResourceKind>,
    pub(crate) key: ObjectKey,
    pub(crate) uid: String,
    pub(crate) resource_version: Option<String>,
    pub(crate) owners: Vec<OwnerReference>,
    pub(crate) finalizers: Vec<String>,
    pub(crate) terminating: bool,
}

impl Node {
    pub(crate) fn new(kind: Arc<ResourceKind>, meta: &ObjectMeta) -> Self {
        Self {
            kind,
            key: ObjectKey::new(
                meta.namespace.as_deref().unwrap_or_default(),
                meta.name.as_deref().unwrap_or_default(),
            ),
            uid: meta.uid.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
            terminating: meta.deletion_timestamp.is_some(),
        }
    }

    pub(crate) fn has(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|known| known == finalizer)
    }

    /// Returns `true` if the object is kept until its dependents are deleted.
    pub(crate) fn waits_for_dependents(&self) -> bool {
        self.terminating && self.has(FOREGROUND)
    }
}

/// All objects and their owners, by uid.
#[derive(Default)]
pub(crate) struct Graph {
    nodes: HashMap<String, Node>,
    /// Uids of dependents by the uid of their owner.
    dependents: BTreeMap<String, BTreeSet<String>>,
    /// The uids deleted last. Dependents need not ask the API server for these owners, and could not
    /// where the resource is not served any more.
    deleted: HashSet<String>,
    /// The elements of `deleted`, oldest first.
    deletion_order: VecDeque<String>,
    /// Deleted uids that objects still name as owner; never forgotten before these objects.
    deleted_owners: HashSet<String>,
}

impl Graph {
    pub(crate) fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// Inserts or replaces an object. Returns the uids of objects to collect.
    pub(crate) fn insert(&mut self, node: Node) -> Vec<String> {
        let uid = node.uid.clone();
        let mut affected = Vec::new();
        if let Some(before) = self.nodes.get(&uid) {
            if before.owners == node.owners
                && before.finalizers == node.finalizers
                && before.terminating == node.terminating
            {
                // Only its version has changed.
                self.nodes.insert(uid, node);
                return affected;
            }
            // An owner may wait for a dependent that is terminating or released now.
            affected.extend(before.owners.iter().map(|owner| owner.uid.clone()));
            self.unlink(&uid);
        }
        for owner in &node.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
            if self.nodes.get(&owner.uid).is_some_and(|owner| owner.terminating) {
                affected.push(owner.uid.clone());
            }
        }
        if !node.owners.is_empty() || node.terminating {
            affected.push(uid.clone());
        }
        self.nodes.insert(uid, node);
        affected
    }

    /// Removes an object. Returns the uids of objects to collect.
    pub(crate) fn remove(&mut self, uid: &str) -> Vec<String> {
        self.unlink(uid);
        let Some(node) = self.nodes.remove(uid) else { return Vec::new() };
        if self.dependents.contains_key(uid) {
            self.deleted_owners.insert(uid.to_owned());
        }
        if self.deleted.insert(uid.to_owned()) {
            self.deletion_order.push_back(uid.to_owned());
        }
        while self.deletion_order.len() > MAX_DELETED
            && let Some(oldest) = self.deletion_order.pop_front()
        {
            self.deleted.remove(&oldest);
        }
        let dependents = self.dependents.get(uid).into_iter().flatten().cloned();
        dependents.chain(node.owners.into_iter().map(|owner| owner.uid)).collect()
    }

    /// Returns `true` if the object is known to have been deleted. Uids are never reused.
    pub(crate) fn was_deleted(&self, uid: &str) -> bool {
        self.deleted.contains(uid) || self.deleted_owners.contains(uid)
    }

    /// Removes all objects of a resource. Returns the uids of objects to collect, and the namespaces
    /// that objects were removed from.
    pub(crate) fn remove_all(
        &mut self,
        group: &str,
        kind: &str,
    ) -> (BTreeSet<String>, BTreeSet<String>) {
        let is_member =
            |node: &&Node| node.kind.kind == kind && self::group(&node.kind.api_version) == group;
        let nodes: Vec<Node> = self.nodes.values().filter(is_member).cloned().collect();
        let affected = nodes.iter().flat_map(|node| self.remove(&node.uid)).collect();
        (affected, nodes.into_iter().map(|node| node.key.namespace).collect())
    }

    /// Removes an object from the dependents of its owners.
    fn unlink(&mut self, uid: &str) {
        let Some(node) = self.nodes.get(uid) else { return };
        for owner in &node.owners {
            if let Some(siblings) = self.dependents.get_mut(&owner.uid) {
                siblings.remove(uid);
                if siblings.is_empty() {
                    self.dependents.remove(&owner.uid);
                    self.deleted_owners.remove(&owner.uid);
                }
            }
        }
    }

    /// Returns the objects that name this uid as owner.
    pub(crate) fn dependents(&self, uid: &str) -> impl Iterator<Item = &Node> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|uid| self.nodes.get(uid))
    }

    /// Returns the owners of an object that are not in the graph: they may exist nevertheless.
    pub(crate) fn unknown_owners(&self, node: &Node) -> Vec<OwnerReference> {
        let is_unknown = |owner: &&OwnerReference| {
            self.nodes.get(&owner.uid).is_none_or(|known| !is_reference_to(owner, known, node))
        };
        node.owners.iter().filter(is_unknown).cloned().collect()
    }
}

/// Returns `true` if the reference of `node` names `owner`, which is cluster-scoped or in the same
/// namespace.
fn is_reference_to(reference: &OwnerReference, owner: &Node, node: &Node) -> bool {
    owner.key.name == reference.name
        && owner.kind.kind == reference.kind
        && (owner.key.namespace.is_empty() || owner.key.namespace == node.key.namespace)
}

#[cfg(test)]
pub(super) mod tests;

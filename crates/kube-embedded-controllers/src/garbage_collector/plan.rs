//! Plans what the garbage collector does about one object.

use super::graph::{FOREGROUND, Graph, Node, ORPHAN};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::PropagationPolicy;
use std::collections::BTreeSet;

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    Delete(Node, PropagationPolicy),
    /// Replaces the owner references.
    SetOwners(Node, Vec<OwnerReference>),
    /// Replaces the finalizers.
    SetFinalizers(Node, Vec<String>),
}

/// Plans the writes for an object. `absent` are the uids of owners that do not exist.
pub(crate) fn plan(graph: &Graph, node: &Node, absent: &BTreeSet<String>) -> Vec<Action> {
    if node.terminating && node.has(ORPHAN) {
        return orphan_dependents(graph, node);
    }
    if node.waits_for_dependents() {
        return delete_dependents(graph, node);
    }
    if node.terminating || node.owners.is_empty() {
        return Vec::new();
    }
    let waits = |owner: &OwnerReference| {
        owner.block_owner_deletion == Some(true)
            && graph.get(&owner.uid).is_some_and(Node::waits_for_dependents)
    };
    let (solid, others): (Vec<&OwnerReference>, Vec<&OwnerReference>) =
        node.owners.iter().partition(|owner| !absent.contains(&owner.uid) && !waits(owner));
    if !solid.is_empty() {
        // One solid owner keeps the object; the dangling references are removed.
        let owners = solid.into_iter().cloned().collect();
        return match others.is_empty() {
            true => Vec::new(),
            false => vec![Action::SetOwners(node.clone(), owners)],
        };
    }
    let is_awaited = others.iter().any(|owner| waits(owner));
    if is_awaited && graph.dependents(&node.uid).next().is_some() {
        return delete_in_foreground(graph, node);
    }
    let policy = if node.has(ORPHAN) {
        PropagationPolicy::Orphan
    } else if node.has(FOREGROUND) {
        PropagationPolicy::Foreground
    } else {
        PropagationPolicy::Background
    };
    vec![Action::Delete(node.clone(), policy)]
}

/// Deletes a dependent after its own dependents. Where one of these is deleted in the foreground already, the owners
/// may form a circle, in which each would wait for the next: the object then blocks none of its owners.
fn delete_in_foreground(graph: &Graph, node: &Node) -> Vec<Action> {
    let is_in_circle = graph.dependents(&node.uid).any(Node::waits_for_dependents);
    if !is_in_circle {
        return vec![Action::Delete(node.clone(), PropagationPolicy::Foreground)];
    }
    let mut unblocked = node.clone();
    for owner in &mut unblocked.owners {
        owner.block_owner_deletion = owner.block_owner_deletion.map(|_| false);
    }
    vec![
        Action::SetOwners(node.clone(), unblocked.owners.clone()),
        Action::Delete(unblocked, PropagationPolicy::Foreground),
    ]
}

/// Removes an owner from its dependents, and then its finalizer.
fn orphan_dependents(graph: &Graph, owner: &Node) -> Vec<Action> {
    let mut actions: Vec<Action> = graph
        .dependents(&owner.uid)
        .map(|dependent| {
            let owners = dependent.owners.iter().filter(|other| other.uid != owner.uid);
            Action::SetOwners(dependent.clone(), owners.cloned().collect())
        })
        .collect();
    actions.push(remove_finalizer(owner, ORPHAN));
    actions
}

/// Deletes the dependents of an owner, and removes its finalizer when none blocks its deletion.
fn delete_dependents(graph: &Graph, owner: &Node) -> Vec<Action> {
    let is_blocking = |dependent: &Node| {
        let mut owners = dependent.owners.iter();
        owners.any(|other| other.uid == owner.uid && other.block_owner_deletion == Some(true))
    };
    let blocked = graph.dependents(&owner.uid).any(is_blocking);
    let mut actions: Vec<Action> = graph
        .dependents(&owner.uid)
        .filter(|dependent| !dependent.terminating)
        .flat_map(|dependent| plan(graph, dependent, &BTreeSet::new()))
        .collect();
    if !blocked {
        actions.push(remove_finalizer(owner, FOREGROUND));
    }
    actions
}

fn remove_finalizer(node: &Node, finalizer: &str) -> Action {
    let others = node.finalizers.iter().filter(|known| *known != finalizer).cloned().collect();
    Action::SetFinalizers(node.clone(), others)
}

#[cfg(test)]
mod tests;

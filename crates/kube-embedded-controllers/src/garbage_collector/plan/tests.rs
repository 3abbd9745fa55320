//! Plans for small graphs.

use super::{super::graph::tests::node, *};

fn graph(nodes: &[Node]) -> Graph {
    let mut graph = Graph::default();
    for node in nodes {
        graph.insert(node.clone());
    }
    graph
}

/// Returns a short form of the plan.
fn planned(nodes: &[Node], uid: &str, absent: &[&str]) -> Vec<String> {
    let graph = graph(nodes);
    let absent = absent.iter().map(|uid| (*uid).to_owned()).collect();
    let node = nodes.iter().find(|node| node.uid == uid).unwrap();
    let show = |action| match action {
        Action::Delete(node, policy) => format!("delete {} {policy:?}", node.uid),
        Action::SetOwners(node, owners) => {
            let owners: Vec<&str> = owners.iter().map(|owner| &*owner.uid).collect();
            format!("owners {} [{}]", node.uid, owners.join(" "))
        }
        Action::SetFinalizers(node, left) => {
            format!("finalizers {} [{}]", node.uid, left.join(" "))
        }
    };
    plan(&graph, node, &absent).into_iter().map(show).collect()
}

#[test]
fn object_without_owners_left_is_deleted() {
    let child = node("child", &[("a", true), ("b", true)], &[], false);
    let a = node("a", &[], &[], false);
    let cases: [(&[&str], &[&str]); 3] =
        [(&[], &[]), (&["b"], &["owners child [a]"]), (&["a", "b"], &["delete child Background"])];
    for (absent, expected) in cases {
        assert_eq!(planned(&[a.clone(), child.clone()], "child", absent), expected, "{absent:?}");
    }
}

#[test]
fn foreground_deletion_waits_for_blocking_dependents_only() {
    let owner = node("owner", &[], &["foregroundDeletion", "other"], true);
    let free = node("free", &[("owner", false)], &[], false);
    let blocking = node("blocking", &[("owner", true)], &[], false);
    let leaf = node("leaf", &[("blocking", true)], &[], false);
    let terminating = node("blocking", &[("owner", true)], &[], true);
    let all = [owner.clone(), free.clone(), blocking, leaf];
    assert_eq!(planned(&all, "owner", &[]), ["delete blocking Foreground"]);
    assert_eq!(planned(&all, "blocking", &[]), ["delete blocking Foreground"]);
    assert_eq!(planned(&[owner.clone(), terminating], "owner", &[]), [""; 0]);
    assert_eq!(planned(&[owner, free], "owner", &[]), ["finalizers owner [other]"]);
}

#[test]
fn foreground_deletion_ends_in_a_circle_of_owners() {
    let first = node("first", &[("last", true)], &["foregroundDeletion"], true);
    let middle = node("middle", &[("first", true)], &["foregroundDeletion"], true);
    let last = node("last", &[("middle", true)], &[], false);
    let circle = [first.clone(), middle.clone(), last];
    assert_eq!(planned(&circle, "first", &[]), [""; 0]);
    assert_eq!(planned(&circle, "middle", &[]), ["owners last [middle]", "delete last Foreground"]);
    let unblocked = node("last", &[("middle", false)], &["foregroundDeletion"], true);
    assert_eq!(
        planned(&[first, middle, unblocked], "middle", &[]),
        ["finalizers middle []"],
        "the last object does not block its owner anymore"
    );
}

#[test]
fn orphan_deletion_removes_owner_from_dependents_first() {
    let owner = node("owner", &[], &["orphan"], true);
    let child = node("child", &[("owner", true), ("b", false)], &[], false);
    assert_eq!(planned(&[owner, child], "owner", &[]), ["owners child [b]", "finalizers owner []"]);
}

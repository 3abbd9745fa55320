//! Strongly connected components.

use std::collections::{BTreeMap, BTreeSet};

/// A file that uses an item of another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Edge {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) item: String,
}

/// Returns the sets of files that reach each other.
pub(crate) fn circles(edges: &[Edge]) -> Vec<BTreeSet<String>> {
    let mut next: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for Edge { from, to, .. } in edges {
        next.entry(from).or_default().insert(to);
    }
    let reach = |start: &str| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![start.to_owned()]);
        while let Some(file) = open.pop() {
            for to in next.get(&*file).into_iter().flatten() {
                if seen.insert((*to).to_owned()) {
                    open.push((*to).to_owned());
                }
            }
        }
        seen
    };
    // Some hundred files: no need for a linear algorithm.
    let reached: BTreeMap<&str, BTreeSet<String>> =
        next.keys().map(|file| (*file, reach(file))).collect();
    let mut circles: Vec<BTreeSet<String>> = Vec::new();
    for (file, reachable) in &reached {
        if !reachable.contains(*file) || circles.iter().any(|circle| circle.contains(*file)) {
            continue;
        }
        let back = |to: &&String| reached.get(&***to).is_some_and(|back| back.contains(*file));
        circles.push(reachable.iter().filter(back).cloned().collect());
    }
    circles
}

#[test]
fn circles_are_strongly_connected_components() {
    let edge =
        |from: &str, to: &str| Edge { from: from.into(), to: to.into(), item: String::new() };
    let edges = [edge("a", "b"), edge("b", "c"), edge("c", "b"), edge("c", "d"), edge("e", "e")];
    let found = circles(&edges);
    let files = |circle: &BTreeSet<String>| circle.iter().cloned().collect::<String>();
    assert_eq!(found.iter().map(files).collect::<Vec<_>>(), ["bc", "e"]);
}

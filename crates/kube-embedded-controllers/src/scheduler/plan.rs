//! Decides on which node a pod runs: of the feasible ones, the one with the fewest similar pods, then
//! the least loaded.

use super::{
    filter::rejections,
    score::{Score, SimilarPods, score},
    topology_spread::TopologySpread,
};
use crate::pod::is_finished;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use std::{collections::BTreeMap, sync::Arc};

/// The decision about one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Bind the pod to this node.
    Bind(String),
    /// No node is feasible, for these reasons.
    Unschedulable(String),
}

/// Decides on a pending pod. `assumed` are the nodes of pods (by uid) whose binding `pods` does not
/// show yet; `services` are those in the pod's namespace.
pub(crate) fn decide(
    pod: &Pod,
    nodes: &[Arc<Node>],
    pods: &[Arc<Pod>],
    assumed: &BTreeMap<String, String>,
    services: &[Arc<Service>],
) -> Decision {
    if nodes.is_empty() {
        return Decision::Unschedulable("no nodes available to schedule pods".into());
    }
    let pods_by_node = pods_by_node(pods, assumed);
    let spread = TopologySpread::new(pod, nodes, &pods_by_node);
    let similar = SimilarPods::of(pod, services);
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut unresolvable = 0;
    let mut best: Option<(Score, String)> = None;
    for node in nodes {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let others = pods_by_node.get(name).map(Vec::as_slice).unwrap_or_default();
        let mut rejections = rejections(pod, node, others);
        if rejections.is_empty() {
            rejections.extend(spread.rejection(node));
        }
        if rejections.is_empty() {
            let score = score(pod, node, others, &similar, &spread);
            if best.as_ref().is_none_or(|(known, _)| score < *known) {
                best = Some((score, name.to_owned()));
            }
            continue;
        }
        unresolvable += usize::from(rejections.iter().any(|rejection| !rejection.resolvable));
        for rejection in rejections {
            *reasons.entry(rejection.reason).or_default() += 1;
        }
    }
    match best {
        Some((_, node)) => Decision::Bind(node),
        None => Decision::Unschedulable(explain(nodes.len(), &reasons, unresolvable)),
    }
}

/// Groups running pods by the node that they are bound or assumed to be bound to.
fn pods_by_node<'a>(
    pods: &'a [Arc<Pod>],
    assumed: &'a BTreeMap<String, String>,
) -> BTreeMap<&'a str, Vec<&'a Pod>> {
    let mut by_node: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| !is_finished(pod)) {
        let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let node = bound
            .filter(|node| !node.is_empty())
            .or_else(|| assumed.get(pod.metadata.uid.as_deref()?).map(String::as_str));
        if let Some(node) = node {
            by_node.entry(node).or_default().push(pod);
        }
    }
    by_node
}

/// Words the reasons as kube-scheduler does.
fn explain(nodes: usize, reasons: &BTreeMap<String, usize>, unresolvable: usize) -> String {
    let mut reasons: Vec<String> =
        reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    reasons.sort();
    let mut evictions = Vec::new();
    if nodes > unresolvable {
        let count = nodes - unresolvable;
        evictions.push(format!("{count} No preemption victims found for incoming pod"));
    }
    if unresolvable > 0 {
        evictions.push(format!("{unresolvable} Preemption is not helpful for scheduling"));
    }
    evictions.sort();
    format!(
        "0/{nodes} nodes are available: {}. preemption: 0/{nodes} nodes are available: {}.",
        reasons.join(", "),
        evictions.join(", ")
    )
}

#[cfg(test)]
mod tests;

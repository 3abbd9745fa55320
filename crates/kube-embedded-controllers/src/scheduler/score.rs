//! Scores nodes that can run a pod.

use super::{
    filter::{self, Resources, add, allocatable, requests},
    topology_spread::TopologySpread,
};
use crate::{
    controller_ref::controller_of,
    selector::{Labels, service_matches},
};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use std::sync::Arc;

/// Lower is better, and earlier elements weigh more: pods of the same owner, skew that a constraint
/// wants to avoid, pods of the same Service, taints and preferences, load in thousandths, number of
/// pods.
pub(crate) type Score = (usize, i64, usize, i64, i128, usize);

/// Scores a feasible node on which `others` run.
pub(crate) fn score(
    pod: &Pod,
    node: &Node,
    others: &[&Pod],
    similar: &SimilarPods<'_>,
    spread: &TopologySpread<'_>,
) -> Score {
    let staying = || others.iter().filter(|other| other.metadata.deletion_timestamp.is_none());
    let siblings = staying().filter(|other| similar.has_same_owner(other)).count();
    let peers = staying().filter(|other| similar.has_same_service(other)).count();
    (siblings, spread.skew(node), peers, aversion(pod, node), load(pod, node, others), others.len())
}

/// Weighs taints with effect PreferNoSchedule against preferred node affinity.
fn aversion(pod: &Pod, node: &Node) -> i64 {
    let affinity =
        pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()?.node_affinity.as_ref());
    let preferences = affinity.and_then(|affinity| {
        affinity.preferred_during_scheduling_ignored_during_execution.as_ref()
    });
    let preferred: i64 = preferences
        .into_iter()
        .flatten()
        .filter(|term| filter::term_matches(&term.preference, node))
        .map(|term| i64::from(term.weight))
        .sum();
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let avoid = taints.filter(|taint| taint.effect == "PreferNoSchedule").count();
    i64::try_from(avoid).unwrap_or(0) * 10 - preferred
}

/// Returns the load of the node with the pod: the shares of CPU and memory, each in thousandths.
fn load(pod: &Pod, node: &Node, others: &[&Pod]) -> i128 {
    let mut used: Resources = requests(pod);
    for other in others {
        add(&mut used, requests(other));
    }
    let allocatable = allocatable(node);
    let share = |name: &str| match allocatable.get(name) {
        Some(all) if *all > 0 => used.get(name).copied().unwrap_or(0) * 1000 / all,
        _ => 0,
    };
    share("cpu") + share("memory")
}

/// Tells which pods are similar to one, and should run on other nodes.
pub(crate) struct SimilarPods<'a> {
    owner: Option<&'a str>,
    namespace: Option<&'a str>,
    selectors: Vec<&'a Labels>,
}

impl<'a> SimilarPods<'a> {
    pub(crate) fn of(pod: &'a Pod, services: &'a [Arc<Service>]) -> Self {
        let labels = pod.metadata.labels.as_ref();
        let selectors = services
            .iter()
            .filter_map(|service| service.spec.as_ref()?.selector.as_ref())
            .filter(|selector| service_matches(Some(selector), labels))
            .collect();
        Self {
            owner: controller_of(&pod.metadata).map(|owner| owner.uid.as_str()),
            namespace: pod.metadata.namespace.as_deref(),
            selectors,
        }
    }

    fn has_same_owner(&self, other: &Pod) -> bool {
        let owner = controller_of(&other.metadata).map(|owner| owner.uid.as_str());
        self.owner.is_some() && owner == self.owner
    }

    fn has_same_service(&self, other: &Pod) -> bool {
        let labels = other.metadata.labels.as_ref();
        other.metadata.namespace.as_deref() == self.namespace
            && self.selectors.iter().any(|selector| service_matches(Some(selector), labels))
    }
}

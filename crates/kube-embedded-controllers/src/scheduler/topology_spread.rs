//! Topology spread constraints.

use super::filter::{self, Rejection};
use crate::selector;
use k8s_openapi::api::core::v1::{Node, Pod, TopologySpreadConstraint};
use std::{collections::BTreeMap, sync::Arc};

/// The topology spread constraints of a pod.
pub(crate) struct TopologySpread<'a> {
    constraints: Vec<Constraint<'a>>,
}

/// One constraint with its domains counted.
struct Constraint<'a> {
    spec: &'a TopologySpreadConstraint,
    /// The number of matching pods in each domain.
    domains: BTreeMap<String, i64>,
    /// The constraint counts the pod itself.
    matches_self: bool,
}

impl<'a> TopologySpread<'a> {
    pub(crate) fn new(
        pod: &'a Pod,
        nodes: &[Arc<Node>],
        pods_by_node: &BTreeMap<&str, Vec<&Pod>>,
    ) -> Self {
        let wanted = pod.spec.iter().flat_map(|s| s.topology_spread_constraints.iter().flatten());
        let constraints = wanted.map(|constraint| {
            let matches = |other: &Pod| {
                let labels = other.metadata.labels.as_ref();
                let same = |key: &String| {
                    let own = pod.metadata.labels.as_ref().and_then(|labels| labels.get(key));
                    own.is_none() || labels.and_then(|labels| labels.get(key)) == own
                };
                other.metadata.namespace == pod.metadata.namespace
                    && other.metadata.deletion_timestamp.is_none()
                    && constraint
                        .label_selector
                        .as_ref()
                        .is_some_and(|s| selector::matches(s, labels))
                    && constraint.match_label_keys.iter().flatten().all(same)
            };
            let mut domains: BTreeMap<String, i64> = BTreeMap::new();
            for node in nodes.iter().filter(|node| filter::affinity_matches(pod, node)) {
                let Some(domain) = domain(node, &constraint.topology_key) else { continue };
                let name = node.metadata.name.as_deref().unwrap_or_default();
                let others = pods_by_node.get(name).map(Vec::as_slice).unwrap_or_default();
                let count = others.iter().filter(|other| matches(other)).count();
                *domains.entry(domain.to_owned()).or_default() += i64::try_from(count).unwrap_or(0);
            }
            let matches_self = matches(pod);
            Constraint { spec: constraint, domains, matches_self }
        });
        Self { constraints: constraints.collect() }
    }

    /// Returns the rejection of a node by a constraint with `DoNotSchedule`.
    pub(crate) fn rejection(&self, node: &Node) -> Option<Rejection> {
        for Constraint { spec: constraint, domains, matches_self } in &self.constraints {
            if constraint.when_unsatisfiable != "DoNotSchedule" {
                continue;
            }
            let Some(count) = domain(node, &constraint.topology_key).and_then(|d| domains.get(d))
            else {
                return Some(Rejection::resolvable(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                ));
            };
            let min_domains = constraint.min_domains.and_then(|min| usize::try_from(min).ok());
            let few = min_domains.is_some_and(|min| domains.len() < min);
            let fewest = if few { 0 } else { domains.values().min().copied().unwrap_or(0) };
            if count + i64::from(*matches_self) - fewest > i64::from(constraint.max_skew) {
                let reason = "node(s) didn't match pod topology spread constraints";
                return Some(Rejection::resolvable(reason));
            }
        }
        None
    }

    /// Returns the number of matching pods in the node's domains.
    pub(crate) fn skew(&self, node: &Node) -> i64 {
        let counts = self.constraints.iter().filter_map(|constraint| {
            constraint.domains.get(domain(node, &constraint.spec.topology_key)?)
        });
        counts.sum()
    }
}

fn domain<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    node.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

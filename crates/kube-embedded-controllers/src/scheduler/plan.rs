//! Which node a pod goes to: of those that may take it, the one with the fewest of its kind, then
//! the emptiest.

use super::super::{
    selection::{Labels, controller, matches, matches_all},
    write::is_finished,
};
use super::fit::{self, Resources, add, allocatable, refusals, requests};
use k8s_openapi::api::core::v1::{Node, Pod, Service, TopologySpreadConstraint};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What to do with a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Bind it to this node.
    Bind(String),
    /// No node takes it, for the reasons told.
    Wait(String),
}

/// Decides on a waiting pod. `promised` are nodes of pods (by uid) whose binding the other
/// arguments do not show yet; `services` are those of the pod's namespace.
pub(crate) fn decide(
    pod: &Pod,
    nodes: &[Arc<Node>],
    pods: &[Arc<Pod>],
    promised: &BTreeMap<String, String>,
    services: &[Arc<Service>],
) -> Decision {
    if nodes.is_empty() {
        return Decision::Wait("no nodes available to schedule pods".into());
    }
    let mut on_node: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
    for other in pods.iter().filter(|other| !is_finished(other)) {
        let bound = other.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let node = bound
            .filter(|node| !node.is_empty())
            .or_else(|| promised.get(other.metadata.uid.as_deref()?).map(String::as_str));
        if let Some(node) = node {
            on_node.entry(node).or_default().push(other);
        }
    }
    let spread = Spread::new(pod, nodes, &on_node);
    let kin = Kin::of(pod, services);
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut hopeless = 0;
    let mut best: Option<(Score, String)> = None;
    for node in nodes {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let others = on_node.get(name).map(Vec::as_slice).unwrap_or_default();
        let mut refused = refusals(pod, node, others);
        if refused.is_empty() {
            refused.extend(spread.refusal(node).map(|reason| (reason, true)));
        }
        if refused.is_empty() {
            let score = score(pod, node, others, &kin, &spread);
            if best.as_ref().is_none_or(|(known, _)| score < *known) {
                best = Some((score, name.to_owned()));
            }
            continue;
        }
        hopeless += usize::from(refused.iter().any(|(_, helps)| !helps));
        for (reason, _) in refused {
            *reasons.entry(reason).or_default() += 1;
        }
    }
    match best {
        Some((_, node)) => Decision::Bind(node),
        None => Decision::Wait(explain(nodes.len(), &reasons, hopeless)),
    }
}

fn explain(nodes: usize, reasons: &BTreeMap<String, usize>, hopeless: usize) -> String {
    let mut reasons: Vec<String> =
        reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    reasons.sort();
    let mut evictions = Vec::new();
    if nodes > hopeless {
        let count = nodes - hopeless;
        evictions.push(format!("{count} No preemption victims found for incoming pod"));
    }
    if hopeless > 0 {
        evictions.push(format!("{hopeless} Preemption is not helpful for scheduling"));
    }
    evictions.sort();
    format!(
        "0/{nodes} nodes are available: {}. preemption: 0/{nodes} nodes are available: {}.",
        reasons.join(", "),
        evictions.join(", ")
    )
}

/// Less is better, what comes first weighs most: pods of the same owner, skew asked to be avoided,
/// pods of the same Service, taints and wishes, load in thousandths, number of pods.
type Score = (usize, i64, usize, i64, i128, usize);

fn score(pod: &Pod, node: &Node, others: &[&Pod], kin: &Kin<'_>, spread: &Spread<'_>) -> Score {
    let staying = || others.iter().filter(|other| other.metadata.deletion_timestamp.is_none());
    let siblings = staying().filter(|other| kin.is_sibling(other)).count();
    let mates = staying().filter(|other| kin.is_mate(other)).count();
    (siblings, spread.skew(node), mates, dislike(pod, node), load(pod, node, others), others.len())
}

/// Preferred node affinity, and taints to be avoided.
fn dislike(pod: &Pod, node: &Node) -> i64 {
    let affinity =
        pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()?.node_affinity.as_ref());
    let wishes = affinity.and_then(|affinity| {
        affinity.preferred_during_scheduling_ignored_during_execution.as_ref()
    });
    let granted: i64 = wishes
        .into_iter()
        .flatten()
        .filter(|wish| fit::term_selects(&wish.preference, node))
        .map(|wish| i64::from(wish.weight))
        .sum();
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let avoid = taints.filter(|taint| taint.effect == "PreferNoSchedule").count();
    i64::try_from(avoid).unwrap_or(0) * 10 - granted
}

/// How full the node would be with the pod, in thousandths, over processors and memory.
fn load(pod: &Pod, node: &Node, others: &[&Pod]) -> i128 {
    let mut used: Resources = requests(pod);
    for other in others {
        add(&mut used, requests(other));
    }
    let has = allocatable(node);
    let share = |name: &str| match has.get(name) {
        Some(has) if *has > 0 => used.get(name).copied().unwrap_or(0) * 1000 / has,
        _ => 0,
    };
    share("cpu") + share("memory")
}

/// Who the pod belongs with.
struct Kin<'a> {
    owner: Option<&'a str>,
    namespace: Option<&'a str>,
    selectors: Vec<&'a Labels>,
}

impl<'a> Kin<'a> {
    fn of(pod: &'a Pod, services: &'a [Arc<Service>]) -> Self {
        let labels = pod.metadata.labels.as_ref();
        let selectors = services
            .iter()
            .filter_map(|service| service.spec.as_ref()?.selector.as_ref())
            .filter(|selector| matches_all(Some(selector), labels))
            .collect();
        Self {
            owner: controller(&pod.metadata).map(|owner| owner.uid.as_str()),
            namespace: pod.metadata.namespace.as_deref(),
            selectors,
        }
    }

    fn is_sibling(&self, other: &Pod) -> bool {
        let owner = controller(&other.metadata).map(|owner| owner.uid.as_str());
        self.owner.is_some() && owner == self.owner
    }

    fn is_mate(&self, other: &Pod) -> bool {
        let labels = other.metadata.labels.as_ref();
        other.metadata.namespace.as_deref() == self.namespace
            && self.selectors.iter().any(|selector| matches_all(Some(selector), labels))
    }
}

/// The pod's topology spread constraints, counted out.
struct Spread<'a> {
    constraints: Vec<(&'a TopologySpreadConstraint, BTreeMap<String, i64>, bool)>,
}

impl<'a> Spread<'a> {
    fn new(pod: &'a Pod, nodes: &[Arc<Node>], on_node: &BTreeMap<&str, Vec<&Pod>>) -> Self {
        let wanted = pod.spec.iter().flat_map(|s| s.topology_spread_constraints.iter().flatten());
        let constraints = wanted.map(|constraint| {
            let takes = |other: &Pod| {
                let labels = other.metadata.labels.as_ref();
                let same = |key: &String| {
                    let own = pod.metadata.labels.as_ref().and_then(|labels| labels.get(key));
                    own.is_none() || labels.and_then(|labels| labels.get(key)) == own
                };
                other.metadata.namespace == pod.metadata.namespace
                    && other.metadata.deletion_timestamp.is_none()
                    && constraint.label_selector.as_ref().is_some_and(|s| matches(s, labels))
                    && constraint.match_label_keys.iter().flatten().all(same)
            };
            let mut domains: BTreeMap<String, i64> = BTreeMap::new();
            for node in nodes.iter().filter(|node| fit::selects(pod, node)) {
                let Some(domain) = domain(node, &constraint.topology_key) else { continue };
                let name = node.metadata.name.as_deref().unwrap_or_default();
                let others = on_node.get(name).map(Vec::as_slice).unwrap_or_default();
                let count = others.iter().filter(|other| takes(other)).count();
                *domains.entry(domain.to_owned()).or_default() += i64::try_from(count).unwrap_or(0);
            }
            let own = takes(pod);
            (constraint, domains, own)
        });
        Self { constraints: constraints.collect() }
    }

    /// Why a constraint that must hold keeps the pod off a node.
    fn refusal(&self, node: &Node) -> Option<String> {
        for (constraint, domains, own) in &self.constraints {
            if constraint.when_unsatisfiable != "DoNotSchedule" {
                continue;
            }
            let Some(count) = domain(node, &constraint.topology_key).and_then(|d| domains.get(d))
            else {
                return Some(
                    "node(s) didn't match pod topology spread constraints (missing required label)"
                        .into(),
                );
            };
            let known = domains.keys().collect::<BTreeSet<_>>().len();
            let few =
                constraint.min_domains.is_some_and(|min| known < usize::try_from(min).unwrap_or(0));
            let fewest = if few { 0 } else { domains.values().min().copied().unwrap_or(0) };
            if count + i64::from(*own) - fewest > i64::from(constraint.max_skew) {
                return Some("node(s) didn't match pod topology spread constraints".into());
            }
        }
        None
    }

    /// How many pods the node's domains have already, over constraints that should hold.
    fn skew(&self, node: &Node) -> i64 {
        let counts = self.constraints.iter().filter_map(|(constraint, domains, _)| {
            domains.get(domain(node, &constraint.topology_key)?)
        });
        counts.sum()
    }
}

fn domain<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    node.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

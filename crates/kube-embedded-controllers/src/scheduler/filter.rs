//! Filters the nodes that can run a pod, and words the rejections as kube-scheduler does.

use crate::taints::tolerates;
use k8s_openapi::{
    api::core::v1::{Container, Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, Taint},
    apimachinery::pkg::api::resource::Quantity,
};
use kube_embedded_core::quantity;
use std::collections::{BTreeMap, BTreeSet};

/// Amounts that pods request or nodes offer, in thousandths by resource name.
pub(crate) type Resources = BTreeMap<String, i128>;

/// A reason why a pod cannot run on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) reason: String,
    /// Evicting other pods would help.
    pub(crate) resolvable: bool,
}

impl Rejection {
    /// Creates a rejection that the eviction of other pods would resolve.
    pub(crate) fn resolvable(reason: &str) -> Self {
        Self { reason: reason.to_owned(), resolvable: true }
    }
}

/// Returns all reasons why `pod` cannot run on `node`, where `others` run already.
pub(crate) fn rejections(pod: &Pod, node: &Node, others: &[&Pod]) -> Vec<Rejection> {
    if let Some(reason) = unresolvable_rejection(pod, node) {
        return vec![Rejection { reason, resolvable: false }];
    }
    let mut rejections = Vec::new();
    let ports = host_ports(pod);
    if others.iter().any(|other| host_ports(other).intersection(&ports).next().is_some()) {
        let reason = "node(s) didn't have free ports for the requested pod ports";
        rejections.push(Rejection::resolvable(reason));
    }
    let allocatable = allocatable(node);
    if let Some(most) = allocatable.get("pods")
        && (others.len() as i128 + 1) * 1000 > *most
    {
        rejections.push(Rejection::resolvable("Too many pods"));
    }
    let mut used = Resources::new();
    for other in others {
        add(&mut used, requests(other));
    }
    for (name, requested) in requests(pod) {
        let offered = allocatable.get(&name).copied().unwrap_or(0);
        if requested > 0 && requested + used.get(&name).copied().unwrap_or(0) > offered {
            // Evictions cannot free more than the whole node.
            let resolvable = requested <= offered;
            rejections.push(Rejection { reason: format!("Insufficient {name}"), resolvable });
        }
    }
    rejections
}

/// Returns the first rejection that no eviction would resolve: cordon, taints, readiness, affinity.
fn unresolvable_rejection(pod: &Pod, node: &Node) -> Option<String> {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref());
    let tolerations = tolerations.unwrap_or_default();
    let cordon = Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        effect: "NoSchedule".into(),
        ..Default::default()
    };
    let spec = node.spec.as_ref();
    if spec.and_then(|spec| spec.unschedulable) == Some(true)
        && !tolerations.iter().any(|t| tolerates(t, &cordon))
    {
        return Some("node(s) were unschedulable".into());
    }
    let taints = spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let untolerated = taints.iter().find(|taint| {
        taint.effect != "PreferNoSchedule" && !tolerations.iter().any(|t| tolerates(t, taint))
    });
    if let Some(taint) = untolerated {
        let value = taint.value.as_deref().unwrap_or_default();
        return Some(format!("node(s) had untolerated taint {{{}: {value}}}", taint.key));
    }
    // In Kubernetes, the node lifecycle controller adds this taint.
    if !is_ready(node) {
        return Some("node(s) had untolerated taint {node.kubernetes.io/not-ready: }".into());
    }
    (!affinity_matches(pod, node))
        .then(|| "node(s) didn't match Pod's node affinity/selector".into())
}

/// Returns `true` if the node's Ready condition is true.
pub(crate) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Returns `true` if the node matches the pod's node selector and required node affinity.
pub(crate) fn affinity_matches(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let simple = spec.node_selector.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    let required =
        spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref()).and_then(
            |affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref(),
        );
    simple
        && required.is_none_or(|selector| {
            selector.node_selector_terms.iter().any(|term| term_matches(term, node))
        })
}

/// Returns `true` if the term matches the node. An empty term matches none.
pub(crate) fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let (expressions, fields) = (term.match_expressions.as_deref(), term.match_fields.as_deref());
    let (expressions, fields) = (expressions.unwrap_or_default(), fields.unwrap_or_default());
    let label = |key: &str| node.metadata.labels.as_ref()?.get(key).map(String::as_str);
    let field = |key: &str| node.metadata.name.as_deref().filter(|_| key == "metadata.name");
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|e| requirement_matches(e, label(&e.key)))
        && fields.iter().all(|e| requirement_matches(e, field(&e.key)))
}

fn requirement_matches(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|wanted| wanted == value));
    let compare = || {
        let wanted: i64 = values.first()?.parse().ok()?;
        Some(value?.parse::<i64>().ok()?.cmp(&wanted))
    };
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare().is_some_and(|order| order.is_gt()),
        "Lt" => compare().is_some_and(|order| order.is_lt()),
        _ => false,
    }
}

fn host_ports(pod: &Pod) -> BTreeSet<(i32, String)> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            Some((number, port.protocol.clone().unwrap_or_else(|| "TCP".into())))
        })
        .collect()
}

/// Returns the resources that a node offers to pods.
pub(crate) fn allocatable(node: &Node) -> Resources {
    let status = node.status.as_ref();
    let known = status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
    known.map(amounts).unwrap_or_default()
}

/// Returns the requests of a pod: the sum of its containers, or those of an init container if they are
/// higher.
pub(crate) fn requests(pod: &Pod) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::new() };
    let mut sum = Resources::new();
    for container in &spec.containers {
        add(&mut sum, container_requests(container));
    }
    let mut sidecars = Resources::new();
    for container in spec.init_containers.iter().flatten() {
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sidecars, container_requests(container));
            add(&mut sum, container_requests(container));
        } else {
            let mut peak = container_requests(container);
            add(&mut peak, sidecars.clone());
            for (name, amount) in peak {
                let most = sum.entry(name).or_default();
                *most = amount.max(*most);
            }
        }
    }
    add(&mut sum, spec.overhead.as_ref().map(amounts).unwrap_or_default());
    sum
}

fn container_requests(container: &Container) -> Resources {
    let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
    requests.map(amounts).unwrap_or_default()
}

fn amounts(list: &BTreeMap<String, Quantity>) -> Resources {
    list.iter().map(|(name, quantity)| (name.clone(), quantity::milli(&quantity.0))).collect()
}

/// Adds `more` to `sum`.
pub(crate) fn add(sum: &mut Resources, more: Resources) {
    for (name, amount) in more {
        *sum.entry(name).or_default() += amount;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirement_with_each_operator_matches_as_in_kubernetes() {
        let cases = [
            ("In", vec!["a", "b"], Some("a"), true),
            ("In", vec!["a", "b"], None, false),
            ("NotIn", vec!["a"], None, true),
            ("Exists", vec![], Some(""), true),
            ("DoesNotExist", vec![], Some("a"), false),
            ("Gt", vec!["4"], Some("5"), true),
            ("Lt", vec!["4"], Some("5"), false),
            ("Gt", vec!["x"], Some("5"), false),
        ];
        for (operator, values, value, expected) in cases {
            let requirement = NodeSelectorRequirement {
                key: "k".into(),
                operator: operator.into(),
                values: Some(values.iter().map(|v| (*v).to_owned()).collect()),
            };
            assert_eq!(
                requirement_matches(&requirement, value),
                expected,
                "{operator} {values:?} {value:?}"
            );
        }
    }
}

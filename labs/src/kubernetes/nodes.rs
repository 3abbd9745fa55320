//! Nodes: readiness, schedulability, architecture and addresses.

use super::namespace_client::NamespaceClient;
use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use kube::{Api, ResourceExt, api::ListParams};
use std::net::IpAddr;

/// The number of nodes an error names at most.
const MAX_NAMED: usize = 5;

impl NamespaceClient {
    /// Lists the schedulable nodes, ready or not.
    pub(crate) async fn schedulable_nodes(&self) -> anyhow::Result<Vec<Node>> {
        let mut nodes = self.nodes().await?;
        nodes.retain(is_schedulable);
        Ok(nodes)
    }

    /// Lists the names of the nodes that are schedulable and ready.
    pub(crate) async fn nodes_for_pods(&self) -> anyhow::Result<Vec<String>> {
        let nodes = self.nodes().await?;
        Ok(nodes.iter().filter(|node| takes_pods(node)).map(ResourceExt::name_any).collect())
    }

    /// Returns an error if a node that takes pods has another architecture than the images: a pod there
    /// could not start, and every wait would time out.
    pub(crate) async fn check_architecture(
        &self,
        architecture: Option<&str>,
    ) -> anyhow::Result<()> {
        match architecture {
            Some(wanted) => reject_other_architectures(&self.nodes().await?, wanted),
            None => Ok(()),
        }
    }

    /// Lists all nodes, each with its internal address, or else any IP address it has.
    pub(crate) async fn node_addresses(&self) -> anyhow::Result<Vec<(String, Option<IpAddr>)>> {
        Ok(self.nodes().await?.iter().map(|node| (node.name_any(), address(node))).collect())
    }

    async fn nodes(&self) -> anyhow::Result<Vec<Node>> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let nodes = nodes.list(&ListParams::default()).await.context("failed to list nodes")?;
        Ok(nodes.items)
    }
}

/// Returns true if the node's condition `Ready` is true.
pub(crate) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref());
    let ready = |c: &NodeCondition| c.type_ == "Ready" && c.status == "True";
    conditions.unwrap_or_default().iter().any(ready)
}

/// Returns true if the node is neither cordoned nor tainted against pods.
pub(crate) fn is_schedulable(node: &Node) -> bool {
    let spec = node.spec.as_ref();
    let taints = spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    spec.and_then(|spec| spec.unschedulable) != Some(true)
        && taints.iter().all(|taint| taint.effect == "PreferNoSchedule")
}

fn takes_pods(node: &Node) -> bool {
    is_ready(node) && is_schedulable(node)
}

fn reject_other_architectures(nodes: &[Node], wanted: &str) -> anyhow::Result<()> {
    let other = nodes.iter().filter(|node| takes_pods(node)).filter_map(|node| {
        let info = node.status.as_ref()?.node_info.as_ref()?;
        let differs = !info.architecture.is_empty() && info.architecture != wanted;
        differs.then(|| (node.name_any(), info.architecture.clone()))
    });
    let other: Vec<_> = other.collect();
    let Some((_, architecture)) = other.first() else { return Ok(()) };
    let named = other.iter().take(MAX_NAMED).map(|(node, of)| format!("{node} ({of})"));
    let named = named.collect::<Vec<_>>().join(", ");
    let more = match other.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    bail!(
        "the images are for {wanted}, and their program cannot run on the nodes {named}{more}: use \
         nodes of that kind (`kubectl cordon <node>` keeps pods off the others), or run this on a \
         machine that is {architecture} itself, which builds such images"
    )
}

/// Returns the internal address of a node, or else any IP address it has.
pub(crate) fn address(node: &Node) -> Option<IpAddr> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let internal = addresses.iter().filter(|address| address.type_ == "InternalIP");
    internal.chain(addresses).find_map(|address| address.address.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn other_architecture_is_rejected_only_on_nodes_that_take_pods() {
        let node = |name: &str, architecture: &str, spec: serde_json::Value| -> Node {
            let ready = json!([{"type": "Ready", "status": "True"}]);
            let info = json!({"architecture": architecture, "bootID": "", "containerRuntimeVersion": "",
                "kernelVersion": "", "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "",
                "operatingSystem": "", "osImage": "", "systemUUID": ""});
            let status = json!({"conditions": ready, "nodeInfo": info});
            serde_json::from_value(
                json!({"metadata": {"name": name}, "spec": spec, "status": status}),
            )
            .unwrap()
        };
        let tainted = json!({"taints": [{"key": "kubernetes.io/arch", "effect": "NoSchedule"}]});
        let right = [node("a", "amd64", json!({})), node("b", "arm64", tainted)];
        assert!(reject_other_architectures(&right, "amd64").is_ok());
        assert!(reject_other_architectures(&[Node::default()], "amd64").is_ok());
        let wrong: Vec<_> =
            (0..7).map(|i| node(&format!("n{i}"), "arm64", json!({}))).chain(right).collect();
        let error = reject_other_architectures(&wrong, "amd64").unwrap_err().to_string();
        assert!(error.starts_with("the images are for amd64, and"), "{error}");
        assert!(
            error.contains("n0 (arm64), n1 (arm64)") && error.contains(" and 2 more:"),
            "{error}"
        );
        assert!(!error.contains("b (arm64)"), "{error}");
    }

    #[test]
    fn internal_address_is_preferred() {
        let host = json!({"type": "Hostname", "address": "node-1"});
        let outer = json!({"type": "ExternalIP", "address": "203.0.113.7"});
        let inner = json!({"type": "InternalIP", "address": "10.0.0.7"});
        for (addresses, expected) in [
            (json!([host, outer, inner]), Some("10.0.0.7")),
            (json!([host, outer]), Some("203.0.113.7")),
            (json!([host]), None),
            (json!(null), None),
        ] {
            let node = json!({"status": {"addresses": addresses}});
            let found = address(&serde_json::from_value(node).unwrap());
            assert_eq!(found, expected.map(|address| address.parse().unwrap()), "{addresses}");
        }
    }
}

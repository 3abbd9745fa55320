//! Nodes: which take pods, and where each can be reached.

use super::Scope;
use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use kube::{Api, ResourceExt, api::ListParams};
use std::net::IpAddr;

/// So many nodes are named where there may be hundreds.
const NAMED: usize = 5;

impl Scope {
    /// Names of the nodes that take pods: ready, not cordoned and without a taint that keeps them off.
    pub async fn nodes_for_pods(&self) -> anyhow::Result<Vec<String>> {
        let nodes = self.nodes().await?;
        Ok(nodes.iter().filter(|node| takes_pods(node)).map(ResourceExt::name_any).collect())
    }

    /// An error if a node that takes pods has other processors than the images are for: a pod there
    /// could not even start its program, and every wait would be in vain.
    pub async fn can_run(&self, architecture: Option<&str>) -> anyhow::Result<()> {
        match architecture {
            Some(wanted) => misfits(&self.nodes().await?, wanted),
            None => Ok(()),
        }
    }

    /// Every node with its address: the internal one, else any that is an IP address.
    pub async fn node_addresses(&self) -> anyhow::Result<Vec<(String, Option<IpAddr>)>> {
        Ok(self.nodes().await?.iter().map(|node| (node.name_any(), address(node))).collect())
    }

    async fn nodes(&self) -> anyhow::Result<Vec<Node>> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let nodes = nodes.list(&ListParams::default()).await.context("failed to list nodes")?;
        Ok(nodes.items)
    }
}

fn takes_pods(node: &Node) -> bool {
    let spec = node.spec.clone().unwrap_or_default();
    let status = node.status.clone().unwrap_or_default();
    let ready = |c: &NodeCondition| c.type_ == "Ready" && c.status == "True";
    let taints = spec.taints.unwrap_or_default();
    status.conditions.unwrap_or_default().iter().any(ready)
        && spec.unschedulable != Some(true)
        && !taints.iter().any(|taint| taint.effect != "PreferNoSchedule")
}

fn misfits(nodes: &[Node], wanted: &str) -> anyhow::Result<()> {
    let other = nodes.iter().filter(|node| takes_pods(node)).filter_map(|node| {
        let info = node.status.as_ref()?.node_info.as_ref()?;
        let differs = !info.architecture.is_empty() && info.architecture != wanted;
        differs.then(|| (node.name_any(), info.architecture.clone()))
    });
    let other: Vec<_> = other.collect();
    let Some((_, architecture)) = other.first() else { return Ok(()) };
    let named = other.iter().take(NAMED).map(|(node, of)| format!("{node} ({of})"));
    let named = named.collect::<Vec<_>>().join(", ");
    let more = match other.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    bail!(
        "the images are for {wanted}, and their program cannot run on the nodes {named}{more}: use \
         nodes of that kind (`kubectl cordon <node>` keeps pods off the others), or run this on a \
         machine that is {architecture} itself, which builds such images"
    )
}

fn address(node: &Node) -> Option<IpAddr> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let internal = addresses.iter().filter(|address| address.type_ == "InternalIP");
    internal.chain(addresses).find_map(|address| address.address.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nodes_of_another_kind_are_named_if_they_take_pods() {
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
        assert!(misfits(&right, "amd64").is_ok());
        assert!(misfits(&[Node::default()], "amd64").is_ok());
        let wrong: Vec<_> =
            (0..7).map(|i| node(&format!("n{i}"), "arm64", json!({}))).chain(right).collect();
        let error = misfits(&wrong, "amd64").unwrap_err().to_string();
        assert!(error.starts_with("the images are for amd64, and"), "{error}");
        assert!(
            error.contains("n0 (arm64), n1 (arm64)") && error.contains(" and 2 more:"),
            "{error}"
        );
        assert!(!error.contains("b (arm64)"), "{error}");
    }

    #[test]
    fn the_internal_address_comes_first() {
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

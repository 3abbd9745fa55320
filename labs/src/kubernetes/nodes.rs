//! Nodes: which take pods, and where each can be reached.

use super::Scope;
use anyhow::Context as _;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use kube::{Api, ResourceExt, api::ListParams};
use std::net::IpAddr;

impl Scope {
    /// Names of the nodes that take pods: ready, not cordoned and without a taint that keeps them off.
    pub async fn nodes_for_pods(&self) -> anyhow::Result<Vec<String>> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let nodes = nodes.list(&ListParams::default()).await.context("failed to list nodes")?;
        let takes_pods = |node: &Node| {
            let spec = node.spec.clone().unwrap_or_default();
            let status = node.status.clone().unwrap_or_default();
            let ready = |c: &NodeCondition| c.type_ == "Ready" && c.status == "True";
            let taints = spec.taints.unwrap_or_default();
            status.conditions.unwrap_or_default().iter().any(ready)
                && spec.unschedulable != Some(true)
                && !taints.iter().any(|taint| taint.effect != "PreferNoSchedule")
        };
        Ok(nodes.items.iter().filter(|n| takes_pods(n)).map(ResourceExt::name_any).collect())
    }

    /// Every node with its address: the internal one, else any that is an IP address.
    pub async fn node_addresses(&self) -> anyhow::Result<Vec<(String, Option<IpAddr>)>> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let nodes = nodes.list(&ListParams::default()).await.context("failed to list nodes")?;
        Ok(nodes.items.iter().map(|node| (node.name_any(), address(node))).collect())
    }
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

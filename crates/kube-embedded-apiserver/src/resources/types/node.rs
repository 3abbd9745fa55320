//! `nodes`. Registered by this cluster's kubelets.

use k8s_openapi::api::core::v1::Node;
use serde_json::Value;

use crate::{
    fields::{list, object, text},
    resources::{
        resource_type::ResourceType,
        table_columns::{AGE, Column, column, or_none, wide},
    },
    validation::{names::dns_subdomain, object_meta::metadata},
};

pub(crate) const RESOURCE: ResourceType = ResourceType {
    short_names: &["no"],
    namespaced: false,
    subresources: &["status"],
    defaults: |node| {
        object(node, "spec");
    },
    validate: |node, old| metadata(node, old, dns_subdomain),
    columns: COLUMNS,
    selectable: &["spec.unschedulable"],
    ..ResourceType::of::<Node>("node", "io.k8s.api.core.v1.Node")
};

const COLUMNS: &[Column] = &[
    column("Status", "The status of the node", |node, _| status(node).into()),
    column("Roles", "The roles of the node", |node, _| roles(node)),
    AGE,
    column("Version", "Kubelet Version reported by the node.", |node, _| {
        text(node, &["status", "nodeInfo", "kubeletVersion"]).into()
    }),
    wide("Internal-IP", "List of addresses reachable to the node.", |node, _| {
        address(node, "InternalIP")
    }),
    wide("External-IP", "List of addresses reachable to the node.", |node, _| {
        address(node, "ExternalIP")
    }),
    wide("OS-Image", "OS Image reported by the node from /etc/os-release.", |node, _| {
        or_unknown(text(node, &["status", "nodeInfo", "osImage"]))
    }),
    wide("Kernel-Version", "Kernel Version reported by the node from 'uname -r'.", |node, _| {
        let info = &node["status"]["nodeInfo"];
        match (text(info, &["kernelVersion"]), text(info, &["architecture"])) {
            (kernel, "") => or_unknown(kernel),
            ("", _) => or_unknown(""),
            (kernel, architecture) => format!("{kernel} ({architecture})").into(),
        }
    }),
    wide(
        "Container-Runtime",
        "ContainerRuntime Version reported by the node through runtime remote API.",
        |node, _| or_unknown(text(node, &["status", "nodeInfo", "containerRuntimeVersion"])),
    ),
];

fn or_unknown(text: &str) -> Value {
    if text.is_empty() { "<unknown>".into() } else { text.into() }
}

/// The condition `Ready`, and whether the node is cordoned.
fn status(node: &Value) -> String {
    let ready = list(node, &["status", "conditions"])
        .iter()
        .find(|condition| condition["type"] == "Ready")
        .map(|condition| condition["status"] == "True");
    let status = match ready {
        Some(true) => "Ready",
        Some(false) => "NotReady",
        None => "Unknown",
    };
    match node["spec"]["unschedulable"] == true {
        true => format!("{status},SchedulingDisabled"),
        false => status.to_owned(),
    }
}

/// Roles come from labels: `node-role.kubernetes.io/<role>`, and the older
/// `kubernetes.io/role=<role>`.
fn roles(node: &Value) -> Value {
    let mut roles: Vec<&str> = node["metadata"]["labels"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    or_none(&roles.join(","))
}

fn address(node: &Value, kind: &str) -> Value {
    let addresses = list(node, &["status", "addresses"]);
    let found = addresses.iter().find(|address| address["type"] == kind);
    or_none(found.map_or("", |address| text(address, &["address"])))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn status_and_roles_columns_follow_conditions_and_labels() {
        let node = json!({
            "metadata": { "labels": { "node-role.kubernetes.io/control-plane": "", "a": "b" } },
            "spec": { "unschedulable": true },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
        });
        assert_eq!(status(&node), "Ready,SchedulingDisabled");
        assert_eq!(roles(&node), "control-plane");
        assert_eq!(status(&json!({})), "Unknown");
        assert_eq!(roles(&json!({})), "<none>");
    }
}

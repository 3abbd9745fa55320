//! `nodes`. Registered by this cluster's kubelets.

use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

use crate::{
    fields::{default, list, object, text},
    resources::{
        resource_type::ResourceType,
        table_columns::{AGE, Column, column, or_none, wide},
    },
    store::Store,
    validation::{
        addresses::cidr,
        field_error::{FieldError, duplicate, invalid, not_supported, required},
        names::{dns_subdomain, labels, qualified_name},
        object_meta::{self, Part, Rules},
    },
};
use std::collections::HashSet;

const METADATA: Rules = Rules {
    standard_finalizers: true,
    update: &[Part::Whole, Part::Changes],
    ..Rules::of(dns_subdomain)
};

pub(crate) const RESOURCE: ResourceType = ResourceType {
    short_names: &["no"],
    namespaced: false,
    subresources: &["status"],
    defaults: |node| {
        let Some(spec) = object(node, "spec") else { return };
        // The field and the list that replaced it are kept equal.
        let range = text(spec, &["podCIDR"]);
        if !range.is_empty() {
            let ranges = json!([range]);
            default(spec, "podCIDRs", ranges);
        } else if let Some(first) = list(spec, &["podCIDRs"]).first().cloned() {
            spec["podCIDR"] = first;
        }
        let Some(status) = object(node, "status") else { return };
        let capacity = status["capacity"].clone();
        if status["allocatable"].is_null() && !capacity.is_null() {
            status["allocatable"] = capacity;
        }
    },
    admission: &[taint],
    validate: |node, old| {
        let mut errors = object_meta::validate(node, old, &METADATA);
        errors.extend(validate_taints(list(node, &["spec", "taints"])));
        for (at, range) in list(node, &["spec", "podCIDRs"]).iter().enumerate() {
            errors.extend(cidr(range, &format!("spec.podCIDRs[{at}]")));
        }
        errors
    },
    columns: COLUMNS,
    selectable: &["spec.unschedulable"],
    ..ResourceType::of::<Node>("node", "io.k8s.api.core.v1.Node")
};

/// Keeps pods off a new node until it is ready (the admission plugin `TaintNodesByCondition`). The kubelets of this
/// cluster report that they are when they register their nodes.
fn taint(_: &Store, node: &mut Value) -> Result<(), String> {
    const KEY: &str = "node.kubernetes.io/not-ready";
    let mut taints = list(node, &["spec", "taints"]).to_vec();
    let has_taint =
        taints.iter().any(|taint| taint["key"] == KEY && taint["effect"] == "NoSchedule");
    if !has_taint && !text(node, &["spec", "providerID"]).starts_with("embedded://") {
        taints.push(json!({ "key": KEY, "effect": "NoSchedule" }));
        node["spec"]["taints"] = taints.into();
    }
    Ok(())
}

const COLUMNS: &[Column] = &[
    column("Status", "The status of the node", |node, _| status(node).into()),
    column("Roles", "The roles of the node", |node, _| roles(node)),
    AGE,
    column("Version", "Kubelet Version reported by the node.", |node, _| {
        text(node, &["status", "nodeInfo", "kubeletVersion"]).into()
    }),
    wide("Internal-IP", "#/io.k8s.api.core.v1.NodeStatus/addresses", |node, _| {
        address(node, "InternalIP")
    }),
    wide("External-IP", "#/io.k8s.api.core.v1.NodeStatus/addresses", |node, _| {
        address(node, "ExternalIP")
    }),
    wide("OS-Image", "#/io.k8s.api.core.v1.NodeSystemInfo/osImage", |node, _| {
        or_unknown(text(node, &["status", "nodeInfo", "osImage"]))
    }),
    wide("Kernel-Version", "#/io.k8s.api.core.v1.NodeSystemInfo/kernelVersion", |node, _| {
        let info = &node["status"]["nodeInfo"];
        match (text(info, &["kernelVersion"]), text(info, &["architecture"])) {
            (kernel, "") => or_unknown(kernel),
            ("", _) => or_unknown(""),
            (kernel, architecture) => format!("{kernel} ({architecture})").into(),
        }
    }),
    wide(
        "Container-Runtime",
        "#/io.k8s.api.core.v1.NodeSystemInfo/containerRuntimeVersion",
        |node, _| or_unknown(text(node, &["status", "nodeInfo", "containerRuntimeVersion"])),
    ),
];

/// Stands for `validateNodeTaints`.
fn validate_taints(taints: &[Value]) -> Vec<FieldError> {
    let (mut errors, mut seen) = (Vec::new(), HashSet::new());
    for (at, taint) in taints.iter().enumerate() {
        // Kubernetes' messages have this path.
        let field = format!("metadata.taints[{at}]");
        let (key, effect) = (text(taint, &["key"]), text(taint, &["effect"]));
        let details = qualified_name(key);
        errors.extend(details.iter().map(|w| invalid(format!("{field}.key"), &key.into(), w)));
        // The value has the format of a label's.
        let label = json!({ "value": taint["value"] });
        errors.extend(labels(&label, &format!("{field}.value")));
        let supported = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        match effect {
            "" => errors.push(required(format!("{field}.effect"), "")),
            effect if supported.contains(&effect) => {}
            _ => {
                let value = &taint["effect"];
                errors.push(not_supported(format!("{field}.effect"), value, &supported));
            }
        }
        if !seen.insert((key, effect)) {
            errors.push(duplicate(field, taint));
        }
    }
    errors
}

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
    use super::*;

    #[test]
    fn pod_ranges_are_kept_equal_and_valid() {
        for (spec, ranges, count) in [
            (json!({ "podCIDR": "10.9.0.0/24" }), json!(["10.9.0.0/24"]), 0),
            (json!({ "podCIDRs": ["10.9.0.0/24"] }), json!(["10.9.0.0/24"]), 0),
            (json!({ "podCIDR": "x" }), json!(["x"]), 1),
            (json!({}), Value::Null, 0),
        ] {
            let mut node = json!({ "metadata": { "name": "n" }, "spec": spec });
            (RESOURCE.defaults)(&mut node);
            assert_eq!(node["spec"]["podCIDRs"], ranges, "{spec}");
            assert_eq!(node["spec"]["podCIDR"], ranges[0], "{spec}");
            assert_eq!((RESOURCE.validate)(&node, None).len(), count, "{spec}");
        }
    }

    #[test]
    fn taint_has_a_key_an_effect_and_occurs_once() {
        for (taints, fields) in [
            (
                json!([{ "key": "a", "effect": "NoSchedule" }, { "key": "a", "effect": "NoExecute" }]),
                vec![],
            ),
            (json!([{ "key": "a b", "effect": "NoSchedule" }]), vec!["metadata.taints[0].key"]),
            (
                json!([{ "key": "a", "value": "-", "effect": "NoSchedule" }]),
                vec!["metadata.taints[0].value"],
            ),
            (json!([{ "key": "a" }]), vec!["metadata.taints[0].effect"]),
            (json!([{ "key": "a", "effect": "Never" }]), vec!["metadata.taints[0].effect"]),
            (
                json!([{ "key": "a", "effect": "NoExecute" }, { "key": "a", "effect": "NoExecute" }]),
                vec!["metadata.taints[1]"],
            ),
        ] {
            let errors = validate_taints(taints.as_array().unwrap()).into_iter();
            assert_eq!(errors.map(|error| error.field).collect::<Vec<_>>(), fields, "{taints}");
        }
    }

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

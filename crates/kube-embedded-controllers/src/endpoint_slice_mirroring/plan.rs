//! Plans the endpoint slices that mirror an Endpoints object: one for each set of ports and address family.

use crate::{controller_ref::controller_ref, patch::Write};
use k8s_openapi::{
    api::{
        core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube_embedded_core::endpoint_slice;
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Marks Endpoints that are nothing but a lock of an older leader election.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const NOT_COPIED: [&str; 2] = [
    "endpoints.kubernetes.io/last-change-trigger-time",
    "kubectl.kubernetes.io/last-applied-configuration",
];
/// The most addresses of a subset that are mirrored, as in Kubernetes.
const MAX_ADDRESSES: usize = 1000;

/// Returns the name of the Endpoints that a slice mirrors; `None` if another controller manages it.
pub(super) fn mirrored(slice: &EndpointSlice) -> Option<&str> {
    let labels = slice.metadata.labels.as_ref()?;
    (labels.get(MANAGED_BY)? == MANAGER).then_some(labels.get(SERVICE_NAME)?.as_str())
}

/// Returns `true` if the Endpoints of a Service are to be mirrored.
pub(super) fn is_mirrored(endpoints: &Endpoints, service: Option<&Service>) -> bool {
    let meta = &endpoints.metadata;
    let skips =
        meta.labels.iter().flatten().any(|(key, value)| key == SKIP_MIRROR && value == "true");
    let is_lock = meta.annotations.iter().flatten().any(|(key, _)| key == LEADER);
    let spec = service.and_then(|service| service.spec.as_ref());
    !skips && !is_lock && spec.is_some_and(|spec| spec.selector.is_none())
}

/// Plans the writes; without a source, all slices are deleted.
pub(super) fn plan(
    source: Option<&Endpoints>,
    slices: &[Arc<EndpointSlice>],
) -> Vec<Write<EndpointSlice>> {
    let mut existing: Vec<Arc<EndpointSlice>> = slices.to_vec();
    let mut writes = Vec::new();
    for desired in source.map(desired).unwrap_or_default() {
        let is_for = |slice: &Arc<EndpointSlice>| {
            slice.address_type == desired.address_type && slice.ports == desired.ports
        };
        let Some(found) = existing.iter().position(is_for) else {
            writes.push(Write::Create(Box::new(desired)));
            continue;
        };
        let old = existing.swap_remove(found);
        let metadata = ObjectMeta {
            labels: desired.metadata.labels.clone(),
            annotations: desired.metadata.annotations.clone(),
            owner_references: desired.metadata.owner_references.clone(),
            ..old.metadata.clone()
        };
        let new = EndpointSlice { metadata, ..desired };
        let is_equal = old.metadata == new.metadata
            && endpoint_slice::endpoints(&old) == endpoint_slice::endpoints(&new);
        if !is_equal {
            writes.push(Write::Update { old, new: Box::new(new) });
        }
    }
    writes.extend(existing.into_iter().map(Write::Delete));
    writes
}

/// Returns the slices that Endpoints are mirrored to.
fn desired(source: &Endpoints) -> Vec<EndpointSlice> {
    let mut slices: BTreeMap<(&str, String), EndpointSlice> = BTreeMap::new();
    for subset in source.subsets.iter().flatten() {
        let ports = ports(subset);
        let id = serde_json::to_string(&ports).unwrap_or_default();
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let others = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        for (address, ready) in ready.chain(others).take(MAX_ADDRESSES) {
            let Ok(ip) = address.ip.parse::<IpAddr>() else { continue };
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            let slice = slices.entry((family, id.clone())).or_insert_with(|| EndpointSlice {
                address_type: family.into(),
                metadata: metadata(source),
                ports: Some(ports.clone()),
                ..Default::default()
            });
            let mut endpoints = endpoint_slice::endpoints(slice).to_vec();
            if !endpoints.iter().any(|known| known.addresses == [ip.to_string()]) {
                endpoints.push(endpoint(address, ip, ready));
            }
            slice.endpoints = endpoints.into();
        }
    }
    slices.into_values().collect()
}

fn ports(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let ports = subset.ports.iter().flatten().map(|port| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
        app_protocol: port.app_protocol.clone(),
    });
    ports.collect()
}

fn endpoint(address: &EndpointAddress, ip: IpAddr, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..Default::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Default::default()
    }
}

fn metadata(source: &Endpoints) -> ObjectMeta {
    let name = source.metadata.name.clone().unwrap_or_default();
    let mut labels = source.metadata.labels.clone().unwrap_or_default();
    let mut annotations = source.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !NOT_COPIED.contains(&&**key));
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels.insert(SERVICE_NAME.into(), name.clone());
    ObjectMeta {
        generate_name: Some(format!("{name}-")),
        namespace: source.metadata.namespace.clone(),
        labels: Some(labels),
        annotations: (!annotations.is_empty()).then_some(annotations),
        owner_references: Some(vec![controller_ref(source)]),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ServiceSpec;
    use serde_json::{Value, json};

    fn endpoints(subsets: Value) -> Endpoints {
        let metadata = json!({
            "name": "db", "namespace": "shop", "uid": "e", "labels": { "tier": "data" },
            "annotations": { "note": "x", "endpoints.kubernetes.io/last-change-trigger-time": "t" },
        });
        serde_json::from_value(json!({ "metadata": metadata, "subsets": subsets })).unwrap()
    }

    /// Returns a short form of the plan.
    fn shown(writes: &[Write<EndpointSlice>]) -> Vec<String> {
        let content = |slice: &EndpointSlice| {
            let endpoints = endpoint_slice::endpoints(slice).iter();
            let endpoints: Vec<String> = endpoints
                .map(|endpoint| {
                    let ready = endpoint.conditions.as_ref().unwrap().ready;
                    format!("{}={}", endpoint.addresses[0], ready.unwrap())
                })
                .collect();
            let ports = slice.ports.iter().flatten().filter_map(|port| port.port);
            let ports: Vec<String> = ports.map(|port| port.to_string()).collect();
            format!("{} {} {}", slice.address_type, ports.join("+"), endpoints.join(" "))
        };
        let show = |write: &Write<EndpointSlice>| match write {
            Write::Create(new) => format!("create {}", content(new)),
            Write::Update { new, .. } => format!("update {}", content(new)),
            Write::Delete(old) => format!("delete {}", content(old)),
        };
        writes.iter().map(show).collect()
    }

    #[test]
    fn slices_follow_the_subsets() {
        let first = endpoints(json!([
            { "addresses": [{ "ip": "10.1.2.3" }], "notReadyAddresses": [{ "ip": "10.1.2.4" }],
              "ports": [{ "port": 80 }] },
            { "addresses": [{ "ip": "10.1.2.3" }, { "ip": "fd00::1" }], "ports": [{ "port": 81 }] },
        ]));
        let created = plan(Some(&first), &[]);
        assert_eq!(
            shown(&created),
            [
                "create IPv4 80 10.1.2.3=true 10.1.2.4=false",
                "create IPv4 81 10.1.2.3=true",
                "create IPv6 81 fd00::1=true",
            ]
        );
        let slices: Vec<Arc<EndpointSlice>> = created
            .into_iter()
            .map(|write| match write {
                Write::Create(new) => Arc::new(*new),
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(slices.iter().all(|slice| mirrored(slice) == Some("db")));
        let labels = slices[0].metadata.labels.clone().unwrap();
        assert_eq!(labels.get("tier").map(String::as_str), Some("data"));
        let annotations = slices[0].metadata.annotations.clone().unwrap();
        assert_eq!(annotations.keys().collect::<Vec<_>>(), ["note"]);
        assert_eq!(plan(Some(&first), &slices), []);
        let second = endpoints(json!([
            { "addresses": [{ "ip": "10.1.2.9" }], "ports": [{ "port": 80 }] },
        ]));
        assert_eq!(
            shown(&plan(Some(&second), &slices)),
            [
                "update IPv4 80 10.1.2.9=true",
                "delete IPv6 81 fd00::1=true",
                "delete IPv4 81 10.1.2.3=true",
            ]
        );
        assert_eq!(plan(None, &slices).len(), 3);
    }

    #[test]
    fn endpoints_of_a_service_without_selector_are_mirrored() {
        let service = |selector: Option<&str>| Service {
            spec: Some(ServiceSpec {
                selector: selector.map(|app| [("app".into(), app.into())].into()),
                ..Default::default()
            }),
            ..Default::default()
        };
        let plain = endpoints(json!([]));
        assert!(is_mirrored(&plain, Some(&service(None))));
        assert!(!is_mirrored(&plain, Some(&service(Some("web")))));
        assert!(!is_mirrored(&plain, None));
        for (field, key, value) in [("labels", SKIP_MIRROR, "true"), ("annotations", LEADER, "{}")]
        {
            let mut marked = serde_json::to_value(&plain).unwrap();
            marked["metadata"][field][key] = value.into();
            let marked = serde_json::from_value(marked).unwrap();
            assert!(!is_mirrored(&marked, Some(&service(None))), "{key}");
        }
    }
}

//! Plans the Endpoints object of a Service, which older clients still read.

use super::common::{address, copied_labels, hostname, ports, reference, set_trigger_time};
use crate::{
    patch::Write,
    pod::{is_finished, is_ready, is_terminating},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service, ServiceSpec,
};
use std::{collections::BTreeMap, sync::Arc};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
/// The maximum number of addresses, as in Kubernetes.
const MAX_ADDRESSES: usize = 1000;

/// Returns `true` if this controller manages the object.
pub(crate) fn is_managed(endpoints: &Endpoints) -> bool {
    let labels = endpoints.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|manager| manager == MANAGER)
}

/// Plans the write that makes the object match the pods.
pub(crate) fn plan(
    service: &Service,
    spec: &ServiceSpec,
    pods: &[Arc<Pod>],
    endpoints: Option<&Arc<Endpoints>>,
    now: Timestamp,
) -> Option<Write<Endpoints>> {
    let subsets = subsets(service, spec, pods);
    let mut new = endpoints.map(|old| (**old).clone()).unwrap_or_default();
    new.metadata.name = service.metadata.name.clone();
    new.metadata.namespace = service.metadata.namespace.clone();
    let mut labels = copied_labels(service, spec);
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    new.metadata.labels = Some(labels);
    new.subsets = (!subsets.is_empty()).then_some(subsets);
    match endpoints {
        Some(old) => {
            let before = old.subsets.as_deref().unwrap_or_default();
            if before == new.subsets.as_deref().unwrap_or_default() && old.metadata == new.metadata
            {
                return None;
            }
            set_trigger_time(&mut new.metadata, now);
            Some(Write::Update { old: old.clone(), new: Box::new(new) })
        }
        None => {
            set_trigger_time(&mut new.metadata, now);
            Some(Write::Create(Box::new(new)))
        }
    }
}

/// Groups the addresses of the pods by their ports.
fn subsets(service: &Service, spec: &ServiceSpec, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let mut subsets: BTreeMap<String, EndpointSubset> = BTreeMap::new();
    let publish_all = spec.publish_not_ready_addresses == Some(true);
    let headless = spec.cluster_ip.as_deref() == Some("None");
    let mut pods: Vec<&Arc<Pod>> = pods.iter().collect();
    pods.sort_by(|a, b| address(a).cmp(&address(b)));
    let usable = |pod: &&&Arc<Pod>| !is_finished(pod) && (publish_all || !is_terminating(pod));
    for pod in pods.iter().filter(usable).take(MAX_ADDRESSES) {
        let Some(ip) = address(pod) else { continue };
        let ports: Vec<EndpointPort> = ports(spec, pod)
            .into_iter()
            .map(|port| EndpointPort {
                name: port.name.filter(|name| !name.is_empty()),
                port: port.port.unwrap_or_default(),
                protocol: port.protocol,
                app_protocol: port.app_protocol,
            })
            .collect();
        if ports.is_empty() && !(headless && spec.ports.iter().flatten().next().is_none()) {
            continue;
        }
        let id = serde_json::to_string(&ports).unwrap_or_default();
        let subset = subsets.entry(id).or_insert_with(|| EndpointSubset {
            ports: (!ports.is_empty()).then_some(ports),
            ..Default::default()
        });
        let list = match publish_all || is_ready(pod) {
            true => &mut subset.addresses,
            false => &mut subset.not_ready_addresses,
        };
        list.get_or_insert_default().push(EndpointAddress {
            ip: ip.to_owned(),
            hostname: hostname(service, pod),
            node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            target_ref: Some(reference(pod)),
        });
    }
    subsets.into_values().collect()
}

//! Plans the endpoint slices of a Service. Endpoints stay in their slice, so that a change of one pod
//! changes one slice.

use super::common::{address, copied_labels, hostname, ports, reference, set_trigger_time};
use super::legacy;
use crate::{
    controller_ref::{controller_ref, is_controlled_by},
    patch::Write,
    pod::{is_finished, is_ready, is_terminating},
    selector::Labels,
};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::{Endpoints, Pod, Service, ServiceSpec},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube_embedded_core::endpoint_slice;
use std::{collections::BTreeMap, sync::Arc};

pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const ADDRESS_TYPE: &str = "IPv4";
/// The maximum number of endpoints in a slice, as in Kubernetes.
const MAX_ENDPOINTS: usize = 100;

/// The writes for one Service, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) slices: Vec<Write<EndpointSlice>>,
    pub(crate) endpoints: Option<Write<Endpoints>>,
}

/// Returns `true` if this controller manages the slice for the Service of this name.
pub(crate) fn is_managed(slice: &EndpointSlice, service: &str) -> bool {
    let label = |key: &str| slice.metadata.labels.as_ref().and_then(|labels| labels.get(key));
    label(SERVICE_NAME).is_some_and(|name| name == service)
        && label(MANAGED_BY).is_some_and(|manager| manager == MANAGER)
}

/// Plans the writes for one Service. `pods` are those that its selector matches, `slices` those that
/// are managed ([`is_managed`]).
pub(crate) fn plan(
    service: Option<&Service>,
    pods: &[Arc<Pod>],
    slices: &[Arc<EndpointSlice>],
    endpoints: Option<&Arc<Endpoints>>,
    now: Timestamp,
) -> Plan {
    let Some((service, spec)) = service.and_then(|service| Some((service, service.spec.as_ref()?)))
    else {
        let endpoints = endpoints.filter(|endpoints| legacy::is_managed(endpoints));
        return Plan {
            slices: slices.iter().cloned().map(Write::Delete).collect(),
            endpoints: endpoints.cloned().map(Write::Delete),
        };
    };
    let has_selector = spec.selector.as_ref().is_some_and(|selector| !selector.is_empty());
    if !has_selector
        || spec.type_.as_deref() == Some("ExternalName")
        || service.metadata.deletion_timestamp.is_some()
    {
        return Plan::default();
    }
    let mut planner = SlicePlanner::new(service, spec, pods);
    planner.retain(slices);
    planner.fill();
    Plan {
        slices: planner.finish(now),
        endpoints: legacy::plan(service, spec, pods, endpoints, now),
    }
}

/// The endpoints with the same ports that have no slice yet, by pod uid.
struct PortGroup {
    ports: Vec<EndpointPort>,
    endpoints: BTreeMap<String, Endpoint>,
}

/// The desired content of a slice.
struct DesiredSlice {
    /// The slice to update; `None` to create one.
    old: Option<Arc<EndpointSlice>>,
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
}

/// Distributes endpoints over slices: retains, fills, finishes.
struct SlicePlanner<'a> {
    service: &'a Service,
    spec: &'a ServiceSpec,
    /// By the ports as JSON.
    unplaced: BTreeMap<String, PortGroup>,
    desired: Vec<DesiredSlice>,
    /// Slices without endpoints to keep: they are filled again, or deleted.
    reusable: Vec<Arc<EndpointSlice>>,
}

impl<'a> SlicePlanner<'a> {
    fn new(service: &'a Service, spec: &'a ServiceSpec, pods: &[Arc<Pod>]) -> Self {
        let mut unplaced: BTreeMap<String, PortGroup> = BTreeMap::new();
        for pod in pods.iter().filter(|pod| !is_finished(pod)) {
            let Some(ip) = address(pod) else { continue };
            let ports = ports(spec, pod);
            let group = unplaced
                .entry(port_id(&ports))
                .or_insert_with(|| PortGroup { ports, endpoints: BTreeMap::new() });
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            group.endpoints.insert(uid, endpoint(service, spec, pod, ip));
        }
        Self { service, spec, unplaced, desired: Vec::new(), reusable: Vec::new() }
    }

    /// Keeps each endpoint in the slice that has it.
    fn retain(&mut self, slices: &[Arc<EndpointSlice>]) {
        for slice in slices.iter().filter(|slice| slice.metadata.deletion_timestamp.is_none()) {
            let ports = slice.ports.clone().unwrap_or_default();
            let group = self.unplaced.get_mut(&port_id(&ports));
            let endpoints: Vec<Endpoint> = match group.filter(|_| is_ipv4(slice)) {
                None => Vec::new(),
                Some(group) => endpoint_slice::endpoints(slice)
                    .iter()
                    .filter_map(|known| {
                        group.endpoints.remove(known.target_ref.as_ref()?.uid.as_ref()?)
                    })
                    .collect(),
            };
            if endpoints.is_empty() {
                self.reusable.push(slice.clone());
            } else {
                self.desired.push(DesiredSlice { old: Some(slice.clone()), ports, endpoints });
            }
        }
    }

    /// Places the remaining endpoints: into slices with room, then into reusable and new ones.
    fn fill(&mut self) {
        for PortGroup { ports, endpoints } in std::mem::take(&mut self.unplaced).into_values() {
            let mut rest = endpoints.into_values();
            for slice in self.desired.iter_mut().filter(|slice| slice.ports == ports) {
                let room = MAX_ENDPOINTS.saturating_sub(slice.endpoints.len());
                slice.endpoints.extend(rest.by_ref().take(room));
            }
            while let Some(first) = rest.next() {
                let mut endpoints = vec![first];
                endpoints.extend(rest.by_ref().take(MAX_ENDPOINTS - 1));
                let reused = self.reusable.iter().position(|slice| is_ipv4(slice));
                let old = reused.map(|index| self.reusable.remove(index));
                self.desired.push(DesiredSlice { old, ports: ports.clone(), endpoints });
            }
        }
        if self.desired.is_empty() {
            // As in Kubernetes, one empty slice shows that the Service has been processed.
            let old = self.reusable.pop();
            self.desired.push(DesiredSlice { old, ports: Vec::new(), endpoints: Vec::new() });
        }
    }

    fn finish(self, now: Timestamp) -> Vec<Write<EndpointSlice>> {
        let mut writes = Vec::new();
        for DesiredSlice { old, ports, endpoints } in self.desired {
            let known = old.as_deref().cloned().unwrap_or_else(|| empty_slice(self.service));
            let mut new = EndpointSlice {
                address_type: ADDRESS_TYPE.into(),
                endpoints: endpoints.into(),
                ports: Some(ports),
                metadata: known.metadata,
            };
            new.metadata.labels = Some(slice_labels(self.service, self.spec));
            if !is_controlled_by(&new.metadata, self.service.metadata.uid.as_deref()) {
                new.metadata.owner_references = Some(vec![controller_ref(self.service)]);
            }
            if old.as_ref().is_some_and(|old| is_equal(old, &new)) {
                continue;
            }
            set_trigger_time(&mut new.metadata, now);
            let new = Box::new(new);
            writes.push(match old {
                None => Write::Create(new),
                Some(old) => Write::Update { old, new },
            });
        }
        writes.extend(self.reusable.into_iter().map(Write::Delete));
        // Updates first: they remove terminating pods, which is urgent.
        writes.sort_by_key(|write| !matches!(write, Write::Update { .. }));
        writes
    }
}

/// Returns a key that is equal for equal ports.
fn port_id(ports: &[EndpointPort]) -> String {
    serde_json::to_string(ports).unwrap_or_default()
}

fn is_ipv4(slice: &EndpointSlice) -> bool {
    slice.address_type == ADDRESS_TYPE
}

/// Compares slices; an empty list equals a missing one.
fn is_equal(old: &EndpointSlice, new: &EndpointSlice) -> bool {
    old.metadata == new.metadata
        && endpoint_slice::endpoints(old) == endpoint_slice::endpoints(new)
        && old.ports.as_deref().unwrap_or_default() == new.ports.as_deref().unwrap_or_default()
}

fn empty_slice(service: &Service) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!(
                "{}-",
                service.metadata.name.as_deref().unwrap_or_default()
            )),
            namespace: service.metadata.namespace.clone(),
            ..Default::default()
        },
        ..Default::default()
    }
}

fn slice_labels(service: &Service, spec: &ServiceSpec) -> Labels {
    let mut labels = copied_labels(service, spec);
    labels.insert(SERVICE_NAME.into(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

fn endpoint(service: &Service, spec: &ServiceSpec, pod: &Pod, ip: &str) -> Endpoint {
    let (serving, terminating) = (is_ready(pod), is_terminating(pod));
    let ready = spec.publish_not_ready_addresses == Some(true) || serving && !terminating;
    Endpoint {
        addresses: vec![ip.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(service, pod),
        node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        target_ref: Some(reference(pod)),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;

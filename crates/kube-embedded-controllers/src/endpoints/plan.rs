//! The slices and Endpoints of one Service: pods that stay keep their place, so that a change of one
//! pod is a change of one slice.

use super::super::{
    replicaset::is_ready,
    selection::{Labels, controlled_by, is_controlled_by},
    write::is_finished,
};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::{
            EndpointAddress, EndpointPort as LegacyPort, EndpointSubset, Endpoints,
            ObjectReference, Pod, Service, ServicePort, ServiceSpec,
        },
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use kube_embedded_core::time::whole_seconds;
use std::{collections::BTreeMap, sync::Arc};

pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const LEGACY_MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const LEGACY_MANAGER: &str = "endpoint-controller";
const HEADLESS: &str = "service.kubernetes.io/headless";
const TRIGGERED: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Endpoints a slice, as in Kubernetes.
const SLICE_SIZE: usize = 100;
/// Addresses in an Endpoints object, as in Kubernetes.
const LEGACY_SIZE: usize = 1000;

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    Create(Box<EndpointSlice>),
    Update { old: Arc<EndpointSlice>, new: Box<EndpointSlice> },
    Delete(Arc<EndpointSlice>),
    CreateLegacy(Box<Endpoints>),
    UpdateLegacy { old: Arc<Endpoints>, new: Box<Endpoints> },
    DeleteLegacy(Arc<Endpoints>),
}

/// Whether a slice of that Service is managed here.
pub(crate) fn is_ours(slice: &EndpointSlice, service: &str) -> bool {
    let label = |key: &str| slice.metadata.labels.as_ref().and_then(|labels| labels.get(key));
    label(SERVICE_NAME).is_some_and(|name| name == service)
        && label(MANAGED_BY).is_some_and(|manager| manager == MANAGER)
}

/// Plans the writes for one Service. `pods` are those its selector takes, `slices` those of
/// [`is_ours`].
pub(crate) fn plan(
    service: Option<&Service>,
    pods: &[Arc<Pod>],
    slices: &[Arc<EndpointSlice>],
    endpoints: Option<&Arc<Endpoints>>,
    now: Timestamp,
) -> Vec<Action> {
    let Some((service, spec)) = service.and_then(|service| Some((service, service.spec.as_ref()?)))
    else {
        let slices = slices.iter().cloned().map(Action::Delete);
        let ours = endpoints.filter(|endpoints| {
            let labels = endpoints.metadata.labels.as_ref();
            labels.and_then(|l| l.get(LEGACY_MANAGED_BY)).is_some_and(|m| m == LEGACY_MANAGER)
        });
        return slices.chain(ours.cloned().map(Action::DeleteLegacy)).collect();
    };
    let selects = spec.selector.as_ref().is_some_and(|selector| !selector.is_empty());
    if !selects || spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    if service.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let mut actions = plan_slices(service, spec, pods, slices, now);
    actions.extend(plan_legacy(service, spec, pods, endpoints, now));
    actions
}

type Ports = Vec<EndpointPort>;

fn plan_slices(
    service: &Service,
    spec: &ServiceSpec,
    pods: &[Arc<Pod>],
    slices: &[Arc<EndpointSlice>],
    now: Timestamp,
) -> Vec<Action> {
    let mut wanted: BTreeMap<String, (Ports, BTreeMap<String, Endpoint>)> = BTreeMap::new();
    for pod in pods {
        let Some(ip) = address(pod).filter(|_| !is_finished(pod)) else { continue };
        let ports = slice_ports(spec, pod);
        let id = serde_json::to_string(&ports).unwrap_or_default();
        let group = wanted.entry(id).or_insert_with(|| (ports, BTreeMap::new()));
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        group.1.insert(uid, endpoint(service, spec, pod, ip));
    }
    // What each slice keeps; the others are free to be filled anew.
    let mut kept: Vec<(Option<Arc<EndpointSlice>>, Ports, Vec<Endpoint>)> = Vec::new();
    let mut free: Vec<Arc<EndpointSlice>> = Vec::new();
    for slice in slices {
        if slice.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let ports = slice.ports.clone().unwrap_or_default();
        let id = serde_json::to_string(&ports).unwrap_or_default();
        let group = wanted.get_mut(&id).filter(|_| slice.address_type == "IPv4");
        let stay: Vec<Endpoint> = match group {
            None => Vec::new(),
            Some((_, group)) => slice
                .endpoints
                .iter()
                .flatten()
                .filter_map(|known| group.remove(known.target_ref.as_ref()?.uid.as_ref()?))
                .collect(),
        };
        if stay.is_empty() {
            free.push(slice.clone());
        } else {
            kept.push((Some(slice.clone()), ports, stay));
        }
    }
    for (ports, group) in wanted.into_values() {
        let mut rest = group.into_values();
        let mut next = rest.next();
        for (_, known, endpoints) in &mut kept {
            while *known == ports
                && endpoints.len() < SLICE_SIZE
                && let Some(endpoint) = next.take()
            {
                endpoints.push(endpoint);
                next = rest.next();
            }
        }
        while let Some(first) = next.take() {
            let mut endpoints = vec![first];
            endpoints.extend(rest.by_ref().take(SLICE_SIZE - 1));
            next = rest.next();
            let reused = free.iter().position(|slice| slice.address_type == "IPv4");
            kept.push((reused.map(|index| free.remove(index)), ports.clone(), endpoints));
        }
    }
    if kept.is_empty() {
        // A Service without endpoints has one empty slice, so that one can tell it was looked at.
        kept.push((free.pop(), Vec::new(), Vec::new()));
    }
    let mut actions = Vec::new();
    for (old, ports, endpoints) in kept {
        let known = old.as_deref().cloned().unwrap_or_else(|| blank(service));
        let mut new = EndpointSlice {
            address_type: "IPv4".into(),
            endpoints: Some(endpoints),
            ports: Some(ports),
            metadata: known.metadata.clone(),
        };
        new.metadata.labels = Some(slice_labels(service, spec));
        if !is_controlled_by(&new.metadata, service.metadata.uid.as_deref()) {
            new.metadata.owner_references = Some(vec![controlled_by(service)]);
        }
        match old {
            None => {
                note_trigger(&mut new.metadata, now);
                actions.push(Action::Create(Box::new(new)));
            }
            Some(old) if is_same(&old, &new) => {}
            Some(old) => {
                note_trigger(&mut new.metadata, now);
                actions.push(Action::Update { old, new: Box::new(new) });
            }
        }
    }
    actions.extend(free.into_iter().map(Action::Delete));
    // Pods that leave must be out before anything else is told.
    actions.sort_by_key(|action| !matches!(action, Action::Update { .. }));
    actions
}

/// The same but for how an empty list is written.
fn is_same(old: &EndpointSlice, new: &EndpointSlice) -> bool {
    old.metadata == new.metadata
        && old.endpoints.as_deref().unwrap_or_default()
            == new.endpoints.as_deref().unwrap_or_default()
        && old.ports.as_deref().unwrap_or_default() == new.ports.as_deref().unwrap_or_default()
}

fn blank(service: &Service) -> EndpointSlice {
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

fn copied_labels(service: &Service, spec: &ServiceSpec) -> Labels {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if spec.cluster_ip.as_deref() == Some("None") {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels
}

fn note_trigger(meta: &mut ObjectMeta, now: Timestamp) {
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(TRIGGERED.into(), whole_seconds(now).to_string());
}

fn address(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.pod_ip.as_deref().filter(|ip| !ip.is_empty())
}

fn is_leaving(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: pod.metadata.uid.clone(),
        ..Default::default()
    }
}

/// The name a headless Service gives a pod.
fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.clone().filter(|name| !name.is_empty())?;
    (spec.subdomain == service.metadata.name).then_some(hostname)
}

fn endpoint(service: &Service, spec: &ServiceSpec, pod: &Pod, ip: &str) -> Endpoint {
    let (serving, terminating) = (is_ready(pod), is_leaving(pod));
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

/// The port of this pod that a Service's port leads to; `None` where the pod has no such port.
fn target(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match port.target_port.as_ref() {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let spec = pod.spec.as_ref()?;
            let sidecars = spec.init_containers.iter().flatten();
            let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
            spec.containers
                .iter()
                .chain(sidecars)
                .flat_map(|container| container.ports.iter().flatten())
                .find(|known| {
                    known.name.as_ref() == Some(name)
                        && known.protocol.as_deref().unwrap_or("TCP") == protocol
                })
                .map(|known| known.container_port)
        }
    }
}

fn slice_ports(spec: &ServiceSpec, pod: &Pod) -> Ports {
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        Some(EndpointPort {
            // Kubernetes writes the empty name of an only port too.
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(target(port, pod)?),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
            app_protocol: port.app_protocol.clone(),
        })
    });
    ports.collect()
}

fn plan_legacy(
    service: &Service,
    spec: &ServiceSpec,
    pods: &[Arc<Pod>],
    endpoints: Option<&Arc<Endpoints>>,
    now: Timestamp,
) -> Option<Action> {
    let mut groups: BTreeMap<String, EndpointSubset> = BTreeMap::new();
    let everything = spec.publish_not_ready_addresses == Some(true);
    let mut pods: Vec<&Arc<Pod>> = pods.iter().collect();
    pods.sort_by(|a, b| address(a).cmp(&address(b)));
    let usable = |pod: &&&Arc<Pod>| !is_finished(pod) && (everything || !is_leaving(pod));
    for pod in pods.iter().filter(usable).take(LEGACY_SIZE) {
        let Some(ip) = address(pod) else { continue };
        let ports: Vec<LegacyPort> = slice_ports(spec, pod)
            .into_iter()
            .map(|port| LegacyPort {
                name: port.name.filter(|name| !name.is_empty()),
                port: port.port.unwrap_or_default(),
                protocol: port.protocol,
                app_protocol: port.app_protocol,
            })
            .collect();
        let headless = spec.cluster_ip.as_deref() == Some("None");
        if ports.is_empty() && !(headless && spec.ports.iter().flatten().next().is_none()) {
            continue;
        }
        let id = serde_json::to_string(&ports).unwrap_or_default();
        let subset = groups.entry(id).or_insert_with(|| EndpointSubset {
            ports: (!ports.is_empty()).then_some(ports),
            ..Default::default()
        });
        let list = match everything || is_ready(pod) {
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
    let subsets: Vec<EndpointSubset> = groups.into_values().collect();
    let mut new = endpoints.map(|old| (**old).clone()).unwrap_or_default();
    new.metadata.name = service.metadata.name.clone();
    new.metadata.namespace = service.metadata.namespace.clone();
    let mut labels = copied_labels(service, spec);
    labels.insert(LEGACY_MANAGED_BY.into(), LEGACY_MANAGER.into());
    new.metadata.labels = Some(labels);
    new.subsets = (!subsets.is_empty()).then_some(subsets);
    match endpoints {
        Some(old) => {
            let before = old.subsets.as_deref().unwrap_or_default();
            if before == new.subsets.as_deref().unwrap_or_default() && old.metadata == new.metadata
            {
                return None;
            }
            note_trigger(&mut new.metadata, now);
            Some(Action::UpdateLegacy { old: old.clone(), new: Box::new(new) })
        }
        None => {
            note_trigger(&mut new.metadata, now);
            Some(Action::CreateLegacy(Box::new(new)))
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

//! Reconciles listeners with Services and writes load balancer status.

use super::{
    objects::Objects,
    plan::{self, Action, ServicePlan},
    pod_listeners::{PodInfo, PodListeners, max_listeners},
    state::{ServiceState, Serving, UdpPlan},
    udp::{Side, UdpListeners},
};
use crate::{
    config::{Config, Topology},
    data_plane::{DataPlane, ListenerError},
    load_balancer::{
        self, AddressPool, Bind, LbStatus, LbStatusWriter, LoadBalanced, Ownership, WriteResult,
    },
    services::endpoints::serving_ports,
};
use k8s_openapi::api::core::v1::Service;
use kube::Client;
use kube_embedded_core::{events::Recorder, informer::ObjectKey, network::HostSockets};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

/// The source of events and the field manager of writes, as in Kubernetes.
const COMPONENT: &str = "service-controller";

/// Brings listeners in line with Services.
pub(super) struct ServiceReconciler {
    pub(super) ownership: Ownership,
    pool: AddressPool,
    bind: Bind,
    /// The first address and prefix length of the addresses of pods.
    pod_network: (Ipv4Addr, u8),
    services: BTreeMap<ObjectKey, ServiceState>,
    pod_listeners: PodListeners,
    udp_listeners: UdpListeners,
    pub(super) statuses: LbStatusWriter<Service>,
    /// Services with a failed bind or write, which are retried.
    pub(super) unfinished: BTreeSet<ObjectKey>,
    /// The cluster IP of the Service `kube-dns`.
    dns: String,
    // Last, so that the listeners above are closed before their threads end.
    serving: Serving,
}

impl ServiceReconciler {
    pub(super) fn new(
        client: Client,
        config: &Config,
        data_plane: Arc<DataPlane>,
        bind: Bind,
    ) -> Self {
        let recorder = Recorder::new(client.clone(), COMPONENT, "");
        let network = config.network.clone();
        Self {
            ownership: Ownership::new(config),
            pool: AddressPool::new(config.addresses.load_balancers()),
            bind,
            pod_network: config.addresses.pod_network(),
            services: BTreeMap::new(),
            pod_listeners: PodListeners::new(network.clone()),
            udp_listeners: UdpListeners::default(),
            statuses: LbStatusWriter::new(client, COMPONENT),
            unfinished: BTreeSet::new(),
            dns: config.addresses.dns().to_string(),
            serving: Serving { recorder, network, data_plane },
        }
    }

    /// Brings listeners in line with the objects.
    pub(super) async fn reconcile(&mut self, objects: &Objects) {
        let dirty = objects.take_dirty();
        let pods_changed = objects.take_pods_changed();
        // Reserve the addresses that are recorded in status, from before a restart, before
        // allocating new ones.
        for service in dirty.iter().filter_map(|key| objects.service(key)) {
            self.reserve_recorded_address(&service);
        }
        // Close everything before opening anything: a port may move between Services.
        let mut planned = Vec::new();
        let mut removed = false;
        for key in dirty {
            self.unfinished.remove(&key);
            let service = objects.service(&key).filter(|s| s.metadata.deletion_timestamp.is_none());
            let uid = service.as_ref().and_then(|s| s.metadata.uid.as_deref()).unwrap_or_default();
            if self.services.get(&key).is_some_and(|state| service.is_none() || state.uid != uid) {
                self.release(&key).await;
                removed = true;
            }
            if let Some(service) = service {
                let plan = self.close_stale(&key, &service, objects).await;
                planned.push((key, service, plan));
            }
        }
        let services_changed = removed || !planned.is_empty();
        let pod_listeners_affected = pods_changed || services_changed;
        for (key, service, plan) in planned {
            self.open(&key, &service, plan);
        }
        if pod_listeners_affected {
            self.sync_pod_listeners(objects);
        }
        if services_changed {
            self.sync_udp_listeners();
        }
    }

    /// Plans the Service and closes the listeners that it no longer has.
    async fn close_stale(
        &mut self,
        key: &ObjectKey,
        service: &Service,
        objects: &Objects,
    ) -> ServicePlan {
        let slices = objects.slices_of(key);
        let slices = slices.iter().map(|slice| &**slice);
        let mut plan = plan::plan(service, slices, &self.ownership.topology);
        if self.ownership.is_foreign(service) {
            plan.load_balancer.clear();
        }
        let state = self.services.entry(key.clone()).or_insert_with(|| ServiceState::new(service));
        state.close_stale(&plan).await;
        if plan.load_balancer.is_empty() {
            self.pool.release(&state.uid);
        }
        plan
    }

    /// Opens the listeners that the Service does not have yet.
    fn open(&mut self, key: &ObjectKey, service: &Service, plan: ServicePlan) {
        let Some(state) = self.services.get_mut(key) else { return };
        state.sync_routes(&plan);
        let cluster_ip = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_ref());
        // The DNS server receives datagrams itself.
        let is_dns = cluster_ip == Some(&self.dns);
        state.udp = if is_dns { UdpPlan::default() } else { UdpPlan::of(&plan) };
        for unsupported in &plan.unsupported {
            let message =
                format!("port {unsupported} is not served: its protocol is not supported");
            state.warn_once(&self.serving, "UnsupportedProtocol", &message);
        }
        if let Some(first) = plan.outside.first() {
            let (network, prefix) = self.pod_network;
            let message = format!(
                "{} endpoints in its EndpointSlices are not connected to: no pod of this cluster can \
                 have the address {} (pods are in {network}/{prefix})",
                plan.outside.len(),
                first.ip()
            );
            state.warn_first(&self.serving, "EndpointOutsideCluster", &message);
        }
        for action in state.changes(&plan) {
            let Action::Open(at, route) = action else { continue };
            match (self.bind)(at) {
                Ok(port) => state.serve(&self.serving, at, port, route),
                Err(error) => {
                    let message = load_balancer::not_bound(at, &error);
                    state.warn_once(&self.serving, "PortNotBound", &message);
                    self.unfinished.insert(key.clone());
                }
            }
        }
        state.pods = plan.pods.clone();
        if plan.load_balancer.is_empty() {
            self.release_load_balancer(key, service);
        } else {
            self.sync_load_balancer(key, service, &plan);
        }
    }

    /// Assigns an external address, publishes ports on it and writes the status.
    fn sync_load_balancer(&mut self, key: &ObjectKey, service: &Service, plan: &ServicePlan) {
        let Some(state) = self.services.get_mut(key) else { return };
        let requested = service.spec.as_ref().and_then(|s| s.load_balancer_ip.as_deref());
        let candidates = self.pool.candidates(&state.uid, requested);
        if let Some(refused) = &candidates.refused {
            state.warn_once(&self.serving, "LoadBalancerIPNotAvailable", refused);
        }
        state.leave_other_addresses(&candidates.addresses);
        let unpublished = state.unpublished(plan);
        if !unpublished.is_empty() {
            let published = load_balancer::publish(&candidates, &unpublished, self.bind);
            let Some(published) = published else {
                let message = "all external addresses of the pool are in use; retrying";
                state.warn_once(&self.serving, "SyncLoadBalancerFailed", message);
                self.unfinished.insert(key.clone());
                return;
            };
            self.pool.assign(published.address, &state.uid);
            if !state.publish(&self.serving, plan, published.ports) {
                self.unfinished.insert(key.clone());
            }
        }
        let status = state.lb_status(plan, &self.ownership.topology);
        if self.statuses.sync(service, status) {
            let (reason, message) = ("EnsuringLoadBalancer", "Ensuring load balancer");
            self.serving.recorder.publish(&state.reference, "Normal", reason, message);
        }
    }

    /// Removes the external address of a Service that is no load balancer, or no longer ours.
    fn release_load_balancer(&mut self, key: &ObjectKey, service: &Service) {
        let Some(state) = self.services.get_mut(key) else { return };
        let observed = service.lb_status();
        let is_ours = observed.address().is_some_and(|a| self.pool.contains(a.into()));
        // The API server clears the address of a Service that is no load balancer any more, but
        // leaves the annotation.
        let is_recorded = is_ours || observed.published_port.is_some();
        let is_load_balancer = service.spec.as_ref().is_some_and(plan::is_load_balancer);
        if state.load_balancer.take().is_none() && (!is_recorded || is_load_balancer) {
            return;
        }
        let recorder = &self.serving.recorder;
        let deleting = ("DeletingLoadBalancer", "Deleting load balancer");
        if is_recorded {
            let ingress = if is_ours { Vec::new() } else { observed.ingress };
            if self.statuses.sync(service, &LbStatus { ingress, published_port: None }) {
                recorder.publish(&state.reference, "Normal", deleting.0, deleting.1);
            }
        } else {
            let deleted = ("DeletedLoadBalancer", "Deleted load balancer");
            for (reason, message) in [deleting, deleted] {
                recorder.publish(&state.reference, "Normal", reason, message);
            }
        }
    }

    /// Syncs the listeners for cluster IPs inside pods.
    pub(super) fn sync_pod_listeners(&mut self, objects: &Objects) {
        let embedded = match &self.ownership.topology {
            Topology::Embedded(embedded) if !embedded.cluster_ips_on_host() => embedded,
            _ => return,
        };
        let mut desired = BTreeMap::new();
        for state in self.services.values() {
            for (at, from_pods) in &state.pods {
                if let Some(route) = state.pod_route(from_pods, embedded) {
                    desired.insert(*at, route);
                }
            }
            if self.serving.network.router().is_some() {
                desired.extend(state.host_routes());
            }
        }
        let pods = pods_by_address(objects);
        let synced = self.pod_listeners.sync(&self.serving.data_plane, &desired, &pods);
        if let Some(left_out) = synced {
            let limit = max_listeners();
            let message = format!(
                "{left_out} is not reachable from every pod: listener limit ({limit}) reached"
            );
            self.warn(left_out, "ClusterAddressNotOpened", &message);
        }
    }

    /// Syncs the UDP ports of all Services. Pods without a network between them reach none.
    fn sync_udp_listeners(&mut self) {
        let Topology::Embedded(embedded) = &self.ownership.topology else { return };
        let desired = self.services.values().flat_map(|state| state.udp_routes(embedded)).collect();
        let network = &self.serving.network;
        self.udp_listeners.sync(desired, network, |side| match side {
            Side::Host => Some(Arc::new(HostSockets)),
            Side::Pods => network.router().cloned(),
        });
    }

    /// Reports an error of a listener. One that could not listen is opened again later.
    pub(super) fn listener_failed(&mut self, at: SocketAddr, error: ListenerError) {
        let (reason, message) = load_balancer::listener_error(at, error);
        self.warn(at, reason, &message);
        if error == ListenerError::CannotListen {
            for (key, state) in &mut self.services {
                if state.drop_listener(at) {
                    self.unfinished.insert(key.clone());
                }
            }
        }
    }

    /// Reports the end of a status write. A failed one is retried later.
    pub(super) fn status_written(&mut self, written: WriteResult, objects: &Objects) {
        let Some(state) = self.services.get_mut(&written.key) else { return };
        match written.result {
            Ok(()) => {
                let load_balancer = state.load_balancer.as_ref();
                let (reason, message) = match load_balancer {
                    Some(balancer) if !balancer.status.ingress.is_empty() => {
                        ("EnsuredLoadBalancer", "Ensured load balancer")
                    }
                    _ => ("DeletedLoadBalancer", "Deleted load balancer"),
                };
                self.serving.recorder.publish(&state.reference, "Normal", reason, message);
                objects.requeue(written.key);
            }
            Err(error) => {
                let message = format!("failed to write the status: {error}");
                state.warn_once(&self.serving, "SyncLoadBalancerFailed", &message);
                self.unfinished.insert(written.key);
            }
        }
    }

    fn warn(&mut self, at: SocketAddr, reason: &str, message: &str) {
        for state in self.services.values_mut().filter(|state| state.has_address(&at)) {
            state.warn_once(&self.serving, reason, message);
        }
    }

    fn reserve_recorded_address(&mut self, service: &Service) {
        let is_load_balancer = service.spec.as_ref().is_some_and(plan::is_load_balancer);
        if is_load_balancer
            && !self.services.contains_key(&ObjectKey::of(service))
            && let Some(address) = service.lb_status().address()
        {
            self.pool.assign(address, service.metadata.uid.as_deref().unwrap_or_default());
        }
    }

    /// Releases everything that a deleted Service had.
    async fn release(&mut self, key: &ObjectKey) {
        if let Some(state) = self.services.remove(key) {
            self.statuses.forget(|other| other == key);
            self.pool.release(&state.uid);
            state.close_all().await;
        }
    }
}

/// Returns the pods by their addresses, with the ports that they declare or serve on.
fn pods_by_address(objects: &Objects) -> BTreeMap<IpAddr, PodInfo> {
    let mut pods: BTreeMap<IpAddr, PodInfo> = BTreeMap::new();
    for pod in objects.pods() {
        for address in &pod.addresses {
            let info = PodInfo { node: pod.node.clone(), own_ports: pod.ports.clone() };
            pods.insert(*address, info);
        }
    }
    for serving in objects.slices().iter().flat_map(|slice| serving_ports(slice)) {
        if let Some(pod) = pods.get_mut(&serving.ip()) {
            pod.own_ports.insert(serving.port());
        }
    }
    pods
}

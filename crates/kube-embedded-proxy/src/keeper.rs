//! Keeps what is bound equal to what Services ask for, and tells the API what came of it.

use super::{
    Bind, Config,
    balancer::{self, Pool, Sent, Status},
    objects::{Key, Objects},
    plan::{self, Action, FromPods, Place, RouteKey, Scope, Wanted},
    plane::{Listening, Plane, Port, Trouble},
    pods::{Inhabitant, PodDoors, PodRoute},
    route::{Affinity, Route},
};
use futures::{future::BoxFuture, stream::FuturesUnordered};
use k8s_openapi::api::core::v1::{ObjectReference, Service};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use kube_embedded_core::events::{self, Recorder};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// A write of a Service's status that has ended: for whom, and whether it was taken.
pub(super) struct Written {
    service: Key,
    uid: String,
    /// The version of the Service that it made.
    result: kube::Result<Option<u64>>,
}

pub(super) struct Keeper {
    client: Client,
    recorder: Recorder,
    pub(super) place: Place,
    only: Option<String>,
    pool: Pool,
    bind: Bind,
    held: BTreeMap<Key, Held>,
    pod_doors: PodDoors,
    /// Services for which something could not be bound or written: looked at again after a while,
    /// because nothing tells when another program frees a port.
    pub(super) unfinished: BTreeSet<Key>,
    // Last, so that the listeners above are gone before their threads end.
    plane: Arc<Plane>,
}

/// What one Service has now.
struct Held {
    uid: String,
    reference: ObjectReference,
    routes: BTreeMap<RouteKey, Arc<Route>>,
    affinities: BTreeMap<String, Arc<Affinity>>,
    doors: BTreeMap<SocketAddr, (RouteKey, Listening)>,
    pods: BTreeMap<SocketAddr, FromPods>,
    balancer: Option<Balancer>,
    writing: bool,
    /// What was said already, so that each thing is said once.
    said: BTreeSet<String>,
}

#[derive(Default)]
struct Balancer {
    /// Port of the Service and where it is published.
    ports: BTreeMap<u16, SocketAddr>,
    status: Status,
    sent: Sent,
}

impl Keeper {
    pub(super) fn new(client: Client, config: &Config, plane: Arc<Plane>, bind: Bind) -> Self {
        Self {
            recorder: Recorder::new(client.clone(), "service-controller", ""),
            client,
            place: config.place(),
            only: config.only.clone(),
            pool: Pool::new(config.addresses.load_balancers()),
            bind,
            held: BTreeMap::new(),
            pod_doors: PodDoors::new(config.network.clone()),
            unfinished: BTreeSet::new(),
            plane,
        }
    }

    /// Brings listeners in line with the objects; the writes that follow are added to `writes`.
    pub(super) async fn keep(
        &mut self,
        objects: &mut Objects,
        writes: &mut FuturesUnordered<BoxFuture<'static, Written>>,
    ) {
        let dirty = objects.take_dirty();
        let pods_changed = objects.take_pods_changed();
        // Addresses of an earlier life first, so that no other Service gets them.
        for service in dirty.iter().filter_map(|key| objects.service(key)) {
            self.remember_address(service);
        }
        // Everything is closed before anything is opened: a port may move between Services.
        let mut wanted = Vec::new();
        let mut removed = false;
        for key in dirty {
            self.unfinished.remove(&key);
            let service = objects.service(&key).filter(|s| s.metadata.deletion_timestamp.is_none());
            let uid = service.and_then(|s| s.metadata.uid.clone()).unwrap_or_default();
            if self.held.get(&key).is_some_and(|held| service.is_none() || held.uid != uid) {
                self.let_go(&key).await;
                removed = true;
            }
            if let Some(service) = service {
                let mut plan = plan::plan(service, objects.slices_of(&key), &self.place);
                if self.is_somebody_elses(service) {
                    plan.balanced.clear();
                }
                let held = self.held.entry(key.clone()).or_insert_with(|| Held::new(service));
                held.close(&plan).await;
                if plan.balanced.is_empty() {
                    self.pool.release(&held.uid);
                }
                wanted.push((key, service, plan));
            }
        }
        let pods_matter = pods_changed || removed || !wanted.is_empty();
        for (key, service, plan) in wanted {
            self.open(&key, service, plan, writes);
        }
        if pods_matter {
            self.keep_pods(objects);
        }
    }

    /// Opens, closes and leads listeners inside of pods.
    pub(super) fn keep_pods(&mut self, objects: &Objects) {
        if !matches!(&self.place, Place::Own(own) if !own.cluster_addresses_on_host) {
            return;
        }
        let mut wanted = BTreeMap::new();
        for held in self.held.values() {
            for (at, from_pods) in &held.pods {
                if let Some(route) = held.pod_route(from_pods, &self.place) {
                    wanted.insert(*at, route);
                }
            }
        }
        let mut pods: BTreeMap<IpAddr, Inhabitant> = BTreeMap::new();
        for pod in objects.pods() {
            for address in &pod.addresses {
                let inhabitant =
                    Inhabitant { node: pod.node.clone(), own_ports: pod.ports.clone() };
                pods.insert(*address, inhabitant);
            }
        }
        for serving in objects.slices().flat_map(plan::serving_ports) {
            if let Some(pod) = pods.get_mut(&serving.ip()) {
                pod.own_ports.insert(serving.port());
            }
        }
        if let Some(left_out) = self.pod_doors.sync(&self.plane, &wanted, &pods) {
            let limit = super::pods::LISTENERS;
            let message = format!(
                "{left_out} is not open in every pod: {limit} such listeners are the limit"
            );
            self.warn(left_out, "ClusterAddressNotOpened", &message);
        }
    }

    /// Something went wrong on the data plane.
    pub(super) fn trouble(&mut self, at: SocketAddr, trouble: Trouble) {
        let (reason, message) = balancer::trouble(at, trouble);
        self.warn(at, reason, &message);
        if trouble == Trouble::CannotListen {
            for (key, held) in &mut self.held {
                if held.doors.remove(&at).is_some() {
                    if let Some(balancer) = &mut held.balancer {
                        balancer.ports.retain(|_, published| *published != at);
                    }
                    self.unfinished.insert(key.clone());
                }
            }
        }
    }

    /// A write has ended; a Service whose write failed is looked at again later.
    pub(super) fn written(&mut self, written: Written, objects: &mut Objects) {
        let Some(held) = self.held.get_mut(&written.service).filter(|h| h.uid == written.uid)
        else {
            return;
        };
        held.writing = false;
        match written.result {
            Ok(version) => {
                if let Some(balancer) = &mut held.balancer {
                    balancer.sent.end(true, version);
                }
                let ensured = held.balancer.as_ref().is_some_and(|b| !b.status.ingress.is_empty());
                let (reason, message) = match ensured {
                    true => ("EnsuredLoadBalancer", "Ensured load balancer"),
                    false => ("DeletedLoadBalancer", "Deleted load balancer"),
                };
                self.recorder.publish(&held.reference, "Normal", reason, message);
                objects.look_again(written.service);
            }
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => {
                if let Some(balancer) = &mut held.balancer {
                    balancer.sent.end(false, None);
                }
                let message = format!("status could not be written: {error}");
                held.say(&self.recorder, "SyncLoadBalancerFailed", &message);
                self.unfinished.insert(written.service);
            }
        }
    }

    fn warn(&mut self, at: SocketAddr, reason: &str, message: &str) {
        let concerned =
            |held: &&mut Held| held.doors.contains_key(&at) || held.pods.contains_key(&at);
        for held in self.held.values_mut().filter(concerned) {
            held.say(&self.recorder, reason, message);
        }
    }

    /// Whether the Service is none of ours, or has an external address that was not given here. In a
    /// cluster of our own nobody else gives any.
    fn is_somebody_elses(&self, service: &Service) -> bool {
        let elsewhere = self.only.is_some() && self.only != service.metadata.namespace;
        let outside = matches!(self.place, Place::Outside(_));
        outside && (elsewhere || Status::of(service).is_somebody_elses())
    }

    fn remember_address(&mut self, service: &Service) {
        let uid = service.metadata.uid.clone().unwrap_or_default();
        let key = key(service);
        if is_balancer(service)
            && !self.held.contains_key(&key)
            && let Some(address) = Status::of(service).address()
        {
            self.pool.take(address, &uid);
        }
    }

    async fn let_go(&mut self, key: &Key) {
        if let Some(held) = self.held.remove(key) {
            self.pool.release(&held.uid);
            for (_, listening) in held.doors.into_values() {
                listening.close().await;
            }
        }
    }

    fn open(
        &mut self,
        key: &Key,
        service: &Service,
        plan: Wanted,
        writes: &mut FuturesUnordered<BoxFuture<'static, Written>>,
    ) {
        let Some(held) = self.held.get_mut(key) else { return };
        held.lead(&plan);
        for unsupported in &plan.unsupported {
            let message = format!("port {unsupported} is not served: only TCP is");
            held.say(&self.recorder, "UnsupportedProtocol", &message);
        }
        let bound = held.bound();
        for action in plan::changes(&held.doors_wanted(&plan), &bound) {
            let Action::Open(at, route) = action else { continue };
            let opened = (self.bind)(at).map(|port| held.serve(&self.plane, at, port, route));
            if let Err(error) = opened {
                held.say(&self.recorder, "PortNotBound", &balancer::not_bound(at, &error));
                self.unfinished.insert(key.clone());
            }
        }
        held.pods = plan.pods.clone();
        self.balance(key, service, &plan, writes);
    }

    /// Gives a load balancer its address and ports, or takes them back.
    fn balance(
        &mut self,
        key: &Key,
        service: &Service,
        plan: &Wanted,
        writes: &mut FuturesUnordered<BoxFuture<'static, Written>>,
    ) {
        let Some(held) = self.held.get_mut(key) else { return };
        let observed = Status::of(service);
        if plan.balanced.is_empty() {
            let ours = observed.address().is_some_and(|a| self.pool.contains(a.into()));
            // The API takes the address from a Service that is no load balancer any more, but
            // leaves the annotation.
            let left = ours || observed.published_port.is_some();
            if held.balancer.take().is_none() && (!left || is_balancer(service)) {
                return;
            }
            if left && held.writing {
                return;
            }
            let (reason, message) = ("DeletingLoadBalancer", "Deleting load balancer");
            self.recorder.publish(&held.reference, "Normal", reason, message);
            if left {
                let ingress = if ours { Vec::new() } else { observed.ingress.clone() };
                let status = Status { ingress, published_port: None };
                writes.push(write(self.client.clone(), key, held, observed, status));
            } else {
                let (reason, message) = ("DeletedLoadBalancer", "Deleted load balancer");
                self.recorder.publish(&held.reference, "Normal", reason, message);
            }
            return;
        }
        let asked = service.spec.as_ref().and_then(|s| s.load_balancer_ip.as_deref());
        let candidates = self.pool.candidates(&held.uid, asked);
        if let Some(refused) = &candidates.refused {
            held.say(&self.recorder, "LoadBalancerIPNotAvailable", refused);
        }
        let mut balancer = held.balancer.take().unwrap_or_default();
        // Another address was asked for: all ports move.
        let moved = |at: &SocketAddr| {
            !candidates.addresses.iter().any(|address| IpAddr::V4(*address) == at.ip())
        };
        let leaving: Vec<SocketAddr> =
            balancer.ports.values().copied().filter(|at| moved(at)).collect();
        for at in leaving {
            held.doors.remove(&at);
            balancer.ports.retain(|_, published| *published != at);
        }
        let missing: Vec<u16> = plan.balanced.iter().map(|b| b.port).collect();
        let missing: Vec<u16> =
            missing.into_iter().filter(|port| !balancer.ports.contains_key(port)).collect();
        if !missing.is_empty() {
            let Some(published) = balancer::publish(&candidates.addresses, &missing, self.bind)
            else {
                let message = "all external addresses of the pool are taken";
                held.say(&self.recorder, "SyncLoadBalancerFailed", message);
                self.unfinished.insert(key.clone());
                held.balancer = Some(balancer);
                return;
            };
            self.pool.take(published.address, &held.uid);
            for (port, bound) in published.ports {
                let asked = SocketAddr::from((published.address, port));
                let Some(wanted) = plan.balanced.iter().find(|b| b.port == port) else { continue };
                match bound {
                    Ok((number, bound)) => {
                        let at = SocketAddr::from((published.address, number));
                        held.serve(&self.plane, at, bound, wanted.route.clone());
                        balancer.ports.insert(port, at);
                        if number != port {
                            let message = balancer::moved(asked, at);
                            held.say(&self.recorder, "PortNotBound", &message);
                        }
                    }
                    Err(error) => {
                        held.say(
                            &self.recorder,
                            "PortNotBound",
                            &balancer::not_bound(asked, &error),
                        );
                        self.unfinished.insert(key.clone());
                    }
                }
            }
        }
        let address = balancer.ports.values().find_map(|at| match at.ip() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        });
        let ports: Vec<(u16, Option<u16>)> = plan
            .balanced
            .iter()
            .map(|b| (b.port, balancer.ports.get(&b.port).map(SocketAddr::port)))
            .collect();
        balancer.status =
            address.map(|a| Status::new(a, &ports, self.place.ip_mode())).unwrap_or_default();
        let due = balancer.sent.is_due(&balancer.status, &observed, &service.metadata);
        if due && !held.writing {
            balancer.sent.begin(balancer.status.clone());
            let (reason, message) = ("EnsuringLoadBalancer", "Ensuring load balancer");
            self.recorder.publish(&held.reference, "Normal", reason, message);
            let status = balancer.status.clone();
            writes.push(write(self.client.clone(), key, held, observed, status));
        }
        held.balancer = Some(balancer);
    }
}

impl Held {
    fn new(service: &Service) -> Self {
        Self {
            uid: service.metadata.uid.clone().unwrap_or_default(),
            reference: events::about(service),
            routes: BTreeMap::new(),
            affinities: BTreeMap::new(),
            doors: BTreeMap::new(),
            pods: BTreeMap::new(),
            balancer: None,
            writing: false,
            said: BTreeSet::new(),
        }
    }

    /// Listeners of the host that the Service should have, as far as they have a number yet.
    fn doors_wanted(&self, plan: &Wanted) -> BTreeMap<SocketAddr, RouteKey> {
        let mut doors = plan.host.clone();
        if let Some(balancer) = &self.balancer {
            for balanced in &plan.balanced {
                if let Some(at) = balancer.ports.get(&balanced.port) {
                    doors.insert(*at, balanced.route.clone());
                }
            }
        }
        doors
    }

    fn bound(&self) -> BTreeMap<SocketAddr, RouteKey> {
        self.doors.iter().map(|(at, (route, _))| (*at, route.clone())).collect()
    }

    async fn close(&mut self, plan: &Wanted) {
        for action in plan::changes(&self.doors_wanted(plan), &self.bound()) {
            let Action::Close(at) = action else { continue };
            if let Some((_, listening)) = self.doors.remove(&at) {
                listening.close().await;
            }
        }
        if let Some(balancer) = &mut self.balancer {
            balancer.ports.retain(|port, _| plan.balanced.iter().any(|b| b.port == *port));
        }
    }

    /// Connections from now on go where the plan says.
    fn lead(&mut self, plan: &Wanted) {
        self.routes.retain(|key, _| plan.routes.contains_key(key));
        self.affinities.retain(|port, _| plan.routes.keys().any(|key| key.port == *port));
        for (key, routing) in &plan.routes {
            match self.routes.get(key) {
                Some(route) => route.set(routing.clone()),
                None => {
                    let affinity = self.affinities.entry(key.port.clone()).or_default().clone();
                    let route = Arc::new(Route::new(routing.clone(), affinity));
                    self.routes.insert(key.clone(), route);
                }
            }
        }
    }

    fn serve(&mut self, plane: &Plane, at: SocketAddr, port: Port, key: RouteKey) {
        if let Some(route) = self.routes.get(&key) {
            let listening = plane.serve(port, route.clone());
            self.doors.insert(at, (key, listening));
        }
    }

    fn pod_route(&self, from_pods: &FromPods, place: &Place) -> Option<PodRoute> {
        match from_pods {
            FromPods::Anywhere(key) => self.routes.get(key).cloned().map(PodRoute::Anywhere),
            FromPods::SameNode { port } => {
                let of_node = |(node, _): &(String, _)| {
                    let scope = Scope::Node(node.clone());
                    let key = RouteKey { port: port.clone(), scope };
                    Some((node.clone(), self.routes.get(&key)?.clone()))
                };
                Some(PodRoute::SameNode(place.nodes().iter().filter_map(of_node).collect()))
            }
        }
    }

    /// A warning, once in the life of the Service.
    fn say(&mut self, recorder: &Recorder, reason: &str, message: &str) {
        if self.said.insert(format!("{reason} {message}")) {
            recorder.publish(&self.reference, "Warning", reason, message);
        }
    }
}

/// Whether the Service is a load balancer, and of no class that somebody else serves.
fn is_balancer(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| {
        spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none()
    })
}

fn key(service: &Service) -> Key {
    let meta = &service.metadata;
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// The annotation goes first: who waits for the address must find it complete.
fn write(
    client: Client,
    service: &Key,
    held: &mut Held,
    observed: Status,
    status: Status,
) -> BoxFuture<'static, Written> {
    held.writing = true;
    let (service, uid) = (service.clone(), held.uid.clone());
    let api: Api<Service> = Api::namespaced(client, &service.0);
    let params =
        PatchParams { field_manager: Some("service-controller".into()), ..Default::default() };
    Box::pin(async move {
        // The uid keeps the write from a Service of the same name that came after.
        let annotation = json!({ "metadata": {
            "uid": uid,
            "annotations": { balancer::PUBLISHED_PORT: status.published_port },
        }});
        let load_balancer = match status.ingress.is_empty() {
            true => json!({ "ingress": null }),
            false => json!({ "ingress": status.ingress }),
        };
        let ingress = json!({
            "metadata": { "uid": uid },
            "status": { "loadBalancer": load_balancer },
        });
        let result = async {
            let mut version = None;
            if status.published_port != observed.published_port {
                let patched = api.patch(&service.1, &params, &Patch::Merge(annotation)).await?;
                version = balancer::version(&patched.metadata);
            }
            if status.ingress != observed.ingress {
                let status = Patch::Merge(ingress);
                let patched = api.patch_status(&service.1, &params, &status).await?;
                version = balancer::version(&patched.metadata);
            }
            Ok(version)
        };
        let result = result.await;
        Written { service, uid, result }
    })
}

//! Reconciles listeners and route tables with Gateways and routes, and writes their statuses.

use super::{
    api::{
        Address, ClassStatus, Feature, Gateway, GatewayStatus, ListenerSetStatus, ListenerStatus,
        ParentStatus, PolicyStatus, RouteStatus,
    },
    conditions::{condition, set_times},
    features::FEATURES,
    frontends::GatewayFrontends,
    object::{Gvk, Object},
    objects::{GatewayEvent, Objects, StatusWriters, Watches},
    plan::{GatewayPlan, Plan, plan},
    policies::Policies,
    references::Unresolved,
    status::StatusWriter,
    view::{GATEWAY_CONTROLLER, Target, TargetProtocol, View},
};
use crate::{
    config::{Config, Topology},
    data_plane::{DataPlane, ListenerError},
    http_proxy::{
        backend::{Backend, Upstream},
        upstream_tls::UpstreamTls,
    },
    load_balancer::{AddressPool, Bind, PUBLISHED_PORT},
    route::{Route, Routing},
    secrets::{NamedObjects, Secrets},
    services::plan::port_routing,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube_embedded_core::{
    informer::{Informer, ObjectKey},
    network::Network,
};
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

/// The Secrets and ConfigMaps that Gateways and policies name.
pub(super) struct References {
    pub(super) secrets: Secrets<GatewayEvent>,
    pub(super) config_maps: NamedObjects<ConfigMap, GatewayEvent>,
}

/// Brings frontends in line with Gateways and routes.
pub(super) struct GatewayReconciler {
    topology: Topology,
    /// The one namespace that is served; `None` for all.
    namespace: Option<String>,
    pool: AddressPool,
    bind: Bind,
    gateways: BTreeMap<ObjectKey, GatewayFrontends>,
    backends: BTreeMap<Target, Arc<Backend>>,
    pub(super) statuses: StatusWriters,
    /// Whether a bind or a write has failed, which is retried.
    pub(super) unfinished: bool,
    network: Arc<Network>,
    // Last, so that the listeners above are closed before their threads end.
    data_plane: Arc<DataPlane>,
}

impl GatewayReconciler {
    pub(super) fn new(
        client: &Client,
        config: &Config,
        data_plane: Arc<DataPlane>,
        bind: Bind,
    ) -> Self {
        Self {
            topology: config.topology(),
            namespace: config.namespace.clone(),
            pool: AddressPool::new(config.addresses.gateways()),
            bind,
            gateways: BTreeMap::new(),
            backends: BTreeMap::new(),
            statuses: StatusWriters::new(client),
            unfinished: false,
            network: config.network.clone(),
            data_plane,
        }
    }

    pub(super) fn set_topology(&mut self, topology: Topology) {
        self.topology = topology;
    }

    /// Brings route tables, certificates, listeners and statuses in line with the objects.
    pub(super) async fn reconcile(
        &mut self,
        objects: &Objects,
        references: &mut References,
        watches: &mut Watches,
    ) {
        let mut gateways = objects.kinds.gateways.list();
        let elsewhere =
            |namespace: &Option<String>| self.namespace.is_some() && self.namespace != *namespace;
        gateways
            .retain(|gateway| objects.is_ours(gateway) && !elsewhere(&gateway.metadata.namespace));
        let plan = self.plan(&gateways, objects, references);
        let References { secrets, config_maps } = &mut *references;
        secrets.sync(None, &plan.names.secrets, watches);
        config_maps.sync(None, &plan.names.config_maps, watches);
        // There may be no clients yet, and the first one is to get the right certificate.
        if plan.names.secrets.iter().any(|key| secrets.get(key).is_none())
            || plan.names.config_maps.iter().any(|key| config_maps.get(key).is_none())
        {
            return;
        }
        self.sync_gateways(&gateways, plan, &references.secrets, objects).await;
    }

    /// Plans the Gateways, with the endpoints that their backends have at the moment.
    fn plan(
        &mut self,
        gateways: &[Arc<Gateway>],
        objects: &Objects,
        references: &References,
    ) -> Plan {
        let kinds = &objects.kinds;
        let References { secrets, config_maps } = references;
        let view = View {
            classes: &kinds.classes.list(),
            gateways,
            listener_sets: &kinds.listener_sets.list(),
            http_routes: &kinds.http_routes.list(),
            grpc_routes: &kinds.grpc_routes.list(),
            tls_routes: &kinds.tls_routes.list(),
            tcp_routes: &kinds.tcp_routes.list(),
            udp_routes: &kinds.udp_routes.list(),
            policies: &kinds.policies.list(),
            grants: &kinds.grants.list(),
            namespaces: &objects.namespaces(),
            secret_problem: &|key| secrets.content(key).err(),
            authorities: &|key| config_maps.content(key).cloned(),
        };
        // Many routes may have the same backend.
        let mut found: BTreeMap<Target, Result<Option<Arc<Backend>>, Unresolved>> = BTreeMap::new();
        let (backends, topology) = (&mut self.backends, &self.topology);
        let plan = plan(&view, &mut |target, policies| {
            if let Some(found) = found.get(target) {
                return found.clone();
            }
            let port = service_port(target, objects, topology);
            let backend = port.map(|port| {
                let known = backends.get(target).cloned();
                let upstream = upstream(target, &port, policies, secrets, known.as_deref())?;
                Some(backend(backends, target, known, port.routing, upstream))
            });
            found.insert(target.clone(), backend.clone());
            backend
        });
        self.backends.retain(|target, _| matches!(found.get(target), Some(Ok(Some(_)))));
        plan
    }

    async fn sync_gateways(
        &mut self,
        gateways: &[Arc<Gateway>],
        mut plan: Plan,
        secrets: &Secrets<GatewayEvent>,
        objects: &Objects,
    ) {
        // Reserve the addresses that statuses record, from before a restart, before allocating new
        // ones.
        for gateway in gateways {
            let key = ObjectKey::of(&**gateway);
            let recorded = gateway.status.addresses.iter().find_map(|a| a.value.parse().ok());
            if let Some(address) = recorded.filter(|_| !self.gateways.contains_key(&key)) {
                self.pool.assign(address, gateway.metadata.uid.as_deref().unwrap_or_default());
            }
        }
        let gone = self.gateways.extract_if(.., |key, frontends| {
            plan.gateways.get(key).is_none_or(|planned| planned.uid != frontends.uid)
        });
        for (_, mut frontends) in gone.collect::<Vec<_>>() {
            self.pool.release(&frontends.uid);
            frontends.close().await;
        }
        for gateway in gateways {
            let key = ObjectKey::of(&**gateway);
            let Some(planned) = plan.gateways.get_mut(&key) else { continue };
            let uid = planned.uid.clone();
            let frontends = self.gateways.entry(key).or_insert_with(|| GatewayFrontends::new(uid));
            let problem = address_problem(planned, &self.pool);
            match &problem {
                Some(_) => frontends.close().await,
                None => {
                    frontends.sync(planned, secrets).await;
                    let (pool, bind) = (&mut self.pool, self.bind);
                    let published =
                        frontends.publish(planned, pool, bind, &self.data_plane, &self.network);
                    self.unfinished |= !published;
                }
            }
            let status = gateway_status(gateway, planned, frontends, problem);
            let published = frontends.published_ports();
            let annotation = Some((PUBLISHED_PORT, published.as_deref()));
            self.statuses.gateways.sync(gateway, &status, annotation);
        }
        self.sync_classes(&plan, objects);
        self.sync_listener_sets(&plan, objects);
        self.sync_policies(&mut plan, objects);
        let (statuses, kinds) = (&mut self.statuses, &objects.kinds);
        sync_routes(&mut statuses.http_routes, &kinds.http_routes, &mut plan);
        sync_routes(&mut statuses.grpc_routes, &kinds.grpc_routes, &mut plan);
        sync_routes(&mut statuses.tls_routes, &kinds.tls_routes, &mut plan);
        sync_routes(&mut statuses.tcp_routes, &kinds.tcp_routes, &mut plan);
        sync_routes(&mut statuses.udp_routes, &kinds.udp_routes, &mut plan);
    }

    fn sync_classes(&mut self, plan: &Plan, objects: &Objects) {
        for class in objects.kinds.classes.list() {
            let Some(conditions) = plan.classes.get(&ObjectKey::of(&*class)) else { continue };
            let mut conditions = conditions.clone();
            set_times(&mut conditions, &class.status.conditions, Timestamp::now());
            let features = FEATURES.map(|name| Feature { name: name.to_owned() });
            let status = ClassStatus { conditions, supported_features: features.to_vec() };
            self.statuses.classes.sync(&class, &status, None);
        }
    }

    fn sync_listener_sets(&mut self, plan: &Plan, objects: &Objects) {
        for set in objects.kinds.listener_sets.list() {
            let key = ObjectKey::of(&*set);
            let Some(planned) = plan.listener_sets.get(&key) else { continue };
            let Some(gateway) = plan.gateways.get(&planned.gateway) else { continue };
            let mut conditions = planned.conditions.clone();
            set_times(&mut conditions, &set.status.conditions, Timestamp::now());
            let mut listeners = gateway.statuses(Some(&key));
            set_listener_times(&mut listeners, &set.status.listeners);
            let status = ListenerSetStatus { conditions, listeners };
            self.statuses.listener_sets.sync(&set, &status, None);
        }
    }

    fn sync_policies(&mut self, plan: &mut Plan, objects: &Objects) {
        for policy in objects.kinds.policies.list() {
            let planned = plan.policies.remove(&ObjectKey::of(&*policy));
            let mut ancestors = planned.unwrap_or_default();
            let observed = &policy.status.ancestors;
            for ancestor in &mut ancestors {
                let known = observed.iter().find(|known| {
                    known.controller_name == GATEWAY_CONTROLLER
                        && known.ancestor_ref == ancestor.ancestor_ref
                });
                let known = known.map(|known| &*known.conditions).unwrap_or_default();
                set_times(&mut ancestor.conditions, known, Timestamp::now());
            }
            let foreign = observed.iter().filter(|a| a.controller_name != GATEWAY_CONTROLLER);
            ancestors.extend(foreign.cloned());
            self.statuses.policies.sync(&policy, &PolicyStatus { ancestors }, None);
        }
    }

    /// Drops a listener that could not listen; it is opened again later.
    pub(super) fn listener_failed(&mut self, at: SocketAddr, error: ListenerError) {
        if error == ListenerError::CannotListen {
            self.gateways.values_mut().for_each(|frontends| frontends.drop_listener(at));
            self.unfinished = true;
        }
    }
}

/// Writes the statuses of the routes of a kind, and keeps those of other controllers.
fn sync_routes<S: Gvk<Status = RouteStatus>>(
    writer: &mut StatusWriter<S>,
    routes: &Informer<Object<S>>,
    plan: &mut Plan,
) {
    for route in routes.list() {
        let planned = plan.routes.remove(&(S::KIND, ObjectKey::of(&*route)));
        let mut parents: Vec<ParentStatus> = planned.unwrap_or_default();
        let observed = &route.status.parents;
        for parent in &mut parents {
            let known = observed.iter().find(|known| {
                known.controller_name == GATEWAY_CONTROLLER && known.parent_ref == parent.parent_ref
            });
            let known = known.map(|known| &*known.conditions).unwrap_or_default();
            set_times(&mut parent.conditions, known, Timestamp::now());
        }
        let foreign = observed.iter().filter(|p| p.controller_name != GATEWAY_CONTROLLER);
        parents.extend(foreign.cloned());
        writer.sync(&route, &RouteStatus { parents }, None);
    }
}

/// A port of a Service, as a backend.
struct ServicePort {
    routing: Routing,
    name: String,
    app_protocol: Option<String>,
}

/// Returns the endpoints of a Service port, or why there is none.
fn service_port(
    target: &Target,
    objects: &Objects,
    topology: &Topology,
) -> Result<ServicePort, Unresolved> {
    let Target { service: key, port, .. } = target;
    let missing = |message| Err(("BackendNotFound", message));
    let service = objects.service(key);
    let Some(spec) = service.as_ref().and_then(|service| service.spec.as_ref()) else {
        return missing(format!("Service {key} does not exist"));
    };
    if spec.type_.as_deref() == Some("ExternalName") {
        return Err(("InvalidKind", format!("Service {key} is of type ExternalName")));
    }
    let transport = if target.protocol == TargetProtocol::Udp { "UDP" } else { "TCP" };
    // A port may be there for both.
    let found = spec.ports.iter().flatten().find(|known| {
        known.port == *port && known.protocol.as_deref().unwrap_or("TCP") == transport
    });
    let Some(found) = found else {
        return missing(format!("Service {key} has no {transport} port {port}"));
    };
    let slices = objects.slices_of(key);
    let routing = port_routing(spec, found, slices.iter().map(|slice| &**slice), topology);
    let name = found.name.clone().unwrap_or_default();
    Ok(ServicePort { routing, name, app_protocol: found.app_protocol.clone() })
}

/// Returns how a backend is spoken to, or `None` if its policy is invalid. TLS that is `known` already is
/// kept, with its sessions.
fn upstream(
    target: &Target,
    port: &ServicePort,
    policies: &Policies,
    secrets: &Secrets<GatewayEvent>,
    known: Option<&Backend>,
) -> Option<Upstream> {
    let http2 = match target.protocol {
        TargetProtocol::Http => port.app_protocol.as_deref() == Some("kubernetes.io/h2c"),
        TargetProtocol::Grpc => true,
        TargetProtocol::Stream | TargetProtocol::Udp => false,
    };
    let Some(validation) = policies.of(&target.service, &port.name) else {
        return Some(Upstream { http2, tls: None });
    };
    let validation = validation?;
    let client = target.client.as_ref().and_then(|secret| secrets.content(secret).ok());
    let client = client.map(|secret| &secret.key);
    let known = known.and_then(|known| known.upstream.tls.clone());
    if let Some(known) = known.filter(|known| known.is(validation, client, http2)) {
        return Some(Upstream { http2, tls: Some(known) });
    }
    match UpstreamTls::new(validation.clone(), client.cloned(), http2) {
        Ok(tls) => Some(Upstream { http2, tls: Some(Arc::new(tls)) }),
        Err(error) => {
            tracing::warn!(service = %target.service, %error, "failed to set up TLS to a backend");
            None
        }
    }
}

/// Returns the backend of a target with these endpoints. It is the same one as long as it is used in the
/// same way, so that requests of an older route table get the current endpoints.
fn backend(
    backends: &mut BTreeMap<Target, Arc<Backend>>,
    target: &Target,
    known: Option<Arc<Backend>>,
    routing: Routing,
    upstream: Upstream,
) -> Arc<Backend> {
    if let Some(known) = known {
        known.route.set(routing.clone());
        if known.upstream == upstream {
            return known;
        }
    }
    let name = format!("{}:{}", target.service, target.port);
    let route = Arc::new(Route::new(routing, Arc::default()));
    let created = Arc::new(Backend::new(name, route, upstream));
    backends.insert(target.clone(), created.clone());
    created
}

/// Returns why the addresses that a Gateway asks for cannot be used.
fn address_problem(planned: &GatewayPlan, pool: &AddressPool) -> Option<String> {
    let usable = |address: &&String| {
        address.parse().is_ok_and(|address| pool.is_available(address, &planned.uid))
    };
    match &*planned.requested {
        [] => None,
        [_, _, ..] if planned.requested.iter().all(|a| usable(&a)) => {
            Some("a Gateway has one address here".to_owned())
        }
        requested => {
            let unusable = requested.iter().find(|address| !usable(address))?;
            Some(format!("address {unusable} is in use or not one of those for Gateways"))
        }
    }
}

fn gateway_status(
    gateway: &Gateway,
    planned: &GatewayPlan,
    frontends: &GatewayFrontends,
    problem: Option<String>,
) -> GatewayStatus {
    let observed = &gateway.status;
    let address = frontends.address().filter(|_| planned.is_accepted());
    let (status, reason, message) = match (planned.is_accepted(), address, problem) {
        (false, ..) => (false, "Invalid", "the Gateway is not accepted".to_owned()),
        (true, _, Some(problem)) => (false, "AddressNotUsable", problem),
        (true, None, None) => {
            (false, "AddressNotAssigned", "no address is bound; retrying".to_owned())
        }
        (true, Some(_), None) => (true, "Programmed", String::new()),
    };
    let programmed = condition("Programmed", status, reason, message, planned.generation);
    let mut conditions = vec![planned.accepted.clone(), programmed];
    conditions.extend(planned.conditions.iter().cloned());
    set_times(&mut conditions, &observed.conditions, Timestamp::now());
    let mut listeners = planned.statuses(None);
    set_listener_times(&mut listeners, &observed.listeners);
    let address = address.map(|address| Address {
        r#type: Some("IPAddress".to_owned()),
        value: address.to_string(),
    });
    let attached_listener_sets = planned.attached_sets;
    let addresses = address.into_iter().collect();
    GatewayStatus { addresses, conditions, listeners, attached_listener_sets }
}

fn set_listener_times(listeners: &mut [ListenerStatus], observed: &[ListenerStatus]) {
    for listener in listeners {
        let known = observed.iter().find(|known| known.name == listener.name);
        let known = known.map(|known| &*known.conditions).unwrap_or_default();
        set_times(&mut listener.conditions, known, Timestamp::now());
    }
}

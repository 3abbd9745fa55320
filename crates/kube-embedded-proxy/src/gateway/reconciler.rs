//! Reconciles listeners and route tables with Gateways and routes, and writes their statuses.

use super::{
    api::{
        Address, ClassStatus, Feature, Gateway, GatewayStatus, GrpcRouteSpec, HttpRouteSpec,
        ListenerSetStatus, ListenerStatus, ParentStatus, PolicyStatus, RouteStatus, TcpRouteSpec,
        TlsRouteSpec, UdpRouteSpec,
    },
    backends::find_backend,
    conditions::{condition, set_times},
    features::FEATURES,
    frontends::GatewayFrontends,
    object::{Gvk, Object},
    objects::{Changes, GatewayEvent, Objects, StatusWriters, Watches},
    plan::{GatewayPlan, Plan, plan},
    planner::{AttachedRoutes, Changed, Planner, Replanned},
    status::StatusWriter,
    view::{GATEWAY_CONTROLLER, View},
};
use crate::{
    config::{Config, Topology},
    data_plane::{DataPlane, ListenerError},
    load_balancer::{AddressPool, Bind, PUBLISHED_PORT},
    secrets::{NamedObjects, Secrets},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube_embedded_core::{
    informer::{Informer, ObjectKey},
    network::Network,
};
use std::{collections::BTreeMap, mem, net::SocketAddr, sync::Arc};

/// The Secrets and ConfigMaps that Gateways and policies name.
pub(super) struct References {
    pub(super) secrets: Secrets<GatewayEvent>,
    pub(super) config_maps: NamedObjects<ConfigMap, GatewayEvent>,
}

impl References {
    /// Stores what an event reports. Returns whether it is about one of them, and may change it.
    pub(super) fn apply(&mut self, event: &GatewayEvent) -> bool {
        match event {
            GatewayEvent::Secret(event) => self.secrets.apply(event),
            GatewayEvent::ConfigMap(event) => self.config_maps.apply(event),
            _ => false,
        }
    }

    /// Watches the objects that are named. Returns whether all of them are known.
    pub(super) fn sync(&mut self, plan: &Plan, watches: &mut Watches) -> bool {
        let Self { secrets, config_maps } = self;
        secrets.sync(None, &plan.names.secrets, watches);
        config_maps.sync(None, &plan.names.config_maps, watches);
        plan.names.secrets.iter().all(|key| secrets.get(key).is_some())
            && plan.names.config_maps.iter().all(|key| config_maps.get(key).is_some())
    }
}

/// Brings frontends in line with Gateways and routes.
pub(super) struct GatewayReconciler {
    topology: Topology,
    /// The one namespace that is served; `None` for all.
    namespace: Option<String>,
    pool: AddressPool,
    bind: Bind,
    planner: Planner,
    /// What is planned and not served yet.
    replanned: Replanned,
    gateways: BTreeMap<ObjectKey, GatewayFrontends>,
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
            planner: Planner::default(),
            replanned: Replanned::default(),
            gateways: BTreeMap::new(),
            statuses: StatusWriters::new(client),
            unfinished: false,
            network: config.network.clone(),
            data_plane,
        }
    }

    pub(super) fn set_topology(&mut self, topology: Topology) {
        self.topology = topology;
    }

    /// Brings route tables, certificates, listeners and statuses in line with the objects that changed.
    pub(super) async fn reconcile(
        &mut self,
        objects: &mut Objects,
        references: &mut References,
        watches: &mut Watches,
    ) {
        let changes = objects.take_changes();
        let statuses = changes.statuses;
        let namespace = self.namespace.as_deref();
        let replanned =
            replan(&mut self.planner, changes, objects, references, &self.topology, namespace);
        self.replanned.add(replanned);
        self.replanned.all |= statuses;
        // There may be no clients yet, and the first one is to get the right certificate.
        if !self.replanned.all || references.sync(&self.planner.plan, watches) {
            self.sync_gateways(&references.secrets, objects).await;
        }
    }

    /// Serves what is planned.
    async fn sync_gateways(&mut self, secrets: &Secrets<GatewayEvent>, objects: &Objects) {
        let Replanned { all, mut gateways, routes } = mem::take(&mut self.replanned);
        if all {
            gateways = self.planner.plan.gateways.keys().cloned().collect();
            self.reserve_addresses(objects);
            self.close_gone().await;
            self.sync_classes(objects);
        }
        for key in &gateways {
            self.sync_gateway(key, secrets, objects).await;
        }
        self.sync_listener_sets(objects, |gateway| gateways.contains(gateway));
        self.sync_policies(objects);
        let (statuses, kinds) = (&mut self.statuses, &objects.kinds);
        for ((kind, key), parents) in routes {
            match kind {
                HttpRouteSpec::KIND => {
                    sync_route(&mut statuses.http_routes, &kinds.http_routes, &key, parents);
                }
                GrpcRouteSpec::KIND => {
                    sync_route(&mut statuses.grpc_routes, &kinds.grpc_routes, &key, parents);
                }
                TlsRouteSpec::KIND => {
                    sync_route(&mut statuses.tls_routes, &kinds.tls_routes, &key, parents);
                }
                TcpRouteSpec::KIND => {
                    sync_route(&mut statuses.tcp_routes, &kinds.tcp_routes, &key, parents);
                }
                UdpRouteSpec::KIND => {
                    sync_route(&mut statuses.udp_routes, &kinds.udp_routes, &key, parents);
                }
                _ => {}
            }
        }
    }

    /// Reserves the addresses that statuses record, from before a restart, before new ones are allocated.
    fn reserve_addresses(&mut self, objects: &Objects) {
        for (key, planned) in &self.planner.plan.gateways {
            let Some(gateway) = objects.kinds.gateways.get(key) else { continue };
            let recorded = gateway.status.addresses.iter().find_map(|a| a.value.parse().ok());
            if let Some(address) = recorded.filter(|_| !self.gateways.contains_key(key)) {
                self.pool.assign(address, &planned.uid);
            }
        }
    }

    async fn close_gone(&mut self) {
        let planned = &self.planner.plan.gateways;
        let gone = self.gateways.extract_if(.., |key, frontends| {
            planned.get(key).is_none_or(|planned| planned.uid != frontends.uid)
        });
        for (_, mut frontends) in gone.collect::<Vec<_>>() {
            self.pool.release(&frontends.uid);
            frontends.close().await;
        }
    }

    async fn sync_gateway(
        &mut self,
        key: &ObjectKey,
        secrets: &Secrets<GatewayEvent>,
        objects: &Objects,
    ) {
        let planned = self.planner.plan.gateways.get(key).zip(self.planner.gateways.get(key));
        let Some(((planned, routes), gateway)) = planned.zip(objects.kinds.gateways.get(key))
        else {
            return;
        };
        let frontends = self
            .gateways
            .entry(key.clone())
            .or_insert_with(|| GatewayFrontends::new(planned.uid.clone()));
        let problem = address_problem(planned, &self.pool);
        match &problem {
            Some(_) => frontends.close().await,
            None => {
                frontends.sync(planned, routes, secrets).await;
                let (pool, bind) = (&mut self.pool, self.bind);
                let published =
                    frontends.publish(planned, pool, bind, &self.data_plane, &self.network);
                self.unfinished |= !published;
            }
        }
        let status = gateway_status(&gateway, planned, routes, frontends, problem);
        let published = frontends.published_ports();
        let annotation = Some((PUBLISHED_PORT, published.as_deref()));
        self.statuses.gateways.sync(&gateway, &status, annotation);
    }

    fn sync_classes(&mut self, objects: &Objects) {
        for class in objects.kinds.classes.list() {
            let Some(conditions) = self.planner.plan.classes.get(&ObjectKey::of(&*class)) else {
                continue;
            };
            let mut conditions = conditions.clone();
            set_times(&mut conditions, &class.status.conditions, Timestamp::now());
            let features = FEATURES.map(|name| Feature { name: name.to_owned() });
            let status = ClassStatus { conditions, supported_features: features.to_vec() };
            self.statuses.classes.sync(&class, &status, None);
        }
    }

    /// Writes the statuses of the ListenerSets of some Gateways.
    fn sync_listener_sets(&mut self, objects: &Objects, of: impl Fn(&ObjectKey) -> bool) {
        let Planner { plan, gateways, .. } = &self.planner;
        for (key, planned) in plan.listener_sets.iter().filter(|(_, set)| of(&set.gateway)) {
            let Some(set) = objects.kinds.listener_sets.get(key) else { continue };
            let gateway = plan.gateways.get(&planned.gateway).zip(gateways.get(&planned.gateway));
            let Some((gateway, routes)) = gateway else { continue };
            let mut conditions = planned.conditions.clone();
            set_times(&mut conditions, &set.status.conditions, Timestamp::now());
            let mut listeners = routes.statuses(gateway, Some(key));
            set_listener_times(&mut listeners, &set.status.listeners);
            let status = ListenerSetStatus { conditions, listeners };
            self.statuses.listener_sets.sync(&set, &status, None);
        }
    }

    fn sync_policies(&mut self, objects: &Objects) {
        let mut planned = self.planner.plan.policies.statuses(&self.planner.ancestors);
        for policy in objects.kinds.policies.list() {
            let planned = planned.remove(&ObjectKey::of(&*policy));
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

/// Plans again what depends on changed objects.
pub(super) fn replan(
    planner: &mut Planner,
    changes: Changes,
    objects: &Objects,
    references: &References,
    topology: &Topology,
    namespace: Option<&str>,
) -> Replanned {
    let Changes { plan: plan_changed, all_routes, mut routes, services, statuses: _ } = changes;
    if all_routes {
        routes.extend(planner.routes().cloned());
        routes.extend(objects.kinds.routes());
    }
    let plan = plan_changed.then(|| plan_gateways(objects, references, namespace));
    let route = |key: &_| objects.kinds.route(key);
    planner.update(
        Changed { plan, routes, services, route: &route },
        &mut |target, policies, known| {
            find_backend(target, policies, known, objects, topology, &references.secrets)
        },
    )
}

fn plan_gateways(objects: &Objects, references: &References, namespace: Option<&str>) -> Plan {
    let kinds = &objects.kinds;
    let mut gateways = kinds.gateways.list();
    gateways.retain(|gateway| {
        let is_served = namespace.is_none() || namespace == gateway.metadata.namespace.as_deref();
        is_served && objects.is_ours(gateway)
    });
    let References { secrets, config_maps } = references;
    plan(&View {
        classes: &kinds.classes.list(),
        gateways: &gateways,
        listener_sets: &kinds.listener_sets.list(),
        policies: &kinds.policies.list(),
        grants: &kinds.grants.list(),
        namespaces: &objects.namespaces(),
        secret_problem: &|key| secrets.content(key).err(),
        authorities: &|key| config_maps.content(key).cloned(),
    })
}

/// Writes the status of a route, and keeps what other controllers wrote.
fn sync_route<S: Gvk<Status = RouteStatus>>(
    writer: &mut StatusWriter<S>,
    routes: &Informer<Object<S>>,
    key: &ObjectKey,
    mut parents: Vec<ParentStatus>,
) {
    let Some(route) = routes.get(key) else { return };
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
    routes: &AttachedRoutes,
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
    let mut listeners = routes.statuses(planned, None);
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

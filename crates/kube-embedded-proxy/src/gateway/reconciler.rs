//! Reconciles listeners and route tables with Gateways and routes, and writes their statuses.

use super::{
    api::{
        Address, ClassStatus, Feature, Gateway, GatewayClassSpec, GatewaySpec, GatewayStatus,
        HttpRouteSpec, RouteStatus,
    },
    conditions::{condition, set_times},
    frontends::GatewayFrontends,
    objects::{GatewayEvent, Objects, Watches},
    plan::{GatewayPlan, Plan, plan},
    references::Unresolved,
    status::StatusWriter,
    view::{GATEWAY_CONTROLLER, Target, View},
};
use crate::{
    config::{Config, Topology},
    data_plane::{DataPlane, ListenerError},
    http_proxy::route_table::Backend,
    load_balancer::{AddressPool, Bind, PUBLISHED_PORT},
    route::{Route, Routing},
    secrets::{SecretState, Secrets},
    services::plan::port_routing,
};
use jiff::Timestamp;
use kube::Client;
use kube_embedded_core::{informer::ObjectKey, network::Network};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

/// The features of the conformance suite that are supported, sorted.
const FEATURES: [&str; 26] = [
    "Gateway",
    "GatewayAddressEmpty",
    "GatewayHTTPListenerIsolation",
    "GatewayPort8080",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolWebSocket",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestMultipleMirrors",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteSchemeRedirect",
    "ReferenceGrant",
];

/// Brings frontends in line with Gateways and routes.
pub(super) struct GatewayReconciler {
    topology: Topology,
    /// The one namespace that is served; `None` for all.
    namespace: Option<String>,
    pool: AddressPool,
    bind: Bind,
    gateways: BTreeMap<ObjectKey, GatewayFrontends>,
    backends: BTreeMap<Target, Arc<Backend>>,
    pub(super) classes: StatusWriter<GatewayClassSpec>,
    pub(super) gateway_statuses: StatusWriter<GatewaySpec>,
    pub(super) http_routes: StatusWriter<HttpRouteSpec>,
    /// Whether a bind or a write has failed, which is retried.
    pub(super) unfinished: bool,
    network: Arc<Network>,
    // Last, so that the listeners above are closed before their threads end.
    data_plane: Arc<DataPlane>,
}

impl GatewayReconciler {
    pub(super) fn new(
        client: Client,
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
            classes: StatusWriter::new(client.clone()),
            gateway_statuses: StatusWriter::new(client.clone()),
            http_routes: StatusWriter::new(client),
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
        secrets: &mut Secrets<GatewayEvent>,
        watches: &mut Watches,
    ) {
        let mut gateways = objects.gateways.list();
        let elsewhere =
            |namespace: &Option<String>| self.namespace.is_some() && self.namespace != *namespace;
        gateways
            .retain(|gateway| objects.is_ours(gateway) && !elsewhere(&gateway.metadata.namespace));
        let plan = self.plan(&gateways, objects, secrets);
        secrets.sync(None, &plan.secrets, watches);
        // There may be no clients yet, and the first one is to get the right certificate.
        if plan.secrets.iter().any(|key| secrets.get(key).is_none()) {
            return;
        }
        self.sync_gateways(&gateways, plan, secrets, objects).await;
    }

    /// Plans the Gateways, with the endpoints that their backends have at the moment.
    fn plan(
        &mut self,
        gateways: &[Arc<Gateway>],
        objects: &Objects,
        secrets: &Secrets<GatewayEvent>,
    ) -> Plan {
        let classes = objects.classes.list();
        let (routes, grants) = (objects.http_routes.list(), objects.grants.list());
        let problem = |key: &ObjectKey| match secrets.get(key) {
            Some(SecretState::Valid(_)) => None,
            Some(SecretState::Invalid(why)) => Some(why.clone()),
            Some(SecretState::Missing) | None => Some("does not exist".to_owned()),
        };
        let view = View {
            classes: &classes,
            gateways,
            http_routes: &routes,
            grants: &grants,
            namespaces: &objects.namespaces(),
            secret_problem: &problem,
        };
        let mut used = BTreeSet::new();
        let (backends, topology) = (&mut self.backends, &self.topology);
        let plan = plan(&view, &mut |target| {
            let routing = routing(target, objects, topology)?;
            used.insert(target.clone());
            Ok(backend(backends, target, routing))
        });
        self.backends.retain(|target, _| used.contains(target));
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
        for (_, frontends) in gone.collect::<Vec<_>>() {
            self.pool.release(&frontends.uid);
            frontends.close().await;
        }
        for gateway in gateways {
            let key = ObjectKey::of(&**gateway);
            let Some(planned) = plan.gateways.get_mut(&key) else { continue };
            let uid = planned.uid.clone();
            let frontends = self.gateways.entry(key).or_insert_with(|| GatewayFrontends::new(uid));
            frontends.sync(planned, secrets).await;
            let (pool, bind) = (&mut self.pool, self.bind);
            self.unfinished |=
                !frontends.publish(planned, pool, bind, &self.data_plane, &self.network);
            let status = gateway_status(gateway, planned, frontends);
            let published = frontends.published_ports();
            let annotation = Some((PUBLISHED_PORT, published.as_deref()));
            self.gateway_statuses.sync(gateway, &status, annotation);
        }
        self.sync_classes(&plan, objects);
        self.sync_routes(plan, objects);
    }

    fn sync_classes(&mut self, plan: &Plan, objects: &Objects) {
        for class in objects.classes.list() {
            let Some(conditions) = plan.classes.get(&ObjectKey::of(&*class)) else { continue };
            let mut conditions = conditions.clone();
            set_times(&mut conditions, &class.status.conditions, Timestamp::now());
            let features = FEATURES.map(|name| Feature { name: name.to_owned() });
            let status = ClassStatus { conditions, supported_features: features.to_vec() };
            self.classes.sync(&class, &status, None);
        }
    }

    fn sync_routes(&mut self, mut plan: Plan, objects: &Objects) {
        for route in objects.http_routes.list() {
            let (mut parents, others): (Vec<_>, Vec<_>) = (
                plan.routes.remove(&ObjectKey::of(&*route)).unwrap_or_default(),
                route
                    .status
                    .parents
                    .iter()
                    .filter(|p| p.controller_name != GATEWAY_CONTROLLER)
                    .collect(),
            );
            for parent in &mut parents {
                let known = route.status.parents.iter().find(|known| {
                    known.controller_name == GATEWAY_CONTROLLER
                        && known.parent_ref == parent.parent_ref
                });
                let observed = known.map(|known| &*known.conditions).unwrap_or_default();
                set_times(&mut parent.conditions, observed, Timestamp::now());
            }
            parents.extend(others.into_iter().cloned());
            self.http_routes.sync(&route, &RouteStatus { parents }, None);
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

/// Returns the endpoints of a Service port, or why there is none.
fn routing(target: &Target, objects: &Objects, topology: &Topology) -> Result<Routing, Unresolved> {
    let (key, port) = target;
    let missing = |message| Err(("BackendNotFound", message));
    let service = objects.service(key);
    let Some(spec) = service.as_ref().and_then(|service| service.spec.as_ref()) else {
        return missing(format!("Service {key} does not exist"));
    };
    if spec.type_.as_deref() == Some("ExternalName") {
        return Err(("InvalidKind", format!("Service {key} is of type ExternalName")));
    }
    let found = spec.ports.iter().flatten().find(|known| known.port == *port);
    let Some(found) = found.filter(|p| p.protocol.as_deref().unwrap_or("TCP") == "TCP") else {
        return missing(format!("Service {key} has no TCP port {port}"));
    };
    let slices = objects.slices_of(key);
    Ok(port_routing(spec, found, slices.iter().map(|slice| &**slice), topology))
}

/// Returns the backend of a target with these endpoints. It is the same one as long as it is used, so
/// that requests of an older route table get the current endpoints.
fn backend(
    backends: &mut BTreeMap<Target, Arc<Backend>>,
    target: &Target,
    routing: Routing,
) -> Arc<Backend> {
    if let Some(known) = backends.get(target) {
        known.route.set(routing);
        return known.clone();
    }
    let name = format!("{}:{}", target.0, target.1);
    let route = Arc::new(Route::new(routing, Arc::default()));
    let created = Arc::new(Backend::plain(name, route));
    backends.insert(target.clone(), created.clone());
    created
}

fn gateway_status(
    gateway: &Gateway,
    planned: &GatewayPlan,
    frontends: &GatewayFrontends,
) -> GatewayStatus {
    let observed = &gateway.status;
    let address = frontends.address().filter(|_| planned.is_accepted());
    let programmed = match (planned.is_accepted(), address) {
        (false, _) => (false, "Invalid", "the Gateway is not accepted"),
        (true, None) => (false, "AddressNotAssigned", "no address is bound; retrying"),
        (true, Some(_)) => (true, "Programmed", ""),
    };
    let (status, reason, message) = programmed;
    let programmed = condition("Programmed", status, reason, message, planned.generation);
    let mut conditions = vec![planned.accepted.clone(), programmed];
    set_times(&mut conditions, &observed.conditions, Timestamp::now());
    let mut listeners: Vec<_> = planned.listeners.iter().map(|l| l.status.clone()).collect();
    for listener in &mut listeners {
        let known = observed.listeners.iter().find(|known| known.name == listener.name);
        let known = known.map(|known| &*known.conditions).unwrap_or_default();
        set_times(&mut listener.conditions, known, Timestamp::now());
    }
    let address = address.map(|address| Address {
        r#type: Some("IPAddress".to_owned()),
        value: address.to_string(),
    });
    GatewayStatus { addresses: address.into_iter().collect(), conditions, listeners }
}

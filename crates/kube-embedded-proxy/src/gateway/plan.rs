//! Gateways and routes as route tables and statuses: a function of the objects.

use super::{
    api::{
        AncestorStatus, BackendRef, Gateway, HttpRouteSpec, ListenerStatus, ParentRef, ParentStatus,
    },
    conditions::{condition, is_true},
    gateway_tls,
    hostname::intersection,
    listener_sets::{self, ListenerSetPlan},
    listeners::{self, ListenerPlan, Protocol},
    object::{GROUP, Gvk, Object},
    policies::{Policies, precedence},
    references::{Referrer, Unresolved, service_of},
    rules::{self, ConvertedRule},
    view::{GATEWAY_CONTROLLER, Names, Target, TargetProtocol, View},
};
use crate::{
    http_proxy::{
        client_certificates::ClientValidation,
        conditions::Conditions,
        route_table::{Backend, HttpMatch, PathMatch, RouteRule},
    },
    streams::StreamMatch,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube_embedded_core::informer::ObjectKey;
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What Gateways and routes ask for together.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The conditions of our classes.
    pub(super) classes: BTreeMap<ObjectKey, Vec<Condition>>,
    pub(super) gateways: BTreeMap<ObjectKey, GatewayPlan>,
    pub(super) listener_sets: BTreeMap<ObjectKey, ListenerSetPlan>,
    /// The statuses of routes, by kind, for those parents that are ours.
    pub(super) routes: BTreeMap<(&'static str, ObjectKey), Vec<ParentStatus>>,
    pub(super) policies: BTreeMap<ObjectKey, Vec<AncestorStatus>>,
    pub(super) names: Names,
}

/// One Gateway.
#[derive(Debug)]
pub(super) struct GatewayPlan {
    pub(super) uid: String,
    pub(super) generation: Option<i64>,
    /// `Accepted`.
    pub(super) accepted: Condition,
    /// Those about certificates.
    pub(super) conditions: Vec<Condition>,
    /// The addresses that it asks for.
    pub(super) requested: Vec<String>,
    /// With those of its ListenerSets.
    pub(super) listeners: Vec<ListenerPlan>,
    pub(super) attached_sets: Option<i32>,
    /// By port, in the order of precedence.
    pub(super) matches: BTreeMap<u16, Vec<HttpMatch>>,
    /// The same of listeners that are not of HTTP.
    pub(super) streams: BTreeMap<(u16, bool), Vec<StreamMatch>>,
    /// The Secret of the certificate that backends are shown.
    client: Option<ObjectKey>,
}

/// A port of a Gateway.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PortPlan {
    pub(super) protocol: Protocol,
    pub(super) clients: Option<ClientValidation>,
}

impl PortPlan {
    /// Returns whether a port that is open can become this one.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.protocol.may_share(other.protocol)
    }
}

/// Finds the backend of a Service port, or why there is none.
pub(super) type FindBackend<'a> =
    dyn FnMut(&Target, &Policies) -> Result<Option<Arc<Backend>>, Unresolved> + 'a;

/// A route of any kind.
struct Route<'a> {
    kind: &'static str,
    protocol: TargetProtocol,
    metadata: &'a ObjectMeta,
    spec: Cow<'a, HttpRouteSpec>,
}

/// Plans all Gateways and routes.
pub(super) fn plan(view: &View<'_>, backend: &mut FindBackend<'_>) -> Plan {
    let mut plan = Plan::default();
    let ours = view.classes.iter().filter(|c| c.spec.controller_name == GATEWAY_CONTROLLER);
    for class in ours {
        let generation = class.metadata.generation;
        let accepted = condition("Accepted", true, "Accepted", "", generation);
        plan.classes.insert(ObjectKey::of(&**class), vec![accepted]);
    }
    for gateway in view.gateways {
        let class = ObjectKey::cluster_scoped(&gateway.spec.gateway_class_name);
        if plan.classes.contains_key(&class) && gateway.metadata.deletion_timestamp.is_none() {
            add_gateway(gateway, view, &mut plan);
        }
    }
    let policies = Policies::new(view, &mut plan.names);
    let mut attachment = Attachment { view, policies, backend, ancestors: BTreeMap::new() };
    for route in routes(view) {
        attachment.attach(&route, &mut plan);
    }
    plan.policies = attachment.policies.statuses(&attachment.ancestors);
    plan
}

fn add_gateway(gateway: &Gateway, view: &View<'_>, plan: &mut Plan) {
    let key = ObjectKey::of(gateway);
    let sets = listener_sets::of(gateway, view);
    let allowed: Vec<_> = sets.iter().filter(|(_, is_allowed)| *is_allowed).map(|s| s.0).collect();
    let listeners = listeners::plan(gateway, &allowed, view, &mut plan.names);
    let mut planned = GatewayPlan::new(gateway, listeners, view, &mut plan.names);
    let is_accepted = planned.is_accepted();
    let mut attached = 0;
    for (set, is_allowed) in &sets {
        let of_set =
            listener_sets::plan(set, key.clone(), *is_allowed, is_accepted, &planned.listeners);
        attached += i32::from(is_true(&of_set.conditions, "Accepted"));
        plan.listener_sets.insert(ObjectKey::of(*set), of_set);
    }
    planned.attached_sets = (!sets.is_empty()).then_some(attached);
    plan.gateways.insert(key, planned);
}

/// Returns the routes of all kinds in the order of precedence.
fn routes<'a>(view: &View<'a>) -> Vec<Route<'a>> {
    fn all<'a, S: Gvk>(
        routes: &'a [Arc<Object<S>>],
        protocol: TargetProtocol,
        spec: fn(&'a S) -> Cow<'a, HttpRouteSpec>,
    ) -> impl Iterator<Item = Route<'a>> {
        let live = routes.iter().filter(|route| route.metadata.deletion_timestamp.is_none());
        live.map(move |route| Route {
            kind: S::KIND,
            protocol,
            metadata: &route.metadata,
            spec: spec(&route.spec),
        })
    }
    use TargetProtocol::{Grpc, Http, Stream, Udp};
    let http = all(view.http_routes, Http, Cow::Borrowed);
    let grpc = all(view.grpc_routes, Grpc, |spec| Cow::Owned(spec.into()));
    let tls = all(view.tls_routes, Stream, |spec| Cow::Owned(spec.into()));
    let tcp = all(view.tcp_routes, Stream, |spec| Cow::Owned(spec.into()));
    let udp = all(view.udp_routes, Udp, |spec| Cow::Owned(spec.into()));
    let mut routes: Vec<Route<'_>> = http.chain(grpc).chain(tls).chain(tcp).chain(udp).collect();
    routes.sort_by_cached_key(|route| precedence(route.metadata));
    routes
}

impl GatewayPlan {
    fn new(
        gateway: &Gateway,
        listeners: Vec<ListenerPlan>,
        view: &View<'_>,
        names: &mut Names,
    ) -> Self {
        let generation = gateway.metadata.generation;
        let accepted = |listener: &ListenerPlan| is_true(&listener.status.conditions, "Accepted");
        let infrastructure = gateway.spec.infrastructure.as_ref();
        let parameters = infrastructure.and_then(|i| i.parameters_ref.as_ref());
        let other_type =
            gateway.spec.addresses.iter().find(|address| {
                address.r#type.as_deref().is_some_and(|r#type| r#type != "IPAddress")
            });
        let mut own = listeners.iter().filter(|listener| listener.set.is_none());
        let (status, reason, message) = if let Some(parameters) = parameters {
            let kind = parameters.kind.as_deref().unwrap_or_default();
            let message = format!("parameters of kind {kind:?} are not supported; remove them");
            (false, "InvalidParameters", message)
        } else if let Some(address) = other_type {
            let message = format!("address type {:?} is not supported", address.r#type);
            (false, "UnsupportedAddress", message)
        } else if !listeners.iter().any(accepted) {
            (false, "ListenersNotValid", "no listener is valid".to_owned())
        } else if !own.all(accepted) {
            (true, "ListenersNotValid", "a listener is not valid".to_owned())
        } else {
            (true, "Accepted", String::new())
        };
        let addresses = gateway.spec.addresses.iter().map(|address| address.value.clone());
        let (client, conditions) = gateway_tls::backends(gateway, view, names);
        Self {
            uid: gateway.metadata.uid.clone().unwrap_or_default(),
            generation,
            accepted: condition("Accepted", status, reason, message, generation),
            conditions,
            // One without a value is any.
            requested: addresses.filter(|address| !address.is_empty()).collect(),
            listeners,
            attached_sets: None,
            matches: BTreeMap::new(),
            streams: BTreeMap::new(),
            client,
        }
    }

    /// Returns whether the Gateway gets listeners at all.
    pub(super) fn is_accepted(&self) -> bool {
        self.accepted.status == "True"
    }

    /// Returns the ports to listen on, and whether each is one of UDP.
    pub(super) fn ports(&self) -> BTreeMap<(u16, bool), PortPlan> {
        let serving = self.listeners.iter().filter(|l| l.serves && self.is_accepted());
        let port = |listener: &ListenerPlan| PortPlan {
            protocol: listener.protocol,
            clients: listener.clients.clone(),
        };
        serving.map(|listener| (listener.key(), port(listener))).collect()
    }

    /// Returns the statuses of the listeners of a ListenerSet, or of the Gateway itself.
    pub(super) fn statuses(&self, set: Option<&ObjectKey>) -> Vec<ListenerStatus> {
        let own = self.listeners.iter().filter(|listener| listener.set.as_ref() == set);
        own.map(|listener| listener.status.clone()).collect()
    }
}

type Matches = Vec<(PathMatch, Conditions)>;

/// A parent reference that is ours: the Gateway, and the ListenerSet if it names one.
struct Parent<'a> {
    reference: &'a ParentRef,
    gateway: ObjectKey,
    set: Option<ObjectKey>,
}

/// The rules of a route, converted for the Gateways with the same client certificate.
struct ConvertedRoute {
    rules: Vec<(Matches, Arc<RouteRule>)>,
    unresolved: Option<Unresolved>,
    unsupported: Option<Unresolved>,
    services: BTreeSet<ObjectKey>,
}

/// Attaches routes to listeners.
struct Attachment<'a, 'b> {
    view: &'a View<'a>,
    policies: Policies,
    backend: &'a mut FindBackend<'b>,
    /// The Gateways through which each Service is reached.
    ancestors: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
}

impl Attachment<'_, '_> {
    /// Attaches a route to the listeners that its parents name, and records its status.
    fn attach(&mut self, route: &Route<'_>, plan: &mut Plan) {
        let namespace = route.metadata.namespace.as_deref().unwrap_or_default();
        let name = route.metadata.name.as_deref().unwrap_or_default();
        let key = (route.kind, ObjectKey::new(namespace, name));
        let generation = route.metadata.generation;
        let mut converted: BTreeMap<Option<ObjectKey>, ConvertedRoute> = BTreeMap::new();
        for reference in &route.spec.parent_refs {
            let Some(parent) = parent_of(reference, namespace, plan) else { continue };
            let Some(gateway) = plan.gateways.get_mut(&parent.gateway) else { continue };
            let converted = converted
                .entry(gateway.client.clone())
                .or_insert_with(|| self.convert(route, gateway.client.as_ref()));
            let attached = attached(route, &parent, gateway, self.view);
            let accepted = match (&attached, &converted.unsupported) {
                (Err((reason, message)), _) | (Ok(_), Some((reason, message))) => {
                    condition("Accepted", false, reason, message.clone(), generation)
                }
                (Ok(_), None) => condition("Accepted", true, "Accepted", "", generation),
            };
            if attached.is_ok() {
                for service in &converted.services {
                    let gateways = self.ancestors.entry(service.clone()).or_default();
                    gateways.insert(parent.gateway.clone());
                }
            }
            for (listener, hosts) in attached.unwrap_or_default() {
                let is_accepted = accepted.status == "True";
                gateway.add(listener, &hosts, &converted.rules, is_accepted);
            }
            let resolved = match converted.unresolved.clone() {
                None => condition("ResolvedRefs", true, "ResolvedRefs", "", generation),
                Some((reason, message)) => {
                    condition("ResolvedRefs", false, reason, message, generation)
                }
            };
            let status = ParentStatus {
                parent_ref: reference.clone(),
                controller_name: GATEWAY_CONTROLLER.to_owned(),
                conditions: vec![accepted, resolved],
            };
            plan.routes.entry(key.clone()).or_default().push(status);
        }
    }

    /// Converts the rules of a route. A match that cannot be converted matches nothing.
    fn convert(&mut self, route: &Route<'_>, client: Option<&ObjectKey>) -> ConvertedRoute {
        let namespace = route.metadata.namespace.as_deref().unwrap_or_default();
        let uid = route.metadata.uid.as_deref().unwrap_or_default();
        let from = Referrer { kind: route.kind, namespace };
        let mut services = BTreeSet::new();
        let mut resolve = |reference: &BackendRef, from: Referrer<'_>| {
            let (service, port) = service_of(reference, from, self.view.grants)?;
            services.insert(service.clone());
            let protocol = route.protocol;
            let target = Target { service, port, protocol, client: client.cloned() };
            (self.backend)(&target, &self.policies)
        };
        let convert = |(index, rule)| {
            let identity = format!("{uid}/{index}");
            let mut converted = rules::convert(rule, &identity, from, &mut resolve);
            let mut matches = Vec::new();
            for result in rules::matches(rule) {
                match result {
                    Ok(found) => matches.push(found),
                    Err(why) => converted.unsupported.push(why),
                }
            }
            (matches, converted)
        };
        let rules: Vec<(Matches, ConvertedRule)> =
            route.spec.rules.iter().enumerate().map(convert).collect();
        let unresolved = rules.iter().find_map(|(_, rule)| rule.unresolved.first().cloned());
        let unsupported = rules.iter().find_map(|(_, rule)| rule.unsupported.first().cloned());
        let unsupported = unsupported.map(|message| ("UnsupportedValue", message));
        let rules = rules.into_iter().map(|(matches, rule)| (matches, Arc::new(rule.rule)));
        ConvertedRoute { rules: rules.collect(), unresolved, unsupported, services }
    }
}

impl GatewayPlan {
    /// Adds the rules of a route to the table of a listener.
    fn add(
        &mut self,
        listener: usize,
        hosts: &[Option<String>],
        rules: &[(Matches, Arc<RouteRule>)],
        is_accepted: bool,
    ) {
        let Some(listener) = self.listeners.get_mut(listener) else { return };
        listener.status.attached_routes += i32::from(is_accepted);
        if !matches!(listener.protocol, Protocol::Http | Protocol::Https) {
            let streams = self.streams.entry(listener.key()).or_default();
            // A route of streams has one rule, whose matches mean nothing.
            let rules = rules.iter().take(1).map(|(_, rule)| rule);
            streams.extend(rules.flat_map(|rule| hosts.iter().map(move |host| (host, rule))).map(
                |(host, rule)| StreamMatch {
                    listener: listener.hostname.clone(),
                    host: host.clone(),
                    rule: rule.clone(),
                },
            ));
            return;
        }
        let matches = self.matches.entry(listener.port).or_default();
        for (of_rule, rule) in rules {
            for (host, (path, conditions)) in
                hosts.iter().flat_map(|host| of_rule.iter().map(move |m| (host, m)))
            {
                matches.push(HttpMatch {
                    listener: listener.hostname.clone(),
                    host: host.clone(),
                    path: path.clone(),
                    conditions: conditions.clone(),
                    rule: rule.clone(),
                });
            }
        }
    }
}

/// Returns the Gateway and ListenerSet that a parent reference names, if they are ours.
fn parent_of<'a>(reference: &'a ParentRef, namespace: &str, plan: &Plan) -> Option<Parent<'a>> {
    let group = reference.group.as_deref().unwrap_or(GROUP);
    let kind = reference.kind.as_deref().unwrap_or("Gateway");
    let namespace = reference.namespace.as_deref().unwrap_or(namespace);
    let key = ObjectKey::new(namespace, &reference.name);
    match (group, kind) {
        (GROUP, "Gateway") => Some(Parent { reference, gateway: key, set: None }),
        (GROUP, "ListenerSet") => {
            let gateway = plan.listener_sets.get(&key)?.gateway.clone();
            Some(Parent { reference, gateway, set: Some(key) })
        }
        _ => None,
    }
}

/// Returns the listeners to which the route is attached through a parent reference, with the hosts
/// that both have, or why there is none.
fn attached(
    route: &Route<'_>,
    parent: &Parent<'_>,
    gateway: &GatewayPlan,
    view: &View<'_>,
) -> Result<Vec<(usize, Vec<Option<String>>)>, Unresolved> {
    let namespace = route.metadata.namespace.as_deref().unwrap_or_default();
    let Parent { reference, gateway: gateway_key, set } = parent;
    let mut named: Vec<(usize, &ListenerPlan)> = gateway.listeners.iter().enumerate().collect();
    named.retain(|(_, listener)| {
        listener.set == *set
            && reference.section_name.as_ref().is_none_or(|name| *name == listener.name)
            && reference.port.is_none_or(|port| port == i32::from(listener.port))
    });
    if named.is_empty() {
        let message = format!("Gateway {gateway_key} has no listener of this name and port");
        return Err(("NoMatchingParent", message));
    }
    named.retain(|(_, listener)| listener.allows(route.kind, namespace, view.namespaces));
    if named.is_empty() {
        let message = format!("no listener of Gateway {gateway_key} allows this route");
        return Err(("NotAllowedByListeners", message));
    }
    let mut attached = Vec::new();
    for (index, listener) in named {
        let hosts = hosts(listener.hostname.as_deref(), &route.spec.hostnames);
        if !hosts.is_empty() {
            attached.push((index, hosts));
        }
    }
    if attached.is_empty() {
        let message = format!("no listener of Gateway {gateway_key} has one of these hostnames");
        return Err(("NoMatchingListenerHostname", message));
    }
    Ok(attached)
}

/// Returns the hosts that a listener and a route have in common.
fn hosts(listener: Option<&str>, route: &[String]) -> Vec<Option<String>> {
    let hosts: Vec<Option<&str>> = match route {
        [] => vec![None],
        hosts => hosts.iter().map(|host| Some(&**host)).collect(),
    };
    let common = hosts.into_iter().filter_map(|host| intersection(listener, host));
    common.map(|host| host.map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests;

//! One route: its rules, the listeners that it is attached to, and its status. A function of the route, the
//! plan of Gateways and its backends.

use super::{
    api::{BackendRef, ParentRef, ParentStatus},
    conditions::condition,
    conversion::Route,
    hostname::intersection,
    listeners::ListenerPlan,
    object::GROUP,
    plan::{GatewayPlan, Plan},
    references::{Referrer, Unresolved, service_of},
    rules::{self, ConvertedRule},
    view::{GATEWAY_CONTROLLER, Target},
};
use crate::http_proxy::{
    conditions::Conditions,
    route_table::{Backend, PathMatch, Precedence, RouteRule},
};
use kube_embedded_core::informer::ObjectKey;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A backend, or none if it must not be used, or why there is none.
pub(super) type FoundBackend = Result<Option<Arc<Backend>>, Unresolved>;

/// The matches of a rule, and what becomes of requests that match.
pub(super) type Rules = Vec<(Vec<(PathMatch, Option<Arc<Conditions>>)>, Arc<RouteRule>)>;

/// A route as it is served.
#[derive(Debug)]
pub(super) struct PlannedRoute {
    pub(super) precedence: Arc<Precedence>,
    /// All that it names as parents.
    pub(super) parents: BTreeSet<ParentKey>,
    pub(super) attached: Vec<Attachment>,
    pub(super) targets: BTreeSet<Target>,
    /// The Services that it makes reachable, each with the Gateway.
    pub(super) reached: BTreeSet<(ObjectKey, ObjectKey)>,
}

/// An object that a route names as its parent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ParentKey {
    Gateway(ObjectKey),
    ListenerSet(ObjectKey),
}

/// The listener that a route is attached to.
#[derive(Debug)]
pub(super) struct Attachment {
    pub(super) gateway: ObjectKey,
    pub(super) listener: usize,
    pub(super) is_accepted: bool,
    /// Those that both have in common.
    pub(super) hosts: Vec<Option<String>>,
    pub(super) rules: Arc<Rules>,
}

/// A parent reference that is ours: the Gateway, and the ListenerSet if it names one.
struct Parent<'a> {
    reference: &'a ParentRef,
    gateway: ObjectKey,
    set: Option<ObjectKey>,
}

/// The rules of a route, converted for the Gateways with the same client certificate.
struct ConvertedRoute {
    rules: Arc<Rules>,
    unresolved: Option<Unresolved>,
    unsupported: Option<Unresolved>,
    services: BTreeSet<ObjectKey>,
}

/// Plans a route, with its status for those parents that are ours.
pub(super) fn plan_route(
    route: &Route<'_>,
    plan: &Plan,
    find: &mut dyn FnMut(&Target) -> FoundBackend,
) -> (PlannedRoute, Vec<ParentStatus>) {
    let metadata = route.metadata;
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let mut planned = PlannedRoute {
        precedence: Arc::new(Precedence {
            created: metadata.creation_timestamp.as_ref().map(|time| time.0),
            namespace: namespace.to_owned(),
            name: metadata.name.clone().unwrap_or_default(),
            kind: route.kind,
        }),
        parents: BTreeSet::new(),
        attached: Vec::new(),
        targets: BTreeSet::new(),
        reached: BTreeSet::new(),
    };
    let mut statuses = Vec::new();
    let mut converted: BTreeMap<Option<ObjectKey>, ConvertedRoute> = BTreeMap::new();
    for reference in &route.spec.parent_refs {
        planned.parents.extend(ParentKey::of(reference, namespace));
        let Some(parent) = parent_of(reference, namespace, plan) else { continue };
        let Some(gateway) = plan.gateways.get(&parent.gateway) else { continue };
        let converted = converted.entry(gateway.client.clone()).or_insert_with(|| {
            convert(route, gateway.client.as_ref(), plan, &mut |target| {
                planned.targets.insert(target.clone());
                find(target)
            })
        });
        statuses.push(planned.attach(route, &parent, gateway, converted, plan));
    }
    (planned, statuses)
}

impl PlannedRoute {
    /// Attaches the route to the listeners that a parent reference names, and returns its status there.
    fn attach(
        &mut self,
        route: &Route<'_>,
        parent: &Parent<'_>,
        gateway: &GatewayPlan,
        converted: &ConvertedRoute,
        plan: &Plan,
    ) -> ParentStatus {
        let generation = route.metadata.generation;
        let state = |r#type, result: Result<(), &Unresolved>| match result {
            Ok(()) => condition(r#type, true, r#type, "", generation),
            Err((reason, message)) => condition(r#type, false, reason, message, generation),
        };
        let attached = attached(route, parent, gateway, plan);
        let unsupported = converted.unsupported.as_ref();
        let accepted = attached.as_ref().err().or(unsupported).map_or(Ok(()), Err);
        let is_accepted = accepted.is_ok();
        let accepted = state("Accepted", accepted);
        let resolved = state("ResolvedRefs", converted.unresolved.as_ref().map_or(Ok(()), Err));
        if attached.is_ok() {
            let services = converted.services.iter();
            self.reached.extend(services.map(|s| (s.clone(), parent.gateway.clone())));
        }
        let attached = attached.unwrap_or_default().into_iter();
        self.attached.extend(attached.map(|(listener, hosts)| Attachment {
            gateway: parent.gateway.clone(),
            listener,
            is_accepted,
            hosts,
            rules: converted.rules.clone(),
        }));
        ParentStatus {
            parent_ref: parent.reference.clone(),
            controller_name: GATEWAY_CONTROLLER.to_owned(),
            conditions: vec![accepted, resolved],
        }
    }
}

/// Converts the rules of a route. A match that cannot be converted matches nothing.
fn convert(
    route: &Route<'_>,
    client: Option<&ObjectKey>,
    plan: &Plan,
    find: &mut dyn FnMut(&Target) -> FoundBackend,
) -> ConvertedRoute {
    let namespace = route.metadata.namespace.as_deref().unwrap_or_default();
    let uid = route.metadata.uid.as_deref().unwrap_or_default();
    let from = Referrer { kind: route.kind, namespace };
    let mut services = BTreeSet::new();
    let mut resolve = |reference: &BackendRef, from: Referrer<'_>| {
        let (service, port) = service_of(reference, from, &plan.grants)?;
        services.insert(service.clone());
        let protocol = route.protocol;
        find(&Target { service, port, protocol, client: client.cloned() })
    };
    let convert = |(index, rule)| {
        let identity = format!("{uid}/{index}");
        let mut converted = rules::convert(rule, &identity, from, &mut resolve);
        let mut matches = Vec::new();
        for result in rules::matches(rule) {
            match result {
                Ok((path, conditions)) => {
                    let conditions = (!conditions.is_empty()).then(|| Arc::new(conditions));
                    matches.push((path, conditions));
                }
                Err(why) => converted.unsupported.push(why),
            }
        }
        (matches, converted)
    };
    let rules: Vec<(_, ConvertedRule)> = route.spec.rules.iter().enumerate().map(convert).collect();
    let unresolved = rules.iter().find_map(|(_, rule)| rule.unresolved.first().cloned());
    let unsupported = rules.iter().find_map(|(_, rule)| rule.unsupported.first().cloned());
    let unsupported = unsupported.map(|message| ("UnsupportedValue", message));
    let rules = rules.into_iter().map(|(matches, rule)| (matches, Arc::new(rule.rule)));
    ConvertedRoute { rules: Arc::new(rules.collect()), unresolved, unsupported, services }
}

impl ParentKey {
    /// Returns what a reference names, unless it is of a kind that is no parent.
    fn of(reference: &ParentRef, namespace: &str) -> Option<Self> {
        let group = reference.group.as_deref().unwrap_or(GROUP);
        let kind = reference.kind.as_deref().unwrap_or("Gateway");
        let namespace = reference.namespace.as_deref().unwrap_or(namespace);
        let key = ObjectKey::new(namespace, &reference.name);
        match (group, kind) {
            (GROUP, "Gateway") => Some(Self::Gateway(key)),
            (GROUP, "ListenerSet") => Some(Self::ListenerSet(key)),
            _ => None,
        }
    }
}

/// Returns the Gateway and ListenerSet that a parent reference names, if they are ours.
fn parent_of<'a>(reference: &'a ParentRef, namespace: &str, plan: &Plan) -> Option<Parent<'a>> {
    Some(match ParentKey::of(reference, namespace)? {
        ParentKey::Gateway(gateway) => Parent { reference, gateway, set: None },
        ParentKey::ListenerSet(set) => {
            let gateway = plan.listener_sets.get(&set)?.gateway.clone();
            Parent { reference, gateway, set: Some(set) }
        }
    })
}

/// Returns the listeners to which the route is attached through a parent reference, with the hosts
/// that both have, or why there is none.
fn attached(
    route: &Route<'_>,
    parent: &Parent<'_>,
    gateway: &GatewayPlan,
    plan: &Plan,
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
    named.retain(|(_, listener)| listener.allows(route.kind, namespace, &plan.namespaces));
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

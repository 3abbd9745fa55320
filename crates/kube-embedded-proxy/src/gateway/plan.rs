//! Gateways and routes as route tables and statuses: a function of the objects.

use super::{
    api::{BackendRef, Gateway, HttpRoute, ParentRef, ParentStatus},
    conditions::{condition, is_true},
    hostname::intersection,
    listeners::{self, ListenerPlan},
    object::GROUP,
    references::{Referrer, Unresolved, service_of},
    rules::{self, ConvertedRule},
    view::{GATEWAY_CONTROLLER, Target, View},
};
use crate::http_proxy::{
    conditions::Conditions,
    route_table::{Backend, HttpMatch, PathMatch},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube_embedded_core::informer::ObjectKey;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What Gateways and routes ask for together.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The conditions of our classes.
    pub(super) classes: BTreeMap<ObjectKey, Vec<Condition>>,
    pub(super) gateways: BTreeMap<ObjectKey, GatewayPlan>,
    /// The statuses of routes for those parents that are ours.
    pub(super) routes: BTreeMap<ObjectKey, Vec<ParentStatus>>,
    /// The Secrets that are named.
    pub(super) secrets: BTreeSet<ObjectKey>,
}

/// One Gateway.
#[derive(Debug)]
pub(super) struct GatewayPlan {
    pub(super) uid: String,
    pub(super) generation: Option<i64>,
    /// `Accepted`.
    pub(super) accepted: Condition,
    pub(super) listeners: Vec<ListenerPlan>,
    /// By port, in the order of precedence.
    pub(super) matches: BTreeMap<u16, Vec<HttpMatch>>,
}

/// Plans all Gateways and routes. `backend` returns the backend of a Service port, or why there is
/// none.
pub(super) fn plan(
    view: &View<'_>,
    backend: &mut dyn FnMut(&Target) -> Result<Arc<Backend>, Unresolved>,
) -> Plan {
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
            let planned = GatewayPlan::new(gateway, view, &mut plan.secrets);
            plan.gateways.insert(ObjectKey::of(&**gateway), planned);
        }
    }
    let mut routes: Vec<&HttpRoute> = view.http_routes.iter().map(|route| &**route).collect();
    routes.retain(|route| route.metadata.deletion_timestamp.is_none());
    routes.sort_by_cached_key(|route| precedence(&route.metadata));
    for route in routes {
        attach(route, view, backend, &mut plan);
    }
    plan
}

/// The oldest first, then by namespace and name.
fn precedence(meta: &ObjectMeta) -> (Option<jiff::Timestamp>, Option<String>, Option<String>) {
    let created = meta.creation_timestamp.as_ref().map(|time| time.0);
    (created, meta.namespace.clone(), meta.name.clone())
}

impl GatewayPlan {
    fn new(gateway: &Gateway, view: &View<'_>, secrets: &mut BTreeSet<ObjectKey>) -> Self {
        let generation = gateway.metadata.generation;
        let listeners = listeners::plan(gateway, view, secrets);
        let accepted = |listener: &ListenerPlan| is_true(&listener.status.conditions, "Accepted");
        let infrastructure = gateway.spec.infrastructure.as_ref();
        let parameters = infrastructure.and_then(|i| i.parameters_ref.as_ref());
        let other_type =
            gateway.spec.addresses.iter().find(|address| {
                address.r#type.as_deref().is_some_and(|r#type| r#type != "IPAddress")
            });
        let (status, reason, message) = if let Some(parameters) = parameters {
            let kind = parameters.kind.as_deref().unwrap_or_default();
            let message = format!("parameters of kind {kind:?} are not supported; remove them");
            (false, "InvalidParameters", message)
        } else if let Some(address) = other_type {
            let message = format!("address type {:?} is not supported", address.r#type);
            (false, "UnsupportedAddress", message)
        } else if !listeners.iter().any(accepted) {
            (false, "ListenersNotValid", "no listener is valid".to_owned())
        } else if !listeners.iter().all(accepted) {
            (true, "ListenersNotValid", "a listener is not valid".to_owned())
        } else {
            (true, "Accepted", String::new())
        };
        Self {
            uid: gateway.metadata.uid.clone().unwrap_or_default(),
            generation,
            accepted: condition("Accepted", status, reason, message, generation),
            listeners,
            matches: BTreeMap::new(),
        }
    }

    /// Returns whether the Gateway gets listeners at all.
    pub(super) fn is_accepted(&self) -> bool {
        self.accepted.status == "True"
    }

    /// Returns the ports to listen on, and whether each speaks TLS.
    pub(super) fn ports(&self) -> BTreeMap<u16, bool> {
        let serving = self.listeners.iter().filter(|l| l.serves && self.is_accepted());
        serving.map(|listener| (listener.port, listener.tls)).collect()
    }
}

/// Attaches a route to the listeners that its parents name, and records its status.
fn attach(
    route: &HttpRoute,
    view: &View<'_>,
    backend: &mut dyn FnMut(&Target) -> Result<Arc<Backend>, Unresolved>,
    plan: &mut Plan,
) {
    let key = ObjectKey::of(route);
    let parents: Vec<(&ParentRef, ObjectKey)> = route
        .spec
        .parent_refs
        .iter()
        .filter_map(|parent| Some((parent, gateway_of(parent, &key.namespace)?)))
        .filter(|(_, gateway)| plan.gateways.contains_key(gateway))
        .collect();
    if parents.is_empty() {
        return;
    }
    let generation = route.metadata.generation;
    let rules = convert(route, view, backend);
    let problem =
        |found: fn(&ConvertedRule) -> Option<Unresolved>| rules.iter().find_map(|(_, r)| found(r));
    let resolved = match problem(|rule| rule.unresolved.first().cloned()) {
        None => condition("ResolvedRefs", true, "ResolvedRefs", "", generation),
        Some((reason, message)) => condition("ResolvedRefs", false, reason, message, generation),
    };
    let unsupported = problem(|rule| Some(("UnsupportedValue", rule.unsupported.first()?.clone())));
    let rules: Vec<_> =
        rules.into_iter().map(|(matches, rule)| (matches, Arc::new(rule.rule))).collect();
    for (parent, gateway_key) in parents {
        let Some(gateway) = plan.gateways.get_mut(&gateway_key) else { continue };
        let attached = attached(route, parent, &gateway_key, gateway, view);
        let accepted = match (&attached, &unsupported) {
            (Err((reason, message)), _) | (Ok(_), Some((reason, message))) => {
                condition("Accepted", false, reason, message.clone(), generation)
            }
            (Ok(_), None) => condition("Accepted", true, "Accepted", "", generation),
        };
        for (listener, hosts) in attached.unwrap_or_default() {
            let Some(listener) = gateway.listeners.get_mut(listener) else { continue };
            listener.status.attached_routes += i32::from(accepted.status == "True");
            let matches = gateway.matches.entry(listener.port).or_default();
            for (of_rule, rule) in &rules {
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
        let status = ParentStatus {
            parent_ref: parent.clone(),
            controller_name: GATEWAY_CONTROLLER.to_owned(),
            conditions: vec![accepted, resolved.clone()],
        };
        plan.routes.entry(key.clone()).or_default().push(status);
    }
}

/// Returns the Gateway that a parent reference names, if it names one.
fn gateway_of(parent: &ParentRef, namespace: &str) -> Option<ObjectKey> {
    let group = parent.group.as_deref().unwrap_or(GROUP);
    let kind = parent.kind.as_deref().unwrap_or("Gateway");
    let namespace = parent.namespace.as_deref().unwrap_or(namespace);
    ((group, kind) == (GROUP, "Gateway")).then(|| ObjectKey::new(namespace, &parent.name))
}

type Matches = Vec<(PathMatch, Conditions)>;

/// Converts the rules of a route. A match that cannot be converted matches nothing.
fn convert(
    route: &HttpRoute,
    view: &View<'_>,
    backend: &mut dyn FnMut(&Target) -> Result<Arc<Backend>, Unresolved>,
) -> Vec<(Matches, ConvertedRule)> {
    let namespace = route.metadata.namespace.as_deref().unwrap_or_default();
    let from = Referrer { kind: "HTTPRoute", namespace };
    let mut resolve = |reference: &BackendRef, from: Referrer<'_>| {
        backend(&service_of(reference, from, view.grants)?)
    };
    let uid = route.metadata.uid.as_deref().unwrap_or_default();
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
    route.spec.rules.iter().enumerate().map(convert).collect()
}

/// Returns the listeners to which the route is attached through a parent reference, with the hosts
/// that both have, or why there is none.
fn attached(
    route: &HttpRoute,
    parent: &ParentRef,
    gateway_key: &ObjectKey,
    gateway: &GatewayPlan,
    view: &View<'_>,
) -> Result<Vec<(usize, Vec<Option<String>>)>, Unresolved> {
    let namespace = route.metadata.namespace.as_deref().unwrap_or_default();
    let mut named: Vec<(usize, &ListenerPlan)> = gateway.listeners.iter().enumerate().collect();
    named.retain(|(_, listener)| {
        parent.section_name.as_ref().is_none_or(|name| *name == listener.name)
            && parent.port.is_none_or(|port| port == i32::from(listener.port))
    });
    if named.is_empty() {
        let message = format!("Gateway {gateway_key} has no listener of this name and port");
        return Err(("NoMatchingParent", message));
    }
    named.retain(|(_, listener)| {
        listener.allows("HTTPRoute", namespace, &gateway_key.namespace, view.namespaces)
    });
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

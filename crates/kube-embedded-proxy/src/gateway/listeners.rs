//! The listeners of a Gateway: what they accept, and what is wrong with them.

use super::{
    api::{Gateway, Listener, ListenerStatus, NamespaceLabels, RouteKind},
    conditions::condition,
    object::GROUP,
    references::{Referrer, Unresolved, secret_of},
    view::View,
};
use crate::http_proxy::route_table::host_name;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube_embedded_core::informer::ObjectKey;
use std::collections::{BTreeMap, BTreeSet};

/// A listener as it is served.
#[derive(Clone, Debug)]
pub(super) struct ListenerPlan {
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) tls: bool,
    pub(super) hostname: Option<String>,
    /// The Secrets of its certificates that can be used.
    pub(super) certificates: Vec<ObjectKey>,
    /// Whether it accepts connections.
    pub(super) serves: bool,
    /// Without the routes that are attached, and without times.
    pub(super) status: ListenerStatus,
    namespaces: AllowedNamespaces,
}

#[derive(Clone, Debug)]
enum AllowedNamespaces {
    All,
    Same,
    None,
    Selector(LabelSelector),
}

/// Plans the listeners of a Gateway. Secrets that listeners name are added to `secrets`.
pub(super) fn plan(
    gateway: &Gateway,
    view: &View<'_>,
    secrets: &mut BTreeSet<ObjectKey>,
) -> Vec<ListenerPlan> {
    let mut planned: Vec<ListenerPlan> = Vec::new();
    for listener in &gateway.spec.listeners {
        let conflict = planned.iter().find_map(|other| conflict(other, listener));
        planned.push(plan_one(gateway, listener, conflict, view, secrets));
    }
    planned
}

/// Returns why a listener conflicts with one that precedes it.
fn conflict(other: &ListenerPlan, listener: &Listener) -> Option<Unresolved> {
    if i32::from(other.port) != listener.port || !other.serves {
        return None;
    }
    let name = &other.name;
    if other.tls != is_tls(listener) {
        let message = format!("listener {name:?} has the same port and another protocol");
        return Some(("ProtocolConflict", message));
    }
    (other.hostname == hostname(listener))
        .then(|| ("HostnameConflict", format!("listener {name:?} has the same port and hostname")))
}

fn is_tls(listener: &Listener) -> bool {
    listener.protocol == "HTTPS"
}

fn hostname(listener: &Listener) -> Option<String> {
    let host = listener.hostname.as_deref().filter(|host| !host.is_empty());
    host.map(|host| host_name(host).into_owned())
}

fn plan_one(
    gateway: &Gateway,
    listener: &Listener,
    conflict: Option<Unresolved>,
    view: &View<'_>,
    secrets: &mut BTreeSet<ObjectKey>,
) -> ListenerPlan {
    let generation = gateway.metadata.generation;
    let supported: &[&str] = match &*listener.protocol {
        "HTTP" | "HTTPS" => &["HTTPRoute"],
        _ => &[],
    };
    let (kinds, invalid_kind) = kinds(listener, supported);
    let tls = is_tls(listener);
    let (certificates, unresolved) = match tls {
        true => certificates(gateway, listener, view, secrets),
        false => (Vec::new(), None),
    };
    let port = u16::try_from(listener.port).ok().filter(|port| *port > 0);
    let accepted = match (supported, port) {
        ([], _) => {
            let message = format!("protocol {:?} is not supported", listener.protocol);
            Err(("UnsupportedProtocol", message))
        }
        (_, None) => Err(("PortUnavailable", format!("{} is no port", listener.port))),
        _ => conflict.clone().map_or(Ok(()), Err),
    };
    let unusable = tls && certificates.is_empty();
    let serves = accepted.is_ok() && !unusable;
    let state = |r#type, result: Result<(), Unresolved>, reason| match result {
        Ok(()) => condition(r#type, true, reason, "", generation),
        Err((reason, message)) => condition(r#type, false, reason, message, generation),
    };
    let resolved = unresolved.or(invalid_kind).map_or(Ok(()), Err);
    let programmed = match serves {
        true => Ok(()),
        false => Err(("Invalid", "the listener is not accepted or has no certificate".to_owned())),
    };
    let conflicted = match conflict {
        Some((reason, message)) => condition("Conflicted", true, reason, message, generation),
        None => condition("Conflicted", false, "NoConflicts", "", generation),
    };
    ListenerPlan {
        name: listener.name.clone(),
        port: port.unwrap_or_default(),
        tls,
        hostname: hostname(listener),
        certificates,
        serves,
        status: ListenerStatus {
            name: listener.name.clone(),
            supported_kinds: kinds,
            attached_routes: 0,
            conditions: vec![
                state("Accepted", accepted, "Accepted"),
                state("Programmed", programmed, "Programmed"),
                state("ResolvedRefs", resolved, "ResolvedRefs"),
                conflicted,
            ],
        },
        namespaces: AllowedNamespaces::of(listener),
    }
}

/// Returns the kinds of routes that may attach, and whether one that is listed is not among them.
fn kinds(listener: &Listener, supported: &[&str]) -> (Vec<RouteKind>, Option<Unresolved>) {
    let listed = listener.allowed_routes.as_ref().and_then(|allowed| allowed.kinds.as_ref());
    let Some(listed) = listed.filter(|listed| !listed.is_empty()) else {
        return (supported.iter().map(|kind| RouteKind::of_group(kind)).collect(), None);
    };
    let is_supported = |kind: &&RouteKind| {
        kind.group.as_deref().unwrap_or(GROUP) == GROUP && supported.contains(&&*kind.kind)
    };
    let kinds = listed.iter().filter(is_supported).map(|kind| RouteKind::of_group(&kind.kind));
    let invalid = listed.iter().find(|kind| !is_supported(kind)).map(|kind| {
        let message = format!("routes of kind {:?} cannot attach to this listener", kind.kind);
        ("InvalidRouteKinds", message)
    });
    (kinds.collect(), invalid)
}

/// Returns the Secrets that can be used, and the first problem of the others.
fn certificates(
    gateway: &Gateway,
    listener: &Listener,
    view: &View<'_>,
    secrets: &mut BTreeSet<ObjectKey>,
) -> (Vec<ObjectKey>, Option<Unresolved>) {
    let namespace = gateway.metadata.namespace.as_deref().unwrap_or_default();
    let from = Referrer { kind: "Gateway", namespace };
    let tls = listener.tls.clone().unwrap_or_default();
    let (mut usable, mut problem) = (Vec::new(), None);
    if tls.mode.as_deref().is_some_and(|mode| mode != "Terminate") {
        let message = "an HTTPS listener terminates TLS".to_owned();
        return (usable, Some(("InvalidCertificateRef", message)));
    }
    if tls.certificate_refs.is_empty() {
        problem = Some(("InvalidCertificateRef", "there is no certificateRef".to_owned()));
    }
    for reference in &tls.certificate_refs {
        let found = secret_of(reference, from, view.grants).and_then(|key| {
            secrets.insert(key.clone());
            match (view.secret_problem)(&key) {
                None => Ok(key),
                Some(why) => Err(("InvalidCertificateRef", format!("Secret {key} {why}"))),
            }
        });
        match found {
            Ok(key) => usable.push(key),
            Err(why) => problem = problem.or(Some(why)),
        }
    }
    (usable, problem)
}

impl AllowedNamespaces {
    fn of(listener: &Listener) -> Self {
        let namespaces = listener.allowed_routes.as_ref().and_then(|a| a.namespaces.as_ref());
        match namespaces.and_then(|n| n.from.as_deref()).unwrap_or("Same") {
            "All" => Self::All,
            "Same" => Self::Same,
            "Selector" => match namespaces.and_then(|n| n.selector.clone()) {
                Some(selector) => Self::Selector(selector),
                None => Self::None,
            },
            _ => Self::None,
        }
    }
}

impl ListenerPlan {
    /// Returns whether routes of this kind and namespace may attach.
    pub(super) fn allows(
        &self,
        kind: &str,
        namespace: &str,
        gateway_namespace: &str,
        labels: &NamespaceLabels,
    ) -> bool {
        self.status.supported_kinds.iter().any(|supported| supported.kind == kind)
            && match &self.namespaces {
                AllowedNamespaces::All => true,
                AllowedNamespaces::Same => namespace == gateway_namespace,
                AllowedNamespaces::None => false,
                AllowedNamespaces::Selector(selector) => {
                    labels.get(namespace).is_some_and(|labels| selects(selector, labels))
                }
            }
    }
}

/// Returns whether the selector matches; one with an unknown operator matches nothing.
fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector.match_labels.iter().flatten();
    equal.into_iter().all(|(key, value)| labels.get(key) == Some(value))
        && selector.match_expressions.iter().flatten().all(|requirement| {
            let value = labels.get(&requirement.key);
            let values = requirement.values.as_deref().unwrap_or_default();
            match &*requirement.operator {
                "In" => value.is_some_and(|value| values.contains(value)),
                "NotIn" => value.is_none_or(|value| !values.contains(value)),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

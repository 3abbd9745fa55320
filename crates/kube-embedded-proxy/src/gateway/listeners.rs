//! The listeners of a Gateway: what they accept, and what is wrong with them.

use super::{
    api::{
        Gateway, Listener, ListenerSet, ListenerStatus, NamespaceLabels, RouteKind, RouteNamespaces,
    },
    conditions::condition,
    gateway_tls::{self, ClientPlan},
    object::GROUP,
    references::{Referrer, Unresolved, object_of},
    view::{Names, View},
};
use crate::http_proxy::{client_certificates::ClientValidation, route_table::host_name};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube_embedded_core::informer::ObjectKey;
use std::collections::BTreeMap;

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http,
    Https,
    /// TLS around any protocol, which is ended here or passed through.
    Tls {
        terminates: bool,
    },
    Tcp,
    Udp,
}

impl Protocol {
    fn of(listener: &Listener) -> Option<Self> {
        let mode = listener.tls.as_ref().and_then(|tls| tls.mode.as_deref());
        Some(match &*listener.protocol {
            "HTTP" => Self::Http,
            "HTTPS" => Self::Https,
            "TLS" => Self::Tls { terminates: mode != Some("Passthrough") },
            "TCP" => Self::Tcp,
            "UDP" => Self::Udp,
            _ => return None,
        })
    }

    /// Returns whether listeners of both can share a port.
    pub(super) fn may_share(self, other: Self) -> bool {
        let both_tls = matches!((self, other), (Self::Tls { .. }, Self::Tls { .. }));
        // UDP has ports of its own.
        self == other || both_tls || self == Self::Udp || other == Self::Udp
    }

    /// Returns the kinds of routes that may attach.
    fn route_kinds(self) -> &'static [&'static str] {
        match self {
            Self::Http | Self::Https => &["HTTPRoute", "GRPCRoute"],
            Self::Tls { .. } => &["TLSRoute"],
            Self::Tcp => &["TCPRoute"],
            Self::Udp => &["UDPRoute"],
        }
    }

    /// Returns whether it needs certificates.
    fn terminates_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls { terminates: true })
    }
}

/// A listener as it is served.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ListenerPlan {
    /// The ListenerSet that has it, if the Gateway does not have it itself.
    pub(super) set: Option<ObjectKey>,
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) protocol: Protocol,
    pub(super) hostname: Option<String>,
    /// The Secrets of its certificates that can be used.
    pub(super) certificates: Vec<ObjectKey>,
    /// What the certificates of its clients must be.
    pub(super) clients: Option<ClientValidation>,
    /// Whether it accepts connections.
    pub(super) serves: bool,
    /// Without the number of attached routes, and without times.
    pub(super) status: ListenerStatus,
    namespaces: AllowedNamespaces,
    /// That of the Gateway or ListenerSet.
    namespace: String,
}

/// The namespaces whose objects may attach.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum AllowedNamespaces {
    All,
    Same,
    None,
    Selector(LabelSelector),
}

/// A Gateway or a ListenerSet.
struct Owner<'a> {
    gateway: &'a Gateway,
    set: Option<ObjectKey>,
    namespace: &'a str,
    generation: Option<i64>,
}

/// Plans the listeners of a Gateway and of its ListenerSets, in the order of precedence. Objects that
/// listeners name are added to `names`.
pub(super) fn plan(
    gateway: &Gateway,
    sets: &[&ListenerSet],
    view: &View<'_>,
    names: &mut Names,
) -> Vec<ListenerPlan> {
    let mut planned: Vec<ListenerPlan> = Vec::new();
    let mut add = |owner: &Owner<'_>, listeners: &[Listener]| {
        for listener in listeners {
            let conflict = planned.iter().find_map(|other| conflict(other, listener));
            planned.push(plan_one(owner, listener, conflict, view, names));
        }
    };
    let namespace = gateway.metadata.namespace.as_deref().unwrap_or_default();
    let generation = gateway.metadata.generation;
    add(&Owner { gateway, set: None, namespace, generation }, &gateway.spec.listeners);
    for set in sets {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let (generation, key) = (set.metadata.generation, Some(ObjectKey::of(*set)));
        add(&Owner { gateway, set: key, namespace, generation }, &set.spec.listeners);
    }
    planned
}

/// Returns why a listener conflicts with one that precedes it.
fn conflict(other: &ListenerPlan, listener: &Listener) -> Option<Unresolved> {
    if i32::from(other.port) != listener.port || !other.serves {
        return None;
    }
    let name = &other.name;
    let protocol = Protocol::of(listener)?;
    if (other.protocol == Protocol::Udp) != (protocol == Protocol::Udp) {
        return None;
    }
    if !other.protocol.may_share(protocol) {
        let message = format!("listener {name:?} has the same port and another protocol");
        return Some(("ProtocolConflict", message));
    }
    (other.hostname == hostname(listener))
        .then(|| ("HostnameConflict", format!("listener {name:?} has the same port and hostname")))
}

fn hostname(listener: &Listener) -> Option<String> {
    let host = listener.hostname.as_deref().filter(|host| !host.is_empty());
    host.map(|host| host_name(host).into_owned())
}

fn plan_one(
    owner: &Owner<'_>,
    listener: &Listener,
    conflict: Option<Unresolved>,
    view: &View<'_>,
    names: &mut Names,
) -> ListenerPlan {
    let protocol = Protocol::of(listener);
    let supported = protocol.map_or::<&[&str], _>(&[], Protocol::route_kinds);
    let (kinds, invalid_kind) = kinds(listener, supported);
    let tls = protocol.is_some_and(Protocol::terminates_tls);
    let (certificates, unresolved) = match tls {
        true => certificates(owner, listener, view, names),
        false => (Vec::new(), None),
    };
    let clients = match protocol {
        Some(Protocol::Https) => gateway_tls::clients(owner.gateway, listener.port, view, names),
        _ => ClientPlan::default(),
    };
    let port = u16::try_from(listener.port).ok().filter(|port| *port > 0);
    let accepted = match (supported, port) {
        ([], _) => {
            let message = format!("protocol {:?} is not supported", listener.protocol);
            Err(("UnsupportedProtocol", message))
        }
        (_, None) => Err(("PortUnavailable", format!("{} is no port", listener.port))),
        _ => conflict.clone().or(clients.invalid).map_or(Ok(()), Err),
    };
    let serves = accepted.is_ok() && !(tls && certificates.is_empty());
    let resolved = unresolved.or(clients.unresolved).or(invalid_kind).map_or(Ok(()), Err);
    let namespaces = listener.allowed_routes.as_ref().and_then(|a| a.namespaces.as_ref());
    ListenerPlan {
        set: owner.set.clone(),
        name: listener.name.clone(),
        port: port.unwrap_or_default(),
        protocol: protocol.unwrap_or(Protocol::Tcp),
        hostname: hostname(listener),
        certificates,
        clients: clients.validation,
        serves,
        status: ListenerStatus {
            name: listener.name.clone(),
            supported_kinds: kinds,
            attached_routes: 0,
            conditions: conditions(accepted, serves, resolved, conflict, owner.generation),
        },
        namespaces: AllowedNamespaces::of(namespaces, "Same"),
        namespace: owner.namespace.to_owned(),
    }
}

/// Returns the conditions of a listener.
fn conditions(
    accepted: Result<(), Unresolved>,
    serves: bool,
    resolved: Result<(), Unresolved>,
    conflict: Option<Unresolved>,
    generation: Option<i64>,
) -> Vec<Condition> {
    let state = |r#type, result: Result<(), Unresolved>, reason| match result {
        Ok(()) => condition(r#type, true, reason, "", generation),
        Err((reason, message)) => condition(r#type, false, reason, message, generation),
    };
    let programmed = match serves {
        true => Ok(()),
        false if conflict.is_some() => accepted.clone(),
        false => Err(("Invalid", "the listener is not accepted or has no certificate".to_owned())),
    };
    let conflicted = match conflict {
        Some((reason, message)) => condition("Conflicted", true, reason, message, generation),
        None => condition("Conflicted", false, "NoConflicts", "", generation),
    };
    vec![
        state("Accepted", accepted, "Accepted"),
        state("Programmed", programmed, "Programmed"),
        state("ResolvedRefs", resolved, "ResolvedRefs"),
        conflicted,
    ]
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
    owner: &Owner<'_>,
    listener: &Listener,
    view: &View<'_>,
    names: &mut Names,
) -> (Vec<ObjectKey>, Option<Unresolved>) {
    let kind = if owner.set.is_some() { "ListenerSet" } else { "Gateway" };
    let from = Referrer { kind, namespace: owner.namespace };
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
        let invalid = "InvalidCertificateRef";
        let found = object_of(reference, "Secret", invalid, from, view.grants).and_then(|key| {
            names.secrets.insert(key.clone());
            match (view.secret_problem)(&key) {
                None => Ok(key),
                Some(why) => Err((invalid, format!("Secret {key} {why}"))),
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
    pub(super) fn of(namespaces: Option<&RouteNamespaces>, default: &str) -> Self {
        match namespaces.and_then(|n| n.from.as_deref()).unwrap_or(default) {
            "All" => Self::All,
            "Same" => Self::Same,
            "Selector" => match namespaces.and_then(|n| n.selector.clone()) {
                Some(selector) => Self::Selector(selector),
                None => Self::None,
            },
            _ => Self::None,
        }
    }

    /// Returns whether objects of a namespace may attach to one of namespace `own`.
    pub(super) fn allow(&self, namespace: &str, own: &str, labels: &NamespaceLabels) -> bool {
        match self {
            Self::All => true,
            Self::Same => namespace == own,
            Self::None => false,
            Self::Selector(selector) => {
                labels.get(namespace).is_some_and(|labels| selects(selector, labels))
            }
        }
    }
}

impl ListenerPlan {
    /// Returns the port, and whether it is one of UDP.
    pub(super) fn key(&self) -> (u16, bool) {
        (self.port, self.protocol == Protocol::Udp)
    }

    /// Returns whether routes of this kind and namespace may attach.
    pub(super) fn allows(&self, kind: &str, namespace: &str, labels: &NamespaceLabels) -> bool {
        self.status.supported_kinds.iter().any(|supported| supported.kind == kind)
            && self.namespaces.allow(namespace, &self.namespace, labels)
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

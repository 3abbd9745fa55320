//! ListenerSets: which of them attach to a Gateway, and their statuses.

use super::{
    api::{Gateway, ListenerSet},
    conditions::condition,
    listeners::{AllowedNamespaces, ListenerPlan},
    object::GROUP,
    policies::precedence,
    view::View,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube_embedded_core::informer::ObjectKey;

/// A ListenerSet that names one of our Gateways.
#[derive(Debug)]
pub(super) struct ListenerSetPlan {
    pub(super) gateway: ObjectKey,
    pub(super) conditions: Vec<Condition>,
}

/// Returns the ListenerSets that name a Gateway, the oldest first, and whether it allows each of them.
pub(super) fn of<'a>(gateway: &Gateway, view: &View<'a>) -> Vec<(&'a ListenerSet, bool)> {
    let key = ObjectKey::of(gateway);
    let allowed = gateway.spec.allowed_listeners.as_ref();
    let allowed = AllowedNamespaces::of(allowed.and_then(|a| a.namespaces.as_ref()), "None");
    let mut sets: Vec<(&ListenerSet, bool)> = Vec::new();
    for set in view.listener_sets {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let parent = &set.spec.parent_ref;
        let named = parent.group.as_deref().unwrap_or(GROUP) == GROUP
            && parent.kind.as_deref().unwrap_or("Gateway") == "Gateway"
            && parent.namespace.as_deref().unwrap_or(namespace) == key.namespace
            && parent.name == key.name;
        if named && set.metadata.deletion_timestamp.is_none() {
            sets.push((set, allowed.allow(namespace, &key.namespace, view.namespaces)));
        }
    }
    sets.sort_by_cached_key(|(set, _)| precedence(&set.metadata));
    sets
}

/// Plans the status of a ListenerSet of a Gateway with these listeners.
pub(super) fn plan(
    set: &ListenerSet,
    gateway: ObjectKey,
    is_allowed: bool,
    is_gateway_accepted: bool,
    listeners: &[ListenerPlan],
) -> ListenerSetPlan {
    let key = ObjectKey::of(set);
    let own = || listeners.iter().filter(|listener| listener.set.as_ref() == Some(&key));
    // A listener without a certificate is accepted, but of no use.
    let valid = |listener: &ListenerPlan| listener.serves;
    let problem = if !is_allowed {
        Some((
            "NotAllowed",
            format!("Gateway {gateway} does not allow ListenerSets of this namespace"),
        ))
    } else if !is_gateway_accepted {
        Some(("ParentNotAccepted", format!("Gateway {gateway} is not accepted")))
    } else if !own().any(valid) {
        Some(("ListenersNotValid", "no listener is valid".to_owned()))
    } else {
        None
    };
    let generation = set.metadata.generation;
    let state = |r#type, reason| match &problem {
        Some((reason, message)) => condition(r#type, false, reason, message.clone(), generation),
        None => condition(r#type, true, reason, "", generation),
    };
    let reason = if own().all(valid) { "Accepted" } else { "ListenersNotValid" };
    let conditions = vec![state("Accepted", reason), state("Programmed", "Programmed")];
    ListenerSetPlan { gateway, conditions }
}

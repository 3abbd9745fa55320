//! The plan of Gateways, their listeners and policies: a function of the objects. Which routes are attached
//! is another matter, which changes more often: `planner.rs`.

use super::{
    api::{Gateway, NamespaceLabels, ReferenceGrant},
    conditions::{condition, is_true},
    gateway_tls,
    listener_sets::{self, ListenerSetPlan},
    listeners::{self, ListenerPlan, Protocol},
    policies::Policies,
    view::{GATEWAY_CONTROLLER, Names, View},
};
use crate::http_proxy::client_certificates::ClientValidation;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube_embedded_core::informer::ObjectKey;
use std::{collections::BTreeMap, sync::Arc};

/// What Gateways ask for together.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The conditions of our classes.
    pub(super) classes: BTreeMap<ObjectKey, Vec<Condition>>,
    pub(super) gateways: BTreeMap<ObjectKey, GatewayPlan>,
    pub(super) listener_sets: BTreeMap<ObjectKey, ListenerSetPlan>,
    pub(super) policies: Policies,
    pub(super) names: Names,
    /// What routes may refer to, and be attached to.
    pub(super) grants: Vec<Arc<ReferenceGrant>>,
    pub(super) namespaces: NamespaceLabels,
}

/// One Gateway.
#[derive(Debug, PartialEq)]
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
    /// The Secret of the certificate that backends are shown.
    pub(super) client: Option<ObjectKey>,
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

/// Plans all Gateways.
pub(super) fn plan(view: &View<'_>) -> Plan {
    let (grants, namespaces) = (view.grants.to_vec(), view.namespaces.clone());
    let mut plan = Plan { grants, namespaces, ..Plan::default() };
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
    plan.policies = Policies::new(view, &mut plan.names);
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
}

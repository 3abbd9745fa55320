//! The objects of the Gateway controller as last seen. Each kind is watched once its
//! CustomResourceDefinition exists, and Services and endpoints once there is a Gateway.

use super::{
    api::{Gateway, GatewayClass, HttpRoute, NamespaceLabels, ReferenceGrant},
    object::{GROUP, Gvk, Object},
    view::GATEWAY_CONTROLLER,
};
use crate::{
    secrets::SecretEvent,
    services::objects::{ObjectEvent as ServiceEvent, Objects as ServiceObjects},
    watches::events,
};
use futures::{
    StreamExt,
    stream::{BoxStream, SelectAll},
};
use k8s_openapi::{
    api::{
        core::v1::{Namespace, Service},
        discovery::v1::EndpointSlice,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{Client, core::PartialObjectMeta, runtime::watcher::Event};
use kube_embedded_core::informer::{Informer, ObjectKey};
use std::{collections::BTreeSet, sync::Arc};

type Crd = PartialObjectMeta<CustomResourceDefinition>;

/// An event of one of the watches.
#[expect(clippy::large_enum_variant, reason = "one exists at a time, and is consumed at once")]
pub(super) enum GatewayEvent {
    Crd(Event<Crd>),
    Class(Event<GatewayClass>),
    Gateway(Event<Gateway>),
    HttpRoute(Event<HttpRoute>),
    Grant(Event<ReferenceGrant>),
    Namespace(Event<Namespace>),
    Service(ServiceEvent),
    Secret(SecretEvent),
}

/// All watches; grows with the kinds that exist and the Secrets that are named.
pub(super) type Watches = SelectAll<BoxStream<'static, GatewayEvent>>;

/// The objects.
pub(super) struct Objects {
    client: Client,
    watched: BTreeSet<&'static str>,
    pub(super) classes: Informer<GatewayClass>,
    pub(super) gateways: Informer<Gateway>,
    pub(super) http_routes: Informer<HttpRoute>,
    pub(super) grants: Informer<ReferenceGrant>,
    namespaces: Informer<Namespace>,
    /// `None` until there is a Gateway to serve.
    services: Option<ServiceObjects>,
}

impl Objects {
    pub(super) fn new(client: Client, watches: &mut Watches) -> Self {
        let crds = events::<Crd>(&client).map(GatewayEvent::Crd);
        watches.push(crds.boxed());
        Self {
            client,
            watched: BTreeSet::new(),
            classes: Informer::default(),
            gateways: Informer::default(),
            http_routes: Informer::default(),
            grants: Informer::default(),
            namespaces: Informer::default(),
            services: None,
        }
    }

    /// Stores what an event reports. Returns whether anything is to be reconciled.
    pub(super) fn apply(&mut self, event: GatewayEvent, watches: &mut Watches) -> bool {
        match event {
            GatewayEvent::Crd(Event::InitApply(crd) | Event::Apply(crd)) => {
                self.watch_kind(crd.metadata.name.as_deref().unwrap_or_default(), watches);
                return false;
            }
            GatewayEvent::Crd(_) => return false,
            GatewayEvent::Class(event) => self.classes.observe(event),
            GatewayEvent::Gateway(event) => self.gateways.observe(event),
            GatewayEvent::HttpRoute(event) => self.http_routes.observe(event),
            GatewayEvent::Grant(event) => self.grants.observe(event),
            GatewayEvent::Namespace(event) => self.namespaces.observe(event),
            GatewayEvent::Service(event) => {
                if let Some(services) = &self.services {
                    services.apply(event);
                }
            }
            GatewayEvent::Secret(_) => {}
        }
        true
    }

    /// Watches the kind that a CustomResourceDefinition defines, if it is one of ours. Without the
    /// definition every watch would fail.
    fn watch_kind(&mut self, crd: &str, watches: &mut Watches) {
        let Some(plural) = crd.strip_suffix(GROUP).and_then(|name| name.strip_suffix('.')) else {
            return;
        };
        self.watch(plural, GatewayEvent::Class, watches);
        self.watch(plural, GatewayEvent::Gateway, watches);
        self.watch(plural, GatewayEvent::HttpRoute, watches);
        self.watch(plural, GatewayEvent::Grant, watches);
    }

    fn watch<S: Gvk>(
        &mut self,
        plural: &str,
        event: fn(Event<Object<S>>) -> GatewayEvent,
        watches: &mut Watches,
    ) {
        if plural == S::PLURAL && self.watched.insert(S::PLURAL) {
            watches.push(events::<Object<S>>(&self.client).map(event).boxed());
        }
    }

    /// Returns whether enough is known to plan. Watches Services, endpoints and namespaces from the
    /// first Gateway on.
    pub(super) fn synced(&mut self, watches: &mut Watches) -> bool {
        if !self.classes.has_synced() || !self.gateways.has_synced() {
            return false;
        }
        let known = |plural, synced| !self.watched.contains(plural) || synced;
        let routes = known("httproutes", self.http_routes.has_synced())
            && known("referencegrants", self.grants.has_synced());
        match &self.services {
            Some(services) => services.synced() && self.namespaces.has_synced() && routes,
            None if self.gateways.list().is_empty() => true,
            None => {
                let services = events::<Service>(&self.client).map(ServiceEvent::Service);
                let slices = events::<EndpointSlice>(&self.client).map(ServiceEvent::Slice);
                watches.push(services.map(GatewayEvent::Service).boxed());
                watches.push(slices.map(GatewayEvent::Service).boxed());
                let namespaces = events::<Namespace>(&self.client).map(GatewayEvent::Namespace);
                watches.push(namespaces.boxed());
                self.services = Some(ServiceObjects::default());
                false
            }
        }
    }

    /// Returns whether the class of a Gateway is served here.
    pub(super) fn is_ours(&self, gateway: &Gateway) -> bool {
        let class = ObjectKey::cluster_scoped(&gateway.spec.gateway_class_name);
        self.classes.get(&class).is_some_and(|c| c.spec.controller_name == GATEWAY_CONTROLLER)
    }

    pub(super) fn namespaces(&self) -> NamespaceLabels {
        let labels = |namespace: &Arc<Namespace>| {
            let metadata = &namespace.metadata;
            (metadata.name.clone().unwrap_or_default(), metadata.labels.clone().unwrap_or_default())
        };
        self.namespaces.list().iter().map(labels).collect()
    }

    pub(super) fn service(&self, key: &ObjectKey) -> Option<Arc<Service>> {
        self.services.as_ref()?.service(key)
    }

    pub(super) fn slices_of(&self, service: &ObjectKey) -> Vec<Arc<EndpointSlice>> {
        self.services.as_ref().map(|services| services.slices_of(service)).unwrap_or_default()
    }
}

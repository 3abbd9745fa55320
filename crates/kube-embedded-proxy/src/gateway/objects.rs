//! The objects of the Gateway controller as last seen. Each kind is watched once its
//! CustomResourceDefinition exists, and Services and endpoints once there is a Gateway.

use super::{
    api::{
        BackendTlsPolicySpec, Gateway, GatewayClassSpec, GatewaySpec, GrpcRouteSpec, HttpRouteSpec,
        ListenerSetSpec, NamespaceLabels, ReferenceGrantSpec, TcpRouteSpec, TlsRouteSpec,
        UdpRouteSpec,
    },
    object::{GROUP, Gvk, Object},
    status::{StatusWriter, Written},
    view::GATEWAY_CONTROLLER,
};
use crate::{
    secrets::{NamedEvent, SecretEvent},
    services::objects::{ObjectEvent as ServiceEvent, Objects as ServiceObjects},
    watches::events,
};
use futures::{
    StreamExt,
    stream::{BoxStream, SelectAll},
};
use k8s_openapi::{
    api::{
        core::v1::{ConfigMap, Namespace, Service},
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
    Kind(KindEvent),
    Namespace(Event<Namespace>),
    Service(ServiceEvent),
    Secret(SecretEvent),
    ConfigMap(NamedEvent<ConfigMap>),
}

/// All watches; grows with the kinds that exist and the Secrets that are named.
pub(super) type Watches = SelectAll<BoxStream<'static, GatewayEvent>>;

/// Declares what every kind of the API has: an event, an informer and a writer of statuses.
macro_rules! kinds {
    ($($field:ident $variant:ident $spec:ty,)*) => {
        /// An event of the watch of one kind.
        #[expect(clippy::large_enum_variant, reason = "one exists at a time, and is consumed at once")]
        pub(super) enum KindEvent { $($variant(Event<Object<$spec>>),)* }

        /// The objects of each kind.
        #[derive(Default)]
        pub(super) struct Kinds { $(pub(super) $field: Informer<Object<$spec>>,)* }

        impl Kinds {
            fn apply(&self, event: KindEvent) -> bool {
                match event { $(KindEvent::$variant(event) => self.$field.observe(event),)* }
            }

            /// Returns whether all kinds that are watched are known.
            fn have_synced(&self, watched: &BTreeSet<&'static str>) -> bool {
                true $(&& (!watched.contains(<$spec>::PLURAL) || self.$field.has_synced()))*
            }
        }

        impl Objects {
            /// Watches a kind if it is one of ours. Without its definition every watch would fail.
            fn watch_kind(&mut self, plural: &str, watches: &mut Watches) {
                $(if plural == <$spec>::PLURAL && self.watched.insert(<$spec>::PLURAL) {
                    let events = events::<Object<$spec>>(&self.client);
                    let event = |event| GatewayEvent::Kind(KindEvent::$variant(event));
                    watches.push(events.map(event).boxed());
                })*
            }
        }

        /// Writes the statuses of each kind.
        pub(super) struct StatusWriters { $(pub(super) $field: StatusWriter<$spec>,)* }

        impl StatusWriters {
            pub(super) fn new(client: &Client) -> Self {
                Self { $($field: StatusWriter::new(client.clone()),)* }
            }

            /// Records a write that has ended; waits forever if none is in flight.
            pub(super) async fn next(&mut self, kinds: &Kinds) -> Written {
                tokio::select! { $(written = self.$field.next(&kinds.$field) => written,)* }
            }
        }
    };
}

kinds! {
    classes Class GatewayClassSpec,
    gateways Gateway GatewaySpec,
    listener_sets ListenerSet ListenerSetSpec,
    http_routes HttpRoute HttpRouteSpec,
    grpc_routes GrpcRoute GrpcRouteSpec,
    tls_routes TlsRoute TlsRouteSpec,
    tcp_routes TcpRoute TcpRouteSpec,
    udp_routes UdpRoute UdpRouteSpec,
    policies Policy BackendTlsPolicySpec,
    grants Grant ReferenceGrantSpec,
}

/// The objects.
pub(super) struct Objects {
    client: Client,
    watched: BTreeSet<&'static str>,
    pub(super) kinds: Kinds,
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
            kinds: Kinds::default(),
            namespaces: Informer::default(),
            services: None,
        }
    }

    /// Stores what an event reports. Returns whether anything is to be reconciled.
    pub(super) fn apply(&mut self, event: GatewayEvent, watches: &mut Watches) -> bool {
        match event {
            GatewayEvent::Crd(Event::InitApply(crd) | Event::Apply(crd)) => {
                let name = crd.metadata.name.unwrap_or_default();
                if let Some(plural) = name.strip_suffix(GROUP).and_then(|n| n.strip_suffix('.')) {
                    self.watch_kind(plural, watches);
                }
                false
            }
            GatewayEvent::Kind(event) => self.kinds.apply(event),
            GatewayEvent::Namespace(event) => self.namespaces.observe(event),
            GatewayEvent::Service(event) => {
                self.services.as_ref().is_some_and(|services| services.apply(event))
            }
            GatewayEvent::Crd(_) | GatewayEvent::Secret(_) | GatewayEvent::ConfigMap(_) => false,
        }
    }

    /// Returns whether enough is known to plan. Watches Services, endpoints and namespaces from the
    /// first Gateway on.
    pub(super) fn synced(&mut self, watches: &mut Watches) -> bool {
        let Kinds { classes, gateways, .. } = &self.kinds;
        if !classes.has_synced() || !gateways.has_synced() {
            return false;
        }
        match &self.services {
            Some(services) => {
                services.synced()
                    && self.namespaces.has_synced()
                    && self.kinds.have_synced(&self.watched)
            }
            None if gateways.list().is_empty() => true,
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
        let class = self.kinds.classes.get(&class);
        class.is_some_and(|class| class.spec.controller_name == GATEWAY_CONTROLLER)
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

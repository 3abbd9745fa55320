//! The objects of the Gateway controller as last seen. Each kind is watched once its
//! CustomResourceDefinition exists, and Services and endpoints once there is a Gateway.

use super::{
    api::{
        BackendTlsPolicySpec, Gateway, GatewayClassSpec, GatewaySpec, GrpcRouteSpec, HttpRouteSpec,
        ListenerSetSpec, NamespaceLabels, ReferenceGrantSpec, TcpRouteSpec, TlsRouteSpec,
        UdpRouteSpec,
    },
    conversion::{AnyRoute, RouteSpec},
    object::{GROUP, Gvk, Object},
    planner::RouteKey,
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
use std::{collections::BTreeSet, mem, sync::Arc};

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
            fn apply(&self, event: KindEvent, changes: &mut Changes) -> bool {
                match event { $(KindEvent::$variant(event) => {
                    let key = key_of(&event);
                    let changed = self.$field.observe(event);
                    if changed {
                        changes.add::<$spec>(key);
                    }
                    changed
                })* }
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
            pub(super) async fn next(&mut self, kinds: &Kinds) -> Ended {
                tokio::select! { $((key, follows) = self.$field.next(&kinds.$field) => Ended {
                    follows,
                    route: <$spec>::IS_ROUTE.then_some((<$spec>::KIND, key)),
                },)* }
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

/// A write of a status that has ended.
pub(super) struct Ended {
    pub(super) follows: Written,
    /// The object, if it is a route.
    route: Option<RouteKey>,
}

/// What has changed since the last reconcile.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Whether other objects have than those below.
    pub(super) plan: bool,
    /// Whether any route may have: there is a new list.
    pub(super) all_routes: bool,
    pub(super) routes: BTreeSet<RouteKey>,
    /// Services that have changed, or their endpoints.
    pub(super) services: BTreeSet<ObjectKey>,
    /// Whether the listeners of Gateways and their statuses are to be looked at again.
    pub(super) statuses: bool,
}

impl Changes {
    /// Adds an object, or all of a kind.
    fn add<S: Gvk>(&mut self, key: Option<ObjectKey>) {
        match key {
            _ if !S::IS_ROUTE => self.plan = true,
            Some(key) => drop(self.routes.insert((S::KIND, key))),
            None => self.all_routes = true,
        }
    }
}

/// Returns the object of an event about one.
fn key_of<S: Gvk>(event: &Event<Object<S>>) -> Option<ObjectKey>
where
    Object<S>: kube::Resource,
{
    match event {
        Event::Apply(object) | Event::Delete(object) => Some(ObjectKey::of(object)),
        Event::Init | Event::InitApply(_) | Event::InitDone => None,
    }
}

impl Kinds {
    /// Returns a route of any kind.
    pub(super) fn route(&self, (kind, key): &RouteKey) -> Option<Arc<dyn AnyRoute>> {
        fn get<S: RouteSpec>(
            of: &Informer<Object<S>>,
            key: &ObjectKey,
        ) -> Option<Arc<dyn AnyRoute>> {
            of.get(key).map(|route| route as Arc<dyn AnyRoute>)
        }
        match *kind {
            HttpRouteSpec::KIND => get(&self.http_routes, key),
            GrpcRouteSpec::KIND => get(&self.grpc_routes, key),
            TlsRouteSpec::KIND => get(&self.tls_routes, key),
            TcpRouteSpec::KIND => get(&self.tcp_routes, key),
            UdpRouteSpec::KIND => get(&self.udp_routes, key),
            _ => None,
        }
    }

    /// Returns the keys of the routes of all kinds.
    pub(super) fn routes(&self) -> impl Iterator<Item = RouteKey> {
        fn keys<S: RouteSpec>(of: &Informer<Object<S>>) -> impl Iterator<Item = RouteKey> + use<S> {
            of.list().into_iter().map(|route| (S::KIND, ObjectKey::of(&*route)))
        }
        let streams = keys(&self.tls_routes).chain(keys(&self.tcp_routes));
        let http = keys(&self.http_routes).chain(keys(&self.grpc_routes));
        http.chain(streams).chain(keys(&self.udp_routes))
    }
}

/// The objects.
pub(super) struct Objects {
    client: Client,
    watched: BTreeSet<&'static str>,
    pub(super) kinds: Kinds,
    namespaces: Informer<Namespace>,
    /// `None` until there is a Gateway to serve.
    services: Option<ServiceObjects>,
    changes: Changes,
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
            changes: Changes::default(),
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
            GatewayEvent::Kind(event) => self.kinds.apply(event, &mut self.changes),
            GatewayEvent::Namespace(event) => {
                let changed = self.namespaces.observe(event);
                self.changes.plan |= changed;
                changed
            }
            GatewayEvent::Service(event) => {
                self.services.as_ref().is_some_and(|services| services.apply(event))
            }
            GatewayEvent::Crd(_) | GatewayEvent::Secret(_) | GatewayEvent::ConfigMap(_) => false,
        }
    }

    /// Makes everything that is no route be planned again.
    pub(super) fn requeue_all(&mut self) {
        self.changes.plan = true;
    }

    /// Makes listeners be opened, and statuses be written, that failed.
    pub(super) fn requeue_statuses(&mut self) {
        self.changes.statuses = true;
    }

    /// Looks again at an object whose status did not become what it is to be.
    pub(super) fn status_written(&mut self, ended: Ended) {
        match (ended.follows, ended.route) {
            (Written::Done, _) => {}
            (_, Some(route)) => drop(self.changes.routes.insert(route)),
            (_, None) => self.changes.statuses = true,
        }
    }

    /// Returns what has changed, and clears it.
    pub(super) fn take_changes(&mut self) -> Changes {
        let services = self.services.as_ref().map(ServiceObjects::take_dirty);
        self.changes.services.extend(services.unwrap_or_default());
        mem::take(&mut self.changes)
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

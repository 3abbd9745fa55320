//! The types of `gateway.networking.k8s.io/v1`, as far as they are read or written here.

use super::object::{GROUP, Gvk, Object};
use k8s_openapi::{
    ClusterResourceScope, NamespaceResourceScope,
    apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub(super) type GatewayClass = Object<GatewayClassSpec>;
pub(super) type Gateway = Object<GatewaySpec>;
pub(super) type ListenerSet = Object<ListenerSetSpec>;
#[cfg(test)]
pub(super) type HttpRoute = Object<HttpRouteSpec>;
pub(super) type BackendTlsPolicy = Object<BackendTlsPolicySpec>;
pub(super) type ReferenceGrant = Object<ReferenceGrantSpec>;

macro_rules! kinds {
    ($is_route:literal: $($spec:ty, $kind:literal, $plural:literal, $version:literal, $scope:ty, $status:ty;)*) => {$(
        impl Gvk for $spec {
            const KIND: &'static str = $kind;
            const PLURAL: &'static str = $plural;
            const VERSION: &'static str = $version;
            const IS_ROUTE: bool = $is_route;
            type Scope = $scope;
            type Status = $status;
        }
    )*};
}

kinds! { false:
    GatewayClassSpec, "GatewayClass", "gatewayclasses", "v1", ClusterResourceScope, ClassStatus;
    GatewaySpec, "Gateway", "gateways", "v1", NamespaceResourceScope, GatewayStatus;
    ListenerSetSpec, "ListenerSet", "listenersets", "v1", NamespaceResourceScope, ListenerSetStatus;
    BackendTlsPolicySpec, "BackendTLSPolicy", "backendtlspolicies", "v1", NamespaceResourceScope, PolicyStatus;
    ReferenceGrantSpec, "ReferenceGrant", "referencegrants", "v1beta1", NamespaceResourceScope, NoStatus;
}

kinds! { true:
    HttpRouteSpec, "HTTPRoute", "httproutes", "v1", NamespaceResourceScope, RouteStatus;
    GrpcRouteSpec, "GRPCRoute", "grpcroutes", "v1", NamespaceResourceScope, RouteStatus;
    TlsRouteSpec, "TLSRoute", "tlsroutes", "v1", NamespaceResourceScope, RouteStatus;
    TcpRouteSpec, "TCPRoute", "tcproutes", "v1", NamespaceResourceScope, RouteStatus;
    UdpRouteSpec, "UDPRoute", "udproutes", "v1", NamespaceResourceScope, RouteStatus;
}

/// Declares structs whose fields have the names of the API.
macro_rules! api {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
        #[serde(rename_all = "camelCase", default)]
        pub(super) struct $name { $(pub(super) $field: $type,)* }
    )*};
}

api! {
    NoStatus {}
    GatewayClassSpec { controller_name: String, }
    GatewaySpec {
        gateway_class_name: String,
        listeners: Vec<Listener>,
        addresses: Vec<Address>,
        infrastructure: Option<Infrastructure>,
        allowed_listeners: Option<AllowedListeners>,
        tls: Option<GatewayTls>,
    }
    AllowedListeners { namespaces: Option<RouteNamespaces>, }
    GatewayTls { backend: Option<GatewayBackendTls>, frontend: Option<FrontendTls>, }
    GatewayBackendTls { client_certificate_ref: Option<ObjectRef>, }
    FrontendTls { default: FrontendTlsConfig, per_port: Vec<FrontendTlsOfPort>, }
    FrontendTlsOfPort { port: i32, tls: FrontendTlsConfig, }
    FrontendTlsConfig { validation: Option<FrontendValidation>, }
    FrontendValidation { ca_certificate_refs: Vec<ObjectRef>, mode: Option<String>, }
    ListenerSetSpec { parent_ref: ObjectRef, listeners: Vec<Listener>, }
    Infrastructure { parameters_ref: Option<ObjectRef>, }
    Listener {
        name: String,
        hostname: Option<String>,
        port: i32,
        protocol: String,
        tls: Option<ListenerTls>,
        allowed_routes: Option<AllowedRoutes>,
    }
    ListenerTls { mode: Option<String>, certificate_refs: Vec<ObjectRef>, }
    AllowedRoutes { namespaces: Option<RouteNamespaces>, kinds: Option<Vec<RouteKind>>, }
    RouteNamespaces { from: Option<String>, selector: Option<LabelSelector>, }
    RouteKind { group: Option<String>, kind: String, }
    /// A reference to an object, also to one in another namespace.
    ObjectRef {
        group: Option<String>,
        kind: Option<String>,
        namespace: Option<String>,
        name: String,
    }
    HttpRouteSpec { parent_refs: Vec<ParentRef>, hostnames: Vec<String>, rules: Vec<HttpRule>, }
    HttpRule {
        matches: Vec<HttpMatch>,
        filters: Vec<Filter>,
        backend_refs: Vec<BackendRef>,
        timeouts: Option<HttpTimeouts>,
        retry: Option<HttpRetry>,
        session_persistence: Option<SessionPersistence>,
    }
    SessionPersistence {
        session_name: Option<String>,
        absolute_timeout: Option<String>,
        idle_timeout: Option<String>,
        r#type: Option<String>,
        cookie_config: Option<CookieConfig>,
    }
    CookieConfig { lifetime_type: Option<String>, }
    HttpTimeouts { request: Option<String>, backend_request: Option<String>, }
    HttpRetry { codes: Vec<u16>, attempts: Option<u32>, backoff: Option<String>, }
    GrpcRouteSpec { parent_refs: Vec<ParentRef>, hostnames: Vec<String>, rules: Vec<GrpcRule>, }
    TlsRouteSpec { parent_refs: Vec<ParentRef>, hostnames: Vec<String>, rules: Vec<StreamRule>, }
    TcpRouteSpec { parent_refs: Vec<ParentRef>, rules: Vec<StreamRule>, }
    UdpRouteSpec { parent_refs: Vec<ParentRef>, rules: Vec<StreamRule>, }
    StreamRule { backend_refs: Vec<BackendRef>, }
    GrpcRule {
        matches: Vec<GrpcMatch>,
        filters: Vec<Filter>,
        backend_refs: Vec<BackendRef>,
        session_persistence: Option<SessionPersistence>,
    }
    GrpcMatch { method: Option<GrpcMethod>, headers: Vec<Match>, }
    GrpcMethod { r#type: Option<String>, service: Option<String>, method: Option<String>, }
    HttpMatch {
        path: Option<Match>,
        headers: Vec<Match>,
        query_params: Vec<Match>,
        method: Option<String>,
    }
    /// A path, a header or a query parameter to match.
    Match {
        r#type: Option<String>,
        name: String,
        value: Option<String>,
    }
    BackendRef {
        group: Option<String>,
        kind: Option<String>,
        namespace: Option<String>,
        name: String,
        port: Option<i32>,
        weight: Option<u32>,
        filters: Vec<Filter>,
    }
    Filter {
        r#type: String,
        request_header_modifier: Option<HeaderModifier>,
        response_header_modifier: Option<HeaderModifier>,
        request_redirect: Option<RequestRedirect>,
        url_rewrite: Option<UrlRewrite>,
        request_mirror: Option<RequestMirror>,
        cors: Option<CorsFilter>,
    }
    CorsFilter {
        allow_origins: Vec<String>,
        allow_credentials: Option<bool>,
        allow_methods: Vec<String>,
        allow_headers: Vec<String>,
        expose_headers: Vec<String>,
        max_age: Option<u32>,
    }
    HeaderModifier { set: Vec<HeaderField>, add: Vec<HeaderField>, remove: Vec<String>, }
    HeaderField { name: String, value: String, }
    RequestRedirect {
        scheme: Option<String>,
        hostname: Option<String>,
        path: Option<PathModifier>,
        port: Option<u16>,
        status_code: Option<u16>,
    }
    UrlRewrite { hostname: Option<String>, path: Option<PathModifier>, }
    PathModifier {
        r#type: String,
        replace_full_path: Option<String>,
        replace_prefix_match: Option<String>,
    }
    RequestMirror { backend_ref: BackendRef, percent: Option<u32>, fraction: Option<Fraction>, }
    Fraction { numerator: u32, denominator: Option<u32>, }
    BackendTlsPolicySpec { target_refs: Vec<PolicyTarget>, validation: BackendValidation, }
    PolicyTarget {
        group: String,
        kind: String,
        name: String,
        section_name: Option<String>,
    }
    BackendValidation {
        ca_certificate_refs: Vec<ObjectRef>,
        well_known_ca_certificates: Option<String>,
        hostname: String,
        subject_alt_names: Vec<SubjectAltName>,
    }
    SubjectAltName { r#type: String, hostname: Option<String>, uri: Option<String>, }
    ReferenceGrantSpec { from: Vec<GrantFrom>, to: Vec<ObjectRef>, }
    GrantFrom { group: String, kind: String, namespace: String, }
    ClassStatus { conditions: Vec<Condition>, supported_features: Vec<Feature>, }
    Feature { name: String, }
    GatewayStatus {
        addresses: Vec<Address>,
        conditions: Vec<Condition>,
        listeners: Vec<ListenerStatus>,
        attached_listener_sets: Option<i32>,
    }
    ListenerSetStatus { conditions: Vec<Condition>, listeners: Vec<ListenerStatus>, }
    PolicyStatus { ancestors: Vec<AncestorStatus>, }
    AncestorStatus { ancestor_ref: ParentRef, controller_name: String, conditions: Vec<Condition>, }
    ListenerStatus {
        name: String,
        supported_kinds: Vec<RouteKind>,
        attached_routes: i32,
        conditions: Vec<Condition>,
    }
    RouteStatus { parents: Vec<ParentStatus>, }
    ParentStatus { parent_ref: ParentRef, controller_name: String, conditions: Vec<Condition>, }
}

/// An address of a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Address {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) r#type: Option<String>,
    pub(super) value: String,
}

/// The Gateway, and the listeners of it, to which a route is attached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ParentRef {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) section_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) port: Option<i32>,
}

/// The labels of each namespace, by name.
pub(super) type NamespaceLabels = BTreeMap<String, BTreeMap<String, String>>;

impl RouteKind {
    pub(super) fn of_group(kind: &str) -> Self {
        Self { group: Some(GROUP.to_owned()), kind: kind.to_owned() }
    }
}

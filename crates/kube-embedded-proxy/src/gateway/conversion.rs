//! Routes of other kinds as HTTP routes. A method of a service of a GRPCRoute is a path,
//! `/<service>/<method>`; those of TLS, TCP and UDP have backends alone.

use super::{
    api::{
        GrpcMatch, GrpcMethod, GrpcRouteSpec, HttpMatch, HttpRouteSpec, HttpRule, Match, ParentRef,
        StreamRule, TcpRouteSpec, TlsRouteSpec, UdpRouteSpec,
    },
    object::{Gvk, Object},
    view::TargetProtocol,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::borrow::Cow;

/// A route of any kind.
pub(super) struct Route<'a> {
    pub(super) kind: &'static str,
    pub(super) protocol: TargetProtocol,
    pub(super) metadata: &'a ObjectMeta,
    pub(super) spec: Cow<'a, HttpRouteSpec>,
}

/// An object that is a route.
pub(super) trait AnyRoute {
    fn route(&self) -> Route<'_>;
}

/// The spec of a route.
pub(super) trait RouteSpec: Gvk {
    const PROTOCOL: TargetProtocol;

    fn http(&self) -> Cow<'_, HttpRouteSpec>;
}

impl<S: RouteSpec> AnyRoute for Object<S> {
    fn route(&self) -> Route<'_> {
        let spec = self.spec.http();
        Route { kind: S::KIND, protocol: S::PROTOCOL, metadata: &self.metadata, spec }
    }
}

impl RouteSpec for HttpRouteSpec {
    const PROTOCOL: TargetProtocol = TargetProtocol::Http;

    fn http(&self) -> Cow<'_, HttpRouteSpec> {
        Cow::Borrowed(self)
    }
}

macro_rules! converted {
    ($($spec:ty: $protocol:ident,)*) => {$(
        impl RouteSpec for $spec {
            const PROTOCOL: TargetProtocol = TargetProtocol::$protocol;

            fn http(&self) -> Cow<'_, HttpRouteSpec> {
                Cow::Owned(self.into())
            }
        }
    )*};
}

converted! {
    GrpcRouteSpec: Grpc,
    TlsRouteSpec: Stream,
    TcpRouteSpec: Stream,
    UdpRouteSpec: Udp,
}

impl From<&GrpcRouteSpec> for HttpRouteSpec {
    fn from(grpc: &GrpcRouteSpec) -> Self {
        let rules = grpc.rules.iter().map(|rule| HttpRule {
            matches: rule.matches.iter().map(http_match).collect(),
            filters: rule.filters.clone(),
            backend_refs: rule.backend_refs.clone(),
            session_persistence: rule.session_persistence.clone(),
            ..HttpRule::default()
        });
        Self {
            parent_refs: grpc.parent_refs.clone(),
            hostnames: grpc.hostnames.clone(),
            rules: rules.collect(),
        }
    }
}

impl From<&TlsRouteSpec> for HttpRouteSpec {
    fn from(tls: &TlsRouteSpec) -> Self {
        Self { hostnames: tls.hostnames.clone(), ..of_stream(&tls.parent_refs, &tls.rules) }
    }
}

impl From<&TcpRouteSpec> for HttpRouteSpec {
    fn from(tcp: &TcpRouteSpec) -> Self {
        of_stream(&tcp.parent_refs, &tcp.rules)
    }
}

impl From<&UdpRouteSpec> for HttpRouteSpec {
    fn from(udp: &UdpRouteSpec) -> Self {
        of_stream(&udp.parent_refs, &udp.rules)
    }
}

fn of_stream(parents: &[ParentRef], rules: &[StreamRule]) -> HttpRouteSpec {
    let rule = |rule: &StreamRule| HttpRule {
        backend_refs: rule.backend_refs.clone(),
        ..HttpRule::default()
    };
    HttpRouteSpec {
        parent_refs: parents.to_vec(),
        rules: rules.iter().map(rule).collect(),
        ..HttpRouteSpec::default()
    }
}

fn http_match(grpc: &GrpcMatch) -> HttpMatch {
    let path = grpc.method.as_ref().map(path);
    HttpMatch { path, headers: grpc.headers.clone(), ..HttpMatch::default() }
}

fn path(GrpcMethod { r#type, service, method }: &GrpcMethod) -> Match {
    let r#type = r#type.as_deref().unwrap_or("Exact");
    let regex = r#type == "RegularExpression";
    let given = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
    let (r#type, value) = match (given(service), given(method)) {
        // Refused where paths are converted.
        _ if !regex && r#type != "Exact" => (r#type, String::new()),
        (Some(service), None) if !regex => ("PathPrefix", format!("/{service}")),
        (Some(service), Some(method)) if !regex => ("Exact", format!("/{service}/{method}")),
        (None, None) => ("PathPrefix", "/".to_owned()),
        (service, method) => {
            let part = |value: Option<String>| match value {
                None => "[^/]+".to_owned(),
                Some(value) if regex => format!("(?:{value})"),
                Some(value) => regex::escape(&value),
            };
            ("RegularExpression", format!("/{}/{}", part(service), part(method)))
        }
    };
    Match { r#type: Some(r#type.to_owned()), value: Some(value), ..Match::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    #[test]
    fn method_becomes_a_path() {
        let table: [(Value, &str, &str); 8] = [
            (json!({}), "PathPrefix", "/"),
            (json!({ "service": "a.B" }), "PathPrefix", "/a.B"),
            (json!({ "service": "a.B", "method": "C" }), "Exact", "/a.B/C"),
            (json!({ "method": "C" }), "RegularExpression", "/[^/]+/C"),
            (json!({ "method": "C.D" }), "RegularExpression", r"/[^/]+/C\.D"),
            (
                json!({ "type": "RegularExpression", "service": "a.*" }),
                "RegularExpression",
                "/(?:a.*)/[^/]+",
            ),
            (
                json!({ "type": "RegularExpression", "service": "a|b", "method": "C" }),
                "RegularExpression",
                "/(?:a|b)/(?:C)",
            ),
            (json!({ "type": "Fuzzy", "service": "a" }), "Fuzzy", ""),
        ];
        for (method, r#type, value) in table {
            let found = path(&from_value(method.clone()).unwrap());
            assert_eq!(found.r#type.as_deref(), Some(r#type), "{method}");
            assert_eq!(found.value.as_deref(), Some(value), "{method}");
        }
    }
}

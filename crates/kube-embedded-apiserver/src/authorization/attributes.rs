//! The attributes of a request that authorization decides on (`RequestInfo`, `authorizer.Attributes`).

use crate::{http::query::Query, validation::names::path_segment};
use http::{Method, Uri};
use std::borrow::Cow;

/// An action, on a resource or on another path.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Attributes<'a> {
    pub(crate) verb: Cow<'a, str>,
    pub(crate) namespace: Cow<'a, str>,
    pub(crate) group: Cow<'a, str>,
    pub(crate) resource: Cow<'a, str>,
    pub(crate) subresource: Cow<'a, str>,
    pub(crate) name: Cow<'a, str>,
    /// The path of a request that is not for a resource.
    pub(crate) path: Option<Cow<'a, str>>,
}

impl<'a> Attributes<'a> {
    /// Returns the attributes of a request. The path is split as [`crate::http::path::parse`] does, so that what is
    /// authorized is what is served; the parts have the meaning that `RequestInfoFactory` gives them.
    pub(crate) fn of_request(method: &Method, uri: &'a Uri) -> Self {
        let parts: Vec<Cow<'a, str>> =
            uri.path().split('/').filter(|part| !part.is_empty()).map(decode).collect();
        match parts.iter().map(|part| &**part).collect::<Vec<_>>().as_slice() {
            ["api", _, _, ..] => Self::of_resource(method, uri, "".into(), parts, 2),
            ["apis", _, _, _, ..] => {
                let group = parts.get(1).cloned().unwrap_or_default();
                Self::of_resource(method, uri, group, parts, 3)
            }
            _ => Self {
                verb: method.as_str().to_ascii_lowercase().into(),
                path: Some(decode(uri.path())),
                ..Self::default()
            },
        }
    }

    /// Returns the attributes of a request whose path names a resource, after some parts.
    fn of_resource(
        method: &Method,
        uri: &Uri,
        group: Cow<'a, str>,
        parts: Vec<Cow<'a, str>>,
        skipped: usize,
    ) -> Self {
        let verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        };
        let mut parts = parts.into_iter().skip(skipped).collect::<Vec<_>>();
        let mut namespace = Cow::default();
        if let [first, name, rest @ ..] = parts.as_slice()
            && first == "namespaces"
        {
            namespace = name.clone();
            // A part of the namespace itself, or a resource in it.
            if !matches!(rest.first().map(|part| &**part), None | Some("status" | "finalize")) {
                parts.drain(..2);
            }
        }
        let mut parts = parts.into_iter();
        let mut next = || parts.next().unwrap_or_default();
        let (resource, name, subresource) = (next(), next(), next());
        let mut attributes =
            Self { verb: verb.into(), namespace, group, resource, subresource, name, path: None };
        if attributes.name.is_empty() {
            attributes.refine_collection(uri);
        }
        attributes
    }

    /// Completes the attributes of a request for a collection.
    fn refine_collection(&mut self, uri: &Uri) {
        match &*self.verb {
            "delete" => self.verb = "deletecollection".into(),
            "get" => {
                let query = Query::parse(uri.query());
                self.verb = if query.flag("watch") { "watch" } else { "list" }.into();
                let name = query.get("fieldSelector").and_then(required_name);
                if let Some(name) = name.filter(|name| path_segment(name).is_empty()) {
                    self.name = name.to_owned().into();
                }
            }
            _ => {}
        }
    }

    /// Returns the resource with its subresource, as rules name it.
    pub(crate) fn combined_resource(&self) -> Cow<'_, str> {
        match &*self.subresource {
            "" => Cow::Borrowed(&self.resource),
            subresource => Cow::Owned(format!("{}/{subresource}", self.resource)),
        }
    }

    /// Returns the end of `User "u" cannot …` (`forbiddenMessage`).
    pub(crate) fn describe(&self) -> String {
        let Self { verb, group, namespace, .. } = self;
        if let Some(path) = &self.path {
            return format!("{verb} path {path:?}");
        }
        let scope = match &**namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {namespace:?}"),
        };
        let resource = self.combined_resource();
        format!("{verb} resource {resource:?} in API group {group:?} {scope}")
    }
}

/// Returns the name that a field selector requires. A name with escapes is not understood here, and then the selector
/// counts as none, which allows less.
fn required_name(selector: &str) -> Option<&str> {
    let mut terms = selector.split(',').map(str::trim);
    let name = terms.find_map(|term| term.strip_prefix("metadata.name="))?;
    let name = name.strip_prefix('=').unwrap_or(name);
    (!selector.contains('\\') && !name.contains('=') && !name.is_empty()).then_some(name)
}

fn decode(part: &str) -> Cow<'_, str> {
    percent_encoding::percent_decode_str(part).decode_utf8_lossy()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        http::path::{self, Route},
        resources::registry::ResourceRegistry,
    };
    use proptest::prelude::*;

    const SEGMENTS: &[&str] = &[
        "",
        "api",
        "apis",
        "v1",
        "apps",
        "authorization.k8s.io",
        "namespaces",
        "%6eamespaces",
        "pods",
        "nodes",
        "deployments",
        "localsubjectaccessreviews",
        "status",
        "finalize",
        "exec",
        "a",
        "b%2Fc",
        "%20",
        ".",
        "watch",
        "proxy",
    ];

    proptest! {
        /// What is served is what was authorized, whatever the path is like.
        #[test]
        fn target_of_a_path_is_what_is_authorized(
            prefix in prop::sample::select(vec!["/api/v1", "/apis/apps/v1", "/apis/authorization.k8s.io/v1", ""]),
            segments in prop::collection::vec(prop::sample::select(SEGMENTS), 0..7),
        ) {
            let text = format!("{prefix}/{}", segments.join("/"));
            let uri: Uri = text.parse().unwrap();
            let action = Attributes::of_request(&Method::PUT, &uri);
            match path::parse(&ResourceRegistry::default(), uri.path()) {
                Ok(Route::Resource(target) | Route::Review(target)) => {
                    let resource = &target.resource;
                    prop_assert_eq!(&action.path, &None);
                    prop_assert_eq!(&action.group, resource.group);
                    prop_assert_eq!(&action.resource, resource.plural);
                    prop_assert_eq!(&action.name, &*target.name);
                    // What follows a subresource belongs to its own path.
                    let rest = target.subresource.strip_prefix(&*action.subresource);
                    prop_assert!(rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
                    if resource.namespaced {
                        prop_assert_eq!(&action.namespace, &*target.namespace);
                    }
                }
                // An unknown resource of a known group is a request for a resource, too.
                Ok(_) => prop_assert!(action.path.is_some() || !text.starts_with("/api/v1")),
                Err(_) => prop_assert!(action.path.is_none()),
            }
        }
    }

    fn described(method: &str, uri: &str) -> String {
        let uri: Uri = uri.parse().unwrap();
        let found = Attributes::of_request(&method.parse().unwrap(), &uri);
        let Attributes { verb, namespace, group, resource, subresource, name, path } = found;
        match path {
            Some(path) => format!("{verb} {path}"),
            None => format!("{verb} {group}:{resource}/{subresource} {namespace}/{name}"),
        }
    }

    #[test]
    fn attributes_are_those_of_request_info() {
        for (method, uri, expected) in [
            ("GET", "/", "get /"),
            ("GET", "/api", "get /api"),
            ("GET", "/api/v1", "get /api/v1"),
            ("GET", "/api/v1/", "get /api/v1/"),
            ("GET", "/apis/apps/v1", "get /apis/apps/v1"),
            ("POST", "/healthz", "post /healthz"),
            ("GET", "/api/v1/pods", "list :pods/ /"),
            ("HEAD", "/api/v1/pods", "list :pods/ /"),
            ("GET", "/api/v1/pods?watch=true", "watch :pods/ /"),
            ("GET", "/api/v1/pods?watch=false", "list :pods/ /"),
            ("GET", "/api/v1/namespaces/a/pods", "list :pods/ a/"),
            ("POST", "/api/v1/namespaces/a/pods", "create :pods/ a/"),
            ("DELETE", "/api/v1/namespaces/a/pods", "deletecollection :pods/ a/"),
            ("DELETE", "/api/v1/namespaces/a/pods/b", "delete :pods/ a/b"),
            ("GET", "/api/v1/namespaces/a/pods/b", "get :pods/ a/b"),
            ("GET", "/api/v1/namespaces/a/pods/b?watch=1", "get :pods/ a/b"),
            ("PUT", "/api/v1/namespaces/a/pods/b/status", "update :pods/status a/b"),
            ("PATCH", "/api/v1/namespaces/a/pods/b", "patch :pods/ a/b"),
            ("GET", "/api/v1/namespaces/a/pods/b/exec?command=ls", "get :pods/exec a/b"),
            ("POST", "/api/v1/namespaces/a/pods/b/exec", "create :pods/exec a/b"),
            ("GET", "/api/v1/namespaces/a/services/b/proxy/x/y", "get :services/proxy a/b"),
            ("GET", "/api/v1/namespaces", "list :namespaces/ /"),
            ("GET", "/api/v1/namespaces/a", "get :namespaces/ a/a"),
            ("PUT", "/api/v1/namespaces/a/finalize", "update :namespaces/finalize a/a"),
            ("PUT", "/api/v1/namespaces/a/status", "update :namespaces/status a/a"),
            ("GET", "/api/v1/nodes/n/status", "get :nodes/status /n"),
            (
                "PATCH",
                "/apis/apps/v1/namespaces/a/deployments/d/scale",
                "patch apps:deployments/scale a/d",
            ),
            ("GET", "/apis/example.com/v1/things/x", "get example.com:things/ /x"),
            ("GET", "/api/v1//namespaces//a/pods/", "list :pods/ a/"),
            ("GET", "/api/v1/namespaces/a%2Fb/pods", "list :pods/ a/b/"),
            ("OPTIONS", "/api/v1/namespaces/a/pods/b", " :pods/ a/b"),
            (
                "GET",
                "/api/v1/namespaces/a/secrets?fieldSelector=metadata.name%3Ds",
                "list :secrets/ a/s",
            ),
            (
                "GET",
                "/api/v1/namespaces/a/secrets?watch=1&fieldSelector=type%3Dt,metadata.name%3D%3Ds",
                "watch :secrets/ a/s",
            ),
            (
                "GET",
                "/api/v1/namespaces/a/secrets?fieldSelector=metadata.name!%3Ds",
                "list :secrets/ a/",
            ),
            (
                "GET",
                "/api/v1/namespaces/a/secrets?fieldSelector=metadata.name%3Da%2Fb",
                "list :secrets/ a/",
            ),
        ] {
            assert_eq!(described(method, uri), expected, "{method} {uri}");
        }
    }
}

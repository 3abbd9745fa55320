//! The path of a request.

use crate::{
    http::status::{ApiError, ApiResult},
    resources::{registry::ResourceRegistry, resource_type::ResourceType, types::review},
};
use std::borrow::Cow;

/// The meaning of a path.
#[derive(Debug)]
pub(crate) enum Route<'a> {
    /// A collection, an object or a subresource.
    Resource(Box<Target<'a>>),
    /// `/api/v1`, `/apis/apps/v1`: the resources of a group version.
    Resources { group: &'a str, version: &'a str },
    /// `/apis/apps`.
    Group(&'a str),
    /// `/api`.
    CoreVersions,
    /// `/apis`.
    Groups,
    /// A virtual resource that is created but never stored:
    /// `/apis/authorization.k8s.io/v1/selfsubjectaccessreviews`.
    Review(Box<Target<'a>>),
    /// `/openapi/v2`.
    OpenApiV2,
    /// `/openapi/v3`.
    OpenApiIndex,
    /// `/openapi/v3/apis/apps/v1`.
    OpenApi { group: &'a str, version: &'a str },
    /// `/.well-known/openid-configuration`.
    OpenIdConfiguration,
    /// `/openid/v1/jwks`.
    KeySet,
    /// `/version`.
    Version,
    /// `/healthz`, `/livez`, `/readyz`, and the single checks below them.
    Health,
    /// An unknown path.
    Nothing,
}

/// A collection, an object or a subresource.
#[derive(Clone, Debug)]
pub(crate) struct Target<'a> {
    pub resource: ResourceType<'a>,
    /// Empty for cluster-scoped objects and for collections of all namespaces.
    pub namespace: String,
    /// Empty for the whole collection.
    pub name: String,
    /// Empty for the object itself.
    pub subresource: String,
}

/// Parses a path. An unknown resource of a known group is an error, for which Kubernetes responds with a `Status`;
/// other unknown paths are [`Route::Nothing`].
pub(crate) fn parse<'a>(served: &'a ResourceRegistry, path: &'a str) -> ApiResult<Route<'a>> {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    let route = match parts.next() {
        Some("version") => Route::Version,
        Some(".well-known") => match (parts.next(), parts.next()) {
            (Some("openid-configuration"), None) => Route::OpenIdConfiguration,
            _ => Route::Nothing,
        },
        Some("openid") => match (parts.next(), parts.next(), parts.next()) {
            (Some("v1"), Some("jwks"), None) => Route::KeySet,
            _ => Route::Nothing,
        },
        Some("healthz" | "livez" | "readyz") => Route::Health,
        Some("openapi") => match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("v2"), None, ..) => Route::OpenApiV2,
            (Some("v3"), None, ..) => Route::OpenApiIndex,
            (Some("v3"), Some("api"), Some(version), None) => Route::OpenApi { group: "", version },
            (Some("v3"), Some("apis"), Some(group), Some(version)) => {
                Route::OpenApi { group, version }
            }
            _ => Route::Nothing,
        },
        Some("api") => match parts.next() {
            None => Route::CoreVersions,
            Some(version) => below_version(served, "", version, parts)?,
        },
        Some("apis") => match (parts.next(), parts.next()) {
            (None, _) => Route::Groups,
            (Some(group), None) if known_group(served, group) => Route::Group(group),
            (Some(group), Some(version)) => below_version(served, group, version, parts)?,
            _ => Route::Nothing,
        },
        _ => Route::Nothing,
    };
    Ok(route)
}

fn known_group(served: &ResourceRegistry, group: &str) -> bool {
    served.has_group(group) || review::of_group(group).next().is_some()
}

fn below_version<'a>(
    served: &'a ResourceRegistry,
    group: &'a str,
    version: &'a str,
    parts: impl Iterator<Item = &'a str>,
) -> ApiResult<Route<'a>> {
    if version == "v1" && review::of_group(group).next().is_some() {
        return below_reviews(group, version, parts);
    }
    if !served.has_version(group, version) {
        return Ok(Route::Nothing);
    }
    let parts: Vec<Cow<'_, str>> = parts.map(decode).collect();
    let parts: Vec<&str> = parts.iter().map(|part| &**part).collect();
    let target = |plural: &str, namespace: &str, name: &str, subresource: &str| {
        let resource = served
            .find(group, version, plural)
            .filter(|resource| resource.namespaced || namespace.is_empty())
            .filter(|resource| {
                // A namespaced object has no address without its namespace.
                !(resource.namespaced && namespace.is_empty() && !name.is_empty())
            })
            .ok_or_else(ApiError::no_such_resource)?;
        Ok(Route::Resource(Box::new(Target {
            resource,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
        })))
    };
    match parts.as_slice() {
        [] => Ok(Route::Resources { group, version }),
        [plural] => target(plural, "", "", ""),
        ["namespaces", name] => target("namespaces", "", name, ""),
        // In each group, or another resource would be served than was authorized.
        ["namespaces", name, sub @ ("status" | "finalize")] => target("namespaces", "", name, sub),
        ["namespaces", namespace, plural] => target(plural, namespace, "", ""),
        ["namespaces", namespace, plural, name] => target(plural, namespace, name, ""),
        ["namespaces", namespace, plural, name, sub @ ..] if !sub.is_empty() => {
            target(plural, namespace, name, &sub.join("/"))
        }
        [plural, name] => target(plural, "", name, ""),
        [plural, name, sub @ ..] => target(plural, "", name, &sub.join("/")),
    }
}

/// Parses the rest of the path of a group of reviews. They have no names.
fn below_reviews<'a>(
    group: &'a str,
    version: &'a str,
    mut parts: impl Iterator<Item = &'a str>,
) -> ApiResult<Route<'a>> {
    let mut next = || parts.next().map(decode);
    let (namespace, plural) = match next() {
        None => return Ok(Route::Resources { group, version }),
        Some(first) if first == "namespaces" => (next().unwrap_or_default(), next()),
        plural => (Cow::default(), plural),
    };
    let found = review::of_group(group).find(|review| Some(review.plural) == plural.as_deref());
    let resource = found
        .filter(|review| review.namespaced != namespace.is_empty() && next().is_none())
        .ok_or_else(ApiError::no_such_resource)?;
    Ok(Route::Review(Box::new(Target {
        resource: *resource,
        namespace: namespace.into_owned(),
        name: String::new(),
        subresource: String::new(),
    })))
}

fn decode(part: &str) -> Cow<'_, str> {
    percent_encoding::percent_decode_str(part).decode_utf8_lossy()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(path: &str) -> String {
        match parse(&ResourceRegistry::default(), path) {
            Ok(Route::Resource(t) | Route::Review(t)) => {
                format!("{:?} {}/{} {}", t.resource, t.namespace, t.name, t.subresource)
            }
            Ok(other) => format!("{other:?}"),
            Err(error) => error.to_value()["message"].to_string(),
        }
    }

    #[test]
    fn path_is_parsed_as_in_kubernetes() {
        let unknown = "\"the server could not find the requested resource\"";
        for (path, expected) in [
            ("/api/v1/pods", "Pod / "),
            ("/api/v1/namespaces/a/pods", "Pod a/ "),
            ("/api/v1/namespaces/a/pods/b", "Pod a/b "),
            ("/api/v1/namespaces/a/pods/b/log", "Pod a/b log"),
            ("/api/v1/pods/b", unknown),
            ("/api/v1/namespaces", "Namespace / "),
            ("/api/v1/namespaces/a", "Namespace /a "),
            ("/api/v1/namespaces/a/finalize", "Namespace /a finalize"),
            ("/api/v1/namespaces/a/status", "Namespace /a status"),
            ("/api/v1/nodes/n/status", "Node /n status"),
            ("/api/v1/namespaces/a/nodes", unknown),
            ("/api/v1/namespaces/a/nosuchthings", unknown),
            ("/apis/apps/v1/namespaces/a/deployments/d/scale", "Deployment a/d scale"),
            ("/apis/apps/v1/namespaces/a%2Fb/deployments", "Deployment a/b/ "),
            ("/apis/apps/v1/namespaces/a", unknown),
            ("/apis/apps/v1/namespaces/a/status", unknown),
            ("/apis/authorization.k8s.io/v1/subjectaccessreviews", "SubjectAccessReview / "),
            ("/apis/authorization.k8s.io/v1/subjectaccessreviews/x", unknown),
            ("/apis/authorization.k8s.io/v1/namespaces/a/subjectaccessreviews", unknown),
            (
                "/apis/authorization.k8s.io/v1/namespaces/a/localsubjectaccessreviews",
                "LocalSubjectAccessReview a/ ",
            ),
            ("/apis/authorization.k8s.io/v1/localsubjectaccessreviews", unknown),
            ("/apis/apps", "Group(\"apps\")"),
            ("/apis/no.such.group/v1", "Nothing"),
            ("/nothing/here", "Nothing"),
            ("/.well-known/openid-configuration", "OpenIdConfiguration"),
            ("/openid/v1/jwks", "KeySet"),
            ("/openid/v1", "Nothing"),
            ("/openapi/v2", "OpenApiV2"),
            ("/openapi/v2/api", "Nothing"),
            ("/openapi/v3/api/v1", "OpenApi { group: \"\", version: \"v1\" }"),
        ] {
            assert_eq!(described(path), expected, "{path}");
        }
    }
}

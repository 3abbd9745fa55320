//! Discovery: groups, resources, version and OpenAPI.

use crate::{
    http::{
        body::{Body, respond, respond_json},
        status::{ApiError, ApiResult},
    },
    openapi,
    resources::{
        crd::{self, versions::precedence},
        registry::{self, ResourceRegistry},
        resource_type::ResourceType,
        types::review,
    },
};
use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};
use kube_embedded_core::{network::Addresses, version};
use serde_json::{Value, json};
use std::borrow::Cow;

const VERBS: [&str; 8] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// The order in which custom resources list them.
const CUSTOM_VERBS: [&str; 8] =
    ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// `GET /version`.
pub(crate) fn version() -> Response<Body> {
    let version = json!({
        "major": version::MAJOR,
        "minor": version::MINOR,
        "emulationMajor": version::MAJOR,
        "emulationMinor": version::MINOR,
        "minCompatibilityMajor": version::MAJOR,
        "minCompatibilityMinor": version::MIN_COMPATIBILITY_MINOR,
        "gitVersion": format!("{}+embedded", version::KUBERNETES_VERSION),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": "linux/amd64",
    });
    respond_json(StatusCode::OK, &version)
}

/// `GET /api`.
pub(crate) fn core_versions(
    served: &ResourceRegistry,
    headers: &HeaderMap,
    addresses: &Addresses,
) -> Response<Body> {
    if wants_aggregated(headers) {
        return aggregated(served, |group| group.is_empty());
    }
    let versions = json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [
            { "clientCIDR": "0.0.0.0/0", "serverAddress": format!("{}:6443", addresses.api()) },
        ],
    });
    respond_json(StatusCode::OK, &versions)
}

/// `GET /apis`.
pub(crate) fn groups(served: &ResourceRegistry, headers: &HeaderMap) -> Response<Body> {
    if wants_aggregated(headers) {
        return aggregated(served, |group| !group.is_empty());
    }
    let groups: Vec<Value> = group_versions(served)
        .into_iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(group, versions)| group_value(group, &versions))
        .collect();
    let list = json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups });
    respond_json(StatusCode::OK, &list)
}

/// `GET /apis/{group}`.
pub(crate) fn group(served: &ResourceRegistry, group: &str) -> ApiResult<Response<Body>> {
    let found = group_versions(served).into_iter().find(|(known, _)| *known == group);
    let (group, versions) = found.ok_or_else(ApiError::no_such_resource)?;
    let mut value = group_value(group, &versions);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Ok(respond_json(StatusCode::OK, &value))
}

/// `GET /api/v1`, `GET /apis/{group}/{version}`.
pub(crate) fn resources(served: &ResourceRegistry, group: &str, version: &str) -> Response<Body> {
    let mut resources = Vec::new();
    for resource in resources_of(served, group, version) {
        resources.push(json!({
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": verbs_of(&resource),
        }));
        if let (Some(last), Some(hash)) = (resources.last_mut(), storage_hash(&resource)) {
            last["storageVersionHash"] = hash.into();
        }
        if let Some(last) = resources.last_mut() {
            for (field, names) in
                [("shortNames", resource.short_names()), ("categories", resource.categories())]
            {
                if !names.is_empty() {
                    last[field] = json!(names);
                }
            }
        }
        for subresource in resource.subresources {
            let (group, version, name, verbs) = describe(&resource, subresource);
            let mut entry = json!({
                "name": format!("{}/{subresource}", resource.plural),
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": name,
                "verbs": verbs,
            });
            if (group, version) != (resource.group, resource.version) {
                entry["group"] = group.into();
                entry["version"] = version.into();
            }
            resources.push(entry);
        }
    }
    for review in review::of_group(group) {
        resources.push(json!({
            "name": review.plural,
            "singularName": review.singular,
            "namespaced": review.namespaced,
            "kind": review.kind,
            "verbs": ["create"],
        }));
    }
    let list = json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version(group, version),
        "resources": resources,
    });
    respond_json(StatusCode::OK, &list)
}

/// `GET /openapi/v3`.
pub(crate) fn openapi_index(served: &ResourceRegistry) -> Response<Body> {
    let mut paths = serde_json::Map::new();
    for (path, hash) in openapi::groups(served) {
        let url = format!("/openapi/v3/{path}?hash={hash}");
        paths.insert(path, json!({ "serverRelativeURL": url }));
    }
    respond_json(StatusCode::OK, &json!({ "paths": paths }))
}

/// `GET /openapi/v3/apis/{group}/{version}`.
pub(crate) fn openapi(
    served: &ResourceRegistry,
    group: &str,
    version: &str,
) -> ApiResult<Response<Body>> {
    let document =
        openapi::document(served, group, version).ok_or_else(ApiError::no_such_resource)?;
    let bytes = Bytes::from_owner(Shared(document));
    Ok(respond(StatusCode::OK, "application/json", bytes))
}

struct Shared(std::sync::Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Returns true if the client would have all groups with their resources at once.
pub(crate) fn wants_aggregated(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.unwrap_or_default().split(',').any(|range| {
        let range: Vec<_> = range.split(';').map(str::trim).collect();
        range.first() == Some(&"application/json")
            && range.contains(&"as=APIGroupDiscoveryList")
            && range.contains(&"v=v2")
    })
}

fn aggregated(served: &ResourceRegistry, chosen: impl Fn(&str) -> bool) -> Response<Body> {
    let items: Vec<Value> = group_versions(served)
        .into_iter()
        .filter(|(group, _)| chosen(group))
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    json!({
                        "version": version,
                        "resources": discovered(served, group, version),
                        "freshness": "Current",
                    })
                })
                .collect();
            let mut metadata = json!({ "creationTimestamp": null });
            if !group.is_empty() {
                metadata["name"] = group.into();
            }
            json!({ "metadata": metadata, "versions": versions })
        })
        .collect();
    let list = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    });
    respond(StatusCode::OK, AGGREGATED, Bytes::from(list.to_string()))
}

fn discovered(served: &ResourceRegistry, group: &str, version: &str) -> Vec<Value> {
    let response_kind = |group: &str, version: &str, kind: &str| json!({ "group": group, "version": version, "kind": kind });
    let mut resources: Vec<Value> = resources_of(served, group, version)
        .map(|resource| {
            let mut entry = json!({
                "resource": resource.plural,
                "responseKind": response_kind(resource.group, resource.version, resource.kind),
                "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
                "singularResource": resource.singular,
                "verbs": verbs_of(&resource),
            });
            for (field, names) in
                [("shortNames", resource.short_names()), ("categories", resource.categories())]
            {
                if !names.is_empty() {
                    entry[field] = json!(names);
                }
            }
            let subresources: Vec<Value> = resource
                .subresources
                .iter()
                .map(|subresource| {
                    let (group, version, name, verbs) = describe(&resource, subresource);
                    json!({
                        "subresource": subresource,
                        "responseKind": response_kind(group, version, &name),
                        "verbs": verbs,
                    })
                })
                .collect();
            if !subresources.is_empty() {
                entry["subresources"] = subresources.into();
            }
            entry
        })
        .collect();
    resources.extend(review::of_group(group).map(|review| {
        json!({
            "resource": review.plural,
            "responseKind": response_kind(group, version, review.kind),
            "scope": if review.namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": review.singular,
            "verbs": ["create"],
        })
    }));
    resources
}

/// Returns the hash of the version in which objects are stored. Each type is stored as the first of the
/// same name in the registry.
fn storage_hash(resource: &ResourceType) -> Option<String> {
    let custom = resource.storage_hash().map(str::to_owned);
    custom.or_else(|| {
        let stored =
            registry::all().iter().find(|known| (known.group, known.plural) == resource.storage)?;
        Some(crd::storage_hash(stored.group, stored.version, stored.kind))
    })
}

fn verbs_of(resource: &ResourceType) -> [&'static str; 8] {
    if resource.is_unstructured() { CUSTOM_VERBS } else { VERBS }
}

/// Returns group, version and kind of a subresource's objects, and its verbs.
fn describe<'a>(
    resource: &ResourceType<'a>,
    subresource: &str,
) -> (&'a str, &'a str, Cow<'a, str>, &'static [&'static str]) {
    const PART: &[&str] = &["get", "patch", "update"];
    const STREAM: &[&str] = &["create", "get"];
    const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];
    let (group, version, kind, verbs): (_, _, &str, &[&str]) = match subresource {
        "proxy" => {
            let options = format!("{}ProxyOptions", resource.kind);
            return (resource.group, resource.version, options.into(), PROXY);
        }
        "scale" => ("autoscaling", "v1", "Scale", PART),
        "eviction" => ("policy", "v1", "Eviction", &["create"]),
        "binding" => ("", "v1", "Binding", &["create"]),
        "exec" => ("", "v1", "PodExecOptions", STREAM),
        "attach" => ("", "v1", "PodAttachOptions", STREAM),
        "portforward" => ("", "v1", "PodPortForwardOptions", STREAM),
        "token" => ("authentication.k8s.io", "v1", "TokenRequest", &["create"]),
        "log" => (resource.group, resource.version, resource.kind, &["get"]),
        "finalize" => (resource.group, resource.version, resource.kind, &["update"]),
        _ => (resource.group, resource.version, resource.kind, PART),
    };
    (group, version, kind.into(), verbs)
}

fn resources_of<'a>(
    served: &'a ResourceRegistry,
    group: &str,
    version: &str,
) -> impl Iterator<Item = ResourceType<'a>> {
    served
        .resources()
        .filter(move |resource| resource.group == group && resource.version == version)
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

fn group_value(group: &str, versions: &[&str]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| json!({ "groupVersion": group_version(group, version), "version": version }))
        .collect();
    json!({ "name": group, "versions": versions, "preferredVersion": versions.first() })
}

/// Returns every group with its versions, in the order of the registry; custom resources last.
fn group_versions(served: &ResourceRegistry) -> Vec<(&str, Vec<&str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for resource in served.resources() {
        match groups.iter_mut().find(|(group, _)| *group == resource.group) {
            Some((_, versions)) if versions.contains(&resource.version) => {}
            Some((_, versions)) => versions.push(resource.version),
            None => groups.push((resource.group, vec![resource.version])),
        }
    }
    for group in ["authentication.k8s.io", "authorization.k8s.io"] {
        groups.push((group, vec!["v1"]));
    }
    for (_, versions) in &mut groups {
        versions.sort_by_cached_key(|version| precedence(version));
    }
    groups
}

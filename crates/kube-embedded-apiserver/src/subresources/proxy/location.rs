//! The port of a pod that a proxied request is for (`ResourceLocation` of pods and services).

use crate::{
    fields::{list, text},
    http::{
        path::Target,
        status::{ApiError, ApiResult},
    },
    resources::types::{endpoint_slice, pod},
    scope,
    state::ServerState,
};
use rand::seq::IndexedRandom;
use serde_json::Value;

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A port of a pod.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) tls: bool,
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) port: u16,
}

/// `name`, `name:port` or `scheme:name:port`, as in the path of a request.
#[derive(Debug, PartialEq, Eq)]
struct Requested<'a> {
    scheme: &'a str,
    name: &'a str,
    port: &'a str,
}

impl Requested<'_> {
    /// Splits the text as `SplitSchemeNamePort`; `None` if it is invalid.
    fn parse(text: &str) -> Option<Requested<'_>> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match *parts.as_slice() {
            [name] => ("", name, ""),
            [name, port] => ("", name, port),
            [scheme @ ("" | "http" | "https"), name, port] => (scheme, name, port),
            _ => return None,
        };
        (!name.is_empty()).then_some(Requested { scheme, name, port })
    }
}

impl Location {
    /// Finds the location that a target names.
    pub(super) fn find(state: &ServerState, target: &Target) -> ApiResult<Self> {
        let resource = &target.resource;
        let requested = Requested::parse(&target.name).ok_or_else(|| {
            let (singular, name) = (resource.singular, &target.name);
            ApiError::bad_request(format!("invalid {singular} request {name:?}"))
        })?;
        let named = Target { name: requested.name.to_owned(), ..target.clone() };
        let object = scope::find(state, &named)?;
        // An object that has no containers is a name for pods that have.
        let (pod, port) = match object.key.resource == pod::RESOURCE.storage_resource() {
            true => (requested.name.to_owned(), port_of_pod(&object.value, &requested)?),
            false => endpoint(state, &named, &object.value, requested.port)?,
        };
        let tls = requested.scheme == "https";
        Ok(Self { tls, namespace: target.namespace.clone(), pod, port })
    }
}

/// Returns the requested port, by default the first one that a container declares.
fn port_of_pod(pod: &Value, requested: &Requested<'_>) -> ApiResult<u16> {
    if text(pod, &["status", "podIP"]).is_empty() {
        return Err(ApiError::bad_request("address not allowed"));
    }
    if requested.port.is_empty() {
        let mut containers = list(pod, &["spec", "containers"]).iter();
        let declared = containers.find_map(|container| list(container, &["ports"]).first());
        let declared = declared.and_then(|port| number(&port["containerPort"]));
        return Ok(declared.unwrap_or(if requested.scheme == "https" { 443 } else { 80 }));
    }
    requested.port.parse().map_err(|_| {
        ApiError::bad_request(format!(
            "{:?} is not a port of a pod; it must be a number",
            requested.port
        ))
    })
}

fn number(port: &Value) -> Option<u16> {
    port.as_u64().and_then(|port| u16::try_from(port).ok())
}

/// Chooses a ready endpoint of a service, and returns its pod and port.
fn endpoint(
    state: &ServerState,
    target: &Target,
    service: &Value,
    requested: &str,
) -> ApiResult<(String, u16)> {
    let name = &target.name;
    let port = port_name(service, name, requested)?;
    let slices = endpoint_slice::RESOURCE.storage_resource();
    let slices = state.store.list(slices, Some(&target.namespace), None).objects;
    let mut found = Vec::new();
    for slice in slices.iter().map(|slice| &slice.value) {
        if text(slice, &["metadata", "labels", SERVICE_NAME]) == name {
            collect(slice, port, &mut found);
        }
    }
    found.choose(&mut rand::rng()).cloned().ok_or_else(|| {
        ApiError::service_unavailable(format!("no endpoints available for service {name:?}"))
    })
}

/// Returns the name of a service's port, given its name or number.
fn port_name<'a>(service: &'a Value, name: &str, requested: &'a str) -> ApiResult<&'a str> {
    let Ok(wanted) = requested.parse::<i64>() else { return Ok(requested) };
    let ports = list(service, &["spec", "ports"]).iter();
    let found = ports.clone().find(|port| port["port"] == wanted);
    found.map(|port| text(port, &["name"])).ok_or_else(|| {
        let why = format!("no service port {wanted} found for service {name:?}");
        ApiError::service_unavailable(why)
    })
}

/// Adds the ready pods of a slice with the number of a port.
fn collect(slice: &Value, port: &str, found: &mut Vec<(String, u16)>) {
    let mut ports = list(slice, &["ports"]).iter();
    let Some(port) = ports.find(|known| text(known, &["name"]) == port) else { return };
    let Some(port) = number(&port["port"]) else { return };
    for endpoint in list(slice, &["endpoints"]) {
        let pod = text(endpoint, &["targetRef", "name"]);
        if endpoint["conditions"]["ready"] != false && !pod.is_empty() {
            found.push((pod.to_owned(), port));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn scheme_name_and_port_are_split() {
        for (text, expected) in [
            ("web", Some(("", "web", ""))),
            ("web:80", Some(("", "web", "80"))),
            ("https:web:tls", Some(("https", "web", "tls"))),
            ("http:web:", Some(("http", "web", ""))),
            (":web:80", Some(("", "web", "80"))),
            ("ftp:web:80", None),
            ("a:b:c:d", None),
            (":80", None),
        ] {
            let found = Requested::parse(text).map(|r| (r.scheme, r.name, r.port));
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn service_port_is_found_by_name_and_number() {
        let service = json!({ "spec": { "ports": [
            { "name": "web", "port": 80 }, { "name": "admin", "port": 81 },
        ] } });
        assert_eq!(port_name(&service, "s", "81").unwrap(), "admin");
        assert_eq!(port_name(&service, "s", "web").unwrap(), "web");
        let error = port_name(&service, "s", "82").unwrap_err().to_value();
        assert_eq!(error["message"], "no service port 82 found for service \"s\"");
        assert_eq!((&error["code"], &error["reason"]), (&json!(503), &json!("ServiceUnavailable")));
        let slice = json!({
            "ports": [{ "name": "admin", "port": 8081 }],
            "endpoints": [
                { "targetRef": { "name": "a" }, "conditions": { "ready": true } },
                { "targetRef": { "name": "b" }, "conditions": { "ready": false } },
                { "targetRef": { "name": "c" } },
            ],
        });
        let mut found = Vec::new();
        collect(&slice, "admin", &mut found);
        collect(&slice, "web", &mut found);
        assert_eq!(found, [("a".to_owned(), 8081), ("c".to_owned(), 8081)]);
    }
}

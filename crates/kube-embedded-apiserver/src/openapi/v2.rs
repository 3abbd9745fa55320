//! The OpenAPI v2 document (`/openapi/v2`), from the v3 documents. kubectl reads it for kinds that
//! the v3 documents do not have: to find out that they are not served, and for `kind: List`.

use super::{gnostic, groups};
use crate::{
    http::{body::Body, body::respond, status::ApiError, status::ApiResult},
    resources::registry::ResourceRegistry,
};
use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};
use kube_embedded_core::version;
use serde_json::{Map, Value, json};
use std::sync::{Mutex, PoisonError};

/// The encoding that clients written in Go ask for, and the name under which the response has it.
const PROTOBUF: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
];
const SCHEMAS: &str = "#/components/schemas/";

/// A document in both encodings.
#[derive(Clone)]
struct Document {
    /// What it was built from.
    groups: Vec<(String, String)>,
    json: Bytes,
    protobuf: Bytes,
}

/// `GET /openapi/v2`.
pub(crate) fn respond_document(
    registry: &ResourceRegistry,
    headers: &HeaderMap,
) -> ApiResult<Response<Body>> {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let is_protobuf = encoding(accept.unwrap_or_default()).ok_or_else(|| {
        ApiError::not_acceptable(&format!("application/json, {}", PROTOBUF.join(", ")))
    })?;
    let Document { json, protobuf, .. } = document(registry);
    Ok(match is_protobuf {
        true => respond(StatusCode::OK, PROTOBUF[1], protobuf),
        false => respond(StatusCode::OK, "application/json", json),
    })
}

/// Returns whether the first known media type of the header is protobuf; `None` without any.
fn encoding(accept: &str) -> Option<bool> {
    if accept.trim().is_empty() {
        return Some(false);
    }
    let ranges = accept.split(',').map(|range| range.split(';').next().unwrap_or_default().trim());
    ranges.into_iter().find_map(|range| match range {
        "application/json" | "application/*" | "*/*" => Some(false),
        known if PROTOBUF.contains(&known) => Some(true),
        _ => None,
    })
}

/// Returns the document of all resource types, which is built again only when these have changed.
fn document(registry: &ResourceRegistry) -> Document {
    static LAST: Mutex<Option<Document>> = Mutex::new(None);
    let groups = groups(registry);
    // Locked while building, so that a burst of first requests builds it once.
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    match &*last {
        Some(document) if document.groups == groups => document.clone(),
        _ => {
            let value = build(registry);
            let json = Bytes::from(value.to_string());
            let protobuf = Bytes::from(gnostic::encode(&value));
            last.insert(Document { groups, json, protobuf }).clone()
        }
    }
}

fn build(registry: &ResourceRegistry) -> Value {
    let mut versions: Vec<(&str, &str)> =
        registry.resources().map(|resource| (resource.group, resource.version)).collect();
    versions.sort_unstable();
    versions.dedup();
    let (mut paths, mut definitions) = (Map::new(), Map::new());
    for (group, version) in versions {
        let resources: Vec<_> = registry
            .resources()
            .filter(|resource| (resource.group, resource.version) == (group, version))
            .collect();
        for resource in &resources {
            super::add_paths(resource, &mut paths);
        }
        let schemas = super::schemas(&resources);
        // A type of several groups has its identity in only one of the documents.
        for (name, mut schema) in schemas {
            convert_schema(&mut schema);
            open_root(&mut schema);
            let known = definitions.get(&name).and_then(Value::as_object);
            if known.is_none_or(|known| !known.contains_key(super::IDENTITY)) {
                definitions.insert(name, schema);
            }
        }
    }
    let paths: Map<String, Value> =
        paths.into_iter().map(|(path, item)| (path.clone(), convert_path(&path, item))).collect();
    json!({
        "swagger": "2.0",
        "info": { "title": "Kubernetes", "version": version::KUBERNETES_VERSION },
        "paths": paths,
        "definitions": definitions,
    })
}

/// Converts the operations of a path, and adds the parameters that are part of it.
fn convert_path(path: &str, item: Value) -> Value {
    let Value::Object(operations) = item else { return item };
    let mut converted: Map<String, Value> = operations
        .into_iter()
        .map(|(method, operation)| (method, convert_operation(operation)))
        .collect();
    let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let parameters: Vec<Value> = names
        .map(|name| json!({ "name": name, "in": "path", "required": true, "type": "string" }))
        .collect();
    if !parameters.is_empty() {
        converted.insert("parameters".to_owned(), parameters.into());
    }
    converted.into()
}

fn convert_operation(mut operation: Value) -> Value {
    for parameter in operation["parameters"].as_array_mut().into_iter().flatten() {
        let Some(parameter) = parameter.as_object_mut() else { continue };
        // The schema of a parameter that is not a body is written into it.
        if let Some(Value::Object(schema)) = parameter.remove("schema") {
            parameter.extend(schema);
        }
    }
    let Some(fields) = operation.as_object_mut() else { return operation };
    if let Some(body) = fields.remove("requestBody")
        && let Some(content) = body["content"].as_object()
    {
        let consumes: Vec<&String> = content.keys().collect();
        let mut schema = content.values().next().map_or(Value::Null, |c| c["schema"].clone());
        convert_schema(&mut schema);
        let parameter = json!({ "name": "body", "in": "body", "required": true, "schema": schema });
        if let Some(parameters) = fields.get_mut("parameters").and_then(Value::as_array_mut) {
            parameters.push(parameter);
        }
        fields.insert("consumes".to_owned(), json!(consumes));
    }
    fields.insert("produces".to_owned(), json!(["application/json"]));
    for response in fields.get_mut("responses").and_then(Value::as_object_mut).into_iter().flatten()
    {
        let Some(response) = response.1.as_object_mut() else { continue };
        if let Some(content) = response.remove("content") {
            let mut schema = content["application/json"]["schema"].clone();
            convert_schema(&mut schema);
            response.insert("schema".to_owned(), schema);
        }
    }
    operation
}

/// Converts a schema in place. What v2 cannot express is left out, so that a client accepts more than
/// the server, never less.
fn convert_schema(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    // A reference with siblings: v2 has them side by side.
    if let Some(Value::Array(all)) = fields.remove("allOf")
        && let [Value::Object(only)] = &all[..]
        && let Some(reference) = only.get("$ref")
    {
        fields.insert("$ref".to_owned(), reference.clone());
    }
    if let Some(Value::String(reference)) = fields.get_mut("$ref")
        && let Some(name) = reference.strip_prefix(SCHEMAS)
    {
        *reference = format!("#/definitions/{name}");
    }
    let alternatives = fields.remove("oneOf");
    if let Some(Value::Array(types)) = &alternatives
        && types.iter().any(|one| one["type"] == "string")
        && !fields.contains_key("type")
    {
        // Quantities, and numbers or names.
        fields.insert("type".to_owned(), "string".into());
    }
    for unknown in ["anyOf", "not"] {
        fields.remove(unknown);
    }
    let is_open = fields.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    let is_nullable = fields.remove("nullable") == Some(Value::Bool(true));
    let is_either = fields.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true));
    let has_no_items = fields.get("type") == Some(&"array".into()) && !fields.contains_key("items");
    if is_open || is_nullable || is_either || has_no_items {
        for narrow in ["type", "properties", "additionalProperties", "items", "required"] {
            fields.remove(narrow);
        }
    }
    for field in ["items", "additionalProperties"] {
        if let Some(inner) = fields.get_mut(field) {
            convert_schema(inner);
        }
    }
    let properties = fields.get_mut("properties").and_then(Value::as_object_mut);
    properties.into_iter().flatten().for_each(|(_, property)| convert_schema(property));
}

/// Leaves only the type of a custom resource that may have any field: kubectl takes every other field for unknown as
/// soon as one is declared.
fn open_root(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    let is_open = fields.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    if is_open && fields.contains_key(super::IDENTITY) {
        fields.retain(|name, _| matches!(name.as_str(), super::IDENTITY | "description"));
        fields.insert("type".to_owned(), "object".into());
    }
}

#[cfg(test)]
mod tests;

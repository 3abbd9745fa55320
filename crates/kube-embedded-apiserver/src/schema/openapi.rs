//! The OpenAPI v3 documents: `kubectl` reads them to validate, to merge and to explain.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, OnceLock},
};

use kube_embedded_core::version;
use serde_json::{Map, Value, json};

use crate::{
    resources::{registry::ResourceRegistry, resource_type::ResourceType},
    schema::{
        merge_keys,
        tree::{self, Field, Topology},
    },
};

/// Path and hash of each document.
pub(crate) fn groups(served: &ResourceRegistry) -> Vec<(String, String)> {
    let mut groups: BTreeMap<String, DefaultHasher> = BTreeMap::new();
    for resource in served.resources() {
        let hasher = groups.entry(path(resource.group, resource.version)).or_default();
        (env!("CARGO_PKG_VERSION"), resource.kind, resource.subresources).hash(hasher);
        if let Some(crd) = resource.crd {
            crd.published.to_string().hash(hasher);
        }
    }
    groups.into_iter().map(|(path, hash)| (path, format!("{:016X}", hash.finish()))).collect()
}

/// The document of a group version. Of the kinds of the table it is built once and kept.
pub(crate) fn document(
    served: &ResourceRegistry,
    group: &str,
    version: &str,
) -> Option<Arc<Vec<u8>>> {
    static DOCUMENTS: OnceLock<Mutex<BTreeMap<String, Arc<Vec<u8>>>>> = OnceLock::new();
    let kinds: Vec<ResourceType<'_>> = served
        .resources()
        .filter(|resource| resource.group == group && resource.version == version)
        .collect();
    if kinds.is_empty() {
        return None;
    }
    if kinds.iter().any(|resource| resource.crd.is_some()) {
        return Some(Arc::new(build(&kinds).to_string().into_bytes()));
    }
    // Held while building, so that a burst of first requests builds it once.
    let mut documents = match DOCUMENTS.get_or_init(Mutex::default).lock() {
        Ok(documents) => documents,
        Err(poisoned) => poisoned.into_inner(),
    };
    let key = path(group, version);
    if let Some(document) = documents.get(&key) {
        return Some(document.clone());
    }
    let document = Arc::new(build(&kinds).to_string().into_bytes());
    documents.insert(key, document.clone());
    Some(document)
}

fn path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn build(served: &[ResourceType<'_>]) -> Value {
    let mut schemas = tree::definitions(served.iter().copied());
    for (name, schema) in &mut schemas {
        decorate(name, schema);
    }
    for resource in served {
        if let Some(crd) = resource.crd {
            schemas.insert(resource.schema.to_owned(), crd.published.clone());
            continue;
        }
        if let Some(schema) = schemas.get_mut(resource.schema).and_then(Value::as_object_mut) {
            schema
                .insert("x-kubernetes-group-version-kind".to_owned(), json!([identity(resource)]));
        }
    }
    let mut paths = Map::new();
    for resource in served {
        let base = format!("/{}", path(resource.group, resource.version));
        let collection = if resource.namespaced {
            paths.insert(
                format!("{base}/{}", resource.plural),
                json!({ "get": operation(resource, "list", &[]) }),
            );
            format!("{base}/namespaces/{{namespace}}/{}", resource.plural)
        } else {
            format!("{base}/{}", resource.plural)
        };
        let object = format!("{collection}/{{name}}");
        paths.insert(collection, collection_operations(resource));
        for subresource in resource.subresources.iter().filter(|name| matches!(**name, "status")) {
            paths.insert(format!("{object}/{subresource}"), object_operations(resource));
        }
        paths.insert(object, object_operations(resource));
    }
    json!({
        "openapi": "3.0.0",
        "info": { "title": "Kubernetes", "version": version::KUBERNETES_VERSION },
        "paths": paths,
        "components": { "schemas": schemas },
    })
}

fn identity(resource: &ResourceType) -> Value {
    json!({ "group": resource.group, "version": resource.version, "kind": resource.kind })
}

const WRITE: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];
const PATCH: &[&str] = &["dryRun", "fieldManager", "fieldValidation", "force"];

fn collection_operations(resource: &ResourceType) -> Value {
    json!({
        "get": operation(resource, "list", &[]),
        "post": operation(resource, "post", WRITE),
        "delete": operation(resource, "deletecollection", &["dryRun"]),
    })
}

fn object_operations(resource: &ResourceType) -> Value {
    json!({
        "get": operation(resource, "get", &[]),
        "put": operation(resource, "put", WRITE),
        "patch": operation(resource, "patch", PATCH),
        "delete": operation(resource, "delete", &["dryRun"]),
    })
}

fn operation(resource: &ResourceType, action: &str, parameters: &[&str]) -> Value {
    let parameters: Vec<Value> = parameters
        .iter()
        .map(|name| {
            let of = if *name == "force" { "boolean" } else { "string" };
            json!({ "name": name, "in": "query", "schema": { "type": of, "uniqueItems": true } })
        })
        .collect();
    let schema = json!({ "$ref": format!("#/components/schemas/{}", resource.schema) });
    let mut operation = json!({
        "operationId": format!("{action}{}{}{}", resource.group, resource.version, resource.kind),
        "parameters": parameters,
        "responses": {
            "200": { "description": "OK", "content": { "application/json": { "schema": schema } } }
        },
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": identity(resource),
    });
    let media: &[&str] = match action {
        "post" | "put" => &["application/json"],
        "patch" if resource.crd.is_some() => &[
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/apply-patch+yaml",
        ],
        "patch" => &[
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
            "application/apply-patch+yaml",
        ],
        _ => &[],
    };
    if !media.is_empty() {
        let content: Map<String, Value> =
            media.iter().map(|media| ((*media).to_owned(), json!({ "schema": schema }))).collect();
        operation["requestBody"] = json!({ "content": content, "required": true });
    }
    operation
}

/// Brings a schema into the form that Kubernetes publishes: references beside other words inside
/// `allOf`, and the merge markers.
fn decorate(name: &str, schema: &mut Value) {
    if name.ends_with(".IntOrString") {
        *schema = json!({
            "oneOf": [{ "type": "integer" }, { "type": "string" }],
            "format": "int-or-string",
            "description": schema["description"],
        });
        return;
    }
    if name.ends_with(".Quantity") {
        *schema = json!({
            "oneOf": [{ "type": "string" }, { "type": "number" }],
            "description": schema["description"],
        });
        return;
    }
    if merge_keys::atomic_structure(name)
        && let Some(object) = schema.as_object_mut()
    {
        object.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
    }
    let structure = tree::forest().named(name);
    for (field, schema) in
        schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten()
    {
        if let Some(reference) = schema.get("$ref").cloned()
            && let Some(object) = schema.as_object_mut()
            && object.len() > 1
        {
            object.remove("$ref");
            object.insert("allOf".to_owned(), json!([{ "$ref": reference }]));
        }
        if let Some(field) = structure.and_then(|structure| structure.field(field))
            && let Some(object) = schema.as_object_mut()
        {
            mark(field, object);
        }
    }
}

fn mark(field: &Field, schema: &mut Map<String, Value>) {
    let mut set = |key: &str, value: Value| {
        schema.insert(key.to_owned(), value);
    };
    if let Some(strategy) = field.strategy {
        let words = match (strategy.merge, strategy.retain_keys) {
            (true, true) => "merge,retainKeys",
            (true, false) => "merge",
            _ => "retainKeys",
        };
        set("x-kubernetes-patch-strategy", words.into());
        if let Some(key) = strategy.key {
            set("x-kubernetes-patch-merge-key", key.into());
        }
    }
    match (&field.topology, &field.shape) {
        (Topology::Keyed(keys), _) => {
            set("x-kubernetes-list-type", "map".into());
            set("x-kubernetes-list-map-keys", json!(keys));
        }
        (Topology::Set, _) => set("x-kubernetes-list-type", "set".into()),
        (Topology::Atomic, tree::Shape::List(_)) => set("x-kubernetes-list-type", "atomic".into()),
        (Topology::Atomic, tree::Shape::Map(_)) => set("x-kubernetes-map-type", "atomic".into()),
        _ => {}
    }
}

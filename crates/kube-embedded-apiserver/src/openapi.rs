//! The OpenAPI v3 documents (`/openapi/v3`), as kube-apiserver builds them with
//! `k8s.io/kube-openapi`. kubectl reads them to validate, to merge (`kubectl edit`, `apply`) and to
//! explain. [`v2`] makes the older document of them.

mod gnostic;
pub(crate) mod v2;

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, OnceLock},
};

use kube_embedded_core::version;
use serde_json::{Map, Value, json};

use crate::{
    resources::{registry::ResourceRegistry, resource_type::ResourceType, types::review},
    schema::{
        merge_keys, tree,
        types::{Field, Shape, Topology},
    },
};

/// Returns the path (`api/v1`, `apis/apps/v1`) and hash of each document. The hash covers the
/// version of this program and the resource types served, not the bytes, so it is known without
/// building the document.
pub(crate) fn groups(registry: &ResourceRegistry) -> Vec<(String, String)> {
    let mut groups: BTreeMap<String, DefaultHasher> = BTreeMap::new();
    for resource in published(registry) {
        let hasher = groups.entry(path(resource.group, resource.version)).or_default();
        (env!("CARGO_PKG_VERSION"), resource.kind, resource.subresources).hash(hasher);
        if let Some(schema) = resource.published_schema() {
            schema.to_string().hash(hasher);
        }
    }
    groups.into_iter().map(|(path, hash)| (path, format!("{:016X}", hash.finish()))).collect()
}

/// Returns the document of a group version, as JSON. Those of built-in types are built once and
/// cached; custom resources change with their definitions.
pub(crate) fn document(
    registry: &ResourceRegistry,
    group: &str,
    version: &str,
) -> Option<Arc<Vec<u8>>> {
    static DOCUMENTS: OnceLock<Mutex<BTreeMap<String, Arc<Vec<u8>>>>> = OnceLock::new();
    let resources: Vec<ResourceType<'_>> = published(registry)
        .filter(|resource| resource.group == group && resource.version == version)
        .collect();
    if resources.is_empty() {
        return None;
    }
    if resources.iter().any(|resource| resource.is_unstructured()) {
        return Some(Arc::new(build(&resources).to_string().into_bytes()));
    }
    // Locked while building, so that a burst of first requests builds it once.
    let mut documents = match DOCUMENTS.get_or_init(Mutex::default).lock() {
        Ok(documents) => documents,
        Err(poisoned) => poisoned.into_inner(),
    };
    let key = path(group, version);
    if let Some(document) = documents.get(&key) {
        return Some(document.clone());
    }
    let document = Arc::new(build(&resources).to_string().into_bytes());
    documents.insert(key, document.clone());
    Some(document)
}

/// Returns every type, with the reviews, which are not in the registry.
fn published(registry: &ResourceRegistry) -> impl Iterator<Item = ResourceType<'_>> {
    registry.resources().chain(review::ALL.iter().copied())
}

/// The extension by which clients find the schemas and the operations of a kind.
const IDENTITY: &str = "x-kubernetes-group-version-kind";

/// The path of a group version below `/` and below `/openapi/v3/`.
fn path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn build(resources: &[ResourceType<'_>]) -> Value {
    let schemas = schemas(resources);
    let mut paths = Map::new();
    for resource in resources {
        add_paths(resource, &mut paths);
    }
    json!({
        "openapi": "3.0.0",
        "info": { "title": "Kubernetes", "version": version::KUBERNETES_VERSION },
        "paths": paths,
        "components": { "schemas": schemas },
    })
}

/// The schemas that the document refers to: those of its types, and all that these refer to.
fn schemas(resources: &[ResourceType<'_>]) -> Map<String, Value> {
    let types = || resources.iter().map(|resource| resource.define);
    tree::build(types());
    let mut schemas = tree::definitions(types());
    for (name, schema) in &mut schemas {
        decorate(name, schema);
    }
    for resource in resources {
        if let Some(schema) = resource.published_schema() {
            schemas.insert(resource.schema.to_owned(), schema.clone());
            continue;
        }
        if let Some(schema) = schemas.get_mut(resource.schema).and_then(Value::as_object_mut) {
            schema.insert(IDENTITY.to_owned(), json!([identity(resource)]));
        }
    }
    schemas
}

/// Adds the paths of a resource type: collection, object and status. Reviews are only created.
fn add_paths(resource: &ResourceType, paths: &mut Map<String, Value>) {
    let base = format!("/{}", path(resource.group, resource.version));
    if review::is_review(resource) {
        let scope = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
        let post = json!({ "post": operation(resource, "post", WRITE) });
        paths.insert(format!("{base}{scope}/{}", resource.plural), post);
        return;
    }
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
    // The status has the type of the object; the types of other subresources are not published.
    if resource.subresources.contains(&"status") {
        paths.insert(format!("{object}/status"), object_operations(resource));
    }
    paths.insert(object, object_operations(resource));
}

/// The value of [`IDENTITY`].
fn identity(resource: &ResourceType) -> Value {
    json!({ "group": resource.group, "version": resource.version, "kind": resource.kind })
}

/// The query parameters by which kubectl recognizes that the server supports dry-run and field
/// validation.
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

/// An operation, as far as clients evaluate it: parameters, media types of the body, and type.
fn operation(resource: &ResourceType, action: &str, parameters: &[&str]) -> Value {
    let parameters: Vec<Value> = parameters
        .iter()
        .map(|name| {
            let kind = if *name == "force" { "boolean" } else { "string" };
            let schema = json!({ "type": kind, "uniqueItems": true });
            json!({ "name": name, "in": "query", "schema": schema })
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
        IDENTITY: identity(resource),
    });
    // kubectl uses a strategic merge patch if it is listed here, otherwise a merge patch.
    let media: &[&str] = match action {
        "post" | "put" => &["application/json"],
        "patch" if resource.is_unstructured() => &[
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

/// Brings a schema into the form that Kubernetes publishes: a reference with siblings is put into
/// `allOf`, because JSON Schema ignores the siblings of `$ref`, and the merge markers are added.
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
    if merge_keys::is_atomic_structure(name)
        && let Some(object) = schema.as_object_mut()
    {
        object.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
    }
    let structure = tree::find(name);
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
            add_merge_markers(field, object);
        }
    }
}

/// Adds the markers from which kubectl computes strategic merge patches on the client side.
fn add_merge_markers(field: &Field, schema: &mut Map<String, Value>) {
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
        (Topology::Atomic, Shape::List(_)) => set("x-kubernetes-list-type", "atomic".into()),
        (Topology::Atomic, Shape::Map(_)) => set("x-kubernetes-map-type", "atomic".into()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{resources::registry, schema::types::short_name};

    #[test]
    fn document_has_types_merge_markers_and_parameters() {
        let paths: Vec<String> =
            groups(&ResourceRegistry::default()).into_iter().map(|(path, _)| path).collect();
        assert!(paths.contains(&"api/v1".to_owned()) && paths.contains(&"apis/apps/v1".to_owned()));
        let bytes = document(&ResourceRegistry::default(), "apps", "v1").unwrap();
        let parsed: Value = serde_json::from_slice(&bytes).unwrap();
        let schemas = &parsed["components"]["schemas"];
        assert_eq!(
            schemas["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"],
            json!([{ "group": "apps", "version": "v1", "kind": "Deployment" }])
        );
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
        assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
        let patch =
            &parsed["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-action"], "patch");
        let parameters: Vec<&str> = patch["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        assert!(parameters.contains(&"fieldValidation") && parameters.contains(&"dryRun"));
        assert!(document(&ResourceRegistry::default(), "nope", "v1").is_none());
        let reviews = document(&ResourceRegistry::default(), "authorization.k8s.io", "v1").unwrap();
        let reviews: Value = serde_json::from_slice(&reviews).unwrap();
        let path = "/apis/authorization.k8s.io/v1/namespaces/{namespace}/localsubjectaccessreviews";
        let methods = reviews["paths"][path].as_object().unwrap();
        assert_eq!(methods.keys().collect::<Vec<_>>(), ["post"]);
        // Every reference is to a schema of the document.
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        for reference in text.split("\"#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(schemas.get(name).is_some(), "{name}");
        }
    }

    #[test]
    fn every_resource_type_has_a_structure() {
        for resource in registry::all() {
            assert_eq!(resource.structure().name, resource.schema);
        }
    }

    #[test]
    fn merge_keys_name_existing_fields() {
        let schemas = tree::definitions(registry::all().iter().map(|resource| resource.define));
        for (structure, field) in merge_keys::named_fields() {
            let found = schemas.iter().any(|(name, schema)| {
                short_name(name) == structure && schema["properties"].get(field).is_some()
            });
            assert!(found, "{structure}.{field}");
        }
    }
}

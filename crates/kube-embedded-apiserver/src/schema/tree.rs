//! Structures of the built-in types, from the JSON schemas of `k8s-openapi`: nothing of Kubernetes'
//! OpenAPI documents is vendored. Each is built on the first request that needs it, and then only
//! read.

use std::{
    collections::HashMap,
    sync::{LazyLock, PoisonError, RwLock},
};

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    schemars::{SchemaGenerator, generate::SchemaSettings},
};
use serde_json::{Map, Value};

use crate::schema::{
    go_types, merge_keys,
    types::{Field, GoField, Shape, Structure, StructureRef, Topology, reference, short_name},
};

/// Adds a type, and all that it refers to, to a schema generator.
pub(crate) type Define = fn(&mut SchemaGenerator);

/// Structures by full name.
type Known = HashMap<String, StructureRef>;

static KNOWN: LazyLock<RwLock<Known>> = LazyLock::new(RwLock::default);

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Returns the structure of a type by its full name (`io.k8s.api.apps.v1.Deployment`). A name that
/// `define` does not define allows everything; a test checks that no resource type has such a name.
pub(crate) fn structure(name: &str, define: Define) -> &'static Structure {
    static ANYTHING: LazyLock<Structure> = LazyLock::new(|| Structure {
        name: String::new(),
        fields: Vec::new(),
        other: Some(Box::new(Field {
            name: String::new(),
            shape: Shape::Any,
            topology: Topology::Atomic,
            strategy: None,
            always: false,
            go: GoField::default(),
        })),
    });
    find_or_build(name, define).and_then(StructureRef::get).unwrap_or(&ANYTHING)
}

/// Returns the structure of `metadata`, which custom resources have in common with built-in types.
pub(crate) fn object_meta() -> &'static Structure {
    structure(OBJECT_META, define_object_meta)
}

/// Returns the type of `metadata`.
pub(crate) fn object_meta_shape() -> Shape {
    find_or_build(OBJECT_META, define_object_meta).map_or(Shape::Any, Shape::Struct)
}

/// Returns the structure of a definition that was built before, by its full name.
pub(crate) fn find(name: &str) -> Option<&'static Structure> {
    KNOWN.read().unwrap_or_else(PoisonError::into_inner).get(name)?.get()
}

/// Builds the structures of some types at once, which shares the work for what they have in common.
pub(crate) fn build(types: impl IntoIterator<Item = Define>) {
    // Outside of the lock: generating the schemas of all types takes a while.
    let definitions = definitions(types);
    let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
    let structures = definitions.iter().filter(|(_, schema)| schema.get("properties").is_some());
    let mut new = Vec::new();
    for (name, schema) in structures {
        if !known.contains_key(name) {
            let reference = StructureRef::unset();
            known.insert(name.clone(), reference);
            new.push((reference, name, schema));
        }
    }
    for (reference, name, schema) in new {
        reference.set(structure_of(name, schema, &definitions, &known));
    }
}

/// Returns the JSON schemas, by full name, of everything reachable from some types; references are
/// `#/components/schemas/NAME`.
pub(crate) fn definitions(types: impl IntoIterator<Item = Define>) -> Map<String, Value> {
    let mut settings = SchemaSettings::openapi3();
    settings.transforms.clear();
    let mut generator = SchemaGenerator::new(settings);
    // The published schemas of custom resources refer to it, too.
    define_object_meta(&mut generator);
    for define in types {
        define(&mut generator);
    }
    generator.take_definitions(false)
}

fn define_object_meta(generator: &mut SchemaGenerator) {
    generator.subschema_for::<ObjectMeta>();
}

/// Looks a structure up, and builds it with all that it refers to if it is missing.
fn find_or_build(name: &str, define: Define) -> Option<StructureRef> {
    let find = || KNOWN.read().unwrap_or_else(PoisonError::into_inner).get(name).copied();
    find().or_else(|| {
        build([define]);
        find()
    })
}

/// Converts one definition.
fn structure_of(
    name: &str,
    schema: &Value,
    definitions: &Map<String, Value>,
    known: &Known,
) -> Structure {
    let properties = schema["properties"].as_object().into_iter().flatten();
    let mut fields: Vec<Field> = properties
        .map(|(field, schema)| {
            let shape = shape_of(schema, definitions, known);
            let topology = merge_keys::topology(name, field, &shape, schema);
            Field {
                name: field.clone(),
                strategy: merge_keys::strategy(name, field, &topology),
                always: merge_keys::is_always_encoded(name, field),
                go: go_types::of(name, field),
                topology,
                shape,
            }
        })
        .collect();
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    Structure { name: name.to_owned(), fields, other: None }
}

/// Converts the JSON schema of a field.
fn shape_of(schema: &Value, definitions: &Map<String, Value>, known: &Known) -> Shape {
    if let Some(name) = reference(schema) {
        // Go types with a JSON encoding of their own.
        return match short_name(name) {
            "Time" => Shape::Time,
            "MicroTime" => Shape::MicroTime,
            "Quantity" => Shape::Quantity,
            "IntOrString" => Shape::IntOrString,
            _ => match (known.get(name), definitions.get(name)) {
                (Some(structure), _) => Shape::Struct(*structure),
                (None, Some(schema)) => shape_of(schema, definitions, known),
                (None, None) => Shape::Any,
            },
        };
    }
    let format = schema["format"].as_str().unwrap_or_default();
    match schema["type"].as_str().unwrap_or_default() {
        "boolean" => Shape::Boolean,
        "integer" if format == "int32" => Shape::Int32,
        "integer" => Shape::Int64,
        "number" => Shape::Float,
        "string" if format == "byte" => Shape::Bytes,
        "string" => Shape::String,
        "array" => Shape::List(Box::new(shape_of(&schema["items"], definitions, known))),
        "object" if schema.get("additionalProperties").is_some_and(Value::is_object) => {
            let element = shape_of(&schema["additionalProperties"], definitions, known);
            Shape::Map(Box::new(element))
        }
        _ => Shape::Any,
    }
}

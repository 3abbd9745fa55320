//! The compact form of the schemas: built once, a few hundred structures, then only read.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    schemars::{SchemaGenerator, generate::SchemaSettings},
};
use serde_json::{Map, Value};

use crate::{
    resources::{registry, resource_type::ResourceType},
    schema::merge_keys,
};

/// What a value must be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Shape {
    /// Anything goes (`RawExtension`, `FieldsV1`).
    Any,
    Boolean,
    Int32,
    Int64,
    Float,
    String,
    /// Base64.
    Bytes,
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    List(Box<Shape>),
    Map(Box<Shape>),
    /// Index into [`Forest::structures`].
    Struct(usize),
    /// A structure of its own, in the schema of a custom resource.
    Inline(Arc<Structure>),
    /// Whatever its value is: a map whose parts are told apart, or one whole.
    Deduced,
}

/// How the parts of a value are owned in server-side apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Topology {
    /// One owner for the whole. Lists are, unless said otherwise.
    Atomic,
    /// Structures and maps: each field has its owner.
    Granular,
    /// A list of distinct scalars.
    Set,
    /// A list of objects told apart by these fields.
    Keyed(&'static [&'static str]),
    /// The same, as a custom resource says it.
    KeyedBy(Arc<[String]>),
}

/// What a strategic merge patch does with a field; replaces where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Strategy {
    /// The one merge key; `None` for lists of scalars and for structures.
    pub(crate) key: Option<&'static str>,
    /// Lists are merged, not replaced.
    pub(crate) merge: bool,
    /// `$retainKeys` is sent by clients.
    pub(crate) retain_keys: bool,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) shape: Shape,
    pub(crate) topology: Topology,
    pub(crate) strategy: Option<Strategy>,
    /// Kubernetes encodes the field even where it is empty, since its Go type is a structure.
    pub(crate) always: bool,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Structure {
    /// `io.k8s.api.core.v1.PodSpec`.
    pub(crate) name: String,
    /// Sorted by name.
    pub(crate) fields: Vec<Field>,
    /// What every field is that is not named; without it there are none.
    pub(crate) other: Option<Box<Field>>,
}

impl Structure {
    pub(crate) fn field(&self, name: &str) -> Option<&Field> {
        match self.fields.binary_search_by(|field| field.name.as_str().cmp(name)) {
            Ok(at) => self.fields.get(at),
            Err(_) => self.other.as_deref(),
        }
    }

    /// `PodSpec`.
    pub(crate) fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or_default()
    }
}

/// Every structure reachable from the served kinds.
#[derive(Debug, Default)]
pub(crate) struct Forest {
    structures: Vec<Structure>,
    by_name: HashMap<String, usize>,
}

impl Forest {
    /// The structure of a kind's objects.
    pub(crate) fn root<'a>(&'a self, resource: &ResourceType<'a>) -> Option<&'a Structure> {
        match resource.crd {
            Some(crd) => Some(&crd.structure),
            None => self.named(resource.schema),
        }
    }

    /// The structure behind a shape, if it is one.
    pub(crate) fn structure<'a>(&'a self, shape: &'a Shape) -> Option<&'a Structure> {
        match shape {
            Shape::Struct(at) => self.structures.get(*at),
            Shape::Inline(structure) => Some(structure),
            _ => None,
        }
    }

    /// By full name.
    pub(crate) fn named(&self, name: &str) -> Option<&Structure> {
        self.structures.get(*self.by_name.get(name)?)
    }

    /// The shape of a structure, by full name.
    pub(crate) fn shape_of(&self, name: &str) -> Option<Shape> {
        self.by_name.get(name).copied().map(Shape::Struct)
    }

    #[cfg(test)]
    pub(crate) fn structures(&self) -> &[Structure] {
        &self.structures
    }
}

/// The forest, built on first use.
pub(crate) fn forest() -> &'static Forest {
    static FOREST: OnceLock<Forest> = OnceLock::new();
    FOREST.get_or_init(|| build(&definitions(registry::all().iter().map(|resource| **resource))))
}

/// JSON schemas by full name of everything reachable from some kinds; references are
/// `#/components/schemas/NAME`.
pub(crate) fn definitions<'a>(kinds: impl Iterator<Item = ResourceType<'a>>) -> Map<String, Value> {
    let mut settings = SchemaSettings::openapi3();
    settings.transforms.clear();
    let mut generator = SchemaGenerator::new(settings);
    // What every object has; custom resources refer to it, too.
    generator.subschema_for::<ObjectMeta>();
    for resource in kinds {
        (resource.define)(&mut generator);
    }
    generator.take_definitions(false)
}

fn build(definitions: &Map<String, Value>) -> Forest {
    let mut forest = Forest::default();
    let structures = definitions.iter().filter(|(_, schema)| schema.get("properties").is_some());
    for (at, (name, _)) in structures.clone().enumerate() {
        forest.by_name.insert(name.clone(), at);
    }
    for (name, schema) in structures {
        let mut fields: Vec<Field> = schema["properties"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(field, schema)| {
                let shape = shape(schema, definitions, &forest.by_name);
                let topology = merge_keys::topology(name, field, &shape, schema);
                Field {
                    name: field.clone(),
                    strategy: merge_keys::strategy(name, field, &topology),
                    always: merge_keys::always_encoded(name, field),
                    topology,
                    shape,
                }
            })
            .collect();
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        forest.structures.push(Structure { name: name.clone(), fields, other: None });
    }
    forest
}

fn shape(schema: &Value, all: &Map<String, Value>, indices: &HashMap<String, usize>) -> Shape {
    if let Some(name) = reference(schema) {
        return match name.rsplit('.').next().unwrap_or_default() {
            "Time" => Shape::Time,
            "MicroTime" => Shape::MicroTime,
            "Quantity" => Shape::Quantity,
            "IntOrString" => Shape::IntOrString,
            _ => match (indices.get(name), all.get(name)) {
                (Some(at), _) => Shape::Struct(*at),
                (None, Some(schema)) => shape(schema, all, indices),
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
        "array" => Shape::List(Box::new(shape(&schema["items"], all, indices))),
        "object" if schema.get("additionalProperties").is_some_and(Value::is_object) => {
            Shape::Map(Box::new(shape(&schema["additionalProperties"], all, indices)))
        }
        _ => Shape::Any,
    }
}

/// The full name that a schema refers to.
pub(crate) fn reference(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.rsplit('/').next()
}

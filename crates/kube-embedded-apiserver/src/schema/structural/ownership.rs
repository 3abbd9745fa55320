//! A structural schema in the form that server-side apply works on (`structured-merge-diff`).

use crate::schema::{
    structural::schema::{Additional, ListType, Schema, is_meta},
    tree::object_meta_shape,
    types::{Field, GoField, Shape, Structure, Topology},
};
use std::sync::Arc;

/// Returns the structure of the objects of a schema, or of the resources embedded in them.
pub(crate) fn structure(schema: &Schema) -> Structure {
    let mut structure = plain(schema);
    structure.fields.retain(|field| !is_meta(&field.name));
    structure.fields.push(field("apiVersion", Shape::Any, Topology::Atomic));
    structure.fields.push(field("kind", Shape::Any, Topology::Atomic));
    structure.fields.push(field("metadata", object_meta_shape(), Topology::Granular));
    structure.fields.sort_by(|a, b| a.name.cmp(&b.name));
    structure
}

/// The structure of an object, embedded or not, without the fields of a resource.
fn plain(schema: &Schema) -> Structure {
    let fields = schema.properties.iter().map(|(name, schema)| {
        let (shape, topology) = shape_and_topology(schema);
        field(name, shape, topology)
    });
    let other = schema.preserves_unknown || matches!(schema.additional, Additional::Any);
    Structure {
        name: String::new(),
        fields: fields.collect(),
        other: other.then(|| Box::new(field("", Shape::Deduced, Topology::Granular))),
    }
}

fn field(name: &str, shape: Shape, topology: Topology) -> Field {
    Field {
        name: name.to_owned(),
        shape,
        topology,
        strategy: None,
        always: false,
        go: GoField::default(),
    }
}

/// Lists are atomic and maps granular unless the schema says otherwise, as for built-in types.
fn shape_and_topology(schema: &Schema) -> (Shape, Topology) {
    let granular = if schema.atomic { Topology::Atomic } else { Topology::Granular };
    if schema.embedded_resource {
        return (Shape::Inline(Arc::new(structure(schema))), granular);
    }
    match (schema.type_name.as_str(), &schema.additional, &schema.items) {
        ("object", Additional::Like(like), _) => {
            (Shape::Map(Box::new(shape_and_topology(like).0)), granular)
        }
        ("object", ..) if schema.properties.is_empty() => {
            (Shape::Map(Box::new(Shape::Deduced)), granular)
        }
        ("object", ..) => (Shape::Inline(Arc::new(plain(schema))), granular),
        ("array", _, Some(items)) => {
            let topology = match &schema.list {
                ListType::Atomic => Topology::Atomic,
                ListType::Set => Topology::Set,
                ListType::Map(keys) => {
                    let default = |key: &str| items.properties.get(key)?.default.clone();
                    Topology::KeyedBy(keys.iter().map(|key| (key.clone(), default(key))).collect())
                }
            };
            (Shape::List(Box::new(shape_and_topology(items).0)), topology)
        }
        ("", ..) if schema.preserves_unknown => (Shape::Deduced, granular),
        ("string", ..) => (Shape::String, Topology::Atomic),
        ("boolean", ..) => (Shape::Boolean, Topology::Atomic),
        ("integer", ..) => (Shape::Int64, Topology::Atomic),
        ("number", ..) => (Shape::Float, Topology::Atomic),
        _ => (Shape::Any, Topology::Atomic),
    }
}

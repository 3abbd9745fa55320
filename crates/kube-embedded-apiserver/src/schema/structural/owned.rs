//! A schema in the form that server-side apply works on.

use crate::{
    schema::structural::{Additional, ListType, Schema},
    schema::tree::{Field, Shape, Structure, Topology, forest},
};
use std::sync::Arc;

const METADATA: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The structure of the objects of a schema.
pub(crate) fn structure(schema: &Schema) -> Structure {
    resource(schema)
}

fn resource(schema: &Schema) -> Structure {
    let mut structure = plain(schema);
    let metadata = forest().shape_of(METADATA).unwrap_or(Shape::Any);
    structure.fields.retain(|field| !crate::schema::structural::is_meta(&field.name));
    structure.fields.push(field("apiVersion", Shape::Any, Topology::Atomic));
    structure.fields.push(field("kind", Shape::Any, Topology::Atomic));
    structure.fields.push(field("metadata", metadata, Topology::Granular));
    structure.fields.sort_by(|a, b| a.name.cmp(&b.name));
    structure
}

fn plain(schema: &Schema) -> Structure {
    let fields = schema.properties.iter().map(|(name, schema)| {
        let (shape, topology) = part(schema);
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
    Field { name: name.to_owned(), shape, topology, strategy: None, always: false }
}

fn part(schema: &Schema) -> (Shape, Topology) {
    let granular = if schema.atomic { Topology::Atomic } else { Topology::Granular };
    if schema.embedded_resource {
        return (Shape::Inline(Arc::new(resource(schema))), granular);
    }
    match (schema.of.as_str(), &schema.additional, &schema.items) {
        ("object", Additional::Like(like), _) => (Shape::Map(Box::new(part(like).0)), granular),
        ("object", ..) if schema.properties.is_empty() => (Shape::Deduced, granular),
        ("object", ..) => (Shape::Inline(Arc::new(plain(schema))), granular),
        ("array", _, Some(items)) => {
            let topology = match &schema.list {
                ListType::Atomic => Topology::Atomic,
                ListType::Set => Topology::Set,
                ListType::Map(keys) => Topology::KeyedBy(keys.clone().into()),
            };
            (Shape::List(Box::new(part(items).0)), topology)
        }
        ("", ..) if schema.preserves_unknown => (Shape::Deduced, granular),
        _ => (Shape::Any, Topology::Atomic),
    }
}

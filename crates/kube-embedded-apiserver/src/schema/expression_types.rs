//! The types that expressions see of built-in types (`SchemaDeclType` of their OpenAPI definitions).

use crate::{
    cel::types::{Field, ObjectType, Type},
    schema::{
        structural::escape,
        types::{Shape, Structure},
    },
};
use std::{collections::BTreeMap, sync::Arc};

/// Returns the type of the objects of a structure.
pub(crate) fn declare(structure: &Structure, name: &str) -> Type {
    of_structure(structure, name, &mut Vec::new())
}

/// Returns the type of a structure within others. Where it is within itself, it has no fields, as in Kubernetes.
fn of_structure<'s>(structure: &'s Structure, name: &str, within: &mut Vec<&'s str>) -> Type {
    if within.contains(&&*structure.name) {
        return Type::object(name, []);
    }
    within.push(&structure.name);
    let mut fields = BTreeMap::new();
    for field in &structure.fields {
        let Some(escaped) = escape(&field.name) else { continue };
        if let Some(kind) = of_shape(&field.shape, &format!("{name}.{escaped}"), within) {
            fields.insert(escaped, Field { name: field.name.clone(), kind });
        }
    }
    within.pop();
    Type::Object(Arc::new(ObjectType { name: name.to_owned(), fields }))
}

/// Returns the type of a value; `None` for what expressions do not see.
fn of_shape<'s>(shape: &'s Shape, name: &str, within: &mut Vec<&'s str>) -> Option<Type> {
    Some(match shape {
        Shape::Any => Type::object(name, []),
        Shape::Boolean => Type::Bool,
        Shape::Int32 | Shape::Int64 => Type::Int,
        Shape::Float => Type::Double,
        Shape::String => Type::Text,
        Shape::Bytes => Type::Bytes,
        Shape::Time | Shape::MicroTime => Type::Timestamp,
        Shape::IntOrString => Type::Dyn,
        // Its definition is a choice between a text and a number.
        Shape::Quantity | Shape::Deduced => return None,
        Shape::List(element) => Type::list(of_shape(element, &format!("{name}.@idx"), within)?),
        Shape::Map(value) => {
            Type::map(Type::Text, of_shape(value, &format!("{name}.@elem"), within)?)
        }
        Shape::Struct(reference) => of_structure(reference.get()?, name, within),
        Shape::Inline(structure) => of_structure(structure, name, within),
    })
}

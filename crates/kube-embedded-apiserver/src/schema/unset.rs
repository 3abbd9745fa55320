//! What Go's encoder writes for fields that are not set: `null`, `""`, 0, false, or an empty structure. kube-apiserver
//! stores objects in this form, and everything that reads them (a patch's `test`, managed fields, an expression)
//! sees it.

use serde_json::{Map, Value};

use crate::schema::types::{Field, Shape, Structure, Unset};

/// Adds the fields that have no value and are encoded nevertheless.
pub(crate) fn complete(structure: &Structure, value: &mut Value) {
    let Some(object) = value.as_object_mut() else { return };
    for field in &structure.fields {
        if let Some(unset) = encoded(field)
            && !object.contains_key(&field.name)
        {
            object.insert(field.name.clone(), unset);
        }
    }
    each_field(structure, object, &mut |field, value| {
        each_structure(&field.shape, value, &mut |structure, value| complete(structure, value));
    });
}

/// Replaces empty lists by what is left of them in the storage: protobuf does not distinguish them from those that are not set.
pub(crate) fn clear_empty_lists(structure: &Structure, value: &mut Value) {
    let Some(object) = value.as_object_mut() else { return };
    each_field(structure, object, &mut |field, value| {
        if field.go.unset == Some(Unset::Null) && value.as_array().is_some_and(Vec::is_empty) {
            *value = Value::Null;
        }
        each_structure(&field.shape, value, &mut |structure, value| {
            clear_empty_lists(structure, value)
        });
    });
}

/// Returns the value with which a field is encoded that is not set; `None` if it is left out.
pub(crate) fn encoded(field: &Field) -> Option<Value> {
    match (&field.shape, field.go.unset) {
        (Shape::Struct(_), _) if field.always => Some(Value::Object(Map::new())),
        (_, Some(Unset::Null)) => Some(Value::Null),
        (shape, Some(Unset::Zero)) => Some(match shape {
            Shape::Boolean => false.into(),
            Shape::Int32 | Shape::Int64 | Shape::Float | Shape::IntOrString => 0.into(),
            Shape::Quantity => "0".into(),
            _ => "".into(),
        }),
        _ => None,
    }
}

fn each_field(
    structure: &Structure,
    object: &mut Map<String, Value>,
    visit: &mut impl FnMut(&Field, &mut Value),
) {
    for (name, value) in object {
        if let Some(field) = structure.field(name) {
            visit(field, value);
        }
    }
}

/// Visits the structures that are a value, or the elements of one.
fn each_structure(shape: &Shape, value: &mut Value, visit: &mut dyn FnMut(&Structure, &mut Value)) {
    match (shape, value) {
        (Shape::Struct(reference), value) => {
            if let Some(structure) = reference.get() {
                visit(structure, value);
            }
        }
        (Shape::List(element), Value::Array(items)) => {
            items.iter_mut().for_each(|item| each_structure(element, item, visit));
        }
        (Shape::Map(element), Value::Object(items)) => {
            items.values_mut().for_each(|item| each_structure(element, item, visit));
        }
        _ => {}
    }
}

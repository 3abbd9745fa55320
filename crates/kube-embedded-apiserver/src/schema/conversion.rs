//! The types of a strategic merge patch's result. Kubernetes converts it from maps and does not decode it
//! (`runtime.DefaultUnstructuredConverter`), so that its messages name no fields.

use kube_embedded_core::quantity;
use serde_json::Value;

use crate::schema::{
    check::{MICRO_TIME, TIME, check_base64, check_time},
    types::{Field, Shape, Structure, type_name},
};

/// Checks the types of all values, and returns the first error as the converter reports it.
pub(crate) fn types(structure: &Structure, value: &Value) -> Result<(), String> {
    for (name, value) in value.as_object().into_iter().flatten() {
        if let Some(field) = structure.field(name) {
            check(&field.shape, value, field)?;
        }
    }
    Ok(())
}

fn check(shape: &Shape, value: &Value, field: &Field) -> Result<(), String> {
    match (shape, value) {
        (_, Value::Null) | (Shape::Any | Shape::Inline(_) | Shape::Deduced, _) => Ok(()),
        (Shape::Boolean, Value::Bool(_)) | (Shape::Float, Value::Number(_)) => Ok(()),
        (Shape::String, Value::String(_)) => Ok(()),
        (Shape::Bytes, Value::String(text)) => {
            check_base64(text).map_err(|why| format!("error decoding from json: {why}"))
        }
        (Shape::Int32 | Shape::Int64, Value::Number(number)) if is_whole(number) => Ok(()),
        (Shape::Int32 | Shape::Int64, Value::Number(_)) => {
            Err(format!("cannot convert float64 to {}", named(shape, field)))
        }
        (Shape::String, Value::Number(number)) if is_whole(number) => {
            Err(format!("cannot convert int64 to {}", named(shape, field)))
        }
        (Shape::Boolean | Shape::Int32 | Shape::Int64 | Shape::Float | Shape::String, _) => {
            Err(format!("unrecognized type: {}", kind(shape)))
        }
        // These decode themselves.
        (Shape::Time, Value::String(text)) => check_time(text, TIME),
        (Shape::MicroTime, Value::String(text)) => check_time(text, MICRO_TIME),
        (Shape::Time | Shape::MicroTime, _) => Err(undecoded(value, "string")),
        (Shape::Quantity, Value::String(text)) => quantity::check(text),
        (Shape::Quantity, Value::Number(number)) => quantity::check(&number.to_string()),
        (Shape::Quantity, _) => Err(quantity::MALFORMED.to_owned()),
        (Shape::IntOrString, Value::String(_) | Value::Number(_)) => Ok(()),
        (Shape::IntOrString, _) => Err(undecoded(value, "int32")),
        (Shape::List(element), Value::Array(items)) => {
            items.iter().try_for_each(|item| check(element, item, field))
        }
        (Shape::Bytes | Shape::List(_), _) => {
            Err(format!("cannot restore slice from {}", kind_of(value)))
        }
        (Shape::Map(element), Value::Object(items)) => {
            items.values().try_for_each(|item| check(element, item, field))
        }
        (Shape::Map(_), _) => Err(format!("cannot restore map from {}", kind_of(value))),
        (Shape::Struct(_), Value::Object(_)) => match shape.structure() {
            Some(structure) => types(structure, value),
            None => Ok(()),
        },
        (Shape::Struct(_), _) => Err(format!("cannot restore struct from: {}", kind_of(value))),
    }
}

fn undecoded(value: &Value, into: &str) -> String {
    format!("json: cannot unmarshal {} into Go value of type {into}", type_name(value))
}

fn is_whole(number: &serde_json::Number) -> bool {
    number.as_i64().is_some() || number.as_f64().is_some_and(|number| number.fract() == 0.0)
}

/// The kind of a Go type: `string` also for a named one.
fn kind(shape: &Shape) -> &'static str {
    match shape {
        Shape::Boolean => "bool",
        Shape::Int32 => "int32",
        Shape::Int64 => "int64",
        Shape::Float => "float64",
        _ => "string",
    }
}

/// The Go type of a scalar.
fn named(shape: &Shape, field: &Field) -> &'static str {
    field.go.scalar.unwrap_or_else(|| kind(shape))
}

/// The kind of the Go value that a JSON value is read into.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "invalid",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    }
}

/// Prints a value as Go does: `map[spec:map[replicas:three]]`.
pub(crate) fn go_format(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(go_format).collect::<Vec<_>>().join(" "))
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(key, _)| *key);
            let shown = fields.iter().map(|(key, value)| format!("{key}:{}", go_format(value)));
            format!("map[{}]", shown.collect::<Vec<_>>().join(" "))
        }
        other => other.to_string(),
    }
}

/// Prints a value as Go writes it in a program (`%#v`): `map[string]interface {}{"a":1}`.
pub(crate) fn go_syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::String(text) => format!("{text:?}"),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(go_syntax).collect();
            format!("[]interface {{}}{{{}}}", items.join(", "))
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(key, _)| *key);
            let shown = fields.iter().map(|(key, value)| format!("{key:?}:{}", go_syntax(value)));
            format!("map[string]interface {{}}{{{}}}", shown.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

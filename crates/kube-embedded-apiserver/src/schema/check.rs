//! Walks an object along its structure: unknown fields, pruning, and types with the messages of
//! Go's JSON decoder, which clients show word for word.

use kube_embedded_core::quantity;
use std::fmt::Write;

use base64::Engine;
use serde_json::Value;

use crate::schema::tree::{Shape, Structure, forest};

/// Tells the path of every field that a structure does not have.
pub(crate) fn unknown(
    structure: &Structure,
    value: &Value,
    path: &mut String,
    tell: &mut impl FnMut(&str),
) {
    for (name, value) in value.as_object().into_iter().flatten() {
        let before = path.len();
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(name);
        match structure.field(name) {
            Some(field) => unknown_in(&field.shape, value, path, tell),
            None => tell(path),
        }
        path.truncate(before);
    }
}

fn unknown_in(shape: &Shape, value: &Value, path: &mut String, tell: &mut impl FnMut(&str)) {
    match (shape, value) {
        (Shape::Struct(_), _) => {
            if let Some(structure) = forest().structure(shape) {
                unknown(structure, value, path, tell);
            }
        }
        (Shape::List(element), Value::Array(items)) => {
            for (at, item) in items.iter().enumerate() {
                let before = path.len();
                let _ = write!(path, "[{at}]");
                unknown_in(element, item, path, tell);
                path.truncate(before);
            }
        }
        (Shape::Map(element), Value::Object(items)) => {
            for (key, item) in items {
                let before = path.len();
                path.push('.');
                path.push_str(key);
                unknown_in(element, item, path, tell);
                path.truncate(before);
            }
        }
        _ => {}
    }
}

/// What pruning removes.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Pruned {
    /// Fields that the structure does not have.
    Unknown,
    /// Nulls, and empty lists and maps.
    Empty,
}

pub(crate) fn prune(structure: &Structure, value: &mut Value, what: Pruned) {
    let Some(object) = value.as_object_mut() else { return };
    object.retain(|name, value| {
        let Some(field) = structure.field(name) else { return what == Pruned::Empty };
        prune_in(&field.shape, value, what);
        if what == Pruned::Unknown {
            return true;
        }
        match (&field.shape, value) {
            // A time without `omitempty`: Kubernetes writes it as null itself.
            (_, Value::Null) => name == "lastProbeTime",
            (Shape::List(_), Value::Array(items)) => field.always || !items.is_empty(),
            (Shape::Map(_), Value::Object(entries)) => !entries.is_empty(),
            _ => true,
        }
    });
}

fn prune_in(shape: &Shape, value: &mut Value, what: Pruned) {
    match (shape, value) {
        (Shape::Struct(_), value) => {
            if let Some(structure) = forest().structure(shape) {
                prune(structure, value, what);
            }
        }
        (Shape::List(element), Value::Array(items)) => {
            items.iter_mut().for_each(|item| prune_in(element, item, what));
        }
        (Shape::Map(element), Value::Object(items)) => {
            items.values_mut().for_each(|item| prune_in(element, item, what));
        }
        _ => {}
    }
}

/// The first value of a wrong type, as Go's decoder reports it.
pub(crate) fn types(structure: &Structure, value: &Value) -> Result<(), String> {
    if !value.is_object() && !value.is_null() {
        return Err(format!(
            "json: cannot unmarshal {} into Go value of type v1.{}",
            kind_of(value),
            structure.short_name()
        ));
    }
    fields(structure, value, &mut Vec::new())
}

fn fields<'a>(
    structure: &'a Structure,
    value: &'a Value,
    path: &mut Vec<&'a str>,
) -> Result<(), String> {
    for (name, value) in value.as_object().into_iter().flatten() {
        if let Some(field) = structure.field(name) {
            path.push(name);
            check(&field.shape, value, structure, path)?;
            path.pop();
        }
    }
    Ok(())
}

fn check<'a>(
    shape: &'a Shape,
    value: &'a Value,
    owner: &'a Structure,
    path: &mut Vec<&'a str>,
) -> Result<(), String> {
    let wrong = |value: &Value, shape: &Shape| {
        Err(format!(
            "json: cannot unmarshal {} into Go struct field {}.{} of type {}",
            match shape {
                Shape::Int32 | Shape::Int64 => described(value),
                _ => kind_of(value).to_owned(),
            },
            owner.short_name(),
            path.join("."),
            go_type(shape)
        ))
    };
    match (shape, value) {
        (_, Value::Null) | (Shape::Any, _) => Ok(()),
        (Shape::Boolean, Value::Bool(_)) | (Shape::Float, Value::Number(_)) => Ok(()),
        (Shape::String, Value::String(_)) => Ok(()),
        (Shape::Int32 | Shape::Int64, Value::Number(number)) => {
            let fits = match (shape, number.as_i64()) {
                (Shape::Int32, Some(number)) => i32::try_from(number).is_ok(),
                (_, number) => number.is_some(),
            };
            if fits { Ok(()) } else { wrong(value, shape) }
        }
        (Shape::Bytes, Value::String(text)) => {
            match base64::engine::general_purpose::STANDARD.decode(text) {
                Ok(_) => Ok(()),
                Err(base64::DecodeError::InvalidByte(at, _)) => {
                    Err(format!("illegal base64 data at input byte {at}"))
                }
                Err(_) => Err(format!("illegal base64 data at input byte {}", text.len())),
            }
        }
        (Shape::Time | Shape::MicroTime, Value::String(text)) => {
            if text.parse::<jiff::Timestamp>().is_ok() {
                return Ok(());
            }
            let layout = match shape {
                Shape::Time => "2006-01-02T15:04:05Z07:00",
                _ => "2006-01-02T15:04:05.000000Z07:00",
            };
            Err(format!("parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\""))
        }
        (Shape::Time | Shape::MicroTime, _) => {
            Err(format!("json: cannot unmarshal {} into Go value of type string", kind_of(value)))
        }
        (Shape::Quantity, Value::String(text)) => quantity::check(text),
        (Shape::Quantity, Value::Number(number)) => quantity::check(&number.to_string()),
        (Shape::Quantity, _) => Err(quantity::MALFORMED.to_owned()),
        (Shape::IntOrString, Value::String(_)) => Ok(()),
        (Shape::IntOrString, Value::Number(number))
            if number.as_i64().is_some_and(|number| i32::try_from(number).is_ok()) =>
        {
            Ok(())
        }
        (Shape::IntOrString, _) => {
            Err(format!("json: cannot unmarshal {} into Go value of type int32", described(value)))
        }
        (Shape::List(element), Value::Array(items)) => {
            items.iter().try_for_each(|item| check(element, item, owner, path))
        }
        (Shape::Map(element), Value::Object(items)) => {
            items.values().try_for_each(|item| check(element, item, owner, path))
        }
        (Shape::Struct(_), Value::Object(_)) => match forest().structure(shape) {
            Some(structure) => fields(structure, value, path),
            None => Ok(()),
        },
        (shape, value) => wrong(value, shape),
    }
}

/// Numbers are told with their digits only where a number could have fitted.
fn described(value: &Value) -> String {
    match value {
        Value::Number(number) => format!("number {number}"),
        other => kind_of(other).to_owned(),
    }
}

pub(crate) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn go_type(shape: &Shape) -> String {
    match shape {
        Shape::Any | Shape::Inline(_) | Shape::Deduced => "interface {}".to_owned(),
        Shape::Boolean => "bool".to_owned(),
        Shape::Int32 => "int32".to_owned(),
        Shape::Int64 => "int64".to_owned(),
        Shape::Float => "float64".to_owned(),
        Shape::String => "string".to_owned(),
        Shape::Bytes => "[]uint8".to_owned(),
        Shape::Time => "v1.Time".to_owned(),
        Shape::MicroTime => "v1.MicroTime".to_owned(),
        Shape::Quantity => "resource.Quantity".to_owned(),
        Shape::IntOrString => "intstr.IntOrString".to_owned(),
        Shape::List(element) => format!("[]{}", go_type(element)),
        Shape::Map(element) if **element == Shape::Quantity => "v1.ResourceList".to_owned(),
        Shape::Map(element) => format!("map[string]{}", go_type(element)),
        Shape::Struct(_) => match forest().structure(shape) {
            Some(structure) => format!("v1.{}", structure.short_name()),
            None => "struct".to_owned(),
        },
    }
}

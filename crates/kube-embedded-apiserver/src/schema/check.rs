//! Walks an object along its structure: reports unknown fields, prunes, and checks types with the
//! messages of Go's JSON decoder (`encoding/json`, `sigs.k8s.io/json`), which clients show word for
//! word.

use kube_embedded_core::quantity;
use std::fmt::Write;

use base64::Engine;
use serde_json::{Map, Value};

use crate::schema::types::{Field, Shape, Structure, Unset, short_name, type_name};

/// Reports the path of every field that a structure does not have.
pub(crate) fn unknown(
    structure: &Structure,
    value: &Value,
    path: &mut String,
    report: &mut impl FnMut(&str),
) {
    for (name, value) in value.as_object().into_iter().flatten() {
        let before = path.len();
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(name);
        match structure.field(name) {
            Some(field) => unknown_in(&field.shape, value, path, report),
            None => report(path),
        }
        path.truncate(before);
    }
}

/// [`unknown`] for a value of any type.
fn unknown_in(shape: &Shape, value: &Value, path: &mut String, report: &mut impl FnMut(&str)) {
    match (shape, value) {
        (Shape::Struct(_), _) => {
            if let Some(structure) = shape.structure() {
                unknown(structure, value, path, report);
            }
        }
        (Shape::List(element), Value::Array(items)) => {
            for (at, item) in items.iter().enumerate() {
                let before = path.len();
                let _ = write!(path, "[{at}]");
                unknown_in(element, item, path, report);
                path.truncate(before);
            }
        }
        (Shape::Map(element), Value::Object(items)) => {
            for (key, item) in items {
                let before = path.len();
                path.push('.');
                path.push_str(key);
                unknown_in(element, item, path, report);
                path.truncate(before);
            }
        }
        _ => {}
    }
}

/// The fields that pruning removes.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Pruned {
    /// Fields that the structure does not have.
    Unknown,
    /// Known fields that are null, or empty as far as `omitempty` leaves them out.
    Empty,
}

/// Removes fields from an object.
pub(crate) fn prune(structure: &Structure, value: &mut Value, pruned: Pruned) {
    let Some(object) = value.as_object_mut() else { return };
    object.retain(|name, value| {
        let Some(field) = structure.field(name) else { return pruned == Pruned::Empty };
        prune_in(&field.shape, value, pruned);
        if pruned == Pruned::Unknown {
            return true;
        }
        match (&field.shape, value) {
            (_, Value::Null) => field.go.unset == Some(Unset::Null),
            (Shape::List(_), Value::Array(items)) => field.always || !items.is_empty(),
            (Shape::Map(_), Value::Object(entries)) => !entries.is_empty(),
            (_, value) => !(field.go.unset == Some(Unset::Omitted) && is_zero(value)),
        }
    });
}

fn prune_in(shape: &Shape, value: &mut Value, pruned: Pruned) {
    match (shape, value) {
        (Shape::Struct(_), value) => {
            if let Some(structure) = shape.structure() {
                prune(structure, value, pruned);
            }
        }
        (Shape::List(element), Value::Array(items)) => {
            items.iter_mut().for_each(|item| prune_element(element, item, pruned));
        }
        (Shape::Map(element), Value::Object(items)) => {
            items.values_mut().for_each(|item| prune_element(element, item, pruned));
        }
        (Shape::Bytes, value @ Value::Array(_)) if pruned == Pruned::Empty => *value = "".into(),
        (Shape::Quantity, value @ Value::Number(_)) if pruned == Pruned::Empty => {
            *value = quantity::canonical(&value.to_string()).into();
        }
        (Shape::Quantity, Value::String(text)) if pruned == Pruned::Empty => {
            *text = quantity::canonical(text);
        }
        // Go decodes wrapped lines, and encodes one.
        (Shape::Bytes, Value::String(text))
            if pruned == Pruned::Empty && text.contains(LINE_ENDS) =>
        {
            text.retain(|c| !LINE_ENDS.contains(&c));
        }
        _ => {}
    }
}

/// [`prune_in`] for an element of a list or map. A null there becomes the zero value: none of Go's types has pointers in
/// lists and maps.
fn prune_element(shape: &Shape, item: &mut Value, pruned: Pruned) {
    if pruned == Pruned::Empty && item.is_null() {
        *item = match shape {
            Shape::String | Shape::Bytes => "".into(),
            Shape::Boolean => false.into(),
            Shape::Int32 | Shape::Int64 | Shape::Float | Shape::IntOrString => 0.into(),
            Shape::Quantity => "0".into(),
            Shape::Struct(_) => Value::Object(Map::new()),
            _ => Value::Null,
        };
    }
    prune_in(shape, item, pruned);
}

/// Returns true for the zero value of a Go scalar.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// Checks the types of all values, and returns the first error as Go's decoder reports it.
pub(crate) fn types(structure: &Structure, value: &Value) -> Result<(), String> {
    if !value.is_object() && !value.is_null() {
        return Err(format!(
            "json: cannot unmarshal {} into Go value of type {}",
            type_name(value),
            qualified(structure)
        ));
    }
    check_fields(structure, value, &mut Vec::new())
}

fn check_fields<'a>(
    structure: &'a Structure,
    value: &'a Value,
    path: &mut Vec<&'a str>,
) -> Result<(), String> {
    for (name, value) in value.as_object().into_iter().flatten() {
        if let Some(field) = structure.field(name) {
            let depth = path.len();
            path.extend(field.go.embedded);
            path.push(name);
            check(&field.shape, value, &At { owner: structure, field }, path)?;
            path.truncate(depth);
        }
    }
    Ok(())
}

/// Where a value stands: what a message names of it.
struct At<'a> {
    /// The Go struct.
    owner: &'a Structure,
    /// Its field, which the value or a list or map around it is in.
    field: &'a Field,
}

impl At<'_> {
    /// The message for a value of a type that does not fit `go_type`.
    fn mismatch(&self, found: &str, path: &[&str], go_type: &str) -> String {
        let (owner, path) = (self.owner.short_name(), path.join("."));
        format!(
            "json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {go_type}"
        )
    }
}

/// Checks a value. `path` leads to it without list indices, which Go does not report either.
fn check<'a>(
    shape: &'a Shape,
    value: &'a Value,
    at: &At<'a>,
    path: &mut Vec<&'a str>,
) -> Result<(), String> {
    match (shape, value) {
        (_, Value::Null) | (Shape::Any, _) => Ok(()),
        (Shape::Boolean, Value::Bool(_)) | (Shape::Float, Value::Number(_)) => Ok(()),
        (Shape::String, Value::String(_)) => Ok(()),
        (Shape::Int32, Value::Number(_)) if is_int32(value) => Ok(()),
        (Shape::Int64, Value::Number(number)) if number.is_i64() => Ok(()),
        (Shape::Bytes, Value::String(text)) => check_base64(text),
        (Shape::Time, Value::String(text)) => check_time(text, TIME),
        (Shape::MicroTime, Value::String(text)) => check_time(text, MICRO_TIME),
        // Types that decode themselves, from a string or a number.
        (Shape::Time | Shape::MicroTime, _) => Err(at.mismatch(type_name(value), path, "string")),
        (Shape::Quantity, Value::String(text)) => quantity::check(text),
        (Shape::Quantity, Value::Number(number)) => quantity::check(&number.to_string()),
        (Shape::Quantity, _) => Err(quantity::MALFORMED.to_owned()),
        (Shape::IntOrString, Value::String(_)) => Ok(()),
        (Shape::IntOrString, _) if is_int32(value) => Ok(()),
        (Shape::IntOrString, _) => Err(at.mismatch(&with_digits(value), path, "int32")),
        // Go decodes a list of numbers as well. Clients send at most an empty one.
        (Shape::Bytes, Value::Array(items)) if items.is_empty() => Ok(()),
        (Shape::List(element), Value::Array(items)) => {
            items.iter().try_for_each(|item| check(element, item, at, path))
        }
        (Shape::Map(element), Value::Object(items)) => {
            items.values().try_for_each(|item| check(element, item, at, path))
        }
        (Shape::Struct(_), Value::Object(_)) => match shape.structure() {
            Some(structure) => check_fields(structure, value, path),
            None => Ok(()),
        },
        _ => {
            let found = match shape {
                Shape::Int32 | Shape::Int64 => with_digits(value),
                _ => type_name(value).to_owned(),
            };
            Err(at.mismatch(&found, path, &go_type(shape, at.field.go.scalar)))
        }
    }
}

fn is_int32(value: &Value) -> bool {
    value.as_i64().is_some_and(|number| i32::try_from(number).is_ok())
}

/// What base64 may contain anywhere, as in Go.
const LINE_ENDS: [char; 2] = ['\r', '\n'];

pub(super) fn check_base64(text: &str) -> Result<(), String> {
    let digits: Vec<(usize, u8)> =
        text.bytes().enumerate().filter(|(_, byte)| !matches!(byte, b'\r' | b'\n')).collect();
    let bytes: Vec<u8> = digits.iter().map(|(_, byte)| *byte).collect();
    let at = match base64::engine::general_purpose::STANDARD.decode(bytes) {
        Ok(_) => return Ok(()),
        Err(base64::DecodeError::InvalidByte(at, _)) => {
            digits.get(at).map_or(text.len(), |(at, _)| *at)
        }
        Err(_) => text.len(),
    };
    Err(format!("illegal base64 data at input byte {at}"))
}

/// The formats of times, as Go writes them in messages: by a reference time.
pub(super) const TIME: &str = "2006-01-02T15:04:05Z07:00";
pub(super) const MICRO_TIME: &str = "2006-01-02T15:04:05.000000Z07:00";

pub(super) fn check_time(text: &str, layout: &str) -> Result<(), String> {
    if text.parse::<jiff::Timestamp>().is_ok() {
        return Ok(());
    }
    Err(format!("parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\""))
}

/// Go's decoder prints the digits of a number only if the field is a number.
fn with_digits(value: &Value) -> String {
    match value {
        Value::Number(number) => format!("number {number}"),
        other => type_name(other).to_owned(),
    }
}

/// The Go type of a field, as the message prints it. `scalar` is the named type of its scalars.
fn go_type(shape: &Shape, scalar: Option<&str>) -> String {
    match shape {
        Shape::String | Shape::Int32 | Shape::Int64 if scalar.is_some() => {
            scalar.unwrap_or_default().to_owned()
        }
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
        Shape::List(element) => format!("[]{}", go_type(element, scalar)),
        Shape::Map(element) if **element == Shape::Quantity => "v1.ResourceList".to_owned(),
        Shape::Map(element) => format!("map[string]{}", go_type(element, scalar)),
        Shape::Struct(_) => match shape.structure() {
            Some(structure) => qualified(structure),
            None => "struct".to_owned(),
        },
    }
}

/// `v2.MetricSpec` of `io.k8s.api.autoscaling.v2.MetricSpec`.
fn qualified(structure: &Structure) -> String {
    let package = structure.name.rsplit_once('.').map_or("", |(package, _)| package);
    format!("{}.{}", short_name(package), structure.short_name())
}

//! Decoding of protobuf request bodies, which `kubectl create` and Go clients send, into JSON. A table of messages
//! drives it; no kind needs code.

mod table;
mod wire;

use crate::http::status::{ApiError, ApiResult};
use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde_json::{Map, Value};
use table::{Field, Shape, Type};
use wire::{Fields, Malformed, Wire};

/// The media type.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// The first bytes of every body.
const MAGIC: &[u8] = b"k8s\0";
/// The maximum nesting of messages; only schemas are nested arbitrarily.
const DEPTH: usize = 100;

/// Decodes the object of a body, with its kind and version. Unknown fields are skipped.
pub(crate) fn decode(body: &[u8]) -> ApiResult<Value> {
    object(body).map_err(ApiError::bad_request)
}

fn object(body: &[u8]) -> Result<Value, String> {
    let message = body.strip_prefix(MAGIC).ok_or(
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]",
    )?;
    let unknown =
        Unknown::read(message).map_err(|why| format!("unable to decode protobuf: {why}"))?;
    let (version, kind) = (unknown.api_version, unknown.kind);
    let fields = table::of_kind(version, kind).and_then(table::message).ok_or_else(|| {
        format!(
            "this server reads no kind {kind:?} of version {version:?} in protobuf: send it as \
             application/json"
        )
    })?;
    let mut object = Map::new();
    read(fields, unknown.raw, &mut object, 0)
        .map_err(|why| format!("unable to decode {kind} in protobuf: {why}"))?;
    object.insert("apiVersion".into(), version.into());
    object.insert("kind".into(), kind.into());
    Ok(object.into())
}

/// The envelope (`runtime.Unknown`).
#[derive(Default)]
struct Unknown<'a> {
    api_version: &'a str,
    kind: &'a str,
    raw: &'a [u8],
}

impl<'a> Unknown<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut unknown = Self::default();
        let mut fields = Fields::new(bytes);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => {
                    let mut type_meta = Fields::new(bytes_of("typeMeta", value)?);
                    while let Some((number, value)) = type_meta.next()? {
                        match number {
                            1 => unknown.api_version = text_of("apiVersion", value)?,
                            2 => unknown.kind = text_of("kind", value)?,
                            _ => {}
                        }
                    }
                }
                2 => unknown.raw = bytes_of("raw", value)?,
                _ => {}
            }
        }
        Ok(unknown)
    }
}

/// Adds the fields of a message to an object. Unknown fields are skipped: a newer client may send them.
fn read(
    known: &[Field],
    bytes: &[u8],
    object: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), Malformed> {
    let mut fields = Fields::new(bytes);
    while let Some((number, value)) = fields.next()? {
        let Some(field) = known.iter().find(|field| field.number == number) else { continue };
        if depth > DEPTH {
            return Err(Malformed::Depth(field.name));
        }
        match (field.shape, field.of) {
            (_, Type::Message(inlined)) if field.name.is_empty() => {
                read(fields_of(inlined), bytes_of(inlined, value)?, object, depth + 1)?;
            }
            (Shape::List, _) => {
                let list = object.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                let Some(list) = list.as_array_mut() else { continue };
                match (field.of, value) {
                    (Type::Int32 | Type::Int64, Wire::Bytes(bytes)) => {
                        for number in wire::packed(bytes)? {
                            list.push(element(field, Wire::Number(number), depth)?);
                        }
                    }
                    _ => list.push(element(field, value, depth)?),
                }
            }
            (Shape::Map, _) => {
                let (key, value) = entry(field, bytes_of(field.name, value)?, depth)?;
                let map = object.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                if let Some(map) = map.as_object_mut() {
                    map.insert(key, value);
                }
            }
            // A message that is sent in parts is merged.
            (_, Type::Message(of)) => {
                let inner = object.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                if let Some(inner) = inner.as_object_mut() {
                    read(fields_of(of), bytes_of(field.name, value)?, inner, depth + 1)?;
                }
            }
            (shape, _) => {
                let value = element(field, value, depth)?;
                if value.is_null() || shape == Shape::Plain && is_zero(field.of, &value) {
                    object.remove(field.name);
                } else {
                    object.insert(field.name.into(), value);
                }
            }
        }
    }
    Ok(())
}

/// Decodes one value of a field, a list or a map.
fn element(field: &Field, value: Wire<'_>, depth: usize) -> Result<Value, Malformed> {
    let name = field.name;
    Ok(match field.of {
        Type::String => text_of(name, value)?.into(),
        Type::Bytes => BASE64_STANDARD.encode(bytes_of(name, value)?).into(),
        Type::Bool => (number_of(name, value)? != 0).into(),
        Type::Int32 => int32(number_of(name, value)?).into(),
        Type::Int64 => number_of(name, value)?.cast_signed().into(),
        Type::Time => time(name, bytes_of(name, value)?, "%Y-%m-%dT%H:%M:%SZ")?,
        Type::MicroTime => time(name, bytes_of(name, value)?, "%Y-%m-%dT%H:%M:%S.%6fZ")?,
        Type::Quantity => quantity(name, bytes_of(name, value)?)?,
        Type::IntOrString => int_or_string(name, bytes_of(name, value)?)?,
        Type::Json => json(name, bytes_of(name, value)?)?,
        Type::Message(of) => {
            let mut object = Map::new();
            read(fields_of(of), bytes_of(name, value)?, &mut object, depth + 1)?;
            object.into()
        }
        Type::Either(of) => {
            let mut object = Map::new();
            read(fields_of(of), bytes_of(name, value)?, &mut object, depth + 1)?;
            let mut part = |name| object.remove(name);
            part("schema")
                .or_else(|| part("list"))
                .or_else(|| part("allows"))
                .unwrap_or(false.into())
        }
        Type::Float => match value {
            // Go writes whole numbers without a fraction.
            #[allow(clippy::cast_possible_truncation, reason = "it is a small whole number")]
            Wire::Double(number) if number.fract() == 0.0 && number.abs() < 1e15 => {
                (number as i64).into()
            }
            Wire::Double(number) => number.into(),
            _ => return Err(Malformed::Form(name)),
        },
    })
}

/// Decodes an entry of a map; a missing key or value is zero.
fn entry(field: &Field, bytes: &[u8], depth: usize) -> Result<(String, Value), Malformed> {
    let (mut key, mut value) = ("", element(field, Wire::Bytes(&[]), depth)?);
    let mut fields = Fields::new(bytes);
    while let Some((number, part)) = fields.next()? {
        match number {
            1 => key = text_of(field.name, part)?,
            2 => value = element(field, part, depth)?,
            _ => {}
        }
    }
    Ok((key.to_owned(), value))
}

fn time(name: &'static str, bytes: &[u8], format: &str) -> Result<Value, Malformed> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanoseconds) = (0, 0);
    let mut fields = Fields::new(bytes);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => seconds = number_of(name, value)?.cast_signed(),
            2 => nanoseconds = int32(number_of(name, value)?),
            _ => {}
        }
    }
    let at = Timestamp::new(seconds, nanoseconds).map_err(|_| Malformed::Time(name))?;
    Ok(at.strftime(format).to_string().into())
}

fn quantity(name: &'static str, bytes: &[u8]) -> Result<Value, Malformed> {
    let mut text = "0";
    let mut fields = Fields::new(bytes);
    while let Some((number, value)) = fields.next()? {
        if number == 1 {
            text = text_of(name, value)?;
        }
    }
    Ok(text.into())
}

fn int_or_string(name: &'static str, bytes: &[u8]) -> Result<Value, Malformed> {
    let (mut is_text, mut number, mut text) = (false, 0, "");
    let mut fields = Fields::new(bytes);
    while let Some((at, value)) = fields.next()? {
        match at {
            1 => is_text = number_of(name, value)? != 0,
            2 => number = int32(number_of(name, value)?),
            3 => text = text_of(name, value)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

fn json(name: &'static str, bytes: &[u8]) -> Result<Value, Malformed> {
    let mut raw: &[u8] = b"null";
    let mut fields = Fields::new(bytes);
    while let Some((number, value)) = fields.next()? {
        if number == 1 {
            raw = bytes_of(name, value)?;
        }
    }
    serde_json::from_slice(raw).map_err(|error| Malformed::Json(name, error.to_string()))
}

/// Returns true if Go omits the value in JSON, which it does for scalars only.
fn is_zero(of: Type, value: &Value) -> bool {
    match of {
        Type::String | Type::Bytes => value == "",
        Type::Bool => value == false,
        Type::Int32 | Type::Int64 => value == 0,
        Type::Float => *value == 0.0,
        _ => false,
    }
}

/// Decodes a signed number; negative ones are sent with 64 bits.
#[allow(clippy::cast_possible_truncation, reason = "the lower half is the number")]
fn int32(number: u64) -> i32 {
    number as u32 as i32
}

fn fields_of(message: &str) -> &'static [Field] {
    table::message(message).unwrap_or_default()
}

fn number_of(name: &'static str, value: Wire<'_>) -> Result<u64, Malformed> {
    match value {
        Wire::Number(number) => Ok(number),
        _ => Err(Malformed::Form(name)),
    }
}

fn bytes_of<'a>(name: &'static str, value: Wire<'a>) -> Result<&'a [u8], Malformed> {
    match value {
        Wire::Bytes(bytes) => Ok(bytes),
        _ => Err(Malformed::Form(name)),
    }
}

fn text_of<'a>(name: &'static str, value: Wire<'a>) -> Result<&'a str, Malformed> {
    std::str::from_utf8(bytes_of(name, value)?).map_err(|_| Malformed::Utf8(name))
}

#[cfg(test)]
mod tests;

//! Validation of objects by a structural schema, with the messages of Kubernetes' validator
//! (`k8s.io/kube-openapi/pkg/validation`) and of list types (`pkg/apiserver/schema/listtype`).

use crate::{
    schema::{
        structural::schema::{ListType, Schema},
        types::type_name,
    },
    validation::field_error::FieldError,
};
use base64::Engine;
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

/// Returns the errors of a value. Parts that are unchanged since `old` are not validated again,
/// because the schema may have become stricter since they were stored ("validation ratcheting").
pub(crate) fn validate(schema: &Schema, value: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut validator = Validator::default();
    validator.value(schema, value, old, &mut String::new());
    validator.errors.extend(duplicates(schema, value, old));
    validator.errors
}

/// [`validate`] for a write of the status: of the object's other values, only the keys of lists count, and messages name
/// values from the status on.
pub(crate) fn validate_status(
    schema: &Schema,
    object: &Value,
    old: Option<&Value>,
) -> Vec<FieldError> {
    const STATUS: &str = "status";
    let mut validator = Validator::default();
    if let (Some(schema), Some(status)) = (schema.properties.get(STATUS), object.get(STATUS)) {
        let old = old.and_then(|old| old.get(STATUS));
        validator.value(schema, status, old, &mut String::new());
    }
    for error in &mut validator.errors {
        error.field = match &*error.field {
            "" | "<nil>" => STATUS.to_owned(),
            field => format!("{STATUS}.{field}"),
        };
    }
    validator.errors.extend(duplicates(schema, object, old));
    validator.errors
}

/// Returns the errors of lists with duplicates.
fn duplicates(schema: &Schema, value: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut duplicates = Validator::default();
    duplicates.lists(schema, value, &mut String::new());
    if let Some(old) = old.filter(|_| !duplicates.errors.is_empty()) {
        // An object that had duplicates before may keep them.
        let mut before = Validator::default();
        before.lists(schema, old, &mut String::new());
        if !before.errors.is_empty() {
            duplicates.errors.clear();
        }
    }
    duplicates.errors
}

/// Collects the errors of one object.
#[derive(Default)]
struct Validator {
    errors: Vec<FieldError>,
    /// How many values were validated, by which go-openapi finds the alternative that is closest to
    /// what was meant.
    visited: usize,
}

impl Validator {
    fn push(&mut self, reason: &'static str, path: &str, message: String) {
        let field = if path.is_empty() { "<nil>" } else { path.trim_start_matches('.') };
        self.errors.push(FieldError { reason, field: field.to_owned(), message });
    }

    /// Adds an error of a value, worded as go-openapi does.
    fn invalid(&mut self, path: &str, value: &Value, detail: &str) {
        let shown = shown_path(path);
        let message = format!("Invalid value: {value}: {shown} in body {detail}");
        self.push("FieldValueInvalid", path, message);
    }

    fn wrong_type(&mut self, path: &str, expected: &str, found: &str, shown: &str) {
        let message = format!(
            "Invalid value: {found:?}: {} in body must be of type {expected}: {shown:?}",
            shown_path(path)
        );
        self.push("FieldValueTypeInvalid", path, message);
    }

    /// Validates a value and those below it.
    fn value(&mut self, schema: &Schema, value: &Value, old: Option<&Value>, path: &mut String) {
        if old == Some(value) {
            return;
        }
        self.visited += 1;
        self.type_of(schema, value, path);
        if value.is_null() {
            self.allowed(schema, value, path);
            return;
        }
        self.alternatives(schema, value, path);
        match value {
            Value::String(text) => self.string(schema, value, text, path),
            Value::Number(number) => {
                if let Some(number) = number.as_f64() {
                    self.number(schema, value, number, path);
                }
            }
            Value::Array(items) => self.items(schema, items, old, path),
            _ => {}
        }
        self.allowed(schema, value, path);
        if let Value::Object(fields) = value {
            self.fields(schema, fields, old, path);
        }
    }

    /// Validates the fields of an object, their number, and that required ones exist.
    fn fields(
        &mut self,
        schema: &Schema,
        fields: &Map<String, Value>,
        old: Option<&Value>,
        path: &mut String,
    ) {
        let count = fields.len() as u64;
        if let Some(min) = schema.properties_count.min.filter(|min| count < *min) {
            let detail = format!("should have at least {min} properties");
            self.invalid(path, &count.into(), &detail);
        }
        if let Some(max) = schema.properties_count.max.filter(|max| count > *max) {
            self.too_many(path, count, max);
        }
        let before = path.len();
        for (name, value) in fields {
            let Some(schema) = schema.field(name) else { continue };
            path.push('.');
            path.push_str(name);
            self.value(schema, value, old.and_then(|old| old.get(name)), path);
            path.truncate(before);
        }
        for name in schema.required.iter().filter(|name| !fields.contains_key(*name)) {
            let path = format!("{path}.{name}");
            self.push("FieldValueRequired", &path, "Required value".to_owned());
        }
    }

    /// Validates the type of a value. An integer also fits `number`.
    fn type_of(&mut self, schema: &Schema, value: &Value, path: &str) {
        let expected =
            if schema.int_or_string { "integer,string" } else { schema.type_name.as_str() };
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if is_integer(number) => "integer",
            other => type_name(other),
        };
        let fits = match expected {
            "" => true,
            _ if value.is_null() => schema.nullable,
            "number" => value.is_number(),
            "integer,string" => matches!(found, "integer" | "string"),
            expected => expected == found,
        };
        if !fits {
            self.wrong_type(path, expected, found, found);
        }
    }

    /// Validates `allOf`, `anyOf`, `oneOf` and `not`.
    fn alternatives(&mut self, schema: &Schema, value: &Value, path: &str) {
        let errors_of = |schema: &Schema| {
            let mut other = Self::default();
            other.value(schema, value, None, &mut path.to_owned());
            other
        };
        let (any, one) = (&schema.any_of, &schema.one_of);
        let quoted = format!("{:?}", shown_path(path));
        let mut failed = Vec::new();
        // Each is validated once: nested alternatives would otherwise take exponential time.
        let any: Vec<_> = any.iter().map(errors_of).collect();
        self.visited += any.iter().map(|one| one.visited).sum::<usize>();
        if !any.is_empty() && !any.iter().any(|one| one.errors.is_empty()) {
            failed.push(format!("{quoted} must validate at least one schema (anyOf)"));
            self.errors.extend(closest(any));
        }
        let one: Vec<_> = one.iter().map(errors_of).collect();
        self.visited += one.iter().map(|one| one.visited).sum::<usize>();
        if !one.is_empty() {
            let fit = one.iter().filter(|one| one.errors.is_empty()).count();
            if fit != 1 {
                let found = match fit {
                    0 => "Found none valid".to_owned(),
                    _ => format!("Found {fit} valid alternatives"),
                };
                let what = "must validate one and only one schema (oneOf)";
                failed.push(format!("{quoted} {what}. {found}"));
                if fit == 0 {
                    self.errors.extend(closest(one));
                }
            }
        }
        if !schema.all_of.is_empty() {
            let wrong: Vec<_> =
                schema.all_of.iter().flat_map(|one| errors_of(one).errors).collect();
            if !wrong.is_empty() {
                failed.push(format!("{quoted} must validate all the schemas (allOf)"));
                self.errors.extend(wrong);
            }
        }
        if schema.not.as_ref().is_some_and(|not| errors_of(not).errors.is_empty()) {
            failed.push(format!("{quoted} must not validate the schema (not)"));
        }
        for detail in failed {
            // Kubernetes' validator reports these without a field.
            self.errors.push(FieldError {
                reason: "FieldValueInvalid",
                field: "<nil>".to_owned(),
                message: format!("Invalid value: \"\": {detail}"),
            });
        }
    }

    /// Validates length, pattern and format. Lengths count characters, though the message says
    /// bytes.
    fn string(&mut self, schema: &Schema, value: &Value, text: &str, path: &str) {
        let length = text.chars().count() as u64;
        if let Some(max) = schema.length.max.filter(|max| length > *max) {
            let message = format!("Too long: may not be more than {max} bytes");
            self.push("FieldValueTooLong", path, message);
        }
        if let Some(min) = schema.length.min.filter(|min| length < *min) {
            self.invalid(path, value, &format!("should be at least {min} chars long"));
        }
        if let Some(pattern) = schema.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
            self.invalid(path, value, &format!("should match '{pattern}'"));
        }
        if !schema.format.is_empty() && !has_format(&schema.format, text) {
            self.wrong_type(path, &schema.format, text, text);
        }
    }

    fn number(&mut self, schema: &Schema, value: &Value, number: f64, path: &str) {
        if let Some(factor) = schema.multiple_of
            && (number / factor).fract() != 0.0
        {
            self.invalid(path, value, &format!("should be a multiple of {factor}"));
        }
        match schema.maximum {
            Some((max, true)) if number >= max => {
                self.invalid(path, value, &format!("should be less than {max}"));
            }
            Some((max, false)) if number > max => {
                self.invalid(path, value, &format!("should be less than or equal to {max}"));
            }
            _ => {}
        }
        match schema.minimum {
            Some((min, true)) if number <= min => {
                self.invalid(path, value, &format!("should be greater than {min}"));
            }
            Some((min, false)) if number < min => {
                self.invalid(path, value, &format!("should be greater than or equal to {min}"));
            }
            _ => {}
        }
    }

    /// Validates the elements of a list, and their number.
    fn items<'a>(
        &mut self,
        schema: &Schema,
        items: &'a [Value],
        old: Option<&'a Value>,
        path: &mut String,
    ) {
        let before = path.len();
        let olds = old.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        if let Some(items_schema) = &schema.items {
            // Only elements with keys can be matched with their old state.
            let keys = match &schema.list {
                ListType::Map(keys) => keys.as_slice(),
                _ => &[],
            };
            let id = |item: &'a Value| -> Vec<_> { keys.iter().map(|key| item.get(key)).collect() };
            let mut by_id = HashMap::new();
            for old in olds.iter().filter(|_| !keys.is_empty()) {
                by_id.entry(id(old)).or_insert(old);
            }
            for (at, item) in items.iter().enumerate() {
                let old = by_id.get(&id(item)).copied();
                path.push_str(&format!("[{at}]"));
                self.value(items_schema, item, old, path);
                path.truncate(before);
            }
        }
        let count = items.len() as u64;
        if let Some(max) = schema.items_count.max.filter(|max| count > *max) {
            self.too_many(path, count, max);
        }
        if let Some(min) = schema.items_count.min.filter(|min| count < *min) {
            let detail = format!("should have at least {min} items");
            self.invalid(path, &count.into(), &detail);
        }
    }

    fn too_many(&mut self, path: &str, count: u64, max: u64) {
        let message = format!("Too many: {count}: must have at most {max} items");
        self.push("FieldValueTooMany", path, message);
    }

    /// Validates `enum`.
    fn allowed(&mut self, schema: &Schema, value: &Value, path: &str) {
        if schema.allowed.is_empty() || schema.allowed.contains(value) {
            return;
        }
        if value.is_null() && schema.nullable {
            return;
        }
        let supported: Vec<String> = schema
            .allowed
            .iter()
            .map(|value| match value {
                Value::String(text) => format!("{text:?}"),
                other => format!("\"{other}\""),
            })
            .collect();
        let message =
            format!("Unsupported value: {value}: supported values: {}", supported.join(", "));
        self.push("FieldValueNotSupported", path, message);
    }

    /// Validates that the elements of sets and of lists with keys are distinct.
    fn lists(&mut self, schema: &Schema, value: &Value, path: &mut String) {
        let before = path.len();
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let Some(schema) = schema.field(name) else { continue };
                    path.push('.');
                    path.push_str(name);
                    self.lists(schema, value, path);
                    path.truncate(before);
                }
            }
            Value::Array(items) => {
                let mut seen = HashSet::new();
                for (at, item) in items.iter().enumerate() {
                    let id = match &schema.list {
                        ListType::Atomic => None,
                        ListType::Set => Some(item.clone()),
                        ListType::Map(keys) => {
                            Some(keys.iter().map(|key| (key.clone(), item[key].clone())).collect())
                        }
                    };
                    path.push_str(&format!("[{at}]"));
                    match id {
                        Some(id) if seen.contains(&id) => {
                            let message = format!("Duplicate value: {id}");
                            self.push("FieldValueDuplicate", path, message);
                        }
                        Some(id) => {
                            seen.insert(id);
                        }
                        None => {}
                    }
                    if let Some(items_schema) = &schema.items {
                        self.lists(items_schema, item, path);
                    }
                    path.truncate(before);
                }
            }
            _ => {}
        }
    }
}

/// The errors of the alternative in which most was validated, the first of several.
fn closest(alternatives: Vec<Validator>) -> Vec<FieldError> {
    let closest = alternatives.into_iter().rev().max_by_key(|one| one.visited);
    closest.map(|one| one.errors).unwrap_or_default()
}

fn shown_path(path: &str) -> &str {
    path.trim_start_matches('.')
}

/// JSON Schema counts `1.0` as an integer.
fn is_integer(number: &serde_json::Number) -> bool {
    number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|n| n.fract() == 0.0)
}

/// Returns true if a text has a format. Unknown formats restrict nothing, as in Kubernetes.
fn has_format(format: &str, text: &str) -> bool {
    match format {
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "byte" => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        "uuid" => {
            let hex = text.replace('-', "");
            hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit())
        }
        "email" => text.split_once('@').is_some_and(|(a, b)| !a.is_empty() && !b.is_empty()),
        "uri" => text.parse::<http::Uri>().is_ok_and(|uri| uri.scheme().is_some()),
        "cidr" => text.split_once('/').is_some_and(|(address, bits)| {
            address.parse::<std::net::IpAddr>().is_ok_and(|address| {
                let max = if address.is_ipv4() { 32 } else { 128 };
                bits.parse::<u8>().is_ok_and(|bits| bits <= max)
            })
        }),
        _ => true,
    }
}

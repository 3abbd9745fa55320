//! Accessors and setters of JSON fields.

use serde_json::{Map, Value};

/// Returns the value at a path of field names; `Null` if there is none.
pub(crate) fn at<'a>(value: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().fold(value, |value, name| &value[*name])
}

/// Returns the text at a path; empty if there is none.
pub(crate) fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    at(value, path).as_str().unwrap_or_default()
}

/// Returns the elements of the list at a path.
pub(crate) fn list<'a>(value: &'a Value, path: &[&str]) -> &'a [Value] {
    at(value, path).as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Returns the object in a field, created if missing; `None` if the field is something else.
pub(crate) fn object<'a>(value: &'a mut Value, field: &str) -> Option<&'a mut Value> {
    let entry = value.as_object_mut()?.entry(field).or_insert_with(|| Value::Object(Map::new()));
    if entry.is_null() {
        *entry = Value::Object(Map::new());
    }
    entry.is_object().then_some(entry)
}

/// Returns the object in a field, if there is one.
pub(crate) fn existing<'a>(value: &'a mut Value, field: &str) -> Option<&'a mut Value> {
    value.get_mut(field).filter(|value| value.is_object())
}

/// Returns the elements of the list in a field.
pub(crate) fn each<'a>(
    value: &'a mut Value,
    field: &str,
) -> impl Iterator<Item = &'a mut Value> + use<'a> {
    value.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Sets a field that is missing or null.
pub(crate) fn default(value: &mut Value, field: &str, to: impl Into<Value>) {
    if let Some(object) = value.as_object_mut() {
        let entry = object.entry(field).or_insert(Value::Null);
        if entry.is_null() {
            *entry = to.into();
        }
    }
}

/// Sets a field that is missing or zero, because its Go type is no pointer.
pub(crate) fn default_empty(value: &mut Value, field: &str, to: impl Into<Value>) {
    let empty = match &value[field] {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_i64() == Some(0),
        _ => false,
    };
    if let (true, Some(object)) = (empty, value.as_object_mut()) {
        object.insert(field.to_owned(), to.into());
    }
}

/// Removes a field.
pub(crate) fn remove(value: &mut Value, field: &str) -> Option<Value> {
    value.as_object_mut()?.remove(field)
}

/// Returns the value at a path of names.
pub(crate) fn find_path<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, step| value.get(step))
}

/// Copies a field from another object, or removes it if that one has none.
pub(crate) fn copy_field(into: &mut Value, from: &Value, field: &str) {
    let Some(fields) = into.as_object_mut() else { return };
    match from.get(field) {
        Some(value) => {
            fields.insert(field.into(), value.clone());
        }
        None => {
            fields.remove(field);
        }
    }
}

/// Returns the texts of a list.
pub(crate) fn strings(list: &Value) -> Vec<String> {
    let texts = list.as_array().into_iter().flatten().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

//! `metadata`: what the server sets, what a client may not change, and what must agree.

use crate::{
    fields::copy_field,
    http::{
        output,
        path::Target,
        status::{ApiError, ApiResult},
    },
    resources::resource_type::ResourceType,
};
use serde_json::{Map, Value, json};

/// Letters of generated names: no vowels, so no words.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A random UUID of version 4.
pub(crate) fn uid() -> String {
    let bits =
        (rand::random::<u128>() & !(0xf000 << 64 | 0xc000 << 48)) | 0x4000 << 64 | 0x8000 << 48;
    let hex = format!("{bits:032x}");
    let part = |from, to| hex.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

/// The object must have metadata, and its namespace be that of the path.
pub(crate) fn adopt_namespace(target: &Target, object: &mut Value) -> ApiResult<()> {
    let Some(fields) = object.as_object_mut() else {
        return Err(ApiError::bad_request("the body of the request is not an object"));
    };
    let metadata = fields.entry("metadata").or_insert_with(|| json!({}));
    if metadata.is_null() {
        *metadata = json!({});
    }
    let Some(metadata) = metadata.as_object_mut() else {
        return Err(ApiError::bad_request("metadata is not an object"));
    };
    let given = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default();
    if !target.resource.namespaced {
        if !given.is_empty() {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the \
                 request",
            ));
        }
        metadata.remove("namespace");
        return Ok(());
    }
    if given.is_empty() {
        metadata.insert("namespace".into(), target.namespace.clone().into());
    } else if given != target.namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// What the server says of a new object.
pub(crate) fn fill_system_fields(resource: &ResourceType, object: &mut Value) {
    let Some(metadata) = object["metadata"].as_object_mut() else { return };
    for field in [
        "resourceVersion",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
    ] {
        metadata.remove(field);
    }
    metadata.insert("uid".into(), uid().into());
    metadata.insert("creationTimestamp".into(), output::now().into());
    if resource.generation {
        metadata.insert("generation".into(), 1.into());
    }
}

/// What the name shall start with, if the server is to find one.
pub(crate) fn generates_name(object: &Value) -> Option<String> {
    let metadata = &object["metadata"];
    let named = metadata["name"].as_str().is_some_and(|name| !name.is_empty());
    let base = metadata["generateName"].as_str().filter(|base| !base.is_empty())?;
    (!named).then(|| base.to_owned())
}

/// A name of at most 63 bytes.
pub(crate) fn generate_name(base: &str) -> String {
    let mut name: String = base.chars().take(58).collect();
    for _ in 0..5 {
        let letter = LETTERS.get(rand::random_range(0..LETTERS.len())).copied();
        name.push(letter.map_or('x', char::from));
    }
    name
}

/// Whether the object that a client sends is the one that is there, in the version it knows.
pub(crate) fn check_identity(
    resource: &ResourceType,
    name: &str,
    new: &Value,
    old: &Value,
) -> ApiResult<()> {
    let (new, old) = (&new["metadata"], &old["metadata"]);
    let given = |field: &str| new[field].as_str().filter(|text| !text.is_empty());
    if let Some(given) = given("uid")
        && old["uid"] != given
    {
        let there = old["uid"].as_str().unwrap_or_default();
        return Err(ApiError::conflict_uid(resource, name, given, there));
    }
    if let Some(version) = given("resourceVersion")
        && old["resourceVersion"] != version
    {
        if version.parse::<u64>().is_err() {
            return Err(ApiError::bad_update_version(resource, name, version));
        }
        return Err(ApiError::conflict(resource, name));
    }
    Ok(())
}

/// Takes over from the old object what clients do not write.
pub(crate) fn preserve_system_fields(new: &mut Value, old: &Value) {
    if !new["metadata"].is_object() {
        new["metadata"] = Value::Object(Map::new());
    }
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "selfLink",
    ] {
        copy_field(&mut new["metadata"], &old["metadata"], field);
    }
    // An update that says nothing about managed fields keeps them.
    if new["metadata"].get("managedFields").is_none() {
        copy_field(&mut new["metadata"], &old["metadata"], "managedFields");
    }
}

/// A change of anything but metadata and status is a new generation.
pub(crate) fn bump_generation(resource: &ResourceType, new: &mut Value, old: &Value) {
    if !resource.generation {
        return;
    }
    let differs = |a: &Value, b: &Value| {
        a.as_object().into_iter().flatten().any(|(field, value)| {
            let counts = match &**field {
                "metadata" | "kind" | "apiVersion" => false,
                // Of a custom resource without a status apart, it is a field like any other.
                "status" => resource.crd.is_some() && !resource.subresources.contains(&"status"),
                _ => true,
            };
            counts && b.get(field) != Some(value)
        })
    };
    if differs(new, old) || differs(old, new) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        new["metadata"]["generation"] = generation.into();
    }
}

/// The begin of a deletion is a new generation, too.
pub(crate) fn count_deletion(resource: &ResourceType, new: &mut Value, old: &Value) {
    let began = old["metadata"].get("deletionTimestamp").is_none();
    if resource.generation && began {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        new["metadata"]["generation"] = generation.into();
    }
}

/// Whether an update changes nothing: nothing but the times of managed fields.
pub(crate) fn is_noop(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return new == old };
    new.len() == old.len()
        && new.iter().all(|(field, value)| match (&**field, old.get(field)) {
            (_, None) => false,
            ("metadata", Some(before)) => same_metadata(value, before),
            (_, Some(before)) => value == before,
        })
}

fn same_metadata(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return new == old };
    new.len() == old.len()
        && new.iter().all(|(field, value)| match (&**field, old.get(field)) {
            (_, None) => false,
            ("managedFields", Some(before)) => {
                without_timestamps(value) == without_timestamps(before)
            }
            (_, Some(before)) => value == before,
        })
}

fn without_timestamps(managed: &Value) -> Vec<Value> {
    let entries = managed.as_array().into_iter().flatten().cloned();
    entries
        .map(|mut entry| {
            if let Some(fields) = entry.as_object_mut() {
                fields.remove("time");
            }
            entry
        })
        .collect()
}

/// Whether an object that is being deleted has nothing left to wait for.
pub(crate) fn is_finished(resource: &ResourceType, object: &Value) -> bool {
    let metadata = &object["metadata"];
    let none = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
    metadata.get("deletionTimestamp").is_some_and(|at| !at.is_null())
        && metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
        && none(&metadata["finalizers"])
        && (resource.kind != "Namespace" || none(&object["spec"]["finalizers"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_are_version_4() {
        let uid = uid();
        let parts: Vec<_> = uid.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12], "{uid}");
        assert_eq!(uid.as_bytes()[14], b'4', "{uid}");
        assert!(b"89ab".contains(&uid.as_bytes()[19]), "{uid}");
    }

    #[test]
    fn only_times_of_managed_fields_do_not_count() {
        let object = |time: &str, value: i64| {
            json!({
                "metadata": { "name": "a", "managedFields": [{ "manager": "m", "time": time }] },
                "data": value,
            })
        };
        assert!(is_noop(&object("1", 1), &object("2", 1)));
        assert!(!is_noop(&object("1", 1), &object("1", 2)));
        assert!(!is_noop(&json!({ "metadata": {} }), &json!({ "metadata": { "labels": {} } })));
    }
}

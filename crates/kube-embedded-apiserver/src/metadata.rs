//! `metadata` of a write: system fields, identity, generation and deletion marks (kube-apiserver's
//! `registry/rest/{meta,update,delete}.go`).

use crate::{
    fields::{copy_field, text},
    generate,
    http::{
        path::Target,
        status::{ApiError, ApiResult},
    },
    resources::resource_type::ResourceType,
    timestamps,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

/// Ensures that the object has metadata, and sets its namespace to that of the path.
///
/// # Errors
/// If the object names another namespace.
pub(crate) fn set_namespace(target: &Target, object: &mut Value) -> ApiResult<()> {
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

/// Sets the fields of a new object that the server owns.
pub(crate) fn fill_system_fields(resource: &ResourceType, object: &mut Value) {
    let Some(metadata) = object["metadata"].as_object_mut() else { return };
    for field in ["resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"]
    {
        metadata.remove(field);
    }
    metadata.insert("uid".into(), generate::uid().into());
    metadata.insert("creationTimestamp".into(), timestamps::now().into());
    if resource.generation {
        metadata.insert("generation".into(), 1.into());
    }
}

/// Returns the prefix of the name that the server is to generate, if any.
pub(crate) fn generated_name_prefix(object: &Value) -> Option<String> {
    let metadata = &object["metadata"];
    let named = metadata["name"].as_str().is_some_and(|name| !name.is_empty());
    let base = metadata["generateName"].as_str().filter(|base| !base.is_empty())?;
    (!named).then(|| base.to_owned())
}

/// Checks that the client means the stored object.
pub(crate) fn check_uid(
    resource: &ResourceType,
    name: &str,
    new: &Value,
    old: &Value,
) -> ApiResult<()> {
    let given = text(new, &["metadata", "uid"]);
    let there = text(old, &["metadata", "uid"]);
    if given.is_empty() || given == there {
        return Ok(());
    }
    Err(ApiError::conflict_uid(resource, name, given, there))
}

/// Checks that the client means the version of the stored object. Without one, or with `0`, it means any.
pub(crate) fn check_version(
    resource: &ResourceType,
    name: &str,
    new: &Value,
    old: &Value,
) -> ApiResult<()> {
    let given = text(new, &["metadata", "resourceVersion"]);
    if given.is_empty() {
        return Ok(());
    }
    match given.parse::<u64>() {
        Ok(0) => Ok(()),
        Ok(_) if old["metadata"]["resourceVersion"] == given => Ok(()),
        Ok(_) => Err(ApiError::conflict(resource, name)),
        Err(_) => {
            Err(ApiError::unknown(format!("strconv.ParseUint: parsing {given:?}: invalid syntax")))
        }
    }
}

/// Copies from the old object what clients do not write.
pub(crate) fn preserve_system_fields(new: &mut Value, old: &Value) {
    if !new["metadata"].is_object() {
        new["metadata"] = Value::Object(Map::new());
    }
    for field in ["name", "namespace", "resourceVersion", "creationTimestamp", "generation"] {
        copy_field(&mut new["metadata"], &old["metadata"], field);
    }
    // Validation reports another value of these.
    for field in ["uid", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if new["metadata"].get(field).is_none_or(|value| value.is_null() || value == "") {
            copy_field(&mut new["metadata"], &old["metadata"], field);
        }
    }
    // No update removes or moves a deadline.
    if old["metadata"].get("deletionTimestamp").is_some() {
        copy_field(&mut new["metadata"], &old["metadata"], "deletionTimestamp");
    }
    // Clients that do not know managed fields do not remove them.
    if new["metadata"].get("managedFields").is_none() {
        copy_field(&mut new["metadata"], &old["metadata"], "managedFields");
    }
}

/// Increments the generation if anything but metadata and status changes.
pub(crate) fn bump_generation(resource: &ResourceType, new: &mut Value, old: &Value) {
    if !resource.generation {
        return;
    }
    let differs = |a: &Value, b: &Value| {
        a.as_object().into_iter().flatten().any(|(field, value)| {
            let counts = match &**field {
                "metadata" | "kind" | "apiVersion" => false,
                // Without the subresource, the status of a custom resource is a field like any other.
                "status" => resource.is_unstructured() && !resource.separates_status(),
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

/// Increments the generation when a deletion begins.
pub(crate) fn bump_generation_for_deletion(resource: &ResourceType, new: &mut Value, old: &Value) {
    let begins = old["metadata"].get("deletionTimestamp").is_none();
    if resource.generation && begins {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        new["metadata"]["generation"] = generation.into();
    }
}

/// Returns true if an update changes nothing but the times of managed fields.
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
            ("managedFields", Some(before)) => same_managers(value, before),
            (_, Some(before)) => value == before,
        })
}

fn same_managers(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_array(), old.as_array()) else { return new == old };
    let all = |entry: &Value, other: &Value| {
        let fields = entry.as_object().into_iter().flatten().filter(|(field, _)| *field != "time");
        fields.into_iter().all(|(field, value)| other.get(field) == Some(value))
    };
    new.len() == old.len() && new.iter().zip(old).all(|(a, b)| all(a, b) && all(b, a))
}

/// Returns true if an object is being deleted and nothing holds it back any more.
pub(crate) fn is_finished(resource: &ResourceType, object: &Value) -> bool {
    let metadata = &object["metadata"];
    let none = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
    metadata.get("deletionTimestamp").is_some_and(|at| !at.is_null())
        && metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
        && none(&metadata["finalizers"])
        && !(resource.deletion.is_held)(object)
}

/// Marks an object as being deleted, with a grace period in seconds. An object that is being deleted already may
/// only get an earlier deadline.
pub(crate) fn set_deletion_deadline(object: &mut Value, grace: i64) {
    let metadata = &object["metadata"];
    let is_marked = metadata.get("deletionTimestamp").is_some_and(|at| !at.is_null());
    let before = metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    if !is_marked || grace < before {
        let at = Timestamp::now() + SignedDuration::from_secs(grace.clamp(0, 1 << 31));
        object["metadata"]["deletionTimestamp"] = timestamps::format(at).into();
        object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
    }
}

/// Marks an object as being deleted, without a grace period.
pub(crate) fn mark_deleted(object: &mut Value) {
    if object["metadata"].get("deletionTimestamp").is_none() {
        object["metadata"]["deletionTimestamp"] = timestamps::now().into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn update_of_managed_field_times_is_noop() {
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

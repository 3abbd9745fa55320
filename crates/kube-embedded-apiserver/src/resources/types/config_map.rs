//! `configmaps`.

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::Value;

use crate::{
    resources::{
        resource_type::ResourceType,
        table_columns::{AGE, column},
    },
    validation::{
        field_error::{FieldError, IMMUTABLE, forbidden, invalid},
        names::dns_subdomain,
        object_meta::metadata,
    },
};

pub(crate) const RESOURCE: ResourceType = ResourceType {
    short_names: &["cm"],
    validate,
    columns: &[
        column("Data", "Data contains the configuration data.", |map, _| {
            keys(map, &["data", "binaryData"]).into()
        }),
        AGE,
    ],
    ..ResourceType::of::<ConfigMap>("configmap", "io.k8s.api.core.v1.ConfigMap")
};

/// How many keys some maps have together.
pub(crate) fn keys(object: &Value, fields: &[&str]) -> usize {
    fields.iter().filter_map(|field| object[*field].as_object()).map(serde_json::Map::len).sum()
}

/// Errors of the keys in a map of files.
pub(crate) fn file_names(object: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for key in object[field].as_object().into_iter().flatten().map(|(key, _)| key) {
        let letters = key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        let field = format!("{field}[{key}]");
        let value = &key.as_str().into();
        if key.len() > 253 {
            errors.push(invalid(field.as_str(), value, "must be no more than 253 bytes"));
        }
        if !letters || key.is_empty() {
            let detail = "a valid config key must consist of alphanumeric characters, '-', '_' or \
                          '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for \
                          validation is '[-._a-zA-Z0-9]+')";
            errors.push(invalid(field, value, detail));
        } else if key == "." {
            errors.push(invalid(field, value, "must not be '.'"));
        } else if key.starts_with("..") {
            let detail = if key == ".." { "must not be '..'" } else { "must not start with '..'" };
            errors.push(invalid(field, value, detail));
        }
    }
    errors
}

/// Errors of a change to an object that was made immutable.
pub(crate) fn immutable(new: &Value, old: &Value, fields: &[&str]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if old["immutable"] == true {
        if new["immutable"] != true {
            errors.push(forbidden("immutable", "field is immutable when `immutable` is set"));
        }
        for field in fields {
            if new[*field] != old[*field] {
                errors.push(forbidden(*field, "field is immutable when `immutable` is set"));
            }
        }
    }
    errors
}

fn validate(map: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = metadata(map, old, dns_subdomain);
    errors.extend(file_names(map, "data"));
    errors.extend(file_names(map, "binaryData"));
    for key in map["data"].as_object().into_iter().flatten().map(|(key, _)| key) {
        if map["binaryData"].get(key).is_some() {
            let detail = "duplicate of key present in binaryData";
            errors.push(invalid(format!("data[{key}]"), &key.as_str().into(), detail));
        }
    }
    if let Some(old) = old {
        errors.extend(immutable(map, old, &["data", "binaryData"]));
    }
    errors
}

/// As other kinds say it of their own fields.
pub(crate) fn same(new: &Value, old: &Value, field: &'static str) -> Option<FieldError> {
    (new[field] != old[field]).then(|| invalid(field, &new[field], IMMUTABLE))
}

//! `configmaps`, and the checks of keys and immutability that Secrets share.

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::Value;

use crate::{
    resources::{
        resource_type::ResourceType,
        table_columns::{AGE, column},
    },
    validation::{
        field_error::{FieldError, forbidden, invalid},
        names::dns_subdomain,
        object_meta::{self, Part, Rules},
    },
};

const METADATA: Rules = Rules {
    standard_finalizers: true,
    update: &[Part::Changes, Part::Whole],
    ..Rules::of(dns_subdomain)
};

pub(crate) const RESOURCE: ResourceType = ResourceType {
    short_names: &["cm"],
    validate,
    columns: &[
        column("Data", "#/io.k8s.api.core.v1.ConfigMap/data", |map, _| {
            count_keys(map, &["data", "binaryData"]).into()
        }),
        AGE,
    ],
    ..ResourceType::of::<ConfigMap>("configmap", "io.k8s.api.core.v1.ConfigMap")
};

/// Returns the number of keys in some maps together.
pub(crate) fn count_keys(object: &Value, fields: &[&str]) -> usize {
    fields.iter().filter_map(|field| object[*field].as_object()).map(serde_json::Map::len).sum()
}

/// Returns the errors of the keys in a map: they must be valid file names, because volumes make
/// files of them (`IsConfigMapKey`).
pub(crate) fn validate_keys(object: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for key in object[field].as_object().into_iter().flatten().map(|(key, _)| key) {
        let has_valid_chars = key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        let field = format!("{field}[{key}]");
        let value = &key.as_str().into();
        if key.len() > 253 {
            errors.push(invalid(field.as_str(), value, "must be no more than 253 bytes"));
        }
        if !has_valid_chars || key.is_empty() {
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

/// Returns the errors of changes to an object with `immutable: true`, which cannot be taken back.
pub(crate) fn validate_immutable(new: &Value, old: &Value, fields: &[&str]) -> Vec<FieldError> {
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

/// Stands for `ValidateConfigMap` and `ValidateConfigMapUpdate`.
fn validate(map: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = object_meta::validate(map, old, &METADATA);
    errors.extend(validate_keys(map, "data"));
    errors.extend(validate_keys(map, "binaryData"));
    for key in map["data"].as_object().into_iter().flatten().map(|(key, _)| key) {
        if map["binaryData"].get(key).is_some() {
            let detail = "duplicate of key present in binaryData";
            errors.push(invalid(format!("data[{key}]"), &key.as_str().into(), detail));
        }
    }
    if let Some(old) = old {
        errors.extend(validate_immutable(map, old, &["data", "binaryData"]));
    }
    errors
}

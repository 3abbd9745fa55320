//! Pruning of unknown fields by a structural schema (`pkg/apiserver/schema/pruning`).

use crate::schema::structural::schema::{Additional, Schema, is_meta};
use serde_json::Value;

impl Schema {
    /// Removes the fields that the schema does not have from an object, and reports their paths.
    /// The fields that every object has (`apiVersion`, `kind`, `metadata`) stay.
    pub(crate) fn prune(&self, object: &mut Value, report: &mut impl FnMut(&str)) {
        prune(Some(self), true, object, &mut String::new(), report);
    }
}

/// Prunes a value. Without a schema (below `additionalProperties: true`), all fields are unknown.
/// `resource` is set for the object itself; embedded resources are recognized by their schema.
fn prune(
    schema: Option<&Schema>,
    resource: bool,
    value: &mut Value,
    path: &mut String,
    report: &mut impl FnMut(&str),
) {
    let resource = resource || schema.is_some_and(|schema| schema.embedded_resource);
    let preserves = schema.is_some_and(|schema| schema.preserves_unknown);
    match value {
        Value::Object(fields) => fields.retain(|name, value| {
            if resource && is_meta(name) {
                return true;
            }
            let before = path.len();
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(name);
            let stays = match (schema.and_then(|schema| schema.field(name)), schema) {
                (Some(schema), _) => {
                    prune(Some(schema), false, value, path, report);
                    true
                }
                (None, Some(schema)) if matches!(schema.additional, Additional::Any) => {
                    prune(None, false, value, path, report);
                    true
                }
                _ if preserves => true,
                _ => {
                    report(path);
                    false
                }
            };
            path.truncate(before);
            stays
        }),
        Value::Array(items) => {
            let items_schema = schema.and_then(|schema| schema.items.as_deref());
            if preserves && items_schema.is_none() {
                return;
            }
            for (at, item) in items.iter_mut().enumerate() {
                let before = path.len();
                path.push_str(&format!("[{at}]"));
                prune(items_schema, false, item, path, report);
                path.truncate(before);
            }
        }
        _ => {}
    }
}

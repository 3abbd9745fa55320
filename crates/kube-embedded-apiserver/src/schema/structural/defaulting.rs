//! Defaulting by a structural schema (`pkg/apiserver/schema/defaulting`).

use crate::schema::structural::schema::{Additional, Schema};
use serde_json::{Map, Value};

impl Schema {
    /// Returns true if the schema has a default anywhere.
    pub(crate) fn has_defaults(&self) -> bool {
        let additional = match &self.additional {
            Additional::Like(schema) => Some(&**schema),
            _ => None,
        };
        let below = self.properties.values().chain(self.items.as_deref()).chain(additional);
        self.default.is_some() || below.into_iter().any(Self::has_defaults)
    }

    /// Removes nulls from fields that are not `nullable` and have no default
    /// (`PruneNonNullableNullsWithoutDefaults`).
    pub(crate) fn prune_nulls(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => fields.retain(|name, value| {
                let Some(schema) = self.field(name) else { return true };
                schema.prune_nulls(value);
                !value.is_null() || schema.nullable || schema.default.is_some()
            }),
            Value::Array(items) => {
                if let Some(schema) = &self.items {
                    items.iter_mut().for_each(|item| schema.prune_nulls(item));
                }
            }
            _ => {}
        }
    }

    /// Sets the defaults of missing fields. A null in a field that is not `nullable` counts as
    /// missing.
    pub(crate) fn apply_defaults(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                self.set_defaults(fields);
                for (name, value) in fields {
                    if let Some(schema) = self.field(name) {
                        schema.apply_defaults(value);
                    }
                }
            }
            Value::Array(items) => {
                let Some(schema) = &self.items else { return };
                for item in items {
                    if item.is_null()
                        && !schema.nullable
                        && let Some(default) = &schema.default
                    {
                        *item = default.clone();
                    }
                    schema.apply_defaults(item);
                }
            }
            _ => {}
        }
    }

    /// Sets the defaults of the fields themselves, not of those below them.
    fn set_defaults(&self, fields: &mut Map<String, Value>) {
        for (name, schema) in &self.properties {
            let Some(default) = &schema.default else { continue };
            match fields.get(name) {
                Some(value) if !value.is_null() || schema.nullable => {}
                _ => {
                    fields.insert(name.clone(), default.clone());
                }
            }
        }
        if let Additional::Like(schema) = &self.additional
            && let Some(default) = &schema.default
        {
            for (name, value) in fields {
                if value.is_null() && !schema.nullable && !self.properties.contains_key(name) {
                    *value = default.clone();
                }
            }
        }
    }
}

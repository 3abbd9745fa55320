//! The schema of a custom resource, as its CustomResourceDefinition gives it: what fields there are,
//! what they must be, what they are if nothing is said, and who owns their parts.

mod owned;
mod pattern;
mod rules;
#[cfg(test)]
mod tests;
mod validate;

use pattern::Pattern;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

pub(crate) use owned::structure;
pub(crate) use rules::errors as schema_errors;
pub(crate) use validate::Checked;

/// How deep a schema may be nested. Kubernetes has no limit but that of the body.
const DEPTH: usize = 64;

/// One node of a schema.
#[derive(Debug, Default)]
pub(crate) struct Schema {
    /// `object`, `array`, `string`, `integer`, `number`, `boolean`; empty for anything.
    pub(crate) of: String,
    pub(crate) nullable: bool,
    pub(crate) default: Option<Value>,
    pub(crate) properties: BTreeMap<String, Schema>,
    pub(crate) additional: Additional,
    pub(crate) items: Option<Box<Schema>>,
    pub(crate) preserves_unknown: bool,
    pub(crate) embedded_resource: bool,
    pub(crate) int_or_string: bool,
    pub(crate) list: ListType,
    /// Owned as a whole in server-side apply.
    pub(crate) atomic: bool,
    required: Vec<String>,
    format: String,
    allowed: Vec<Value>,
    pattern: Option<Pattern>,
    minimum: Option<(f64, bool)>,
    maximum: Option<(f64, bool)>,
    multiple_of: Option<f64>,
    length: Bounds,
    count: Bounds,
    entries: Bounds,
    all_of: Vec<Schema>,
    any_of: Vec<Schema>,
    one_of: Vec<Schema>,
    not: Option<Box<Schema>>,
}

/// At least and at most so many.
#[derive(Clone, Copy, Debug, Default)]
struct Bounds {
    least: Option<u64>,
    most: Option<u64>,
}

/// What fields an object may have besides its properties.
#[derive(Debug, Default)]
pub(crate) enum Additional {
    #[default]
    None,
    Any,
    Like(Box<Schema>),
}

/// How a list merges.
#[derive(Debug, Default)]
pub(crate) enum ListType {
    #[default]
    Atomic,
    Set,
    Map(Vec<String>),
}

impl Schema {
    /// Reads an `openAPIV3Schema`. What makes no sense is left out: [`schema_errors`] has refused it.
    pub(crate) fn parse(given: &Value) -> Self {
        Self::at(given, 0)
    }

    fn at(given: &Value, depth: usize) -> Self {
        if depth > DEPTH {
            return Self::default();
        }
        let text = |field: &str| given[field].as_str().unwrap_or_default().to_owned();
        let flag = |field: &str| given[field].as_bool().unwrap_or(false);
        let below = |given: &Value| Box::new(Self::at(given, depth + 1));
        let object = |field: &str| given[field].as_object();
        let list = |field: &str| given[field].as_array().into_iter().flatten();
        let texts = |field: &str| list(field).filter_map(Value::as_str).map(str::to_owned);
        let schemas = |field: &str| list(field).map(|one| Self::at(one, depth + 1)).collect();
        let bounds = |least: &str, most: &str| Bounds {
            least: given[least].as_u64(),
            most: given[most].as_u64(),
        };
        let bound = |limit: &str, exclusive: &str| Some((given[limit].as_f64()?, flag(exclusive)));
        Self {
            of: text("type"),
            nullable: flag("nullable"),
            default: given.get("default").filter(|default| !default.is_null()).cloned(),
            properties: object("properties")
                .into_iter()
                .flatten()
                .map(|(name, given)| (name.clone(), Self::at(given, depth + 1)))
                .collect(),
            additional: match &given["additionalProperties"] {
                Value::Bool(true) => Additional::Any,
                like @ Value::Object(_) => Additional::Like(below(like)),
                _ => Additional::None,
            },
            items: object("items").map(|_| below(&given["items"])),
            preserves_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded_resource: flag("x-kubernetes-embedded-resource"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            list: match given["x-kubernetes-list-type"].as_str() {
                Some("set") => ListType::Set,
                Some("map") => ListType::Map(texts("x-kubernetes-list-map-keys").collect()),
                _ => ListType::Atomic,
            },
            atomic: given["x-kubernetes-map-type"] == "atomic",
            required: texts("required").collect(),
            format: text("format"),
            allowed: list("enum").cloned().collect(),
            pattern: given["pattern"].as_str().and_then(|pattern| Pattern::new(pattern).ok()),
            minimum: bound("minimum", "exclusiveMinimum"),
            maximum: bound("maximum", "exclusiveMaximum"),
            multiple_of: given["multipleOf"].as_f64().filter(|of| *of > 0.0),
            length: bounds("minLength", "maxLength"),
            count: bounds("minItems", "maxItems"),
            entries: bounds("minProperties", "maxProperties"),
            all_of: schemas("allOf"),
            any_of: schemas("anyOf"),
            one_of: schemas("oneOf"),
            not: object("not").map(|_| below(&given["not"])),
        }
    }

    /// The schema of a field, if it has one.
    fn field(&self, name: &str) -> Option<&Self> {
        match (self.properties.get(name), &self.additional) {
            (Some(schema), _) => Some(schema),
            (None, Additional::Like(schema)) => Some(schema),
            _ => None,
        }
    }

    /// Removes the fields that the schema does not have from an object, and tells their paths.
    /// What every object has (`apiVersion`, `kind`, `metadata`) stays.
    pub(crate) fn prune(&self, object: &mut Value, tell: &mut impl FnMut(&str)) {
        prune(Some(self), true, object, &mut String::new(), tell);
    }

    /// Removes nulls that may not be, and fills in what is not said.
    pub(crate) fn apply_defaults(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.retain(|name, value| match self.field(name) {
                    Some(schema) => !value.is_null() || schema.nullable || schema.default.is_some(),
                    None => true,
                });
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

fn is_meta(name: &str) -> bool {
    matches!(name, "apiVersion" | "kind" | "metadata")
}

/// `None` for a part that no schema speaks of.
fn prune(
    schema: Option<&Schema>,
    resource: bool,
    value: &mut Value,
    path: &mut String,
    tell: &mut impl FnMut(&str),
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
                    prune(Some(schema), false, value, path, tell);
                    true
                }
                (None, Some(schema)) if matches!(schema.additional, Additional::Any) => {
                    prune(None, false, value, path, tell);
                    true
                }
                _ if preserves => true,
                _ => {
                    tell(path);
                    false
                }
            };
            path.truncate(before);
            stays
        }),
        Value::Array(items) => {
            let of_items = schema.and_then(|schema| schema.items.as_deref());
            if preserves && of_items.is_none() {
                return;
            }
            for (at, item) in items.iter_mut().enumerate() {
                let before = path.len();
                path.push_str(&format!("[{at}]"));
                prune(of_items, false, item, path, tell);
                path.truncate(before);
            }
        }
        _ => {}
    }
}

//! A node of a structural schema, parsed from an `openAPIV3Schema`.

use crate::pattern::Pattern;
use crate::schema::structural::given_rule::GivenRule;
use serde_json::Value;
use std::collections::BTreeMap;

/// The limit to the nesting of a schema, because schemas are walked recursively. Kubernetes has
/// none but the size of the request.
pub(super) const DEPTH: usize = 64;

/// One node of a schema. Where the specification has a keyword in camel case, the field says what
/// it restricts.
#[derive(Debug, Default)]
pub(crate) struct Schema {
    /// `object`, `array`, `string`, `integer`, `number`, `boolean`; empty for any type.
    pub(crate) type_name: String,
    pub(crate) nullable: bool,
    pub(crate) default: Option<Value>,
    pub(crate) properties: BTreeMap<String, Schema>,
    pub(crate) additional: Additional,
    pub(crate) items: Option<Box<Schema>>,
    /// `x-kubernetes-preserve-unknown-fields`.
    pub(crate) preserves_unknown: bool,
    /// `x-kubernetes-embedded-resource`: an object with `apiVersion`, `kind` and `metadata` of its
    /// own.
    pub(crate) embedded_resource: bool,
    /// `x-kubernetes-int-or-string`.
    pub(crate) int_or_string: bool,
    pub(crate) list: ListType,
    /// `x-kubernetes-map-type: atomic`: one owner for the whole object in server-side apply.
    pub(crate) atomic: bool,
    pub(super) required: Vec<String>,
    pub(super) format: String,
    /// `enum`.
    pub(super) allowed: Vec<Value>,
    pub(super) pattern: Option<Pattern>,
    /// The limit, and whether it is exclusive.
    pub(super) minimum: Option<(f64, bool)>,
    pub(super) maximum: Option<(f64, bool)>,
    pub(super) multiple_of: Option<f64>,
    /// `minLength`, `maxLength`.
    pub(super) length: Bounds,
    /// `minItems`, `maxItems`.
    pub(super) items_count: Bounds,
    /// `minProperties`, `maxProperties`.
    pub(super) properties_count: Bounds,
    pub(super) all_of: Vec<Schema>,
    pub(super) any_of: Vec<Schema>,
    pub(super) one_of: Vec<Schema>,
    pub(super) not: Option<Box<Schema>>,
    /// `x-kubernetes-validations`.
    pub(super) rules: Vec<GivenRule>,
}

/// An inclusive range of counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bounds {
    pub(super) min: Option<u64>,
    pub(super) max: Option<u64>,
}

/// `additionalProperties`: the fields that an object may have besides its properties.
#[derive(Debug, Default)]
pub(crate) enum Additional {
    #[default]
    None,
    Any,
    Like(Box<Schema>),
}

/// `x-kubernetes-list-type`: how a list merges in server-side apply.
#[derive(Debug, Default)]
pub(crate) enum ListType {
    #[default]
    Atomic,
    Set,
    /// With `x-kubernetes-list-map-keys`.
    Map(Vec<String>),
}

impl Schema {
    /// Parses an `openAPIV3Schema`. Invalid parts are left out: validation of the definition has
    /// rejected them ([`super::schema_errors`]).
    pub(crate) fn parse(given: &Value) -> Self {
        Self::at(given, 0)
    }

    /// Parses a node; beyond the limit to the nesting, the schema is empty.
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
        // A negative limit allows nothing.
        let limit = |max: &str| given[max].as_i64().map(|max| u64::try_from(max).unwrap_or(0));
        let bounds = |min: &str, max: &str| Bounds { min: given[min].as_u64(), max: limit(max) };
        let bound = |limit: &str, exclusive: &str| Some((given[limit].as_f64()?, flag(exclusive)));
        Self {
            type_name: text("type"),
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
            items_count: bounds("minItems", "maxItems"),
            properties_count: bounds("minProperties", "maxProperties"),
            all_of: schemas("allOf"),
            any_of: schemas("anyOf"),
            one_of: schemas("oneOf"),
            not: object("not").map(|_| below(&given["not"])),
            rules: GivenRule::parse(&given["x-kubernetes-validations"]),
        }
    }

    /// Returns the schema of a field, if it has one.
    pub(super) fn field(&self, name: &str) -> Option<&Self> {
        match (self.properties.get(name), &self.additional) {
            (Some(schema), _) => Some(schema),
            (None, Additional::Like(schema)) => Some(schema),
            _ => None,
        }
    }
}

/// Returns true for the fields that every object has, whatever its schema says.
pub(super) fn is_meta(name: &str) -> bool {
    matches!(name, "apiVersion" | "kind" | "metadata")
}

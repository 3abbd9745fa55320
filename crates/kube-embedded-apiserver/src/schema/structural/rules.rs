//! Validation of an `openAPIV3Schema`: it must be structural, so that objects can be pruned and
//! defaulted.
//!
//! The rules and messages are those of `pkg/apis/apiextensions/validation` and
//! `pkg/apiserver/schema/validation.go`; see "Specifying a structural schema" in Kubernetes'
//! documentation of CustomResourceDefinitions.

use crate::{
    pattern::Pattern,
    schema::structural::{
        expressions::Rules as Expressions,
        rule_checks::{compile_errors, form_errors},
        schema::{DEPTH, Schema},
        validator::validate,
    },
    validation::field_error::{FieldError, forbidden, invalid, not_supported, required},
};
use serde_json::{Map, Value, json};

/// Returns the errors of a schema at a path in its CustomResourceDefinition. `has_status` says that
/// the version has the `status` subresource, `unchanged` that an update leaves the schema as it was.
pub(crate) fn schema_errors(
    schema: &Value,
    path: &str,
    has_status: bool,
    unchanged: bool,
) -> Vec<FieldError> {
    let mut rules = Rules { errors: Vec::new() };
    if has_status {
        rules.root_with_status(schema, path);
    }
    if schema["nullable"] == true {
        rules.push(forbidden(format!("{path}.nullable"), "nullable cannot be true at the root"));
    }
    rules.node(schema, path, Level::Root, 0);
    // Defaults are pruned and validated, which takes a schema without errors; so does compiling.
    if rules.errors.is_empty() {
        rules.defaults(schema, path);
    }
    if rules.errors.is_empty() {
        rules.errors = compile_errors(&Schema::parse(schema), path, unchanged);
    }
    rules.errors
}

/// The place of a node, which the messages name.
#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Collects the errors of a schema.
struct Rules {
    errors: Vec<FieldError>,
}

const LIST_TYPE: &str = "x-kubernetes-list-type";
const MAP_TYPE: &str = "x-kubernetes-map-type";
const MAP_KEYS: &str = "x-kubernetes-list-map-keys";
const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";
const INT_OR_STRING: &str = "x-kubernetes-int-or-string";

impl Rules {
    fn push(&mut self, error: FieldError) {
        self.errors.push(error);
    }

    /// Restricts the root to keywords that still hold when `properties.status` is validated on its
    /// own.
    fn root_with_status(&mut self, schema: &Value, path: &str) {
        const ALLOWED: &[&str] = &[
            "description",
            "type",
            "format",
            "title",
            "maximum",
            "exclusiveMaximum",
            "minimum",
            "exclusiveMinimum",
            "maxLength",
            "minLength",
            "pattern",
            "maxItems",
            "minItems",
            "uniqueItems",
            "multipleOf",
            "required",
            "items",
            "properties",
            "externalDocs",
            "example",
            PRESERVE,
            "x-kubernetes-validations",
        ];
        let type_name = schema["type"].as_str().unwrap_or_default();
        if !type_name.is_empty() && type_name != "object" {
            let detail = "only \"object\" is allowed as the type at the root of the schema if the \
                          status subresource is enabled";
            self.push(invalid(format!("{path}.type"), &schema["type"], detail));
        }
        let fields = schema.as_object().into_iter().flatten();
        if let Some((name, _)) = fields.into_iter().find(|(name, _)| !ALLOWED.contains(&&***name)) {
            let detail = format!(
                "only {ALLOWED:?} fields are allowed at the root of the schema if the status \
                 subresource is enabled, not {name}"
            );
            self.push(invalid(path, schema, &detail));
        }
    }

    /// Checks a node and those below it.
    fn node(&mut self, schema: &Value, path: &str, level: Level, depth: usize) {
        let Some(fields) = schema.as_object() else {
            self.push(invalid(path, schema, "must be a schema"));
            return;
        };
        if depth > DEPTH {
            self.push(invalid(path, &json!(depth), "is nested too deeply"));
            return;
        }
        let type_name = schema["type"].as_str().unwrap_or_default();
        if type_name == "array" && !schema["items"].is_object() {
            self.push(required(format!("{path}.items"), "must be specified"));
        }
        self.additional_properties(schema, path, level, depth);
        self.type_of_node(schema, type_name, path, level);
        self.extensions(fields, type_name, path);
        self.errors.extend(form_errors(schema, path));
        if schema["uniqueItems"] == true {
            let detail = "uniqueItems cannot be set to true since the runtime complexity becomes \
                          quadratic";
            self.push(forbidden(format!("{path}.uniqueItems"), detail));
        }
        self.values(schema, path, depth, is_int_or_string(schema));
        self.properties(schema, path, level, depth);
        if schema["items"].is_object() {
            self.node(&schema["items"], &format!("{path}.items"), Level::Item, depth + 1);
        } else if schema["items"].is_array() {
            let detail = "items must be a schema object and not an array";
            self.push(forbidden(format!("{path}.items"), detail));
        }
    }

    fn additional_properties(&mut self, schema: &Value, path: &str, level: Level, depth: usize) {
        let additional = &schema["additionalProperties"];
        if additional.is_null() {
            return;
        }
        let path = format!("{path}.additionalProperties");
        if level == Level::Root {
            self.push(forbidden(&*path, "must not be used at the root"));
        }
        let has_names = schema["properties"].as_object().is_some_and(|names| !names.is_empty());
        if has_names && *additional != Value::Bool(true) {
            let detail = "additionalProperties and properties are mutual exclusive";
            self.push(forbidden(&*path, detail));
        }
        if additional.is_object() {
            self.node(additional, &path, Level::Field, depth + 1);
        }
    }

    /// Checks the properties of a node; those of every object only at the root.
    fn properties(&mut self, schema: &Value, path: &str, level: Level, depth: usize) {
        for (name, below) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.properties[{name}]");
            if level == Level::Root && name == "metadata" {
                self.metadata(below, &path);
            }
            if level == Level::Root && matches!(&**name, "apiVersion" | "kind" | "metadata") {
                if below.get("default").is_some() {
                    let detail = format!("must not be set in top-level {name}");
                    self.push(forbidden(format!("{path}.default"), &detail));
                }
                if name != "metadata" && below["type"] != "string" {
                    self.push(invalid(format!("{path}.type"), &below["type"], "must be string"));
                }
            }
            self.node(below, &path, Level::Field, depth + 1);
        }
    }

    /// Checks that a node has a known type, which structural schemas require.
    fn type_of_node(&mut self, schema: &Value, type_name: &str, path: &str, level: Level) {
        let flag = |name: &str| schema[name] == true;
        let path = format!("{path}.type");
        const KNOWN: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
        if !type_name.is_empty() && !KNOWN.contains(&type_name) {
            self.push(not_supported(&*path, &type_name.into(), KNOWN));
        }
        if flag(EMBEDDED) && type_name != "object" {
            let detail = "must be object if x-kubernetes-embedded-resource is true";
            self.push(match type_name {
                "" => required(path, detail),
                _ => invalid(path, &type_name.into(), detail),
            });
        } else if type_name.is_empty() && !flag(INT_OR_STRING) && !flag(PRESERVE) {
            self.push(required(
                path,
                match level {
                    Level::Root => "must not be empty at the root",
                    Level::Item => "must not be empty for specified array items",
                    Level::Field => "must not be empty for specified object fields",
                },
            ));
        } else if level == Level::Root && !type_name.is_empty() && type_name != "object" {
            self.push(invalid(path, &type_name.into(), "must be object at the root"));
        }
    }

    /// `metadata` has a type of its own; a schema may only restrict names.
    fn metadata(&mut self, metadata: &Value, path: &str) {
        if metadata["type"] != "object" {
            self.push(invalid(format!("{path}.type"), &metadata["type"], "must be object"));
        }
        let names = metadata["properties"].as_object();
        let only_names =
            names.into_iter().flatten().all(|(name, _)| name == "name" || name == "generateName");
        let fields = metadata.as_object().into_iter().flatten();
        let only_keywords = fields
            .into_iter()
            .all(|(name, _)| matches!(&**name, "type" | "properties" | "description"));
        if !only_names || !only_keywords {
            let detail = "must not specify anything other than name and generateName, but metadata \
                          is implicitly specified";
            self.push(forbidden(path, detail));
        }
    }

    /// Checks the `x-kubernetes-*` keywords.
    fn extensions(&mut self, fields: &Map<String, Value>, type_name: &str, path: &str) {
        let at = |name: &str| format!("{path}.{name}");
        let set = |name: &str| fields.get(name).is_some_and(|value| *value == true);
        if fields.get(PRESERVE).is_some_and(|value| *value == false) {
            self.push(invalid(at(PRESERVE), &false.into(), "must be true or undefined"));
        }
        for name in [PRESERVE, EMBEDDED] {
            if set(INT_OR_STRING) && set(name) {
                let detail = "must be false if x-kubernetes-int-or-string is true";
                self.push(invalid(at(name), &true.into(), detail));
            }
        }
        if set(EMBEDDED) && fields.contains_key("additionalProperties") {
            let detail = "must not be used if x-kubernetes-embedded-resource is set";
            self.push(forbidden(at("additionalProperties"), detail));
        }
        if set(EMBEDDED) && !set(PRESERVE) && !fields.contains_key("properties") {
            let detail = "must not be empty if x-kubernetes-embedded-resource is true without \
                          x-kubernetes-preserve-unknown-fields";
            self.push(required(at("properties"), detail));
        }
        for (name, wanted, known) in [
            (MAP_TYPE, "object", &["atomic", "granular"][..]),
            (LIST_TYPE, "array", &["atomic", "set", "map"][..]),
        ] {
            let Some(given) = fields.get(name).filter(|given| !given.is_null()) else { continue };
            if type_name != wanted {
                let detail = format!("must be {wanted} if {name} is specified");
                self.push(match type_name {
                    "" => required(at("type"), &detail),
                    _ => invalid(at("type"), &type_name.into(), &detail),
                });
            }
            if !given.as_str().is_some_and(|given| known.contains(&given)) {
                self.push(not_supported(at(name), given, known));
            }
        }
        self.list_keys(fields, path);
    }

    /// Checks `x-kubernetes-list-map-keys`.
    fn list_keys(&mut self, fields: &Map<String, Value>, path: &str) {
        let at = |name: &str| format!("{path}.{name}");
        let list = fields.get(LIST_TYPE).and_then(Value::as_str);
        let keys = fields.get(MAP_KEYS).and_then(Value::as_array).cloned().unwrap_or_default();
        if !keys.is_empty() && list != Some("map") {
            let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
            self.push(match list {
                None => required(at(LIST_TYPE), detail),
                Some(list) => invalid(at(LIST_TYPE), &list.into(), detail),
            });
        }
        if list != Some("map") {
            return;
        }
        if keys.is_empty() {
            let detail = "must not be empty if x-kubernetes-list-type is map";
            self.push(required(at(MAP_KEYS), detail));
        }
        let Some(items) = fields.get("items").filter(|items| items.is_object()) else { return };
        self.keys_of_items(items, &keys, path);
    }

    /// Keys must be scalar properties that every element has.
    fn keys_of_items(&mut self, items: &Value, keys: &[Value], path: &str) {
        let at = |name: &str| format!("{path}.{name}");
        if items["type"] != "object" {
            let detail = "must be object if parent array's x-kubernetes-list-type is map";
            self.push(invalid(at("items.type"), &items["type"], detail));
            return;
        }
        for (n, key) in keys.iter().enumerate() {
            let name = key.as_str().unwrap_or_default();
            let all = Value::Array(keys.to_vec());
            match items["properties"].get(name) {
                None => {
                    let detail = "entries must all be names of item properties";
                    self.push(invalid(at(MAP_KEYS), &all, detail));
                }
                Some(property) => {
                    if matches!(property["type"].as_str(), Some("array" | "object")) {
                        let path = at(&format!("items.properties[{name}].type"));
                        let detail = "must be a scalar type if parent array's \
                                      x-kubernetes-list-type is map";
                        self.push(invalid(path, &items["type"], detail));
                    }
                    let needed = items["required"].as_array().is_some_and(|all| all.contains(key));
                    if !needed && property.get("default").is_none() {
                        let path = at(&format!("items.properties[{name}].default"));
                        let detail = "this property is in x-kubernetes-list-map-keys, so it must \
                                      have a default or be a required property";
                        self.push(required(path, detail));
                    }
                }
            }
            if keys.iter().take(n).any(|before| before == key) {
                self.push(invalid(at(MAP_KEYS), &all, "must not contain duplicate entries"));
            }
        }
    }

    /// Checks the value validations of a node: `pattern`, `allOf` and the like.
    fn values(&mut self, schema: &Value, path: &str, depth: usize, int_or_string: bool) {
        if let Some(pattern) = schema["pattern"].as_str()
            && let Err(error) = Pattern::new(pattern)
        {
            let why = error.to_string();
            let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ");
            let detail = format!("must be a valid regular expression, but isn't: {why}");
            self.push(invalid(format!("{path}.pattern"), &schema["pattern"], &detail));
        }
        for name in ["allOf", "anyOf", "oneOf"] {
            for (at, below) in schema[name].as_array().into_iter().flatten().enumerate() {
                let path = format!("{path}.{name}[{at}]");
                // Older schemas spell out an integer or a string in a form that would not be
                // structural.
                let skip = int_or_string && (name == "anyOf" || (name == "allOf" && at == 0));
                if !skip {
                    self.nested(below, schema, &path, depth + 1);
                }
            }
        }
        if schema["not"].is_object() {
            self.nested(&schema["not"], schema, &format!("{path}.not"), depth + 1);
        }
    }

    /// Checks a schema inside of `allOf`, `anyOf`, `oneOf` or `not`: it may restrict values, but
    /// not add fields to those of `owner`, the node outside of them.
    fn nested(&mut self, schema: &Value, owner: &Value, path: &str, depth: usize) {
        if depth > DEPTH {
            self.push(invalid(path, &json!(depth), "is nested too deeply"));
            return;
        }
        for (name, detail) in [
            ("type", "must be empty to be structural"),
            ("additionalProperties", "must be undefined to be structural"),
            ("default", "must be undefined to be structural"),
            ("title", "must be empty to be structural"),
            ("description", "must be empty to be structural"),
            ("nullable", "must be false to be structural"),
            (PRESERVE, "must be false to be structural"),
            (EMBEDDED, "must be false to be structural"),
            (INT_OR_STRING, "must be false to be structural"),
            (MAP_KEYS, "must be empty to be structural"),
            (LIST_TYPE, "must be undefined to be structural"),
            (MAP_TYPE, "must be undefined to be structural"),
            ("x-kubernetes-validations", "must be empty to be structural"),
        ] {
            let given = schema.get(name);
            if given.is_some_and(|given| !given.is_null() && *given != false && *given != "") {
                self.push(forbidden(format!("{path}.{name}"), detail));
            }
        }
        for (name, below) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.properties[{name}]");
            if name == "metadata" {
                self.push(forbidden(&*path, "must not be specified in a nested context"));
            }
            match owner["properties"].get(name) {
                Some(owner) => self.nested(below, owner, &path, depth + 1),
                None => self.push(required(
                    structural_path(&path),
                    &format!("because it is defined in {path}"),
                )),
            }
        }
        if schema["items"].is_object() {
            self.nested(&schema["items"], &owner["items"], &format!("{path}.items"), depth + 1);
        }
        self.values(schema, path, depth, false);
    }

    /// Checks that defaults are valid themselves.
    fn defaults(&mut self, schema: &Value, path: &str) {
        if let Some(default) = schema.get("default").filter(|default| !default.is_null()) {
            let path = format!("{path}.default");
            let parsed = Schema::parse(schema);
            let mut pruned = default.clone();
            let mut unknown = Vec::new();
            parsed.prune(&mut pruned, &mut |path| unknown.push(path.to_owned()));
            if !unknown.is_empty() {
                let detail = format!("must not have unknown fields: {}", unknown.join(", "));
                self.push(invalid(&*path, default, &detail));
            }
            parsed.prune_nulls(&mut pruned);
            parsed.apply_defaults(&mut pruned);
            let mut errors = validate(&parsed, &pruned, None);
            if let Some(rules) = Expressions::of(&parsed, parsed.embedded_resource) {
                errors.extend(rules.evaluate(&pruned, None).errors);
            }
            for error in errors {
                let field = match error.field.as_str() {
                    "<nil>" => path.clone(),
                    below => format!("{path}.{below}"),
                };
                self.push(FieldError { field, ..error });
            }
        }
        for (name, below) in schema["properties"].as_object().into_iter().flatten() {
            self.defaults(below, &format!("{path}.properties[{name}]"));
        }
        for name in ["items", "additionalProperties"] {
            if schema[name].is_object() {
                self.defaults(&schema[name], &format!("{path}.{name}"));
            }
        }
    }
}

/// Returns the path without `allOf` and the like: a field that they restrict must be declared
/// there.
fn structural_path(path: &str) -> String {
    let mut structural = String::new();
    for part in path.split('.') {
        let name = part.split('[').next().unwrap_or_default();
        if matches!(name, "allOf" | "anyOf" | "oneOf" | "not") {
            continue;
        }
        if !structural.is_empty() {
            structural.push('.');
        }
        structural.push_str(part);
    }
    structural
}

/// Returns true for the two forms in which `x-kubernetes-int-or-string` may repeat its types in
/// `anyOf`.
fn is_int_or_string(schema: &Value) -> bool {
    let types = json!([{ "type": "integer" }, { "type": "string" }]);
    schema[INT_OR_STRING] == true
        && (schema["anyOf"] == types || schema["allOf"][0]["anyOf"] == types)
}

//! Structural schemas: validation, pruning and limits.

use super::*;
use crate::validation::field_error::FieldError;
use serde_json::{Value, json};

fn errors(schema: Value, value: Value) -> Vec<String> {
    let errors = validate(&Schema::parse(&schema), &value, None);
    errors.into_iter().map(|error| format!("{}: {}", error.field, error.message)).collect()
}

#[test]
fn any_one_and_all_of_require_their_number_of_matches() {
    let schema = |word: &str| json!({ "type": "object", word: [{ "required": ["a"] }, { "required": ["b"] }] });
    for (word, value, valid) in [
        ("anyOf", json!({ "a": 1, "b": 1 }), true),
        ("anyOf", json!({}), false),
        ("oneOf", json!({ "a": 1 }), true),
        ("oneOf", json!({ "a": 1, "b": 1 }), false),
        ("allOf", json!({ "a": 1, "b": 1 }), true),
        ("allOf", json!({ "a": 1 }), false),
    ] {
        let errors = errors(schema(word), value.clone());
        assert_eq!(errors.is_empty(), valid, "{word} {value}: {errors:?}");
    }
    assert_eq!(errors(json!({ "not": { "required": ["a"] } }), json!({ "a": 1 })).len(), 1);
}

/// Validating each alternative twice would take 2^60 steps.
#[test]
fn nested_alternatives_are_validated_once() {
    for word in ["anyOf", "oneOf"] {
        let mut schema = json!({ "required": ["a"] });
        for _ in 0..60 {
            schema = json!({ word: [schema] });
        }
        assert_eq!(errors(schema.clone(), json!({ "a": 1 })), [""; 0]);
        assert_eq!(errors(schema, json!({})).len(), 61, "{word}");
    }
}

#[test]
fn duplicate_elements_of_sets_and_maps_are_errors() {
    let set = json!({ "type": "array", "x-kubernetes-list-type": "set", "items": {} });
    assert_eq!(errors(set.clone(), json!(["a", "b", 1])), [""; 0]);
    assert_eq!(errors(set, json!(["a", "b", "a"])), ["[2]: Duplicate value: \"a\""]);
    let map = json!({
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
        "items": { "type": "object", "properties": {
            "name": { "type": "string" },
            "size": { "type": "integer", "maximum": 1 },
        } },
    });
    let element = |name: &str, size: i32| json!({ "name": name, "size": size });
    assert_eq!(
        errors(map.clone(), json!([element("a", 0), element("a", 1)])),
        ["[1]: Duplicate value: {\"name\":\"a\"}"]
    );
    // An element that was too large before is matched by its key, and so not validated again.
    let (schema, old) = (Schema::parse(&map), json!([element("a", 5), element("b", 1)]));
    let valid = json!([element("b", 0), element("a", 5)]);
    assert!(validate(&schema, &valid, Some(&old)).is_empty());
    let invalid = json!([element("b", 5), element("a", 5)]);
    assert_eq!(validate(&schema, &invalid, Some(&old)).len(), 1);
}

#[test]
fn values_are_validated_by_type_bounds_and_format() {
    for (schema, value, valid) in [
        (json!({ "type": "integer" }), json!(1.0), true),
        (json!({ "type": "integer" }), json!(1.5), false),
        (json!({ "type": "number" }), json!(1), true),
        (json!({ "minimum": 1, "exclusiveMinimum": true }), json!(1), false),
        (json!({ "maximum": 1, "exclusiveMaximum": true }), json!(0.9), true),
        (json!({ "multipleOf": 0.5 }), json!(1.5), true),
        (json!({ "multipleOf": 2 }), json!(3), false),
        (json!({ "type": "string", "format": "date-time" }), json!("2026-11-23T10:00:00Z"), true),
        (json!({ "type": "string", "format": "date-time" }), json!("yesterday"), false),
        (json!({ "type": "string", "format": "made-up" }), json!("anything"), true),
        (json!({ "type": "string", "nullable": true }), json!(null), true),
        (json!({ "type": "string" }), json!(null), false),
        (json!({ "type": "object", "minProperties": 1 }), json!({}), false),
    ] {
        let errors = errors(schema.clone(), value.clone());
        assert_eq!(errors.is_empty(), valid, "{schema} {value}: {errors:?}");
    }
}

#[test]
fn unchanged_invalid_value_is_accepted() {
    let schema = Schema::parse(&json!({
        "type": "object",
        "properties": { "a": { "type": "integer", "maximum": 1 }, "b": { "type": "string" } },
    }));
    let old = json!({ "a": 5, "b": "x" });
    assert!(validate(&schema, &json!({ "a": 5, "b": "y" }), Some(&old)).is_empty());
    assert_eq!(validate(&schema, &json!({ "a": 6, "b": "y" }), Some(&old)).len(), 1);
}

#[test]
fn embedded_resource_keeps_its_type_and_metadata_when_pruned() {
    let schema = Schema::parse(&json!({
        "type": "object",
        "properties": { "template": {
            "type": "object",
            "x-kubernetes-embedded-resource": true,
            "properties": { "spec": { "type": "object" } },
        } },
    }));
    let template = json!({ "apiVersion": "v1", "kind": "A", "metadata": { "name": "a" }, "x": 1 });
    let mut object = json!({ "apiVersion": "v1", "template": template, "metadata": {} });
    let mut pruned = Vec::new();
    schema.prune(&mut object, &mut |path| pruned.push(path.to_owned()));
    assert_eq!(pruned, ["template.x"]);
    assert_eq!(object["template"]["metadata"], json!({ "name": "a" }));
}

#[test]
fn deeply_nested_schema_is_rejected_and_parsed_in_part() {
    let mut schema = json!({ "type": "string" });
    for _ in 0..200 {
        schema = json!({ "type": "object", "properties": { "a": schema } });
    }
    assert!(!schema_errors(&schema, "s", false, false).is_empty());
    Schema::parse(&schema);
}

/// The expected texts are those of kube-apiserver 1.36, as the tests of the Gateway API have them.
#[test]
fn errors_of_a_status_are_named_from_the_status_on() {
    let schema = json!({ "type": "object", "properties": {
        "spec": { "type": "object", "required": ["a"] },
        "status": { "type": "object", "properties": { "addresses": {
            "type": "array", "items": { "type": "string", "format": "ipv4" },
        } } },
    } });
    let schema = Schema::parse(&schema);
    let object = json!({ "spec": {}, "status": { "addresses": ["1.2.3.4:80"] } });
    let shown = |errors: Vec<FieldError>| -> Vec<String> {
        errors.iter().map(|error| format!("{}: {}", error.field, error.message)).collect()
    };
    let whole = shown(validate(&schema, &object, None));
    assert_eq!(whole.len(), 2, "{whole:?}");
    assert_eq!(
        shown(validate_status(&schema, &object, None)),
        [
            "status.addresses[0]: Invalid value: \"1.2.3.4:80\": addresses[0] in body must be of type \
          ipv4: \"1.2.3.4:80\""
        ]
    );
    assert_eq!(
        shown(validate_status(&schema, &json!({ "status": 1 }), None))[0].split(':').next(),
        Some("status")
    );
}

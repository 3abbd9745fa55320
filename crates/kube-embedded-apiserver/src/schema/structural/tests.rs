use super::*;
use serde_json::json;

fn checked(schema: Value, value: Value) -> Vec<String> {
    let errors = Checked::check(&Schema::parse(&schema), &value, None);
    errors.into_iter().map(|error| format!("{}: {}", error.field, error.message)).collect()
}

#[test]
fn alternatives_are_told_apart() {
    let schema = |word: &str| json!({ "type": "object", word: [{ "required": ["a"] }, { "required": ["b"] }] });
    for (word, value, fine) in [
        ("anyOf", json!({ "a": 1, "b": 1 }), true),
        ("anyOf", json!({}), false),
        ("oneOf", json!({ "a": 1 }), true),
        ("oneOf", json!({ "a": 1, "b": 1 }), false),
        ("allOf", json!({ "a": 1, "b": 1 }), true),
        ("allOf", json!({ "a": 1 }), false),
    ] {
        let errors = checked(schema(word), value.clone());
        assert_eq!(errors.is_empty(), fine, "{word} {value}: {errors:?}");
    }
    assert_eq!(checked(json!({ "not": { "required": ["a"] } }), json!({ "a": 1 })).len(), 1);
}

/// Were each alternative asked more than once, this would take 2^60 steps.
#[test]
fn nested_alternatives_are_asked_once() {
    for word in ["anyOf", "oneOf"] {
        let mut schema = json!({ "required": ["a"] });
        for _ in 0..60 {
            schema = json!({ word: [schema] });
        }
        assert_eq!(checked(schema.clone(), json!({ "a": 1 })), [""; 0]);
        assert_eq!(checked(schema, json!({})).len(), 61, "{word}");
    }
}

#[test]
fn elements_are_known_by_value_or_keys() {
    let set = json!({ "type": "array", "x-kubernetes-list-type": "set", "items": {} });
    assert_eq!(checked(set.clone(), json!(["a", "b", 1])), [""; 0]);
    assert_eq!(checked(set, json!(["a", "b", "a"])), ["[2]: Duplicate value: \"a\""]);
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
        checked(map.clone(), json!([element("a", 0), element("a", 1)])),
        ["[1]: Duplicate value: {\"name\":\"a\"}"]
    );
    // What was too big before is known again in another place.
    let (schema, old) = (Schema::parse(&map), json!([element("a", 5), element("b", 1)]));
    let fine = json!([element("b", 0), element("a", 5)]);
    assert!(Checked::check(&schema, &fine, Some(&old)).is_empty());
    let wrong = json!([element("b", 5), element("a", 5)]);
    assert_eq!(Checked::check(&schema, &wrong, Some(&old)).len(), 1);
}

#[test]
fn numbers_keep_within_their_bounds() {
    for (schema, value, fine) in [
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
        let errors = checked(schema.clone(), value.clone());
        assert_eq!(errors.is_empty(), fine, "{schema} {value}: {errors:?}");
    }
}

#[test]
fn what_has_not_changed_is_not_checked_again() {
    let schema = Schema::parse(&json!({
        "type": "object",
        "properties": { "a": { "type": "integer", "maximum": 1 }, "b": { "type": "string" } },
    }));
    let old = json!({ "a": 5, "b": "x" });
    assert!(Checked::check(&schema, &json!({ "a": 5, "b": "y" }), Some(&old)).is_empty());
    assert_eq!(Checked::check(&schema, &json!({ "a": 6, "b": "y" }), Some(&old)).len(), 1);
}

#[test]
fn embedded_resources_keep_what_every_object_has() {
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
    let mut told = Vec::new();
    schema.prune(&mut object, &mut |path| told.push(path.to_owned()));
    assert_eq!(told, ["template.x"]);
    assert_eq!(object["template"]["metadata"], json!({ "name": "a" }));
}

#[test]
fn nesting_has_an_end() {
    let mut schema = json!({ "type": "string" });
    for _ in 0..200 {
        schema = json!({ "type": "object", "properties": { "a": schema } });
    }
    assert!(!schema_errors(&schema, "s", false).is_empty());
    Schema::parse(&schema);
}

use super::*;

#[test]
fn document_has_every_served_kind_and_only_known_references() {
    let registry = ResourceRegistry::default();
    let document = build(&registry);
    let definitions = document["definitions"].as_object().unwrap();
    for resource in registry.resources() {
        let identity =
            json!({ "group": resource.group, "version": resource.version, "kind": resource.kind });
        let patched = document["paths"].as_object().unwrap().values().any(|path| {
            let patch = &path["patch"];
            let has = |name: &str| {
                patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == name)
            };
            patch["x-kubernetes-group-version-kind"] == identity && has("fieldValidation")
        });
        assert!(patched, "{identity}");
        let schema = &definitions[resource.schema];
        let identities = schema["x-kubernetes-group-version-kind"].as_array().unwrap();
        assert!(identities.contains(&identity), "{identity}");
    }
    let text = document.to_string();
    assert!(!text.contains("#/components"), "a reference was not converted");
    for reference in text.split("\"#/definitions/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(definitions.contains_key(name), "{name}");
    }
    // Not as the names of properties: a CustomResourceDefinition has these.
    for unknown in ["oneOf\":[", "anyOf\":[", "allOf\":[", "nullable\":true", "requestBody\""] {
        assert!(!text.contains(unknown), "{unknown}");
    }
}

#[test]
fn schema_of_a_custom_resource_accepts_no_less() {
    for (v3, v2) in [
        (json!({ "type": "string", "nullable": true }), json!({})),
        (
            json!({ "type": "object", "properties": { "a": {} }, "x-kubernetes-preserve-unknown-fields": true }),
            json!({ "x-kubernetes-preserve-unknown-fields": true }),
        ),
        (
            json!({ "anyOf": [{ "type": "integer" }, { "type": "string" }], "x-kubernetes-int-or-string": true }),
            json!({ "x-kubernetes-int-or-string": true }),
        ),
        (json!({ "type": "array" }), json!({})),
        (
            json!({ "type": "array", "items": { "not": {}, "type": "integer" } }),
            json!({ "type": "array", "items": { "type": "integer" } }),
        ),
        (
            json!({ "type": "object", "allOf": [{ "required": ["a"] }, {}] }),
            json!({ "type": "object" }),
        ),
        (
            json!({ "allOf": [{ "$ref": "#/components/schemas/a.B" }], "description": "c" }),
            json!({ "$ref": "#/definitions/a.B", "description": "c" }),
        ),
    ] {
        let mut converted = v3.clone();
        convert_schema(&mut converted);
        assert_eq!(converted, v2, "{v3}");
    }
}

#[test]
fn encoding_is_the_first_that_the_client_names() {
    let [older, newer] = PROTOBUF;
    for (accept, protobuf) in [
        ("", Some(false)),
        ("*/*", Some(false)),
        (&*format!("{older}, */*"), Some(true)),
        (newer, Some(true)),
        ("application/json, */*", Some(false)),
        ("text/html", None),
    ] {
        assert_eq!(encoding(accept), protobuf, "{accept}");
    }
}

#[test]
fn custom_resource_with_any_field_is_an_object() {
    let identity = json!([{ "group": "example.com", "version": "v1", "kind": "Widget" }]);
    let mut schema = json!({
        "x-kubernetes-preserve-unknown-fields": true, "x-kubernetes-group-version-kind": identity,
    });
    open_root(&mut schema);
    assert_eq!(schema, json!({ "type": "object", "x-kubernetes-group-version-kind": identity }));
    let closed = json!({ "type": "object", "x-kubernetes-group-version-kind": identity });
    let mut schema = closed.clone();
    open_root(&mut schema);
    assert_eq!(schema, closed);
}

//! `x-kubernetes-validations`: the rules of CustomResourceDefinitions, by the API. The expected
//! answers are those of kube-apiserver 1.36.

use crate::{
    crds::DEFINITIONS,
    fixture::{Response, cluster, get, patch, post},
};
use kube_embedded::Cluster;
use serde_json::{Value, json};

const SHOPS: &str = "/apis/example.com/v1/namespaces/default/shops";
const MERGE: &str = "merge-patch+json";

fn definition(spec: &Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "shops.example.com" },
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": { "kind": "Shop", "plural": "shops" },
            "versions": [{
                "name": "v1",
                "served": true,
                "storage": true,
                "subresources": { "status": {} },
                "schema": { "openAPIV3Schema": {
                    "type": "object",
                    "x-kubernetes-validations": [{ "rule": "self.metadata.name != 'forbidden'" }],
                    "properties": { "spec": spec, "status": {
                        "type": "object",
                        "properties": { "ready": { "type": "integer" } },
                        "x-kubernetes-validations": [{ "rule": "self.ready < 10" }],
                    } },
                } },
            }],
        },
    })
}

fn spec() -> Value {
    json!({
        "type": "object",
        "x-kubernetes-validations": [
            {
                "rule": "self.min <= self.max",
                "messageExpression": "'min %d over max %d'.format([self.min, self.max])",
                "fieldPath": ".min",
            },
            { "rule": "self.name == oldSelf.name", "message": "name is immutable" },
            { "rule": "!has(self.closed) || !self.closed", "reason": "FieldValueForbidden" },
            {
                "rule": "oldSelf.hasValue() || self.min == 1",
                "optionalOldSelf": true,
                "message": "starts at 1",
            },
        ],
        "properties": {
            "name": { "type": "string", "maxLength": 10 },
            "min": { "type": "integer", "x-kubernetes-validations": [{ "rule": "self % 2 == 1" }] },
            "max": { "type": "integer" },
            "closed": { "type": "boolean" },
            "port-name": { "x-kubernetes-int-or-string": true },
            "prices": {
                "type": "object",
                "maxProperties": 5,
                "additionalProperties": {
                    "type": "integer",
                    "x-kubernetes-validations": [{ "rule": "self == oldSelf", "message": "fixed" }],
                },
            },
            "doors": {
                "type": "array",
                "maxItems": 5,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["side"],
                "items": {
                    "type": "object",
                    "required": ["side"],
                    "properties": {
                        "side": { "type": "string", "maxLength": 5 },
                        "color": {
                            "type": "string",
                            "maxLength": 5,
                            "x-kubernetes-validations": [
                                { "rule": "self == oldSelf", "message": "painted" },
                            ],
                        },
                    },
                },
            },
        },
    })
}

fn shop(changes: &Value) -> Value {
    let mut spec = json!({
        "name": "n", "min": 1, "max": 9, "prices": { "a": 1 }, "doors": [{ "side": "left", "color": "red" }],
    });
    for (name, value) in changes.as_object().unwrap() {
        spec[name] = value.clone();
    }
    let metadata = json!({ "name": "x" });
    json!({ "apiVersion": "example.com/v1", "kind": "Shop", "metadata": metadata, "spec": spec })
}

async fn with_shops() -> Cluster {
    let cluster = cluster().await;
    let created = post(&cluster, DEFINITIONS, &definition(&spec())).await;
    assert_eq!(created.code, 201, "{}", created.text);
    cluster
}

/// The field and the message of each cause.
fn causes(response: &Response) -> Vec<String> {
    let status: Value = serde_json::from_str(&response.text).unwrap();
    let causes = status["details"]["causes"].as_array().cloned().unwrap_or_default();
    let text = |cause: &Value, field: &str| cause[field].as_str().unwrap().to_owned();
    causes.iter().map(|c| format!("{}: {}", text(c, "field"), text(c, "message"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn object_that_breaks_rules_is_refused_with_their_messages() {
    let cluster = with_shops().await;
    for (changes, expected) in [
        (json!({}), &[][..]),
        (
            json!({ "min": 11, "max": 3 }),
            &["spec.min: Invalid value: min 11 over max 3", "spec: Invalid value: starts at 1"],
        ),
        (
            json!({ "closed": true }),
            &["spec: Forbidden: failed rule: !has(self.closed) || !self.closed"],
        ),
        (
            json!({ "min": 2 }),
            &[
                "spec: Invalid value: starts at 1",
                "spec.min: Invalid value: 2: failed rule: self % 2 == 1",
            ],
        ),
        (
            json!({ "name": "much too long" }),
            &[
                "spec.name: Too long: may not be more than 10 bytes",
                "<nil>: Invalid value: null: some validation rules were not checked because the object \
             was invalid; correct the existing errors to complete validation",
            ],
        ),
        (
            json!({ "max": null }),
            &[
                "spec: Invalid value: \"object\": no such key: max evaluating rule: self.min <= self.max",
            ],
        ),
    ] {
        let response = post(&cluster, &format!("{SHOPS}?dryRun=All"), &shop(&changes)).await;
        assert_eq!(response.code, if expected.is_empty() { 201 } else { 422 }, "{changes}");
        assert_eq!(causes(&response), expected, "{changes}");
    }
    let mut named = shop(&json!({}));
    named["metadata"]["name"] = "forbidden".into();
    let response = post(&cluster, SHOPS, &named).await;
    let rule = "failed rule: self.metadata.name != 'forbidden'";
    assert_eq!(causes(&response), [format!("<nil>: Invalid value: {rule}")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn transition_rules_compare_what_can_be_matched_with_its_old_state() {
    let cluster = with_shops().await;
    assert_eq!(post(&cluster, SHOPS, &shop(&json!({}))).await.code, 201);
    let path = format!("{SHOPS}/x?dryRun=All");
    for (change, expected) in [
        (json!({ "spec": { "name": "other" } }), &["spec: Invalid value: name is immutable"][..]),
        (json!({ "spec": { "min": 3 } }), &[]),
        (json!({ "spec": { "prices": { "a": 2 } } }), &["spec.prices[a]: Invalid value: 2: fixed"]),
        (json!({ "spec": { "prices": { "b": 2 } } }), &[]),
        (
            json!({ "spec": { "doors": [{ "side": "right" }, { "side": "left", "color": "blue" }] } }),
            &["spec.doors[1].color: Invalid value: \"blue\": painted"],
        ),
        (json!({ "spec": { "doors": [{ "side": "right", "color": "blue" }] } }), &[]),
    ] {
        let response = patch(&cluster, &path, MERGE, &change).await;
        assert_eq!(response.code, if expected.is_empty() { 200 } else { 422 }, "{change}");
        assert_eq!(causes(&response), expected, "{change}");
    }
    let status = format!("{SHOPS}/x/status");
    let response = patch(&cluster, &status, MERGE, &json!({ "status": { "ready": 20 } })).await;
    assert_eq!(causes(&response), ["status: Invalid value: failed rule: self.ready < 10"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn unchanged_value_keeps_breaking_a_new_rule_with_a_warning() {
    let cluster = with_shops().await;
    assert_eq!(post(&cluster, SHOPS, &shop(&json!({}))).await.code, 201);
    let rule = json!([{ "rule": "self > 100", "message": "too small" }]);
    let mut stricter = spec();
    stricter["properties"]["max"]["x-kubernetes-validations"] = rule;
    let path = format!("{DEFINITIONS}/shops.example.com");
    let versions = definition(&stricter)["spec"]["versions"].clone();
    let change = json!({ "spec": { "versions": versions } });
    assert_eq!(patch(&cluster, &path, MERGE, &change).await.code, 200);
    let path = format!("{SHOPS}/x");
    let response = patch(&cluster, &path, MERGE, &json!({ "spec": { "min": 3 } })).await;
    assert_eq!(response.code, 200, "{}", response.text);
    assert_eq!(response.warnings, ["299 - \"spec.max: Invalid value: 9: too small\""]);
    let response = patch(&cluster, &path, MERGE, &json!({ "spec": { "max": 10 } })).await;
    assert_eq!(causes(&response), ["spec.max: Invalid value: 10: too small"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn definition_with_a_bad_rule_is_refused() {
    let cluster = cluster().await;
    let at = "spec.versions[0].schema.openAPIV3Schema.properties[spec].x-kubernetes-validations[0]";
    let shown = |rule: &str| {
        format!(
            "Invalid value: {{\"Rule\":\"{rule}\",\"Message\":\"\",\"MessageExpression\":\"\",\
             \"Reason\":null,\"FieldPath\":\"\",\"OptionalOldSelf\":null}}"
        )
    };
    for (rule, expected) in [
        (
            json!({ "rule": "self.nope" }),
            format!(
                "{at}.rule: {}: compilation failed: ERROR: <input>:1:5: undefined field 'nope'\n | \
             self.nope\n | ....^",
                shown("self.nope")
            ),
        ),
        (
            json!({ "rule": "self.min > 'a'" }),
            format!(
                "{at}.rule: {}: compilation failed: ERROR: <input>:1:10: found no matching overload \
             for '_>_' applied to '(int, string)'\n | self.min > 'a'\n | .........^",
                shown("self.min \\u003e 'a'")
            ),
        ),
        (
            json!({ "rule": "self.min" }),
            format!("{at}.rule: {}: cel expression must evaluate to a bool", shown("self.min")),
        ),
        (json!({ "rule": " " }), format!("{at}.rule: Required value: rule is not specified")),
        (
            json!({ "rule": "true", "fieldPath": ".nope" }),
            format!("{at}.fieldPath: Invalid value: \".nope\": must be a valid path"),
        ),
        (
            json!({ "rule": "true", "optionalOldSelf": true }),
            format!(
                "{at}.optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule"
            ),
        ),
    ] {
        let mut spec = spec();
        spec["x-kubernetes-validations"] = json!([rule]);
        let response = post(&cluster, DEFINITIONS, &definition(&spec)).await;
        assert_eq!(response.code, 422, "{rule}");
        assert_eq!(
            causes(&response),
            [expected.replace("spec.versions[0].schema", SCHEMA)],
            "{rule}"
        );
    }
}

/// A definition with one version is validated as one whose schema is for all versions.
const SCHEMA: &str = "spec.validation";

#[tokio::test(flavor = "multi_thread")]
async fn rule_that_costs_too_much_fails_its_object_alone() {
    let cluster = cluster().await;
    let costly = json!({
        "type": "object",
        "properties": { "all": {
            "type": "array", "maxItems": 100, "items": { "type": "integer" },
        } },
        "x-kubernetes-validations": [{
            "rule": "self.all.all(a, self.all.all(b, self.all.all(c, a + b + c >= 0)))",
        }],
    });
    let created = post(&cluster, DEFINITIONS, &definition(&costly)).await;
    assert_eq!(created.code, 201, "{}", created.text);
    let all: Vec<u32> = (0..100).collect();
    let object = json!({
        "apiVersion": "example.com/v1", "kind": "Shop", "metadata": { "name": "x" }, "spec": { "all": all },
    });
    let (response, other) = tokio::join!(post(&cluster, SHOPS, &object), get(&cluster, "/readyz"));
    assert_eq!((response.code, other.code), (422, 200));
    let expected = "spec: Invalid value: \"object\": 'operation cancelled: actual cost limit exceeded': \
                    no further validation rules will be run due to call cost exceeds limit for rule: \
                    self.all.all(a, self.all.all(b, self.all.all(c, a + b + c >= 0)))";
    assert_eq!(causes(&response), [expected]);
}

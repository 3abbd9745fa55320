//! What Kubernetes 1.36 warns of, as its type checker says with the definitions of the built-in types.

use super::warnings;
use crate::resources::registry::ResourceRegistry;
use serde_json::{Value, json};

fn rule(groups: &[&str], versions: &[&str], resources: &[&str]) -> Value {
    json!({ "operations": ["*"], "apiGroups": groups, "apiVersions": versions, "resources": resources })
}

/// Returns the warnings of a policy without their fields.
fn checked(rules: Value, more: Value, expression: &str) -> Vec<String> {
    let mut spec = json!({
        "matchConstraints": { "resourceRules": rules },
        "validations": [{ "expression": expression }],
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let registry = ResourceRegistry::default();
    let served: Vec<_> = registry.resources().collect();
    let warnings = warnings(&spec, &served);
    warnings.iter().map(|warning| warning["warning"].as_str().unwrap().to_owned()).collect()
}

/// Returns the first message of a warning, without the type and the place before it.
fn summary(warning: &str) -> &str {
    warning.lines().next().and_then(|line| line.splitn(4, ": ").nth(3)).unwrap_or(warning)
}

#[test]
fn fields_and_types_of_objects_are_checked() {
    for (group, plural, expression, expected) in [
        ("apps", "deployments", "object.spec.replicas > 1", None),
        (
            "apps",
            "deployments",
            "object.spec.replicas > '1'",
            Some("found no matching overload for '_>_' applied to '(int, string)'"),
        ),
        ("apps", "deployments", "object.foo == 1", Some("undefined field 'foo'")),
        ("apps", "deployments", "oldObject.spec.no == 1", Some("undefined field 'no'")),
        ("apps", "replicasets", "object.spec.paused", Some("undefined field 'paused'")),
        (
            "apps",
            "deployments",
            "object.spec.template.spec.containers.all(c, c.image == 'a' && c.imag == '')",
            Some("undefined field 'imag'"),
        ),
        (
            "apps",
            "deployments",
            "object.metadata.labels['a'] == 1",
            Some("found no matching overload for '_==_' applied to '(string, int)'"),
        ),
        (
            "apps",
            "deployments",
            "object.metadata.creationTimestamp < timestamp('2020-01-01T00:00:00Z')",
            None,
        ),
        ("apps", "deployments", "object.kind == '' && object.metadata.namespace == ''", None),
        // A whole number or a percentage.
        ("apps", "deployments", "object.spec.strategy.rollingUpdate.maxSurge == 'a'", None),
        // The value need not be true or false here.
        ("apps", "deployments", "object.spec.template", None),
        ("", "secrets", "object.data.x == b'a'", None),
        (
            "",
            "secrets",
            "object.data.x == 'a'",
            Some("found no matching overload for '_==_' applied to '(bytes, string)'"),
        ),
        // A quantity has no type that expressions see, nor has a map of them.
        (
            "",
            "pods",
            "object.spec.containers[0].resources.requests['cpu'] == '1'",
            Some("undefined field 'requests'"),
        ),
        (
            "",
            "pods",
            "object.spec.volumes.exists(v, v.emptyDir.sizeLimit == '1')",
            Some("undefined field 'sizeLimit'"),
        ),
        (
            "",
            "pods",
            "object.metadata.managedFields[0].fieldsV1.x == 1",
            Some("undefined field 'x'"),
        ),
        ("", "services", "object.spec.ports.all(p, p.targetPort == 80 || p.port == 80)", None),
    ] {
        let found = checked(json!([rule(&[group], &["v1"], &[plural])]), json!({}), expression);
        let found: Vec<&str> = found.iter().map(|warning| summary(warning)).collect();
        assert_eq!(found, Vec::from_iter(expected), "{expression}");
    }
}

#[test]
fn warning_shows_type_place_and_line() {
    let deployments = json!([rule(&["apps", ""], &["v1"], &["deployments", "pods"])]);
    let found = checked(deployments, json!({}), "object.spec.foo == object.spec.paused");
    assert_eq!(
        found,
        ["/v1, Kind=Pod: ERROR: <input>:1:12: undefined field 'foo'\n \
          | object.spec.foo == object.spec.paused\n \
          | ...........^\n\
          ERROR: <input>:1:31: undefined field 'paused'\n \
          | object.spec.foo == object.spec.paused\n \
          | ..............................^\n\
          \n\
          apps/v1, Kind=Deployment: ERROR: <input>:1:12: undefined field 'foo'\n \
          | object.spec.foo == object.spec.paused\n \
          | ...........^\n"]
    );
}

#[test]
fn types_are_those_that_rules_name() {
    for (rules, is_checked) in [
        (json!([rule(&["apps"], &["v1"], &["deployments"])]), true),
        (json!([rule(&["apps"], &["v1"], &["deployments", "deployments/scale"])]), true),
        (json!([rule(&["apps"], &["v1"], &["*", "deployments"])]), true),
        (
            json!([rule(&["*"], &["v1"], &["pods"]), rule(&["apps"], &["v1"], &["deployments"])]),
            true,
        ),
        (json!([rule(&["*"], &["v1"], &["deployments"])]), false),
        (json!([rule(&["apps"], &["*"], &["deployments"])]), false),
        (json!([rule(&["apps"], &["v1"], &["*"])]), false),
        (json!([rule(&["apps"], &["v1"], &["deployments/scale"])]), false),
        (json!([rule(&["apps"], &["v2"], &["deployments"])]), false),
        (json!([rule(&["example.com"], &["v1"], &["things"])]), false),
    ] {
        let found = checked(rules.clone(), json!({}), "object.nope == 1");
        assert_eq!(!found.is_empty(), is_checked, "{rules}");
    }
}

#[test]
fn variables_and_parameters_have_types() {
    let deployments = || json!([rule(&["apps"], &["v1"], &["deployments"])]);
    let variables = json!({ "variables": [
        { "name": "replicas", "expression": "object.spec.replicas" },
        { "name": "labels", "expression": "object.metadata.labels" },
        { "name": "containers", "expression": "object.spec.template.spec.containers" },
        { "name": "quantity", "expression": "quantity('1')" },
        { "name": "bad", "expression": "object.nope" },
    ]});
    for (expression, expected) in [
        (
            "variables.replicas > '1'",
            "found no matching overload for '_>_' applied to '(int, string)'",
        ),
        ("variables.labels.x.foo", "type 'string' does not support field selection"),
        // Nothing is known of objects, types of libraries, and what does not compile.
        ("variables.containers[0].foo", ""),
        ("variables.quantity + 1", ""),
        ("variables.bad == 1", ""),
    ] {
        let found = checked(deployments(), variables.clone(), expression);
        let found = found.first().map(|warning| summary(warning)).unwrap_or_default();
        assert_eq!(found, expected, "{expression}");
    }
    for (api_version, kind, expression, expected) in [
        ("v1", "ConfigMap", "params.spec.x == 1", "undefined field 'spec'"),
        ("v1", "ConfigMap", "params.data.x == 'a'", ""),
        ("example.com/v1", "Thing", "params.spec.x == 1", ""),
    ] {
        let kind = json!({ "paramKind": { "apiVersion": api_version, "kind": kind } });
        let found = checked(deployments(), kind, expression);
        let found = found.first().map(|warning| summary(warning)).unwrap_or_default();
        assert_eq!(found, expected, "{expression}");
    }
}

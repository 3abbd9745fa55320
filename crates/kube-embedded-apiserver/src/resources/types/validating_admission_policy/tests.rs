use super::*;
use crate::resources::types::validating_admission_policy_binding::RESOURCE as BINDING;

fn messages(resource: &ResourceType<'_>, object: &Value, old: Option<&Value>) -> Vec<String> {
    let mut object = object.clone();
    (resource.defaults)(&mut object);
    let errors = (resource.validate)(&object, old);
    errors.into_iter().map(|error| format!("{}: {}", error.field, error.message)).collect()
}

/// A valid policy with other values in its spec.
fn policy(spec: Value) -> Value {
    let mut policy = json!({
        "metadata": { "name": "p.example.com" },
        "spec": {
            "matchConstraints": { "resourceRules": [{
                "apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"],
                "resources": ["deployments"],
            }] },
            "validations": [{ "expression": "object.spec.replicas <= 5" }],
        },
    });
    json_patch::merge(&mut policy["spec"], &spec);
    policy
}

#[test]
fn policy_that_is_invalid_is_refused_as_in_kubernetes() {
    let rule = |rule: Value| json!({ "matchConstraints": { "resourceRules": [rule] } });
    let validation = |validation: Value| json!({ "validations": [validation] });
    for (spec, expected) in [
        (json!({}), vec![]),
        (
            json!({ "failurePolicy": "Maybe" }),
            vec![
                "spec.failurePolicy: Unsupported value: \"Maybe\": supported values: \"Fail\", \"Ignore\"",
            ],
        ),
        (json!({ "matchConstraints": null }), vec!["spec.matchConstraints: Required value"]),
        (
            json!({ "matchConstraints": { "resourceRules": [] } }),
            vec!["spec.matchConstraints.resourceRules: Required value"],
        ),
        (
            json!({ "matchConstraints": { "matchPolicy": "Some" } }),
            vec![
                "spec.matchConstraints.matchPolicy: Unsupported value: \"Some\": supported values: \
             \"Equivalent\", \"Exact\"",
            ],
        ),
        (
            rule(json!({ "operations": ["*", "CREATE"], "resourceNames": ["a", "a"] })),
            vec![
                "spec.matchConstraints.resourceRules[0].resourceNames[1]: Duplicate value: \"a\"",
                "spec.matchConstraints.resourceRules[0].operations: Invalid value: [\"*\",\"CREATE\"]: \
             if '*' is present, must not specify other operations",
                "spec.matchConstraints.resourceRules[0].apiGroups: Required value",
                "spec.matchConstraints.resourceRules[0].apiVersions: Required value",
                "spec.matchConstraints.resourceRules[0].resources: Required value",
            ],
        ),
        (
            rule(json!({
                "operations": ["READ"], "apiGroups": [""], "apiVersions": ["v1"], "scope": "All",
                "resources": ["pods/*", "pods/status", "*", "nodes"],
            })),
            vec![
                "spec.matchConstraints.resourceRules[0].operations[0]: Unsupported value: \"READ\": \
                 supported values: \"*\", \"CONNECT\", \"CREATE\", \"DELETE\", \"UPDATE\"",
                "spec.matchConstraints.resourceRules[0].resources[1]: Invalid value: \"pods/status\": \
                 if 'pods/*' is present, must not specify pods/status",
                "spec.matchConstraints.resourceRules[0].resources: Invalid value: \
                 [\"pods/*\",\"pods/status\",\"*\",\"nodes\"]: if '*' is present, must not specify \
                 other resources without subresources",
                "spec.matchConstraints.resourceRules[0].scope: Unsupported value: \"All\": supported \
                 values: \"*\", \"Cluster\", \"Namespaced\"",
            ],
        ),
        (
            json!({ "validations": [] }),
            vec![
                "spec.validations: Required value: validations or auditAnnotations must contain at \
             least one item",
                "spec.auditAnnotations: Required value: validations or auditAnnotations must contain \
             at least one item",
            ],
        ),
        (
            validation(json!({ "expression": "  " })),
            vec!["spec.validations[0].expression: Required value: expression is not specified"],
        ),
        (
            validation(json!({ "expression": "object.x" })),
            vec![
                "spec.validations[0].expression: Invalid value: \"object.x\": must evaluate to bool \
             but got dyn",
            ],
        ),
        (
            validation(json!({ "expression": "nope == 1" })),
            vec![
                "spec.validations[0].expression: Invalid value: \"nope == 1\": compilation failed: \
             ERROR: <input>:1:1: undeclared reference to 'nope' (in container '')\n | nope == 1\n \
             | ^",
            ],
        ),
        // There are neither parameters nor variables.
        (
            validation(json!({ "expression": "params.x == 1 || variables.y" })),
            vec![
                "spec.validations[0].expression: Invalid value: \"params.x == 1 || variables.y\": \
             compilation failed: ERROR: <input>:1:1: undeclared reference to 'params' (in \
             container '')\n | params.x == 1 || variables.y\n | ^\nERROR: <input>:1:18: undeclared \
             reference to 'variables' (in container '')\n | params.x == 1 || variables.y\n | \
             .................^",
            ],
        ),
        (
            validation(json!({ "expression": "true", "message": "a\nb", "reason": "Odd" })),
            vec![
                "spec.validations[0].message: Invalid value: \"a\\nb\": message must not contain line \
                 breaks",
                "spec.validations[0].reason: Unsupported value: \"Odd\": supported values: \
                 \"Forbidden\", \"Invalid\", \"RequestEntityTooLarge\"",
            ],
        ),
        (
            validation(json!({ "expression": "true", "messageExpression": "1" })),
            vec![
                "spec.validations[0].messageExpression: Invalid value: \"1\": must evaluate to string \
             but got int",
            ],
        ),
        // Messages are made without asking the authorizer.
        (
            validation(json!({
                "expression": "authorizer.path('/x').check('get').allowed()",
                "messageExpression": "authorizer.path('/x').check('get').reason()",
            })),
            vec![
                "spec.validations[0].messageExpression: Invalid value: \
                 \"authorizer.path('/x').check('get').reason()\": compilation failed: ERROR: \
                 <input>:1:1: undeclared reference to 'authorizer' (in container '')\n | \
                 authorizer.path('/x').check('get').reason()\n | ^",
            ],
        ),
        (
            json!({
                "variables": [
                    { "name": "a", "expression": "1" },
                    { "name": "b", "expression": "variables.a + 1" },
                    { "name": "for", "expression": "variables.c" },
                ],
                "validations": [{ "expression": "variables.b == 2" }, { "expression": "variables.b == 'x'" }],
            }),
            vec![
                "spec.variables[2].name: Invalid value: \"for\": must be a valid CEL identifier",
                "spec.variables[2].expression: Invalid value: \"variables.c\": compilation failed: \
                 ERROR: <input>:1:10: undefined field 'c'\n | variables.c\n | .........^",
                "spec.validations[1].expression: Invalid value: \"variables.b == 'x'\": compilation \
                 failed: ERROR: <input>:1:13: found no matching overload for '_==_' applied to \
                 '(int, string)'\n | variables.b == 'x'\n | ............^",
            ],
        ),
        (
            json!({ "matchConditions": [
                { "name": "a b", "expression": "true" },
                { "name": "c", "expression": "" },
                { "name": "c", "expression": "request.nope" },
            ] }),
            vec![
                "spec.matchConditions[0].name: Invalid value: \"a b\": name part must consist of \
                 alphanumeric characters, '-', '_' or '.', and must start and end with an \
                 alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used \
                 for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                "spec.matchConditions[1].expression: Required value",
                "spec.matchConditions[2].expression: Invalid value: \"request.nope\": compilation \
                 failed: ERROR: <input>:1:8: undefined field 'nope'\n | request.nope\n | .......^",
                "spec.matchConditions[2].name: Duplicate value: \"c\"",
            ],
        ),
        (
            json!({ "auditAnnotations": [
                { "key": "a", "valueExpression": "1" },
                { "key": "a", "valueExpression": "" },
                { "key": "n", "valueExpression": "null" },
            ] }),
            vec![
                "spec.auditAnnotations[0].valueExpression: Invalid value: \"1\": must evaluate to \
                 one of [string null_type] but got int",
                "spec.auditAnnotations[1].valueExpression: Required value: valueExpression is not \
                 specified",
                "spec.auditAnnotations[1].key: Duplicate value: \"a\"",
            ],
        ),
        (
            json!({ "paramKind": { "apiVersion": "a/b/c", "kind": "" } }),
            vec![
                "spec.paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: \
             a/b/c",
                "spec.paramKind.kind: Required value",
            ],
        ),
    ] {
        assert_eq!(messages(&RESOURCE, &policy(spec.clone()), None), expected, "{spec}");
    }
}

#[test]
fn match_conditions_that_stay_are_not_validated_again() {
    let before = policy(json!({ "matchConditions": [{ "name": "a", "expression": "nope" }] }));
    assert_eq!(messages(&RESOURCE, &before, None).len(), 1);
    assert_eq!(messages(&RESOURCE, &before, Some(&before)), Vec::<String>::new());
    let mut after = before.clone();
    after["spec"]["paramKind"] = json!({ "apiVersion": "v1", "kind": "ConfigMap" });
    assert_eq!(messages(&RESOURCE, &after, Some(&before)).len(), 1);
}

#[test]
fn binding_that_is_invalid_is_refused_as_in_kubernetes() {
    let param_ref = |reference: Value| json!({ "policyName": "p", "validationActions": ["Deny"], "paramRef": reference });
    for (spec, expected) in [
        (json!({ "policyName": "p", "validationActions": ["Deny", "Audit"] }), vec![]),
        (
            json!({}),
            vec![
                "spec.policyName: Required value",
                "spec.validationActions: Required value: at least one validation action is required",
            ],
        ),
        (
            json!({ "policyName": "p", "validationActions": ["Deny", "Warn", "Warn", "Stop"] }),
            vec![
                "spec.validationActions[2]: Duplicate value: \"Warn\"",
                "spec.validationActions[3]: Unsupported value: \"Stop\": supported values: \"Audit\", \
             \"Deny\", \"Warn\"",
                "spec.validationActions: Invalid value: [\"Deny\",\"Warn\",\"Warn\",\"Stop\"]: must not \
             contain both Deny and Warn (repeating the same validation failure information in the \
             API response and headers serves no purpose)",
            ],
        ),
        (
            param_ref(json!({})),
            vec![
                "spec.paramRef: Required value: one of name or selector must be specified",
                "spec.paramRef.parameterNotFoundAction: Required value",
            ],
        ),
        (
            param_ref(json!({ "name": "a", "selector": {}, "parameterNotFoundAction": "Stop" })),
            vec![
                "spec.paramRef.name: Forbidden: name and selector are mutually exclusive",
                "spec.paramRef.selector: Forbidden: name and selector are mutually exclusive",
                "spec.paramRef.parameterNotFoundAction: Unsupported value: \"Stop\": supported \
                 values: \"Deny\", \"Allow\"",
            ],
        ),
        (
            json!({ "policyName": "p", "validationActions": ["Deny"], "matchResources": {
                "namespaceSelector": { "matchExpressions": [{ "key": "a", "operator": "Is" }] },
            } }),
            vec![
                "spec.matchResources.namespaceSelector.matchExpressions[0].operator: Invalid value: \
                 \"Is\": not a valid selector operator",
            ],
        ),
    ] {
        let binding = json!({ "metadata": { "name": "b" }, "spec": spec });
        assert_eq!(messages(&BINDING, &binding, None), expected, "{binding}");
    }
}

#[test]
fn columns_are_those_of_kubectl() {
    let now = jiff::Timestamp::UNIX_EPOCH;
    let cells = |resource: &ResourceType<'_>, spec: Value| -> Vec<Value> {
        let object = json!({ "spec": spec });
        resource.columns.iter().take(2).map(|column| (column.cell)(&object, now)).collect()
    };
    let kind = json!({ "apiVersion": "example.com/v1", "kind": "Limit" });
    for (spec, expected) in [
        (json!({ "validations": [1, 2], "paramKind": kind }), json!([2, "example.com/v1/Limit"])),
        (json!({}), json!([0, "<unset>"])),
    ] {
        assert_eq!(json!(cells(&RESOURCE, spec)), expected);
    }
    for (reference, expected) in [
        (Value::Null, "<unset>"),
        (json!({ "name": "a" }), "*/a"),
        (json!({ "name": "a", "namespace": "n" }), "n/a"),
    ] {
        let spec = json!({ "policyName": "p", "paramRef": reference });
        assert_eq!(json!(cells(&BINDING, spec)), json!(["p", expected]));
    }
}

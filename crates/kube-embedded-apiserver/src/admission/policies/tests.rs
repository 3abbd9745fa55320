//! Matching and evaluation, without an API.

use super::{
    attributes::{Attributes, Operation},
    evaluation::{Input, Outcome, evaluate},
    index::Policy,
    matching::{MatchResources, Matched, Surroundings},
};
use crate::{
    authentication::user::User,
    cel::authorization::{Authorize, Check, Decision},
    resources::registry::{ResourceRegistry, find_kind},
    store::{Key, Resource, Store},
};
use serde_json::{Value, json};
use std::{cell::OnceCell, rc::Rc};

/// A request for an object, with other attributes.
fn attributes<'a>(
    (group, kind): (&str, &str),
    operation: Operation,
    namespace: &'a str,
    object: &'a Value,
) -> Attributes<'a> {
    let resource = find_kind(group, "v1", kind).unwrap();
    Attributes {
        resource,
        subresource: "",
        kind: (resource.group, resource.version, resource.kind),
        namespace,
        name: "one",
        operation,
        user: User::admin(),
        dry_run: false,
        options: Value::Null,
        object: (operation != Operation::Delete).then_some(object),
        old: (operation != Operation::Create).then_some(object),
    }
}

#[test]
fn requests_match_by_rules_and_selectors() {
    let registry = ResourceRegistry::default();
    let namespace = json!({ "metadata": { "labels": { "env": "prod" } } });
    let around = Surroundings {
        served: &registry,
        namespace: Some(&namespace),
        equivalents: OnceCell::new(),
    };
    let object = json!({ "metadata": { "labels": { "app": "x", "env": "test" } } });
    let rule = |group: &str, resources: &[&str], operations: &[&str]| {
        json!({
            "apiGroups": [group], "apiVersions": ["v1"], "resources": resources,
            "operations": operations, "scope": "*",
        })
    };
    let with = |rule: &Value, field: &str, value: Value| {
        let mut rule = rule.clone();
        rule[field] = value;
        json!({ "resourceRules": [rule] })
    };
    let maps = rule("", &["configmaps"], &["CREATE", "DELETE"]);
    let (map, name_space) = (("", "ConfigMap"), ("", "Namespace"));
    let deployment = ("apps", "Deployment");
    let (create, update, delete) = (Operation::Create, Operation::Update, Operation::Delete);
    for (kind, operation, subresource, given, expected) in [
        (map, create, "", json!({}), true),
        (map, create, "", json!({ "resourceRules": [maps] }), true),
        (map, delete, "", json!({ "resourceRules": [maps] }), true),
        (map, update, "", json!({ "resourceRules": [maps] }), false),
        (deployment, create, "", json!({ "resourceRules": [maps] }), false),
        (deployment, create, "", json!({ "resourceRules": [rule("*", &["*"], &["*"])] }), true),
        (
            deployment,
            update,
            "scale",
            json!({ "resourceRules": [rule("*", &["*"], &["*"])] }),
            false,
        ),
        (
            deployment,
            update,
            "scale",
            json!({ "resourceRules": [rule("*", &["*/scale"], &["*"])] }),
            true,
        ),
        (
            deployment,
            update,
            "scale",
            json!({ "resourceRules": [rule("*", &["deployments/*"], &["*"])] }),
            true,
        ),
        (map, create, "", with(&maps, "apiVersions", json!(["v2"])), false),
        (map, create, "", with(&maps, "scope", json!("Namespaced")), true),
        (map, create, "", with(&maps, "scope", json!("Cluster")), false),
        (
            name_space,
            create,
            "",
            json!({ "resourceRules": [
            { "apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*"], "scope": "Namespaced" },
        ] }),
            false,
        ),
        (map, create, "", with(&maps, "resourceNames", json!(["one", "two"])), true),
        (map, create, "", with(&maps, "resourceNames", json!(["two"])), false),
        (
            map,
            create,
            "",
            json!({ "resourceRules": [maps], "excludeResourceRules": [maps] }),
            false,
        ),
        (map, create, "", json!({ "objectSelector": { "matchLabels": { "app": "x" } } }), true),
        (map, create, "", json!({ "objectSelector": { "matchLabels": { "app": "y" } } }), false),
        (map, delete, "", json!({ "objectSelector": { "matchLabels": { "app": "x" } } }), true),
        (
            map,
            create,
            "",
            json!({ "namespaceSelector": { "matchLabels": { "env": "prod" } } }),
            true,
        ),
        (
            map,
            create,
            "",
            json!({ "namespaceSelector": { "matchLabels": { "env": "test" } } }),
            false,
        ),
        // A namespace is selected by the labels that it is to have, and by those that it had.
        (
            name_space,
            create,
            "",
            json!({ "namespaceSelector": { "matchLabels": { "env": "test" } } }),
            true,
        ),
        (
            name_space,
            delete,
            "",
            json!({ "namespaceSelector": { "matchLabels": { "env": "prod" } } }),
            true,
        ),
    ] {
        let request = attributes(kind, operation, "n", &object);
        let request = Attributes { subresource, ..request };
        let found = MatchResources::new(&given).matches(&request, &around);
        assert_eq!(found.is_some(), expected, "{kind:?} {operation:?} {subresource} {given}");
    }
    // Objects outside of namespaces are never exempt.
    let selects = json!({ "namespaceSelector": { "matchLabels": { "env": "none" } } });
    let request = attributes(("", "Node"), create, "", &object);
    assert!(MatchResources::new(&selects).matches(&request, &around).is_some());
}

#[test]
fn rules_for_another_version_match_equivalent_requests() {
    let registry = ResourceRegistry::default();
    let object = json!({ "metadata": {} });
    for (policy, expected) in [("Exact", None), ("Equivalent", Some("events.k8s.io"))] {
        let around =
            Surroundings { served: &registry, namespace: None, equivalents: OnceCell::new() };
        let rules = json!({ "matchPolicy": policy, "resourceRules": [{
            "apiGroups": ["events.k8s.io"], "apiVersions": ["v1"], "resources": ["events"],
            "operations": ["*"],
        }] });
        let request = attributes(("", "Event"), Operation::Create, "n", &object);
        let found = match MatchResources::new(&rules).matches(&request, &around) {
            Some(Matched::Equivalent(other)) => Some(other.group),
            Some(Matched::Itself) => Some("itself"),
            None => None,
        };
        assert_eq!(found, expected);
    }
}

/// Allows `get`.
#[derive(Debug)]
struct Gets;

impl Authorize for Gets {
    fn authorize(&self, account: Option<&(String, String)>, check: &Check, verb: &str) -> Decision {
        let reason =
            format!("{account:?} {verb} {} {}/{}", check.resource, check.namespace, check.name);
        Decision { allowed: verb == "get", reason, error: String::new() }
    }
}

fn decide(spec: Value) -> Outcome {
    let store = Store::default();
    let key = Key {
        resource: Resource::fixed("", "policies"),
        namespace: String::new(),
        name: "p".to_owned(),
    };
    let policy = store.create(key, |_| json!({ "spec": spec })).unwrap();
    let policy = Policy::new(&policy);
    let object =
        json!({ "spec": { "replicas": 7, "names": ["a", "b"] }, "text": "a".repeat(1000) });
    let request =
        json!({ "operation": "CREATE", "name": "one", "userInfo": { "username": "bob" } });
    let namespace = json!({ "metadata": { "name": "n", "labels": { "env": "prod" } } });
    let params = json!({ "max": 5 });
    let resource = Rc::new(Check { resource: "things".into(), ..Check::default() });
    evaluate(
        &policy,
        Input {
            object: Some(&object),
            old: None,
            request: &request,
            namespace: Some(&namespace),
            params: Some(&params),
            authorizer: &Gets,
            resource: &resource,
        },
    )
}

/// The refusals by a policy: reasons and messages.
fn denials(spec: Value) -> Vec<String> {
    let all = decide(spec).denials.into_iter();
    all.map(|denial| format!("{}: {}", denial.reason, denial.message)).collect()
}

#[test]
fn validations_are_decided_as_in_kubernetes() {
    let validations = |validations: Value| json!({ "paramKind": { "apiVersion": "v1", "kind": "ConfigMap" }, "validations": validations });
    let expression = |expression: &str| validations(json!([{ "expression": expression }]));
    for source in [
        "object.spec.replicas == 7 && oldObject == null && params.max == 5",
        "request.operation == 'CREATE' && request.userInfo.username == 'bob' && !has(request.namespace)",
        "namespaceObject.metadata.labels.env == 'prod'",
        "authorizer.group('apps').resource('deployments').namespace('n').name('x').check('get').allowed()",
        "!authorizer.requestResource.check('delete').allowed()",
        "authorizer.requestResource.check('get').reason() == 'None get things /'",
        "authorizer.serviceAccount('n', 's').path('/x').check('get').reason().startsWith('Some((\"n\", \"s\"))')",
        "has(object.spec.nope) || object.spec.names.all(n, n.size() == 1)",
    ] {
        assert_eq!(denials(expression(source)), Vec::<String>::new(), "{source}");
    }
    let failed = |message: &str| vec![format!(": expression {message}")];
    for (spec, expected) in [
        (
            expression(" object.spec.replicas < params.max "),
            vec!["Invalid: failed expression: object.spec.replicas < params.max".to_owned()],
        ),
        (
            validations(json!([
                { "expression": "false", "message": " a ", "reason": "Forbidden" },
                { "expression": "true" },
                { "expression": "false", "message": "b", "messageExpression": "'max ' + string(params.max)" },
                { "expression": "false", "message": "c", "messageExpression": "object.nope" },
                { "expression": "false", "message": "d", "messageExpression": "'a\\nb'" },
                { "expression": "false", "messageExpression": "''" },
            ])),
            vec![
                "Forbidden: a".to_owned(),
                "Invalid: max 5".to_owned(),
                "Invalid: c".to_owned(),
                "Invalid: d".to_owned(),
                "Invalid: failed expression: false".to_owned(),
            ],
        ),
        (
            expression("object.nope == 1"),
            failed("'object.nope == 1' resulted in error: no such key: nope"),
        ),
        (
            expression("object.text + 1 == 2"),
            failed("'object.text + 1 == 2' resulted in error: no such overload"),
        ),
        (
            expression(
                "authorizer.path('/a').check('get').allowed() && authorizer.path('/b').check('get').allowed() && authorizer.path('/c').check('get').allowed()",
            ),
            failed(
                "'authorizer.path('/a').check('get').allowed() && authorizer.path('/b').check('get').allowed() && authorizer.path('/c').check('get').allowed()' resulted in error: operation cancelled: actual cost limit exceeded",
            ),
        ),
        (
            expression("nope"),
            vec![
            ": compilation error: compilation failed: ERROR: <input>:1:1: undeclared reference to \
             'nope' (in container '')\n | nope\n | ^".to_owned(),
        ],
        ),
    ] {
        assert_eq!(denials(spec.clone()), expected, "{spec}");
        // What fails is let through if the policy says so; what is refused is not.
        let mut ignoring = spec.clone();
        ignoring["failurePolicy"] = "Ignore".into();
        let refused: Vec<_> =
            expected.iter().filter(|message| !message.starts_with(':')).cloned().collect();
        assert_eq!(denials(ignoring), refused, "{spec}");
    }
}

#[test]
fn match_conditions_exempt_and_fail_as_in_kubernetes() {
    let spec = |expressions: &[&str]| {
        let conditions = expressions.iter().map(|one| json!({ "name": "c", "expression": one }));
        json!({
            "matchConditions": conditions.collect::<Vec<_>>(),
            "validations": [{ "expression": "false" }],
        })
    };
    let refused = vec!["Invalid: failed expression: false".to_owned()];
    let error = "expression 'object.nope' resulted in error: no such key: nope";
    let error = |n| error.replace("object.nope'", &format!("object.nope == {n}'"));
    let [one, two] = [1, 2].map(error);
    for (conditions, fail, ignore) in [
        (vec!["true", "object.spec.replicas == 7"], refused.clone(), refused),
        (vec!["true", "false"], vec![], vec![]),
        // One that is false outweighs errors.
        (vec!["object.nope == 1", "false"], vec![], vec![]),
        (vec!["object.nope == 1", "true"], vec![format!(": {one}")], vec![]),
        (vec!["object.nope == 1", "object.nope == 2"], vec![format!(": [{one}, {two}]")], vec![]),
    ] {
        assert_eq!(denials(spec(&conditions)), fail, "{conditions:?}");
        let mut ignoring = spec(&conditions);
        ignoring["failurePolicy"] = "Ignore".into();
        assert_eq!(denials(ignoring), ignore, "{conditions:?}");
    }
}

#[test]
fn variables_are_evaluated_once_and_when_they_are_accessed() {
    let variables = |given: &[(&str, &str)], expression: &str| {
        let given =
            given.iter().map(|(name, source)| json!({ "name": name, "expression": source }));
        json!({
            "variables": given.collect::<Vec<_>>(),
            "validations": [{ "expression": expression, "message": "no" }],
        })
    };
    for (given, expression, expected) in [
        (vec![("a", "object.spec.replicas"), ("b", "variables.a + 1")], "variables.b == 8", None),
        (vec![("bad", "object.nope")], "true || variables.bad == 1", None),
        (
            vec![("list", "object.spec.names.map(n, n + '!')")],
            "variables.list == ['a!', 'b!']",
            None,
        ),
        (vec![("a", "1"), ("a", "variables.a + 1")], "variables.a == 2", None),
        (vec![("a", "1")], "dyn(variables).a == 1", None),
        (
            vec![("bad", "object.nope"), ("user", "variables.bad")],
            "variables.user == 1",
            Some(
                ": expression 'variables.user == 1' resulted in error: composited variable \"user\" \
                  fails to evaluate: composited variable \"bad\" fails to evaluate: no such key: nope",
            ),
        ),
    ] {
        let found = denials(variables(&given, expression));
        assert_eq!(found, expected.map(str::to_owned).into_iter().collect::<Vec<_>>(), "{given:?}");
    }
    // Neither a long chain nor names that are hidden need a deep stack.
    let names: Vec<String> = (0..2000).map(|n| format!("v{n}")).collect();
    let chain = |hidden: bool| {
        let object = if hidden { "dyn(variables)" } else { "variables" };
        let sources = names.iter().enumerate().map(|(n, name)| match n {
            0 => json!({ "name": name, "expression": "0" }),
            _ => json!({ "name": name, "expression": format!("{object}.v{} + 1", n - 1) }),
        });
        json!({
            "variables": sources.collect::<Vec<_>>(),
            "validations": [{ "expression": "variables.v1999 == 1999" }],
        })
    };
    assert_eq!(denials(chain(false)), Vec::<String>::new());
    let hidden = denials(chain(true));
    assert!(hidden[0].ends_with("variables are nested too deeply"), "{hidden:?}");
}

#[test]
fn costs_are_bounded_for_each_expression_and_for_all() {
    const EXCEEDED: &str = "resulted in error: operation cancelled: actual cost limit exceeded";
    const OUT: &str = ": validation failed due to running out of cost budget, no further \
                       validation rules will be run";
    let dear = "lists.range(200).all(a, lists.range(200).all(b, a + b >= 0))";
    let endless =
        "lists.range(3000).all(a, lists.range(3000).all(b, lists.range(3000).all(c, true)))";
    let validations = |n: usize| json!({ "validations": vec![json!({ "expression": dear }); n] });
    assert_eq!(denials(validations(1)), Vec::<String>::new());
    let one = denials(json!({ "validations": [{ "expression": endless }] }));
    assert!(one[0].ends_with(EXCEEDED), "{one:?}");
    assert_eq!(denials(validations(60)), [OUT]);
    let variables: Vec<Value> =
        (0..60).map(|n| json!({ "name": format!("v{n}"), "expression": dear })).collect();
    let all: Vec<String> = (0..60).map(|n| format!("variables.v{n}")).collect();
    let together = json!({
        "variables": variables, "validations": [{ "expression": all.join(" && ") }],
    });
    assert_eq!(denials(together), [OUT]);
    // Those of a match condition are fewer.
    let condition = json!({ "name": "c", "expression": dear });
    assert_eq!(
        denials(json!({ "matchConditions": vec![condition; 30], "validations": [] })),
        [OUT]
    );
}

#[test]
fn audit_annotations_are_texts_or_nothing() {
    let annotations =
        |source: &str| json!({ "auditAnnotations": [{ "key": "k", "valueExpression": source }] });
    let found = |source: &str| decide(annotations(source)).annotations;
    assert_eq!(found("' ' + request.name + ' '"), [("k".to_owned(), "one".to_owned())]);
    assert_eq!(found("null"), []);
    assert_eq!(found("object.spec.replicas > 9 ? 'many' : ''"), []);
    let failed = decide(annotations("string(object.nope)"));
    assert!(failed.denials.iter().all(|denial| denial.always) && failed.denials.len() == 1);
}

//! ValidatingAdmissionPolicies through the API: which requests they see, and what becomes of them.

use super::{admission::send_warned, *};

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A policy `p` with one validation, on all operations on some resources.
fn policy(resources: &[&str], expression: &str) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": { "name": "p" },
        "spec": {
            "matchConstraints": { "resourceRules": [{
                "apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"],
                "resources": resources,
            }] },
            "validations": [{ "expression": expression, "message": "no" }],
        },
    })
}

fn binding(spec: Value) -> Value {
    let mut binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": { "name": "b" },
        "spec": { "policyName": "p", "validationActions": ["Deny"] },
    });
    json_patch::merge(&mut binding["spec"], &spec);
    binding
}

fn config_map(name: &str, value: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name },
        "data": { "k": value },
    })
}

async fn create(api: &Api, path: &str, object: Value) {
    let (code, created) = send(api, Method::POST, path, object).await;
    assert_eq!(code, StatusCode::CREATED, "{created}");
}

/// An API with a policy, and a binding of it.
async fn api_with(policy: Value, binding: Value) -> Api {
    let api = api();
    create(&api, POLICIES, policy).await;
    create(&api, BINDINGS, binding).await;
    api
}

/// Sends a request; returns the message if a policy refuses it.
async fn refused(api: &Api, method: Method, path: &str, body: Value) -> Option<String> {
    let (code, status) = send(api, method, path, body).await;
    let message = status["message"].as_str().unwrap_or_default().to_owned();
    match message.contains("ValidatingAdmissionPolicy") {
        true => Some(message),
        false => {
            assert!(code.is_success(), "{code} {status}");
            None
        }
    }
}

const DENIED: &str =
    "is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no";

#[tokio::test]
async fn every_verb_is_refused_with_the_status_of_kubernetes() {
    let api = api();
    for name in ["old", "other"] {
        create(&api, MAPS, config_map(name, "1")).await;
    }
    create(&api, POLICIES, policy(&["configmaps"], "false")).await;
    // Without a binding it does nothing.
    create(&api, MAPS, config_map("free", "1")).await;
    create(&api, BINDINGS, binding(json!({}))).await;
    let (code, status) = send(&api, Method::POST, MAPS, config_map("new", "1")).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    let message = format!("configmaps \"new\" {DENIED}");
    let cause = "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no";
    assert_eq!(status["message"], message);
    assert_eq!(status["reason"], "Invalid");
    let details = json!({ "name": "new", "kind": "configmaps", "causes": [{ "message": cause }] });
    assert_eq!(status["details"], details);
    let (one, all) = (format!("{MAPS}/old"), MAPS.to_owned());
    let applied = format!("{MAPS}/applied?fieldManager=me");
    for (method, path, body, name) in [
        (Method::PUT, &one, config_map("old", "2"), "old"),
        (Method::PATCH, &one, json!({ "data": { "k": "2" } }), "old"),
        (Method::PATCH, &applied, config_map("applied", "1"), "applied"),
        (Method::DELETE, &one, Value::Null, "old"),
        // As in Kubernetes, whose request has no name.
        (Method::DELETE, &all, Value::Null, "Unknown"),
        (Method::POST, &format!("{all}?dryRun=All"), config_map("dry", "1"), "dry"),
    ] {
        let message = refused(&api, method.clone(), path, body).await;
        assert_eq!(message, Some(format!("configmaps \"{name}\" {DENIED}")), "{method} {path}");
    }
    let (_, left) = send(&api, Method::GET, MAPS, Value::Null).await;
    assert_eq!(left["items"].as_array().unwrap().len(), 3);
    // Other resources are left alone, and policies can always be removed.
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s" } });
    create(&api, "/api/v1/namespaces/default/secrets", secret).await;
    let path = format!("{POLICIES}/p");
    let everything = json!({ "spec": policy(&["*"], "false")["spec"] });
    assert_eq!(refused(&api, Method::PATCH, &path, everything).await, None);
    assert_eq!(refused(&api, Method::DELETE, &path, Value::Null).await, None);
    create(&api, MAPS, config_map("new", "1")).await;
}

#[tokio::test]
async fn expressions_see_the_objects_of_each_operation() {
    let mut given = policy(&["configmaps"], "variables.holds");
    given["spec"]["variables"] = json!([{ "name": "holds", "expression": "true" }]);
    let api = api_with(given, binding(json!({}))).await;
    for (method, path, body, expression) in [
        (
            Method::POST,
            MAPS,
            config_map("a", "1"),
            "request.operation == 'CREATE' && oldObject == null && object.data.k == '1' && request.options.kind == 'CreateOptions' && request.name == 'a'",
        ),
        (
            Method::PUT,
            "/a",
            config_map("a", "2"),
            "request.operation == 'UPDATE' && oldObject.data.k == '1' && object.data.k == '2' && request.options.kind == 'UpdateOptions' && !request.dryRun",
        ),
        (
            Method::PATCH,
            "/a?dryRun=All",
            json!({ "data": { "k": "3" } }),
            "object.data.k == '3' && request.dryRun && request.options.dryRun == ['All']",
        ),
        (
            Method::PATCH,
            "/n?fieldManager=me",
            config_map("n", "1"),
            "request.operation == 'CREATE' && request.options.fieldManager == 'me'",
        ),
        (
            Method::POST,
            MAPS,
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "generateName": "g-" } }),
            "!has(request.name) && object.metadata.name.startsWith('g-')",
        ),
        (
            Method::DELETE,
            "/a?gracePeriodSeconds=0",
            Value::Null,
            "request.operation == 'DELETE' && object == null && oldObject.data.k == '2' && request.options.kind == 'DeleteOptions' && request.options.gracePeriodSeconds == 0",
        ),
        (
            Method::DELETE,
            MAPS,
            Value::Null,
            "request.userInfo.username == 'kubernetes-admin' && 'system:masters' in request.userInfo.groups && namespaceObject.metadata.name == 'default' && request.namespace == 'default' && request.resource.resource == 'configmaps' && request.kind == request.requestKind && request.kind.kind == 'ConfigMap'",
        ),
    ] {
        let variables = json!([{ "name": "holds", "expression": expression }]);
        let spec = json!({ "spec": { "variables": variables } });
        let (code, status) = send(&api, Method::PATCH, &format!("{POLICIES}/p"), spec).await;
        assert_eq!(code, StatusCode::OK, "{status}");
        let path = if path == MAPS { MAPS.to_owned() } else { format!("{MAPS}{path}") };
        assert_eq!(refused(&api, method, &path, body).await, None, "{expression}");
    }
}

#[tokio::test]
async fn subresources_and_custom_resources_are_seen_as_what_they_are() {
    let api = api();
    let mut things = definition("things", "Thing");
    things["spec"]["versions"][0]["subresources"] = json!({
        "status": {},
        "scale": { "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas" },
    });
    create(&api, DEFINITIONS, things).await;
    let collection = "/apis/example.com/v1/namespaces/default/things";
    create(&api, collection, custom("Thing", "t", json!({ "replicas": 1 }))).await;
    create(&api, POLICIES, policy(&["things/*"], "object.spec.replicas < 5")).await;
    create(&api, BINDINGS, binding(json!({}))).await;
    let path = |rest: &str| format!("{collection}/t{rest}");
    let denied = Some(format!("things.example.com \"t\" {DENIED}"));
    let scale = |replicas: u32| json!({ "spec": { "replicas": replicas } });
    for (rest, replicas, expected) in
        [("", 5, denied.clone()), ("/scale", 6, denied.clone()), ("/scale", 4, None)]
    {
        assert_eq!(refused(&api, Method::PATCH, &path(rest), scale(replicas)).await, expected);
    }
    let kinds = "request.kind.kind == (request.?subResource.orValue('') == 'scale' ? 'Scale' : 'Thing') \
                 && object.kind == request.kind.kind && (!has(object.status) || object.status.?ready.orValue(1) == 1)";
    let validations =
        json!({ "spec": { "validations": [{ "expression": kinds, "message": "no" }] } });
    let policy_path = format!("{POLICIES}/p");
    assert_eq!(refused(&api, Method::PATCH, &policy_path, validations).await, None);
    assert_eq!(refused(&api, Method::PATCH, &path("/scale"), scale(2)).await, None);
    let status = |ready: u32| json!({ "status": { "ready": ready } });
    assert_eq!(refused(&api, Method::PATCH, &path("/status"), status(1)).await, None);
    assert_eq!(refused(&api, Method::PATCH, &path("/status"), status(2)).await, denied);
}

/// Returns true if the policy, with an expression, is what refuses a request.
async fn denies(api: &Api, expression: &str, method: Method, path: &str, body: Value) -> bool {
    let validations = json!([{ "expression": expression, "message": "no" }]);
    let changed = json!({ "spec": { "validations": validations } });
    let (code, status) = send(api, Method::PATCH, &format!("{POLICIES}/p"), changed).await;
    assert_eq!(code, StatusCode::OK, "{status}");
    let (code, status) = send(api, method, path, body).await;
    let denied = status["message"].as_str().unwrap_or_default().ends_with(DENIED);
    assert_eq!(denied, code == StatusCode::UNPROCESSABLE_ENTITY, "{expression}: {status}");
    denied
}

const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn connections_are_reviewed_with_their_options() {
    let resources =
        ["pods/exec", "pods/attach", "pods/portforward", "pods/proxy", "services/proxy"];
    let api = api_with(policy(&resources, "false"), binding(json!({}))).await;
    for (path, expression) in [
        (
            "pods/p/exec?command=ls&command=-l&stdin=true&container=c",
            "request.subResource == 'exec' && object.kind == 'PodExecOptions' && object.command == ['ls', '-l'] && object.stdin && !has(object.tty) && object.container == 'c'",
        ),
        (
            "pods/p/attach?stdout=1&tty=true",
            "request.subResource == 'attach' && object.kind == 'PodAttachOptions' && object.stdout && object.tty && !has(object.stdin)",
        ),
        (
            "pods/p/portforward?ports=80&ports=81",
            "request.subResource == 'portforward' && object.kind == 'PodPortForwardOptions' && object.ports == [80, 81]",
        ),
        (
            "pods/p/proxy/a/b?c=d",
            "request.subResource == 'proxy' && object.kind == 'PodProxyOptions' && object.path == '/a/b'",
        ),
        (
            "services/p:80/proxy/",
            "request.subResource == 'proxy' && request.resource.resource == 'services' && object.kind == 'ServiceProxyOptions' && object.path == '/' && request.name == 'p:80'",
        ),
    ] {
        let path = format!("/api/v1/namespaces/default/{path}");
        let seen = format!(
            "{expression} && request.operation == 'CONNECT' && oldObject == null && request.namespace == 'default' && request.kind.kind == object.kind && object.apiVersion == 'v1' && !request.dryRun"
        );
        // Before the pod is looked for, and not found.
        assert!(!denies(&api, &seen, Method::GET, &path, Value::Null).await, "{path}");
        for method in [Method::GET, Method::POST] {
            assert!(denies(&api, "false", method, &path, Value::Null).await, "{path}");
        }
    }
    let creations = json!({ "spec": { "matchConstraints": { "resourceRules": [{
        "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
        "resources": ["pods/*"],
    }] } } });
    assert_eq!(refused(&api, Method::PATCH, &format!("{POLICIES}/p"), creations).await, None);
    let path = format!("{PODS}/p/exec?command=ls");
    assert!(!denies(&api, "false", Method::POST, &path, Value::Null).await);
}

#[tokio::test]
async fn bindings_evictions_and_tokens_are_reviewed_as_objects_of_their_own() {
    let api = api();
    let seed = |kind: &str, name: &str, spec: Value| {
        api.seed(json!({
            "kind": kind, "apiVersion": "v1",
            "metadata": { "name": name, "namespace": "default" }, "spec": spec,
        }))
    };
    seed("ServiceAccount", "s", Value::Null).unwrap();
    seed("Pod", "p", json!({ "containers": [{ "name": "c", "image": "i" }] })).unwrap();
    let resources = ["pods/binding", "pods/eviction", "serviceaccounts/token"];
    create(&api, POLICIES, policy(&resources, "false")).await;
    create(&api, BINDINGS, binding(json!({}))).await;
    let bound = json!({
        "kind": "Binding", "apiVersion": "v1", "metadata": { "name": "p" },
        "target": { "kind": "Node", "name": "n" },
    });
    let evicted = json!({
        "kind": "Eviction", "apiVersion": "policy/v1", "metadata": { "name": "p" },
        "deleteOptions": { "gracePeriodSeconds": 0 },
    });
    let token = json!({ "kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1" });
    for (path, body, expression) in [
        (
            "pods/p/binding",
            bound,
            "request.kind.kind == 'Binding' && object.target.name == 'n' && request.resource.resource == 'pods'",
        ),
        (
            "pods/p/eviction",
            evicted,
            "request.kind.group == 'policy' && object.deleteOptions.gracePeriodSeconds == 0 && object.metadata.name == 'p'",
        ),
        // With its defaults.
        (
            "serviceaccounts/s/token",
            token,
            "request.kind.group == 'authentication.k8s.io' && object.spec.expirationSeconds == 3600 && object.spec.audiences.size() == 1 && object.metadata.name == 's' && object.metadata.namespace == 'default'",
        ),
    ] {
        let subresource = path.rsplit_once('/').unwrap().1;
        let seen = format!(
            "{expression} && request.subResource == '{subresource}' && request.operation == 'CREATE' && oldObject == null && request.options.kind == 'CreateOptions' && request.name == (request.resource.resource == 'pods' ? 'p' : 's')"
        );
        let path = format!("/api/v1/namespaces/default/{path}");
        assert!(denies(&api, "false", Method::POST, &path, body.clone()).await, "{path}");
        let (code, status) = send(&api, Method::POST, &path, body.clone()).await;
        assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY, "{status}");
        assert!(!denies(&api, &seen, Method::POST, &path, body).await, "{path}");
    }
}

#[tokio::test]
async fn actions_and_reasons_are_those_of_the_binding_and_the_validation() {
    let mut given = policy(&["configmaps"], "object.data.k != 'bad'");
    given["spec"]["validations"][0]["reason"] = "Forbidden".into();
    let warns = binding(json!({ "validationActions": ["Warn", "Audit"] }));
    let api = api_with(given, warns).await;
    let (code, _, warnings) = send_warned(&api, Method::POST, MAPS, config_map("a", "bad")).await;
    assert_eq!(code, StatusCode::CREATED);
    let warning = "Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': no";
    assert_eq!(warnings, [warning]);
    let path = format!("{BINDINGS}/b");
    let denies = json!({ "spec": { "validationActions": ["Deny"] } });
    assert_eq!(refused(&api, Method::PATCH, &path, denies).await, None);
    let (code, status) = send(&api, Method::POST, MAPS, config_map("b", "bad")).await;
    assert_eq!((code, &status["reason"]), (StatusCode::FORBIDDEN, &json!("Forbidden")));
    create(&api, MAPS, config_map("b", "good")).await;
    // A binding narrows what the policy matches.
    let elsewhere = json!({ "spec": { "matchResources": {
        "namespaceSelector": { "matchLabels": { "env": "prod" } },
    } } });
    assert_eq!(refused(&api, Method::PATCH, &path, elsewhere).await, None);
    create(&api, MAPS, config_map("c", "bad")).await;
    let label = json!({ "metadata": { "labels": { "env": "prod" } } });
    assert_eq!(refused(&api, Method::PATCH, "/api/v1/namespaces/default", label).await, None);
    let message = refused(&api, Method::POST, MAPS, config_map("d", "bad")).await;
    assert_eq!(message, Some(format!("configmaps \"d\" {DENIED}")));
}

#[tokio::test]
async fn parameters_are_found_by_name_and_by_labels() {
    let mut given = policy(&["secrets"], "int(params.data.max) >= object.metadata.name.size()");
    given["spec"]["paramKind"] = json!({ "apiVersion": "v1", "kind": "ConfigMap" });
    let by_name = binding(json!({
        "paramRef": { "name": "limit", "parameterNotFoundAction": "Deny" },
    }));
    let api = api_with(given, by_name).await;
    const SECRETS: &str = "/api/v1/namespaces/default/secrets";
    let secret =
        |name: &str| json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name } });
    let dry = format!("{SECRETS}?dryRun=All");
    let missing = "secrets \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied \
                   request: failed to configure binding: no params found for policy binding with \
                   `Deny` parameterNotFoundAction";
    let message = refused(&api, Method::POST, &dry, secret("a")).await;
    assert_eq!(message.as_deref(), Some(missing));
    let limit = |name: &str, max: &str| {
        let mut map = config_map(name, "");
        map["metadata"]["labels"] = json!({ "limits": "secrets" });
        map["data"] = json!({ "max": max });
        map
    };
    create(&api, MAPS, limit("limit", "5")).await;
    create(&api, MAPS, limit("strict", "3")).await;
    for (name, expected) in [("abcde", true), ("abcdef", false)] {
        assert_eq!(refused(&api, Method::POST, &dry, secret(name)).await.is_none(), expected);
    }
    // All that are selected have to agree.
    let path = format!("{BINDINGS}/b");
    let selected = json!({ "spec": { "paramRef": {
        "name": null, "selector": { "matchLabels": { "limits": "secrets" } },
    } } });
    assert_eq!(refused(&api, Method::PATCH, &path, selected).await, None);
    for (name, expected) in [("abc", true), ("abcd", false)] {
        assert_eq!(refused(&api, Method::POST, &dry, secret(name)).await.is_none(), expected);
    }
    let none = json!({ "spec": { "paramRef": {
        "selector": { "matchLabels": { "limits": "none" } }, "parameterNotFoundAction": "Allow",
    } } });
    assert_eq!(refused(&api, Method::PATCH, &path, none).await, None);
    assert_eq!(refused(&api, Method::POST, &dry, secret("abcdefgh")).await, None);
    // A kind that is not served fails the policy, for what it matches alone.
    let unknown =
        json!({ "spec": { "paramKind": { "apiVersion": "example.com/v1", "kind": "No" } } });
    let policy_path = format!("{POLICIES}/p");
    assert_eq!(refused(&api, Method::PATCH, &policy_path, unknown).await, None);
    let message = refused(&api, Method::POST, &dry, secret("a")).await;
    let why = "secrets \"a\" is forbidden: ValidatingAdmissionPolicy 'p' denied request: failed to \
               configure policy: failed to find resource referenced by paramKind: 'example.com/v1, \
               Kind=No'";
    assert_eq!(message.as_deref(), Some(why));
    create(&api, MAPS, config_map("free", "1")).await;
    let ignores = json!({ "spec": { "failurePolicy": "Ignore" } });
    assert_eq!(refused(&api, Method::PATCH, &policy_path, ignores).await, None);
    assert_eq!(refused(&api, Method::POST, &dry, secret("a")).await, None);
}

#[tokio::test]
async fn authorizer_asks_for_the_user_of_the_request() {
    let allowed = "authorizer.group('').resource('secrets').namespace('default').check('get').allowed() \
                   && authorizer.requestResource.check('create').allowed()";
    let api = api_with(policy(&["configmaps"], allowed), binding(json!({}))).await;
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": { "name": "maps", "namespace": "default" },
        "rules": [{ "apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"] }],
    });
    let grant = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": { "name": "maps", "namespace": "default" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "maps" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob" }],
    });
    let base = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    create(&api, &format!("{base}/roles"), role).await;
    create(&api, &format!("{base}/rolebindings"), grant).await;
    let bob = Arc::new(User::named("bob", &["system:authenticated"]));
    let (code, _) = send_as(&api, &bob, &[], Method::POST, MAPS, config_map("a", "1")).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    create(&api, MAPS, config_map("a", "1")).await;
}

#[tokio::test]
async fn parameters_that_a_user_may_not_read_are_not_referred_to() {
    let api = api();
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": { "name": "policies" },
        "rules": [{
            "apiGroups": ["admissionregistration.k8s.io"], "resources": ["*"], "verbs": ["*"],
        }],
    });
    let grant = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": { "name": "policies" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "policies" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob" }],
    });
    create(&api, "/apis/rbac.authorization.k8s.io/v1/clusterroles", role).await;
    create(&api, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", grant).await;
    let bob = Arc::new(User::named("bob", &["system:authenticated"]));
    let mut given = policy(&["configmaps"], "true");
    given["spec"]["paramKind"] = json!({ "apiVersion": "v1", "kind": "Secret" });
    let (code, status) = send_as(&api, &bob, &[], Method::POST, POLICIES, given.clone()).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        status["message"],
        "ValidatingAdmissionPolicy.admissionregistration.k8s.io \"p\" is invalid: spec.paramKind: \
         Forbidden: user &{bob  [system:authenticated] map[]} must have \"get\" permission on all \
         objects of the referenced paramKind (kind=Secret, apiVersion=v1)"
    );
    create(&api, POLICIES, given).await;
    let refers = binding(json!({
        "paramRef": { "name": "s", "namespace": "default", "parameterNotFoundAction": "Deny" },
    }));
    let (code, status) = send_as(&api, &bob, &[], Method::POST, BINDINGS, refers).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    let message = status["message"].as_str().unwrap();
    let why = "spec.paramRef: Forbidden: user &{bob  [system:authenticated] map[]} does not have \
               \"get\" permission on the object referenced by paramRef";
    assert!(message.ends_with(why), "{message}");
    let (code, _) = send_as(&api, &bob, &[], Method::POST, BINDINGS, binding(json!({}))).await;
    assert_eq!(code, StatusCode::CREATED);
}

#[tokio::test]
async fn status_follows_the_generation() {
    let api = api_with(policy(&["configmaps"], "true"), binding(json!({}))).await;
    let path = format!("{POLICIES}/p");
    let label = json!({ "metadata": { "labels": { "a": "b" } } });
    let ignores = json!({ "spec": { "failurePolicy": "Ignore" } });
    for (patch, generation) in [(json!({}), 1), (label, 1), (ignores, 2)] {
        let (_, found) = send(&api, Method::PATCH, &path, patch).await;
        assert_eq!(found["metadata"]["generation"], generation);
        let status = json!({ "observedGeneration": generation, "typeChecking": {} });
        assert_eq!(found["status"], status);
    }
}

#[tokio::test]
async fn status_warns_of_fields_that_custom_resources_do_not_have() {
    let api = api();
    let mut things = definition("things", "Thing");
    let size = json!({ "type": "integer" });
    things["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = json!({
        "type": "object",
        "properties": { "spec": { "type": "object", "properties": { "size": size } } },
    });
    create(&api, DEFINITIONS, things).await;
    let mut given = policy(&["things"], "object.spec.size > 1 && object.metadata.labels.x == ''");
    let rule = &mut given["spec"]["matchConstraints"]["resourceRules"][0];
    (rule["apiGroups"], rule["apiVersions"]) = (json!(["example.com"]), json!(["v1"]));
    let (_, created) = send(&api, Method::POST, POLICIES, given.clone()).await;
    assert_eq!(created["status"], json!({ "observedGeneration": 1, "typeChecking": {} }));
    given["spec"]["validations"][0]["expression"] = "object.spec.seize > 1".into();
    let patch = json!({ "spec": { "validations": given["spec"]["validations"] } });
    let (_, updated) = send(&api, Method::PATCH, &format!("{POLICIES}/p"), patch).await;
    assert_eq!(updated["status"]["observedGeneration"], 2);
    let warnings = json!([{
        "fieldRef": "spec.validations[0].expression",
        "warning": "example.com/v1, Kind=Thing: ERROR: <input>:1:12: undefined field 'seize'\n \
                    | object.spec.seize > 1\n | ...........^\n",
    }]);
    assert_eq!(updated["status"]["typeChecking"]["expressionWarnings"], warnings);
}

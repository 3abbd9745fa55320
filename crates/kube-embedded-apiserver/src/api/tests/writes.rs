//! Writes as kube-apiserver 1.36.2 answers them: what creates, what a write of the status leaves, and what is dropped.

use super::*;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn service(name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name }, "spec": spec })
}

async fn must(api: &Api, method: Method, path: &str, body: Value) -> Value {
    let (code, body) = send(api, method, path, body).await;
    assert!(code.is_success(), "{path}: {body}");
    body
}

#[tokio::test]
async fn put_creates_what_does_not_exist_where_the_type_allows_it() {
    let api = api();
    let mut new = service("a", json!({ "ports": [{ "port": 80 }] }));
    new["metadata"]["resourceVersion"] = "5".into();
    let (code, created) = send(&api, Method::PUT, &format!("{SERVICES}/a"), new.clone()).await;
    assert_eq!(code, StatusCode::CREATED, "{created}");
    assert!(created["spec"]["clusterIP"].is_string(), "{created}");
    // With an identity it means an object that is gone.
    new["metadata"] = json!({ "name": "b", "uid": "x" });
    let (code, _) = send(&api, Method::PUT, &format!("{SERVICES}/b"), new.clone()).await;
    assert_eq!(code, StatusCode::CONFLICT);
    // Other types, patches and statuses create nothing.
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "b" } });
    for (method, path, body) in [
        (Method::PUT, format!("{MAPS}/b"), map),
        (Method::PUT, format!("{SERVICES}/b/status"), new),
        (Method::PATCH, format!("{SERVICES}/b"), json!({ "spec": {} })),
    ] {
        let (code, body) = send(&api, method, &path, body).await;
        assert_eq!(code, StatusCode::NOT_FOUND, "{path}: {body}");
    }
}

#[tokio::test]
async fn put_that_creates_needs_the_permission_to_create() {
    let api = api();
    let role = |verbs: Value| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": { "name": "r" },
            "rules": [{ "apiGroups": [""], "resources": ["services"], "verbs": verbs }],
        })
    };
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": { "name": "r" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "u" }],
    });
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    must(&api, Method::POST, &format!("{rbac}/roles"), role(json!(["update"]))).await;
    must(&api, Method::POST, &format!("{rbac}/rolebindings"), binding).await;
    let new = service("a", json!({ "ports": [{ "port": 80 }] }));
    let as_user = [("impersonate-user", "u")];
    let put = async || {
        let path = format!("{SERVICES}/a");
        send_as(&api, User::admin(), &as_user, Method::PUT, &path, new.clone()).await
    };
    let (code, refused) = put().await;
    assert_eq!(code, StatusCode::FORBIDDEN, "{refused}");
    must(&api, Method::PUT, &format!("{rbac}/roles/r"), role(json!(["update", "create"]))).await;
    assert_eq!(put().await.0, StatusCode::CREATED);
}

#[tokio::test]
async fn status_is_written_with_the_metadata_that_its_type_lets_it_change() {
    let api = api();
    let labels = json!({ "metadata": { "labels": { "a": "1" }, "annotations": { "b": "2" } } });
    let spec = json!({
        "selector": { "matchLabels": { "app": "x" } },
        "template": {
            "metadata": { "labels": { "app": "x" } },
            "spec": { "containers": [{ "name": "c", "image": "i" }] },
        },
    });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "d" }, "spec": spec,
    });
    must(&api, Method::POST, DEPLOYMENTS, deployment).await;
    must(&api, Method::POST, SERVICES, service("s", json!({ "ports": [{ "port": 80 }] }))).await;
    let labels_after = async |path: &str| {
        let after = must(&api, Method::PATCH, &format!("{path}/status"), labels.clone()).await;
        assert_eq!(after["metadata"]["annotations"], json!({ "b": "2" }), "{path}");
        after["metadata"]["labels"].clone()
    };
    assert_eq!(labels_after(&format!("{SERVICES}/s")).await, json!({ "a": "1" }));
    assert_eq!(labels_after(&format!("{DEPLOYMENTS}/d")).await, Value::Null);
}

#[tokio::test]
async fn traffic_policy_goes_with_the_last_external_address() {
    let api = api();
    let external = json!({ "ports": [{ "port": 80 }], "externalIPs": ["192.0.2.1"] });
    let created = must(&api, Method::POST, SERVICES, service("s", external)).await;
    assert_eq!(created["spec"]["externalTrafficPolicy"], "Cluster");
    let path = format!("{SERVICES}/s");
    let without = json!({ "spec": { "externalIPs": null } });
    let changed = must(&api, Method::PATCH, &path, without).await;
    assert_eq!(changed["spec"].get("externalTrafficPolicy"), None);
    let (code, _) =
        send(&api, Method::PATCH, &path, json!({ "spec": { "externalTrafficPolicy": "Local" } }))
            .await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn object_that_is_being_deleted_gets_no_finalizers_and_keeps_its_name() {
    let api = api();
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "m", "finalizers": ["example.com/a", "example.com/b"] },
    });
    must(&api, Method::POST, MAPS, map.clone()).await;
    must(&api, Method::DELETE, &format!("{MAPS}/m"), Value::Null).await;
    let finalizers = |all: Value| json!({ "metadata": { "finalizers": all } });
    let path = format!("{MAPS}/m");
    let more = finalizers(json!(["example.com/a", "example.com/d", "example.com/c"]));
    let (code, refused) = send(&api, Method::PATCH, &path, more).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        refused["message"],
        "ConfigMap \"m\" is invalid: metadata.finalizers: Forbidden: no new finalizers can be added if the object is \
         being deleted, found new finalizers []string{\"example.com/c\", \"example.com/d\"}"
    );
    assert_eq!(refused["details"]["causes"].as_array().map(Vec::len), Some(2));
    let (code, taken) = send(&api, Method::POST, MAPS, map).await;
    assert_eq!(code, StatusCode::CONFLICT);
    assert_eq!(taken["message"], "object is being deleted: configmaps \"m\" already exists");
    must(&api, Method::PATCH, &path, finalizers(json!(["example.com/b"]))).await;
}

#[tokio::test]
async fn subresource_that_a_definition_does_not_have_is_named() {
    let api = api();
    must(&api, Method::POST, DEFINITIONS, definition("things", "Thing")).await;
    let path = "/apis/example.com/v1/namespaces/default/things/a/scale";
    let (code, missing) = send(&api, Method::GET, path, Value::Null).await;
    assert_eq!(code, StatusCode::NOT_FOUND);
    assert_eq!(missing["message"], "things.example.com \"a\" not found");
}

#[tokio::test]
async fn value_that_replaces_a_map_takes_its_entries_from_their_managers() {
    let api = api();
    let mut things = definition("things", "Thing");
    let any = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let spec = json!({ "type": "object", "properties": { "any": any } });
    things["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
        json!({ "type": "object", "properties": { "spec": spec } });
    must(&api, Method::POST, DEFINITIONS, things).await;
    let thing = |p: Value| {
        json!({
            "apiVersion": "example.com/v1", "kind": "Thing", "metadata": { "name": "a" },
            "spec": { "any": { "p": p } },
        })
    };
    let path = "/apis/example.com/v1/namespaces/default/things/a?force=true&fieldManager=";
    must(&api, Method::PATCH, &format!("{path}one"), thing(json!({ "q": 1 }))).await;
    let after = must(&api, Method::PATCH, &format!("{path}two"), thing(json!(2))).await;
    let managers = after["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let fields: Vec<_> =
        managers.iter().map(|entry| (&entry["manager"], &entry["fieldsV1"])).collect();
    let expected = json!({ "f:spec": { "f:any": { "f:p": {} } } });
    assert_eq!(fields, [(&json!("two"), &expected)]);
}

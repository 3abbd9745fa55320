//! Requests to an API without controllers or nodes.

mod admission;
mod authorization;
mod encoding;
mod options;
mod policies;
mod rule_costs;
mod writes;

use super::*;
use crate::authentication::user::User;
use http::{Method, StatusCode};
use http_body_util::Full;
use kube_embedded_core::network::Sandbox;
use serde_json::{Value, json};
use std::{sync::atomic::Ordering, time::Duration};

/// An API with the namespace `default`.
fn api() -> Api {
    let api = Api::new(Store::default(), Addresses { block: 2, sandbox: Sandbox::Plain });
    for name in ["default", "other"] {
        let namespace =
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        api.seed(namespace).unwrap();
    }
    api
}

async fn send(api: &Api, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
    send_as(api, User::admin(), &[], method, path, body).await
}

/// Sends a request of a user, with more headers.
async fn send_as(
    api: &Api,
    user: &Arc<User>,
    headers: &[(&str, &str)],
    method: Method,
    path: &str,
    body: Value,
) -> (StatusCode, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let media_type = match method {
        Method::PATCH if path.contains("fieldManager=") => "application/apply-patch+yaml",
        Method::PATCH => "application/merge-patch+json",
        _ => "application/json",
    };
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, media_type)
        .extension(user.clone());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body))).unwrap();
    let response = api.handle(request).await;
    let code = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A definition of a namespaced custom resource of the group `example.com`.
fn definition(plural: &str, kind: &str) -> Value {
    let schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.example.com") },
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": { "plural": plural, "kind": kind },
            "versions": [{
                "name": "v1",
                "served": true,
                "storage": true,
                "schema": { "openAPIV3Schema": schema },
            }],
        },
    })
}

fn custom(kind: &str, name: &str, spec: Value) -> Value {
    let metadata = json!({ "name": name });
    json!({ "apiVersion": "example.com/v1", "kind": kind, "metadata": metadata, "spec": spec })
}

#[tokio::test]
async fn custom_resource_of_a_core_kind_gets_no_core_behavior() {
    let api = api();
    for (plural, kind) in [("pods", "Pod"), ("namespaces", "Namespace"), ("services", "Service")] {
        let (code, body) = send(&api, Method::POST, DEFINITIONS, definition(plural, kind)).await;
        assert_eq!(code, StatusCode::CREATED, "{body}");
        let collection = format!("/apis/example.com/v1/namespaces/default/{plural}");
        // What would hold a Pod or a Namespace back, or protect it, or give it an address.
        let spec = json!({
            "nodeName": "n",
            "terminationGracePeriodSeconds": 60,
            "finalizers": ["kubernetes"],
            "type": "ClusterIP",
        });
        let object = custom(kind, "kube-system", spec.clone());
        let (code, created) = send(&api, Method::POST, &collection, object).await;
        assert_eq!((code, &created["spec"]), (StatusCode::CREATED, &spec), "{created}");
        let path = format!("{collection}/kube-system");
        let (code, deleted) = send(&api, Method::DELETE, &path, Value::Null).await;
        assert_eq!(code, StatusCode::OK, "{deleted}");
        assert_eq!((&deleted["kind"], &deleted["status"]), (&json!("Status"), &json!("Success")));
        let (code, _) = send(&api, Method::GET, &path, Value::Null).await;
        assert_eq!(code, StatusCode::NOT_FOUND, "{kind}");
        // No logs of a Pod of another group.
        let (code, _) = send(&api, Method::GET, &format!("{path}/exec"), Value::Null).await;
        assert_eq!(code, StatusCode::NOT_FOUND, "{kind}");
    }
}

#[tokio::test]
async fn failure_to_publish_a_definition_does_not_fail_its_creation() {
    let api = api();
    api.state.crds.injected_failures.store(2, Ordering::Release);
    let (code, created) =
        send(&api, Method::POST, DEFINITIONS, definition("things", "Thing")).await;
    assert_eq!(code, StatusCode::CREATED, "{created}");
    let collection = "/apis/example.com/v1/namespaces/default/things";
    let (code, _) = send(&api, Method::GET, collection, Value::Null).await;
    assert_eq!(code, StatusCode::NOT_FOUND);
    // The retries publish it without another write.
    tokio::time::timeout(Duration::from_secs(10), async {
        while send(&api, Method::GET, collection, Value::Null).await.0 != StatusCode::OK {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    let path = format!("{DEFINITIONS}/things.example.com");
    let (_, definition) = send(&api, Method::GET, &path, Value::Null).await;
    let conditions = definition["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|one| one["type"] == "Established" && one["status"] == "True"));
}

#[tokio::test]
async fn failure_to_publish_a_definition_does_not_fail_its_deletion() {
    let api = api();
    let (code, _) = send(&api, Method::POST, DEFINITIONS, definition("things", "Thing")).await;
    assert_eq!(code, StatusCode::CREATED);
    api.state.crds.injected_failures.store(1, Ordering::Release);
    let path = format!("{DEFINITIONS}/things.example.com");
    let (code, deleted) = send(&api, Method::DELETE, &path, Value::Null).await;
    assert_eq!(code, StatusCode::OK, "{deleted}");
    assert!(deleted["metadata"]["deletionTimestamp"].is_string(), "{deleted}");
    tokio::time::timeout(Duration::from_secs(10), async {
        while send(&api, Method::GET, &path, Value::Null).await.0 != StatusCode::NOT_FOUND {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn token_is_bound_to_core_types_only() {
    let api = api();
    let account = json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": { "name": "a" },
    });
    let collection = "/api/v1/namespaces/default/serviceaccounts";
    assert_eq!(send(&api, Method::POST, collection, account).await.0, StatusCode::CREATED);
    for (version, code) in
        [("v1", StatusCode::NOT_FOUND), ("example.com/v1", StatusCode::BAD_REQUEST)]
    {
        let bound = json!({ "apiVersion": version, "kind": "Pod", "name": "p" });
        let body = json!({ "spec": { "boundObjectRef": bound } });
        let (refused, why) = send(&api, Method::POST, &format!("{collection}/a/token"), body).await;
        assert_eq!(refused, code, "{why}");
    }
}

#[tokio::test]
async fn concurrent_patches_are_all_applied() {
    let api = api();
    let object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": "c" },
    });
    let collection = "/api/v1/namespaces/default/configmaps";
    assert_eq!(send(&api, Method::POST, collection, object).await.0, StatusCode::CREATED);
    let path = format!("{collection}/c");
    let tasks: Vec<_> = (0..16)
        .map(|n| {
            let (api, path) = (api.clone(), path.clone());
            tokio::spawn(async move {
                let patch = json!({ "data": { format!("k{n}"): "v" } });
                send(&api, Method::PATCH, &path, patch).await.0
            })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), StatusCode::OK);
    }
    let (_, read) = send(&api, Method::GET, &path, Value::Null).await;
    assert_eq!(read["data"].as_object().unwrap().len(), 16);
}

/// Generic code reads the fields of a strategy; it does not compare the names of kinds.
#[test]
fn generic_code_names_no_kind() {
    let sources = [
        ("router.rs", include_str!("../router.rs")),
        ("metadata.rs", include_str!("../metadata.rs")),
        ("scope.rs", include_str!("../scope.rs")),
        ("discovery.rs", include_str!("../discovery.rs")),
        ("verbs/create.rs", include_str!("../verbs/create.rs")),
        ("verbs/delete.rs", include_str!("../verbs/delete.rs")),
        ("verbs/get.rs", include_str!("../verbs/get.rs")),
        ("verbs/guaranteed_update.rs", include_str!("../verbs/guaranteed_update.rs")),
        ("verbs/list.rs", include_str!("../verbs/list.rs")),
        ("verbs/patch.rs", include_str!("../verbs/patch.rs")),
        ("verbs/pipeline.rs", include_str!("../verbs/pipeline.rs")),
        ("verbs/update.rs", include_str!("../verbs/update.rs")),
        ("verbs/watch.rs", include_str!("../verbs/watch.rs")),
        ("http/decode.rs", include_str!("../http/decode.rs")),
        ("http/encode.rs", include_str!("../http/encode.rs")),
        ("http/negotiation.rs", include_str!("../http/negotiation.rs")),
        ("http/request.rs", include_str!("../http/request.rs")),
        ("http/selector.rs", include_str!("../http/selector.rs")),
        ("http/status.rs", include_str!("../http/status.rs")),
        ("resources/resource_type.rs", include_str!("../resources/resource_type.rs")),
        ("subresources/scale.rs", include_str!("../subresources/scale.rs")),
        ("subresources/stream.rs", include_str!("../subresources/stream.rs")),
    ];
    for (file, source) in sources {
        let code = source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        let code: String = code.flat_map(|line| [line, "\n"]).collect();
        for resource in registry::all() {
            for name in [resource.kind, resource.plural] {
                let quoted = format!("{name:?}");
                assert!(
                    !code.contains(&quoted),
                    "{file} names {quoted}: use a field of ResourceType"
                );
            }
        }
    }
}

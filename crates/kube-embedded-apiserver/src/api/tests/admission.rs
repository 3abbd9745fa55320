//! Validating admission through the API: refusals, and warnings in the `Warning` header.

use super::*;

/// Sends a request; returns the warnings in the response along with it.
pub(super) async fn send_warned(
    api: &Api,
    method: Method,
    path: &str,
    body: Value,
) -> (StatusCode, Value, Vec<String>) {
    let media_type = match method {
        Method::PATCH => "application/merge-patch+json",
        _ => "application/json",
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, media_type)
        .body(Full::new(Bytes::from(body.to_string())))
        .unwrap();
    let response = api.handle(request).await;
    let code = response.status();
    let warnings = response
        .headers()
        .get_all(header::WARNING)
        .iter()
        .map(|value| String::from_utf8(value.as_bytes().to_vec()).unwrap())
        .map(|value| serde_json::from_str(value.strip_prefix("299 - ").unwrap()).unwrap())
        .collect();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null), warnings)
}

const PODS: &str = "/api/v1/namespaces/default/pods";
const NAMESPACE: &str = "/api/v1/namespaces/default";

fn api_with_account() -> Api {
    let api = api();
    let account = json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": { "namespace": "default", "name": "default" },
    });
    api.seed(account).unwrap();
    api
}

fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name },
        "spec": { "containers": [{ "name": "c", "image": "i:1" }] },
    });
    json_patch::merge(&mut pod["spec"], &spec);
    pod
}

async fn label(api: &Api, labels: Value) -> (StatusCode, Value, Vec<String>) {
    let labels: Value = labels
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| (format!("pod-security.kubernetes.io/{name}"), value.clone()))
        .collect();
    let patch = json!({ "metadata": { "labels": labels } });
    send_warned(api, Method::PATCH, NAMESPACE, patch).await
}

#[tokio::test]
async fn enforced_level_refuses_pods_and_warns_of_workloads() {
    let api = api_with_account();
    let (code, ..) = label(&api, json!({ "enforce": "restricted" })).await;
    assert_eq!(code, StatusCode::OK);
    let (code, refused, _) =
        send_warned(&api, Method::POST, PODS, pod("p", json!({ "hostNetwork": true }))).await;
    assert_eq!(code, StatusCode::FORBIDDEN, "{refused}");
    let message = refused["message"].as_str().unwrap();
    assert!(
        message.starts_with(
            "pods \"p\" is forbidden: violates PodSecurity \"restricted:latest\": host namespaces \
             (hostNetwork=true), allowPrivilegeEscalation != false (container \"c\" must set \
             securityContext.allowPrivilegeEscalation=false), "
        ),
        "{message}"
    );
    let (_, refused, _) = send_warned(&api, Method::POST, PODS, {
        let mut pod = pod("p", json!({}));
        pod["metadata"] = json!({ "generateName": "web-" });
        pod
    })
    .await;
    // As of the pods that a ReplicaSet creates, the name is whole.
    let message = refused["message"].as_str().unwrap();
    assert!(
        message.starts_with("pods \"web-") && !message.starts_with("pods \"web-\""),
        "{message}"
    );

    let template = json!({
        "metadata": { "labels": { "a": "b" } }, "spec": pod("", json!({}))["spec"],
    });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "d" },
        "spec": { "selector": { "matchLabels": { "a": "b" } }, "template": template },
    });
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let (code, _, warnings) = send_warned(&api, Method::POST, deployments, deployment).await;
    assert_eq!(code, StatusCode::CREATED);
    assert!(
        warnings.iter().any(|warning| warning.starts_with(
            "would violate PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false"
        )),
        "{warnings:?}"
    );
}

#[tokio::test]
async fn stored_pod_is_warned_of_and_may_change_but_for_its_image() {
    let api = api_with_account();
    for name in ["a", "b"] {
        let (code, body, _) =
            send_warned(&api, Method::POST, PODS, pod(name, json!({ "hostPID": true }))).await;
        assert_eq!(code, StatusCode::CREATED, "{body}");
    }
    let (_, _, warnings) = label(&api, json!({ "enforce": "baseline" })).await;
    assert_eq!(
        warnings,
        [
            "existing pods in namespace \"default\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "a (and 1 other pod): host namespaces",
        ]
    );
    // The level stays: no warnings.
    assert_eq!(label(&api, json!({ "warn": "baseline" })).await.2, [""; 0]);
    let path = format!("{PODS}/a");
    let labeled = json!({ "metadata": { "labels": { "x": "y" } } });
    assert_eq!(send_warned(&api, Method::PATCH, &path, labeled).await.0, StatusCode::OK);
    let image = json!({ "spec": { "containers": [{ "name": "c", "image": "i:2" }] } });
    let (code, refused, _) = send_warned(&api, Method::PATCH, &path, image).await;
    assert_ne!(code, StatusCode::OK, "{refused}");
}

#[tokio::test]
async fn invalid_pod_security_label_is_refused_unless_it_was_there() {
    let api = api();
    let (code, refused, _) = label(&api, json!({ "enforce": "strict" })).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        refused["message"],
        "Namespace \"default\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \
         \"strict\": must be one of privileged, baseline, restricted"
    );
}

#[tokio::test]
async fn host_path_is_refused_but_below_an_allowed_directory() {
    let api = api_with_account();
    api.allow_host_paths(vec!["/srv/data".into()]);
    for (path, code) in [
        ("/srv/data/a", StatusCode::CREATED),
        ("/etc", StatusCode::FORBIDDEN),
        ("/srv/data/../../etc", StatusCode::UNPROCESSABLE_ENTITY),
    ] {
        let volumes = json!({ "volumes": [{ "name": "v", "hostPath": { "path": path } }] });
        let (found, body, _) = send_warned(&api, Method::POST, PODS, pod("p", volumes)).await;
        assert_eq!(found, code, "{path}: {body}");
    }
    let (_, refused, _) = send_warned(
        &api,
        Method::POST,
        PODS,
        pod("q", json!({ "volumes": [{ "name": "v", "hostPath": { "path": "/etc" } }] })),
    )
    .await;
    assert!(refused["message"].as_str().unwrap().contains("--allow-host-path"), "{refused}");
}

#[tokio::test]
async fn endpoint_slice_with_an_address_of_the_host_is_refused() {
    let api = Api::new(Store::default(), Addresses { block: 2, sandbox: Sandbox::Namespaced });
    let namespace =
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "default" } });
    api.seed(namespace).unwrap();
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": { "name": "s" },
        "addressType": "IPv4", "endpoints": [{ "addresses": ["127.2.0.1"] }],
    });
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let (code, refused) = send(&api, Method::POST, slices, slice).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        refused["message"],
        "EndpointSlice.discovery.k8s.io \"s\" is invalid: endpoints[0].addresses[0]: Invalid value: \"127.2.0.1\": may \
         not be in the loopback range (127.0.0.0/8, ::1/128)"
    );
}

async fn apply(api: &Api, path: &str, body: Value) -> (StatusCode, Value) {
    let request = Request::builder()
        .method(Method::PATCH)
        .uri(format!("{path}?fieldManager=m"))
        .header(header::CONTENT_TYPE, "application/apply-patch+yaml")
        .body(Full::new(Bytes::from(body.to_string())))
        .unwrap();
    let response = api.handle(request).await;
    let code = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap())
}

#[tokio::test]
async fn applied_field_that_the_schema_does_not_declare_is_an_error() {
    let api = api();
    let path = "/apis/apps/v1/namespaces/default/deployments/d";
    let container = json!({ "name": "c", "image": "i", "imagee": "x" });
    let (code, refused) = apply(
        &api,
        path,
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "d" },
            "spec": { "template": { "spec": { "containers": [container] } }, "replica": 1 },
        }),
    )
    .await;
    assert_eq!(code, StatusCode::INTERNAL_SERVER_ERROR, "{refused}");
    assert_eq!(
        refused["message"],
        "failed to create typed patch object (/d; apps/v1, Kind=Deployment): errors:\n  .spec.replica: field \
         not declared in schema\n  .spec.template.spec.containers[name=\"c\"].imagee: field not declared in schema"
    );

    let schema = json!({
        "type": "object",
        "properties": { "spec": { "type": "object", "properties": { "size": { "type": "integer" } } } },
    });
    let mut strict = definition("things", "Thing");
    strict["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = schema;
    assert_eq!(send(&api, Method::POST, DEFINITIONS, strict).await.0, StatusCode::CREATED);
    let path = "/apis/example.com/v1/namespaces/default/things/t";
    let (code, refused) =
        apply(&api, path, custom("Thing", "t", json!({ "size": 1, "foo": 2 }))).await;
    assert_eq!(code, StatusCode::INTERNAL_SERVER_ERROR, "{refused}");
    let message = refused["message"].as_str().unwrap();
    assert!(message.ends_with("Kind=Thing): .spec.foo: field not declared in schema"), "{message}");
    let (code, _) = apply(&api, path, custom("Thing", "t", json!({ "size": 1 }))).await;
    assert_eq!(code, StatusCode::CREATED);
}

async fn post(
    api: &Api,
    path: &str,
    media_type: &str,
    body: &str,
) -> (StatusCode, Value, Vec<String>) {
    send_text(api, Method::POST, path, media_type, body).await
}

async fn send_text(
    api: &Api,
    method: Method,
    path: &str,
    media_type: &str,
    body: &str,
) -> (StatusCode, Value, Vec<String>) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, media_type)
        .body(Full::new(Bytes::from(body.to_owned())))
        .unwrap();
    let response = api.handle(request).await;
    let warnings = response.headers().get_all(header::WARNING).iter();
    let warnings = warnings.map(|value| value.to_str().unwrap().to_owned()).collect();
    let code = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap(), warnings)
}

#[tokio::test]
async fn repeated_key_is_warned_of_or_refused() {
    let api = api();
    let collection = "/api/v1/namespaces/default/configmaps";
    let json = r#"{"metadata":{"name":"c"},"data":{"a":"1","a":"2"},"dta":{}}"#;
    let (code, refused, _) =
        post(&api, &format!("{collection}?fieldValidation=Strict"), "application/json", json).await;
    assert_eq!(code, StatusCode::BAD_REQUEST);
    assert_eq!(
        refused["message"],
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: duplicate field \"data.a\", \
         unknown field \"dta\""
    );
    let yaml = "metadata:\n  name: c\ndata:\n  a: '1'\n  a: '2'\n";
    let (code, refused, _) =
        post(&api, &format!("{collection}?fieldValidation=Strict"), "application/yaml", yaml).await;
    assert_eq!(code, StatusCode::BAD_REQUEST);
    let message = refused["message"].as_str().unwrap();
    assert!(
        message.ends_with("yaml: unmarshal errors:\n  line 5: key \"a\" already set in map"),
        "{message}"
    );
    let (code, created, warnings) = post(&api, collection, "application/yaml", yaml).await;
    assert_eq!((code, &created["data"]["a"]), (StatusCode::CREATED, &json!("2")));
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

#[tokio::test]
async fn repeated_key_of_a_patch_is_warned_of_or_refused() {
    let api = api();
    let object = "/api/v1/namespaces/default/configmaps/c";
    let applied =
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c\ndata:\n  a: '1'\n  a: '2'\n";
    for (media_type, manager, body, code, message) in [
        (
            "application/apply-patch+yaml",
            "&fieldManager=m",
            applied,
            StatusCode::BAD_REQUEST,
            "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  line 7: key \"a\" \
             already set in map",
        ),
        (
            "application/merge-patch+json",
            "",
            r#"{"data":{"a":"1","a":"2"}}"#,
            StatusCode::UNPROCESSABLE_ENTITY,
            "strict decoding error: duplicate field \"data.a\"",
        ),
    ] {
        let patch = async |validation: &str| {
            let path = format!("{object}?fieldValidation={validation}{manager}");
            send_text(&api, Method::PATCH, &path, media_type, body).await
        };
        // Applying creates the object.
        let (warned, patched, warnings) = patch("Warn").await;
        assert!(warned.is_success(), "{patched}");
        assert_eq!((&patched["data"]["a"], warnings.len()), (&json!("2"), 1), "{warnings:?}");
        assert_eq!(patch("Ignore").await.2, [""; 0]);
        let (refused, status, _) = patch("Strict").await;
        assert_eq!(refused, code);
        assert!(status["message"].as_str().unwrap().ends_with(message), "{status}");
    }
}

#[tokio::test]
async fn tolerations_of_a_pod_may_be_replaced_by_more() {
    let api = api_with_account();
    let (code, created) = send(&api, Method::POST, PODS, pod("p", json!({}))).await;
    assert_eq!(code, StatusCode::CREATED, "{created}");
    let mut new = created.clone();
    new["spec"]["tolerations"] =
        json!([{ "key": "k", "operator": "Exists", "effect": "NoSchedule" }]);
    let (code, updated) = send(&api, Method::PUT, &format!("{PODS}/p"), new).await;
    assert_eq!(code, StatusCode::OK, "{updated}");
    assert_eq!(updated["spec"]["tolerations"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn later_default_appears_on_stored_custom_resources() {
    let api = api();
    let with_size = |size: Value| {
        let spec = json!({ "type": "object", "properties": { "size": size } });
        let mut definition = definition("things", "Thing");
        definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
            json!({ "type": "object", "properties": { "spec": spec } });
        definition
    };
    let without = with_size(json!({ "type": "integer" }));
    assert_eq!(send(&api, Method::POST, DEFINITIONS, without).await.0, StatusCode::CREATED);
    let collection = "/apis/example.com/v1/namespaces/default/things";
    let thing = custom("Thing", "t", json!({ "other": null }));
    let (code, created) = send(&api, Method::POST, collection, thing).await;
    assert_eq!((code, &created["spec"]), (StatusCode::CREATED, &json!({})), "{created}");

    let with = with_size(json!({ "type": "integer", "default": 3 }));
    let patch = json!({ "spec": { "versions": with["spec"]["versions"] } });
    let path = format!("{DEFINITIONS}/things.example.com");
    assert_eq!(send(&api, Method::PATCH, &path, patch).await.0, StatusCode::OK);
    let (_, read) = send(&api, Method::GET, &format!("{collection}/t"), Value::Null).await;
    assert_eq!((&read["kind"], &read["spec"]["size"]), (&json!("Thing"), &json!(3)), "{read}");
    let (_, list) = send(&api, Method::GET, collection, Value::Null).await;
    let item = &list["items"][0];
    assert_eq!((&item["kind"], &item["spec"]["size"]), (&json!("Thing"), &json!(3)), "{list}");
    // A write that changes nothing else stores it.
    let labels = json!({ "metadata": { "labels": { "a": "b" } } });
    let (_, written) = send(&api, Method::PATCH, &format!("{collection}/t"), labels).await;
    assert_eq!(written["spec"]["size"], 3, "{written}");
}

#[tokio::test]
async fn apply_patch_is_refused_as_in_kubernetes() {
    let api = api();
    let object = "/api/v1/namespaces/default/configmaps/c";
    let map =
        |metadata: Value| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata });
    for (body, code, message) in [
        (json!({}), 400, "invalid object type: /, Kind="),
        (json!({ "apiVersion": "v1" }), 400, "invalid object type: /v1, Kind="),
        (
            json!({ "apiVersion": "apps/v1", "kind": "Deployment" }),
            400,
            "invalid object type: apps/v1, Kind=Deployment",
        ),
        (
            json!([]),
            400,
            "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal array into Go \
             value of type map[string]interface {}",
        ),
        (
            map(json!({})),
            400,
            "the name of the object (c based on URL) was undeterminable: name must be provided",
        ),
        (
            map(json!({ "name": "c", "managedFields": [] })),
            400,
            "metadata.managedFields must be nil",
        ),
        (
            map(json!({ "name": "c", "uid": "u" })),
            409,
            "Operation cannot be fulfilled on configmaps \"c\": uid mismatch: the provided object specified uid u, and \
             no existing object was found",
        ),
        (
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "c" }, "binaryData": { "a": "!" } }),
            500,
            "failed to convert new object (/c; /v1, Kind=ConfigMap) to proper version: unable to convert unstructured \
             object to /v1, Kind=ConfigMap: error decoding from json: illegal base64 data at input byte 0",
        ),
    ] {
        let (found, status) = apply(&api, object, body.clone()).await;
        assert_eq!((found.as_u16(), &status["message"]), (code, &json!(message)), "{body}");
    }
    // The first document counts.
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n---\na: b\n";
    let path = format!("{object}?fieldManager=m");
    let media_type = "application/apply-patch+yaml";
    let (code, applied, _) = send_text(&api, Method::PATCH, &path, media_type, text).await;
    assert_eq!(code, StatusCode::CREATED, "{applied}");
}

#[tokio::test]
async fn identity_and_options_of_a_patch_are_validated() {
    let api = api();
    let object = "/api/v1/namespaces/default/configmaps/c";
    let map = json!({ "metadata": { "name": "c" } });
    let collection = "/api/v1/namespaces/default/configmaps";
    assert_eq!(send(&api, Method::POST, collection, map).await.0, StatusCode::CREATED);
    let long = "m".repeat(129);
    for (query, metadata, code, field) in [
        ("", json!({ "resourceVersion": "0" }), 200, None),
        ("", json!({ "resourceVersion": "x" }), 500, None),
        ("", json!({ "namespace": null }), 200, None),
        ("", json!({ "generateName": "c" }), 200, None),
        ("", json!({ "uid": "x" }), 422, Some("metadata.uid")),
        (
            "",
            json!({ "deletionTimestamp": "2026-01-01T00:00:00Z" }),
            422,
            Some("metadata.deletionTimestamp"),
        ),
        (
            "",
            json!({ "deletionGracePeriodSeconds": 1 }),
            422,
            Some("metadata.deletionGracePeriodSeconds"),
        ),
        ("?force=false", json!({}), 422, Some("force")),
        ("?dryRun=", json!({}), 422, Some("dryRun")),
        (&*format!("?fieldManager={long}"), json!({}), 422, Some("fieldManager")),
        ("?fieldManager=%01", json!({}), 422, Some("fieldManager")),
    ] {
        let patch = json!({ "metadata": metadata }).to_string();
        let media_type = "application/merge-patch+json";
        let path = format!("{object}{query}");
        let (found, body, _) = send_text(&api, Method::PATCH, &path, media_type, &patch).await;
        assert_eq!(found.as_u16(), code, "{query} {patch}: {body}");
        assert_eq!(body["details"]["causes"][0]["field"].as_str(), field, "{query} {patch}");
    }
}

#[tokio::test]
async fn applied_scale_conflicts_with_the_manager_of_the_replicas() {
    let api = api();
    let template = json!({ "metadata": { "labels": { "a": "b" } }, "spec": { "containers": [{ "name": "c", "image": "i" }] } });
    let spec =
        json!({ "replicas": 1, "selector": { "matchLabels": { "a": "b" } }, "template": template });
    let deployment = json!({ "metadata": { "name": "d" }, "spec": spec });
    let collection = "/apis/apps/v1/namespaces/default/deployments";
    let (code, created) = send(&api, Method::POST, collection, deployment).await;
    assert_eq!(code, StatusCode::CREATED, "{created}");
    let scale = |replicas: i64| json!({ "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": { "name": "d" }, "spec": { "replicas": replicas } });
    let path = format!("{collection}/d/scale");
    let (code, refused) = apply(&api, &path, scale(2)).await;
    assert_eq!(code, StatusCode::CONFLICT, "{refused}");
    assert_eq!(refused["details"]["causes"][0]["field"], ".spec.replicas");
    let (code, same) = apply(&api, &path, scale(1)).await;
    assert_eq!((code, &same["spec"]["replicas"]), (StatusCode::OK, &json!(1)), "{same}");
    let (_, stored) = send(&api, Method::GET, &format!("{collection}/d"), Value::Null).await;
    let owner = &stored["metadata"]["managedFields"][0];
    assert_eq!((&owner["subresource"], owner.get("time")), (&json!("scale"), None), "{owner}");
    let wrong = json!({ "apiVersion": "apps/v1", "kind": "Deployment" });
    assert_eq!(apply(&api, &path, wrong).await.0, StatusCode::BAD_REQUEST);
    let other = json!({ "metadata": { "name": "e" }, "spec": { "replicas": 1 } });
    assert_eq!(send(&api, Method::PUT, &path, other).await.0, StatusCode::BAD_REQUEST);
}

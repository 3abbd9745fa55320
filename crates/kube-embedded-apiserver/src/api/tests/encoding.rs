//! The form of objects in responses.

use super::*;

const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

#[tokio::test]
async fn fields_without_omitempty_are_written_when_they_are_not_set() {
    let api = api();
    let ingress = json!({ "spec": { "rules": [{ "http": { "paths": [{
        "path": "/",
        "pathType": "Prefix",
        "backend": { "resource": { "kind": "K", "name": "n" } },
    }] } }] } });
    let node = json!({ "status": { "images": [{}], "volumesAttached": [{}] } });
    for (path, object, expected) in [
        (ROLES, json!({}), json!({ "rules": null })),
        (ROLES, json!({ "rules": [] }), json!({ "rules": null })),
        (SLICES, json!({ "addressType": "IPv4" }), json!({ "endpoints": null, "ports": null })),
        (
            SLICES,
            json!({ "addressType": "IPv4", "endpoints": [{ "addresses": ["10.0.0.1"] }], "ports": [] }),
            json!({ "endpoints": [{ "addresses": ["10.0.0.1"], "conditions": {} }], "ports": null }),
        ),
        (
            "/apis/networking.k8s.io/v1/namespaces/default/ingresses",
            ingress,
            json!({ "spec": { "rules": [{ "http": { "paths": [{
                "path": "/",
                "pathType": "Prefix",
                "backend": { "resource": { "apiGroup": null, "kind": "K", "name": "n" } },
            }] } }] } }),
        ),
        (
            "/api/v1/nodes",
            node,
            json!({ "status": {
                "daemonEndpoints": { "kubeletEndpoint": { "Port": 0 } },
                "images": [{ "names": null }],
                "volumesAttached": [{ "name": "", "devicePath": "" }],
            } }),
        ),
        (
            "/api/v1/namespaces/default/limitranges",
            json!({ "spec": {} }),
            json!({ "spec": { "limits": null } }),
        ),
    ] {
        let mut object = object;
        object["metadata"] = json!({ "name": "x" });
        let path = format!("{path}?dryRun=All");
        let (code, created) = send(&api, Method::POST, &path, object).await;
        assert_eq!(code, StatusCode::CREATED, "{created}");
        for (field, value) in expected.as_object().unwrap() {
            assert!(includes(&created[field], value), "{path} {}", created[field]);
        }
    }
}

/// Returns true if a value has all that another one has; a null must be there.
fn includes(value: &Value, part: &Value) -> bool {
    match (value, part) {
        (Value::Object(value), Value::Object(part)) => part
            .iter()
            .all(|(name, part)| value.get(name).is_some_and(|value| includes(value, part))),
        (Value::Array(value), Value::Array(part)) => {
            value.len() == part.len() && value.iter().zip(part).all(|(a, b)| includes(a, b))
        }
        (value, part) => value == part,
    }
}

#[tokio::test]
async fn unset_fields_have_no_owner_until_a_structure_with_them_is_added() {
    let api = api();
    let role = json!({ "metadata": { "name": "r" } });
    let (_, created) = send(&api, Method::POST, ROLES, role).await;
    assert_eq!(created["metadata"].get("managedFields"), None, "{created}");
    let applied = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": { "name": "r" },
    });
    let path = format!("{ROLES}/r?fieldManager=f");
    let (_, applied) = send(&api, Method::PATCH, &path, applied).await;
    assert_eq!(applied["metadata"].get("managedFields"), None, "{applied}");
    let node = json!({ "metadata": { "name": "n", "labels": { "a": "b" } } });
    send(&api, Method::POST, "/api/v1/nodes", node).await;
    let status = json!({ "status": { "conditions": [{ "type": "X", "status": "True" }] } });
    let (_, node) = send(&api, Method::PATCH, "/api/v1/nodes/n/status", status).await;
    let fields = &node["metadata"]["managedFields"][1]["fieldsV1"]["f:status"]["f:conditions"];
    let owned = json!({
        ".": {},
        "f:lastHeartbeatTime": {},
        "f:lastTransitionTime": {},
        "f:status": {},
        "f:type": {},
    });
    assert_eq!(fields["k:{\"type\":\"X\"}"], owned, "{node}");
    assert_eq!(node["status"]["conditions"][0]["lastHeartbeatTime"], Value::Null);
}

#[tokio::test]
async fn labels_of_an_endpoint_slice_count_for_its_generation() {
    let api = api();
    let slice = json!({ "metadata": { "name": "s" }, "addressType": "IPv4" });
    send(&api, Method::POST, SLICES, slice).await;
    for (metadata, expected) in [
        (json!({ "annotations": { "a": "b" } }), 1),
        (json!({ "labels": { "a": "b" } }), 2),
        (json!({ "labels": { "a": "b" } }), 2),
    ] {
        let path = format!("{SLICES}/s");
        // An empty list is the same as none.
        let patch = json!({ "metadata": metadata, "endpoints": [] });
        let (_, slice) = send(&api, Method::PATCH, &path, patch).await;
        assert_eq!(slice["metadata"]["generation"], expected, "{slice}");
    }
}

/// Returns the code and the text of the response to a request that accepts a media type.
async fn text(
    api: &Api,
    (method, path): (Method, &str),
    (accept, media_type): (&str, &str),
    body: &'static str,
) -> (u16, String) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::ACCEPT, accept)
        .header(header::CONTENT_TYPE, media_type)
        .extension(User::admin().clone());
    let body = Full::new(Bytes::from_static(body.as_bytes()));
    let response = api.handle(request.body(body).unwrap()).await;
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, String::from_utf8(bytes.to_vec()).unwrap())
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn response_that_the_client_does_not_accept_says_what_there_is() {
    let api = api();
    let map = json!({ "metadata": { "name": "m" } });
    send(&api, Method::POST, MAPS, map).await;
    let object = format!("{MAPS}/m");
    let routes =
        "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml";
    let handlers =
        "only the following media types are accepted: application/json, application/yaml";
    let metadata = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let list = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    for (path, accept, expected, has_details) in [
        (&*object, "application/xml", routes, true),
        (&object, "application/*", routes, true),
        (&object, "application/json;as=Foo;v=v1;g=meta.k8s.io", handlers, false),
        (MAPS, "text/html", &*format!("{routes}, application/json;stream=watch"), true),
        (
            MAPS,
            metadata,
            "you requested PartialObjectMetadata, but the requested object is a list \
             (*core.ConfigMapList)",
            false,
        ),
        (
            &object,
            list,
            "you requested PartialObjectMetadataList, but the requested object is not a list \
             (*core.ConfigMap)",
            false,
        ),
        (
            "/api/v1/configmaps?watch=true",
            "application/yaml",
            "only the following media types are accepted: application/json;stream=watch",
            false,
        ),
        ("/api/v1", "text/html", routes, true),
        ("/apis", "text/html", handlers, false),
        (
            "/version",
            "application/yaml",
            "406: Not Acceptable\n\nAvailable representations: application/json",
            true,
        ),
    ] {
        let (code, body) = text(&api, (Method::GET, path), (accept, "application/json"), "").await;
        let status: Value = match accept {
            "application/yaml" => serde_saphyr::from_str(&body).unwrap(),
            _ => serde_json::from_str(&body).unwrap(),
        };
        assert_eq!((code, status["message"].as_str().unwrap()), (406, expected), "{path} {accept}");
        assert_eq!(status.get("details").is_some(), has_details, "{path} {accept}");
        // A client that cannot read the error is a person.
        let is_indented = !matches!(accept, "application/yaml" | "application/*");
        assert_eq!(body.starts_with("{\n  \"kind\": \"Status\","), is_indented, "{body}");
    }
    // Nothing is written for a client that cannot read the response.
    let post = text(&api, (Method::POST, MAPS), ("text/html", ""), r#"{"metadata":{"name":"n"}}"#);
    assert_eq!(post.await.0, 406);
    let (code, _) = send(&api, Method::GET, &format!("{MAPS}/n"), Value::Null).await;
    assert_eq!(code, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn both_versions_of_tables_and_metadata_are_served() {
    let api = api();
    let map = json!({ "metadata": { "name": "m" } });
    send(&api, Method::POST, MAPS, map).await;
    send(&api, Method::POST, ROLES, json!({ "metadata": { "name": "r" } })).await;
    for version in ["v1", "v1beta1"] {
        for (path, kind) in [
            (format!("{MAPS}/m"), "Table"),
            (MAPS.to_owned(), "Table"),
            (format!("{MAPS}/m"), "PartialObjectMetadata"),
            (MAPS.to_owned(), "PartialObjectMetadataList"),
            (format!("{ROLES}/r"), "Table"),
        ] {
            let accept = format!("application/json;as={kind};v={version};g=meta.k8s.io");
            let (code, body) = text(&api, (Method::GET, &path), (&accept, ""), "").await;
            let shown: Value = serde_json::from_str(&body).unwrap();
            let api_version = format!("meta.k8s.io/{version}");
            assert_eq!(
                (code, &shown["kind"], &shown["apiVersion"]),
                (200, &json!(kind), &json!(api_version))
            );
            let inner =
                if kind == "Table" { &shown["rows"][0]["object"] } else { &shown["items"][0] };
            assert!(inner.is_null() || inner["apiVersion"] == api_version, "{shown}");
        }
    }
    let accept = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let path = format!("{MAPS}?labelSelector=none");
    let (_, body) = text(&api, (Method::GET, &path), (accept, ""), "").await;
    assert!(body.contains("\"items\":null"), "{body}");
    let review = r#"{"spec":{"resourceAttributes":{"verb":"get"}}}"#;
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let accept = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let (code, body) = text(&api, (Method::POST, reviews), (accept, ""), review).await;
    assert!(code == 201 && body.contains("\"kind\":\"PartialObjectMetadata\""), "{body}");
    let (code, _) = text(
        &api,
        (Method::POST, reviews),
        (&accept.replace("PartialObjectMetadata", "Table"), ""),
        review,
    )
    .await;
    assert_eq!(code, 406);
}

#[tokio::test]
async fn body_of_an_unknown_format_is_refused() {
    let api = api();
    send(&api, Method::POST, MAPS, json!({ "metadata": { "name": "m" } })).await;
    let (code, body) = send(&api, Method::POST, DEFINITIONS, definition("xs", "X")).await;
    assert_eq!(code, StatusCode::CREATED, "{body}");
    let object = format!("{MAPS}/m");
    let unknown =
        "the body of the request was in an unknown format - accepted media types include: ";
    let objects =
        format!("{unknown}application/json, application/yaml, application/vnd.kubernetes.protobuf");
    let patches = format!(
        "{unknown}application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
    );
    let route = "415: Unsupported Media Type";
    let custom = "/apis/example.com/v1/namespaces/default/xs/x";
    for (method, path, media_type, expected, has_details) in [
        (Method::POST, MAPS, "text/plain", &*objects, false),
        (Method::DELETE, MAPS, "text/plain", &objects, false),
        (Method::DELETE, &object, "application/xml", &objects, false),
        (Method::PATCH, &object, "application/json", route, true),
        (Method::PATCH, custom, "application/json", &patches, false),
        (Method::PATCH, custom, "application/strategic-merge-patch+json", &patches, false),
    ] {
        let (code, body) =
            text(&api, (method.clone(), path), ("application/json", media_type), "{}").await;
        let status: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((code, status["message"].as_str().unwrap()), (415, expected), "{method} {path}");
        assert_eq!(status.get("details").is_some(), has_details, "{method} {path}");
    }
}

#[tokio::test]
async fn only_templates_have_spaces_around_images() {
    let api = api();
    let containers = json!([{ "name": "c", "image": " i" }]);
    let template =
        json!({ "metadata": { "labels": { "a": "b" } }, "spec": { "containers": containers } });
    let template = json!({
        "metadata": { "name": "t" },
        "spec": { "selector": { "matchLabels": { "a": "b" } }, "template": template },
    });
    let sets = "/apis/apps/v1/namespaces/default/replicasets";
    assert_eq!(send(&api, Method::POST, sets, template).await.0, StatusCode::CREATED);
    let pod = json!({ "metadata": { "name": "p" }, "spec": { "containers": containers } });
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    send(&api, Method::POST, accounts, json!({ "metadata": { "name": "default" } })).await;
    let pods = "/api/v1/namespaces/default/pods";
    let (code, body) = send(&api, Method::POST, pods, pod).await;
    let message = "Pod \"p\" is invalid: spec.containers[0].image: Invalid value: \" i\": must not have \
                   leading or trailing whitespace";
    assert_eq!((code.as_u16(), body["message"].as_str()), (422, Some(message)));
}

#[tokio::test]
async fn patch_of_another_kind_or_of_no_operations_is_refused_as_in_kubernetes() {
    let api = api();
    send(&api, Method::POST, MAPS, json!({ "metadata": { "name": "m" } })).await;
    let path = format!("{MAPS}/m?dryRun=All");
    let ignoring = format!("{path}&fieldValidation=Ignore");
    let strict = format!("{path}&fieldValidation=Strict");
    let list = "json: cannot unmarshal number into Go value of type";
    for (path, media_type, body, code, expected) in [
        (
            &*path,
            "merge",
            r#"{"kind":"Foo"}"#,
            422,
            "no kind \"Foo\" is registered for version \"v1\" in scheme \"pkg/runtime/scheme.go:111\"",
        ),
        (
            &path,
            "merge",
            r#"{"kind":"Pod"}"#,
            422,
            "converting (v1.Pod) to (core.ConfigMap): unknown conversion",
        ),
        (&path, "strategic-merge", r#"{"kind":"Foo"}"#, 200, ""),
        (&path, "json", "5", 400, &*format!("error decoding patch: {list} []handlers.jsonPatchOp")),
        (&ignoring, "json", "5", 400, &format!("{list} jsonpatch.Patch")),
        (&ignoring, "json", "[5]", 400, &format!("{list} jsonpatch.Operation")),
        (&path, "json", "null", 200, ""),
        (&path, "merge", "null", 400, "Invalid JSON Patch"),
        (&ignoring, "merge", "{", 400, "Invalid JSON Patch"),
        (&path, "strategic-merge", "5", 400, &format!("{list} map[string]interface {{}}")),
        (
            &strict,
            "json",
            r#"[{"op":"add","op":"test","path":"/metadata/name","value":"m"}]"#,
            422,
            "strict decoding error: json patch duplicate field \"[0].op\"",
        ),
        (
            &strict,
            "merge",
            r#"{"zz":1,"metadata":{"labels":{"a":"1","a":"2"}}}"#,
            422,
            "strict decoding error: duplicate field \"metadata.labels.a\", unknown field \"zz\"",
        ),
    ] {
        let media_type = format!("application/{media_type}-patch+json");
        let request = (Method::PATCH, path);
        let (found, text) = text(&api, request, ("application/json", &media_type), body).await;
        let status: Value = serde_json::from_str(&text).unwrap();
        let message = status["message"].as_str().unwrap_or_default();
        assert!(found == code && message.ends_with(expected), "{media_type} {body} {text}");
    }
}

#[tokio::test]
async fn new_node_is_tainted_until_it_is_ready() {
    let api = api();
    let nodes = "/api/v1/nodes";
    let taint = json!({ "key": "node.kubernetes.io/not-ready", "effect": "NoSchedule" });
    for (name, spec, expected) in [
        ("a", json!({}), json!([taint])),
        ("b", json!({ "taints": [taint] }), json!([taint])),
        // Its kubelet reports at once.
        ("c", json!({ "providerID": "embedded://c" }), Value::Null),
    ] {
        let node = json!({
            "metadata": { "name": name },
            "spec": spec,
            "status": { "capacity": { "cpu": 1 } },
        });
        let (_, node) = send(&api, Method::POST, nodes, node).await;
        assert_eq!(node["spec"]["taints"], expected, "{node}");
        assert_eq!(node["status"]["allocatable"], json!({ "cpu": "1" }), "{node}");
    }
}

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

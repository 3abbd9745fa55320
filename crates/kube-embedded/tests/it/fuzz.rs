//! Random requests: each gets an HTTP response, and each rejection is a `Status`. The seeds are fixed, so that
//! a failure can be reproduced.

use crate::{
    crds,
    fixture::{cluster, config_map, deployment, post},
};
use http::Request;
use http_body_util::BodyExt;
use kube::client::Body;
use kube_embedded::Cluster;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// A request that takes this long hangs; others take milliseconds.
const HANGS_AFTER: Duration = Duration::from_secs(20);
const PATHS: &[&str] = &[
    "/api/v1/namespaces/default/configmaps",
    "/api/v1/namespaces/default/configmaps/one",
    "/api/v1/namespaces/default/pods",
    "/api/v1/namespaces/default/services/s",
    "/api/v1/namespaces/default/pods/p/log",
    "/api/v1/namespaces/default/pods/p/binding",
    "/api/v1/namespaces/default/pods/p/eviction",
    "/api/v1/namespaces/fuzz",
    "/api/v1/namespaces/fuzz/finalize",
    "/apis/apps/v1/namespaces/default/deployments",
    "/apis/apps/v1/namespaces/default/deployments/web",
    "/apis/apps/v1/namespaces/default/deployments/web/status",
    "/apis/apps/v1/namespaces/default/deployments/web/scale",
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/canaries.shop.example.com",
    "/apis/shop.example.com/v1/namespaces/default/canaries",
    "/apis/shop.example.com/v1/namespaces/default/canaries/c",
    "/apis/shop.example.com/v1/namespaces/default/canaries/c/status",
    "/apis/shop.example.com/v1/namespaces/default/canaries/c/scale",
    "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
    "/apis/authentication.k8s.io/v1/selfsubjectreviews",
    "/apis",
    "/apis/apps",
    "/api",
    "/openapi/v3/apis/shop.example.com/v1",
    "/version",
];
const METHODS: &[&str] =
    &["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "BREW"];
const TYPES: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
    "text/html",
    "",
    "application/json; charset=\"",
];
const QUERIES: &[&str] = &[
    "limit",
    "continue",
    "resourceVersion",
    "resourceVersionMatch",
    "labelSelector",
    "fieldSelector",
    "fieldManager",
    "fieldValidation",
    "force",
    "dryRun",
    "gracePeriodSeconds",
    "propagationPolicy",
    "timeoutSeconds",
    "sendInitialEvents",
    "includeObject",
    "pretty",
    "%zz",
];
const ODD: &[&str] = &[
    "",
    "1",
    "-1",
    "0",
    "99999999999999999999",
    "true",
    "a=b",
    "a in (",
    "a!=b,c",
    "!",
    "=",
    "Exact",
    "All",
    "Strict",
    "metadata.name=one",
    "metadata.nope=1",
    "eyJ2IjoiMSJ9",
    "%00",
    "\u{fffd}",
    "..",
    "Background",
    "NotOlderThan",
    "watch",
];

async fn send(cluster: &Cluster, request: Request<Body>) -> (u16, String, String) {
    let what = format!("{} {}", request.method(), request.uri());
    let response = tokio::time::timeout(HANGS_AFTER, async {
        let response = cluster.client().send(request).await.unwrap();
        let code = response.status().as_u16();
        // A watch does not end by itself.
        if what.contains("watch") && code == 200 {
            return (code, String::new(), String::new());
        }
        let media = response.headers().get("content-type").map(|m| m.to_str().unwrap().to_owned());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, media.unwrap_or_default(), String::from_utf8_lossy(&body).into_owned())
    });
    response.await.unwrap_or_else(|_| panic!("{what}: no response within {HANGS_AFTER:?}"))
}

/// Expects a `Status` object for each error, except for unknown paths, which get plain text.
fn check(what: &str, (code, media, text): &(u16, String, String)) {
    assert!((200..600).contains(code), "{what}: {code}");

    if *code < 400 || (*code == 404 && media.starts_with("text/plain")) {
        return;
    }
    let status: Value = serde_json::from_str(text).unwrap_or_else(|_| panic!("{what}: {text}"));
    assert_eq!(status["kind"], "Status", "{what}: {text}");
    assert_eq!(status["code"], *code, "{what}: {text}");
}

/// Starts a cluster with one object for each kind of path.
async fn target() -> Cluster {
    let cluster = cluster().await;
    post(&cluster, crds::DEFINITIONS, &crds::definition()).await;
    post(&cluster, PATHS[0], &config_map("one")).await;
    post(&cluster, PATHS[9], &deployment("web", 0)).await;
    post(&cluster, PATHS[15], &canary()).await;
    cluster
}

fn canary() -> Value {
    json!({
        "apiVersion": "shop.example.com/v1", "kind": "Canary",
        "metadata": { "name": "c" }, "spec": { "weight": 1, "steps": [{ "name": "a" }] },
    })
}

/// Returns a random value, whose field names are mostly those of Kubernetes.
fn value(rng: &mut StdRng, depth: u32) -> Value {
    const NAMES: &[&str] = &[
        "apiVersion",
        "kind",
        "metadata",
        "spec",
        "status",
        "name",
        "namespace",
        "labels",
        "replicas",
        "template",
        "containers",
        "ports",
        "weight",
        "steps",
        "versions",
        "schema",
        "openAPIV3Schema",
        "properties",
        "items",
        "type",
        "finalizers",
        "managedFields",
        "ownerReferences",
        "$patch",
        "$retainKeys",
        "$setElementOrder/containers",
        "selector",
        "matchLabels",
        "op",
        "path",
        "value",
        "deletionTimestamp",
        "resourceVersion",
        "data",
        "",
    ];
    match rng.random_range(0..if depth == 0 { 6 } else { 9 }) {
        0 => Value::Null,
        1 => rng.random::<bool>().into(),
        2 => rng.random_range(-3..4).into(),
        3 => json!(rng.random::<f64>() * 1e300),
        4 => (*ODD.choose(rng).unwrap()).into(),
        5 => (*NAMES.choose(rng).unwrap()).into(),
        6 => (0..rng.random_range(0..4)).map(|_| value(rng, depth - 1)).collect(),
        _ => {
            let fields = (0..rng.random_range(0..5))
                .map(|_| ((*NAMES.choose(rng).unwrap()).to_owned(), value(rng, depth - 1)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
    }
}

/// Returns a valid object with a few random replacements, or with none.
fn mutated(rng: &mut StdRng) -> Value {
    let mut object = match rng.random_range(0..4) {
        0 => config_map("one"),
        1 => deployment("web", 1),
        2 => canary(),
        _ => crds::definition(),
    };
    for _ in 0..rng.random_range(0..4) {
        let mut node = &mut object;
        for _ in 0..rng.random_range(1..9) {
            let next = match &*node {
                Value::Object(fields) => fields.len(),
                Value::Array(items) => items.len(),
                _ => 0,
            };
            if next == 0 {
                break;
            }
            let at = rng.random_range(0..next);
            node = match node {
                Value::Object(fields) => fields.values_mut().nth(at).unwrap(),
                Value::Array(items) => &mut items[at],
                _ => break,
            };
        }
        *node = value(rng, 3);
    }
    object
}

fn patch(rng: &mut StdRng) -> Value {
    const POINTERS: &[&str] = &[
        "/spec",
        "/spec/weight",
        "/metadata/labels/a",
        "/spec/steps/0",
        "/spec/steps/-",
        "",
        "/",
        "x",
    ];
    const OPERATIONS: &[&str] = &["add", "remove", "replace", "move", "copy", "test", "none"];
    let operations = (0..rng.random_range(0..4)).map(|_| {
        json!({
            "op": OPERATIONS.choose(rng).unwrap(),
            "path": POINTERS.choose(rng).unwrap(),
            "from": POINTERS.choose(rng).unwrap(),
            "value": value(rng, 2),
        })
    });
    operations.collect()
}

fn body(rng: &mut StdRng) -> Vec<u8> {
    match rng.random_range(0..6) {
        0 => Vec::new(),
        1 => value(rng, 4).to_string().into_bytes(),
        2 | 3 => mutated(rng).to_string().into_bytes(),
        4 => patch(rng).to_string().into_bytes(),
        _ => {
            let mut bytes = mutated(rng).to_string().into_bytes();
            bytes.truncate(rng.random_range(0..=bytes.len()));
            for _ in 0..rng.random_range(0..4) {
                if !bytes.is_empty() {
                    let at = rng.random_range(0..bytes.len());
                    bytes[at] = rng.random();
                }
            }
            bytes
        }
    }
}

fn path(rng: &mut StdRng) -> String {
    let mut path = (*PATHS.choose(rng).unwrap()).to_owned();
    if rng.random_ratio(1, 4) {
        let mut parts: Vec<&str> = path.split('/').collect();
        let at = rng.random_range(0..parts.len());
        match rng.random_range(0..3) {
            0 => parts[at] = ["", "x", "%2F", "%ff", "..", "default", "v1"].choose(rng).unwrap(),
            1 => drop(parts.remove(at)),
            _ => parts.insert(at, "y"),
        }
        path = format!("/{}", parts.join("/").trim_start_matches('/'));
    }
    for n in 0..rng.random_range(0..3) {
        let (name, odd) = (QUERIES.choose(rng).unwrap(), ODD.choose(rng).unwrap());
        let odd: String = form_urlencoded::byte_serialize(odd.as_bytes()).collect();
        path.push_str(&format!("{}{name}={odd}", if n == 0 { '?' } else { '&' }));
    }
    if rng.random_ratio(1, 20) {
        path.push_str(if path.contains('?') { "&watch=1" } else { "?watch=1" });
    }
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn random_requests_get_valid_responses() {
    let cluster = target().await;
    let mut rng = StdRng::seed_from_u64(7);
    let mut codes = std::collections::BTreeMap::new();
    for round in 0..4000 {
        let path = path(&mut rng);
        let method = *METHODS.choose(&mut rng).unwrap();
        let bytes = body(&mut rng);
        let request = Request::builder()
            .method(method)
            .uri(&path)
            .header("content-type", *TYPES.choose(&mut rng).unwrap())
            .header(
                "accept",
                ["application/json", "*/*", "text/html"].choose(&mut rng).unwrap().to_owned(),
            );
        let Ok(request) = request.body(Body::from(bytes.clone())) else { continue };
        let what = format!("round {round}: {method} {path} {}", String::from_utf8_lossy(&bytes));
        let response = send(&cluster, request).await;
        if method != "HEAD" {
            check(&what, &response);
        }
        *codes.entry(response.0).or_insert(0) += 1;
    }
    // The requests got past the first checks.
    for code in [200, 400, 404, 405, 415, 422] {
        assert!(codes.contains_key(&code), "{codes:?}");
    }
    // The server still works.
    assert_eq!(post(&cluster, PATHS[0], &config_map("after")).await.code, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_protobuf_is_rejected() {
    let cluster = target().await;
    let mut rng = StdRng::seed_from_u64(11);
    let kinds = [
        ("v1", "ConfigMap", 0),
        ("apps/v1", "Deployment", 9),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition", 13),
    ];
    for round in 0..1500 {
        let (version, kind, path) = *kinds.choose(&mut rng).unwrap();
        let mut type_meta = vec![0x0a, version.len() as u8];
        type_meta.extend(version.as_bytes());
        type_meta.extend([0x12, kind.len() as u8]);
        type_meta.extend(kind.as_bytes());
        // Fields of each wire type, nested by chance.
        let mut raw: Vec<u8> = Vec::new();
        for _ in 0..rng.random_range(0..6) {
            let length = rng.random_range(0..8_u8);
            raw.push(rng.random_range(0..64_u8) << 3 | rng.random_range(0..6));
            raw.push(length);
            raw.extend((0..length).map(|_| rng.random::<u8>()));
        }
        let mut bytes = b"k8s\0".to_vec();
        bytes.extend([0x0a, type_meta.len() as u8]);
        bytes.extend(type_meta);
        bytes.extend([0x12, raw.len() as u8]);
        bytes.extend(raw);
        let request = Request::post(PATHS[path])
            .header("content-type", "application/vnd.kubernetes.protobuf")
            .body(Body::from(bytes.clone()))
            .unwrap();
        check(&format!("round {round}: {bytes:x?}"), &send(&cluster, request).await);
    }
}

/// Deep nesting, in each format that can nest.
#[tokio::test(flavor = "multi_thread")]
async fn deep_nesting_does_not_overflow_the_stack() {
    let cluster = target().await;
    let deep = 100_000;
    let json = format!("{}{}", "[".repeat(deep), "]".repeat(deep));
    let objects = format!("{}1{}", "{\"a\":".repeat(deep), "}".repeat(deep));
    let flow = format!("a: {}", "[".repeat(deep));
    let lines: String = (0..3000).map(|n| format!("{}a:\n", " ".repeat(n % 1500))).collect();
    for (path, media, body) in [
        (PATHS[0], TYPES[0], json.clone()),
        (PATHS[0], TYPES[0], objects.clone()),
        (PATHS[0], TYPES[1], flow.clone()),
        (PATHS[0], TYPES[1], lines),
        (PATHS[1], TYPES[6], flow),
        (PATHS[1], TYPES[4], objects),
        (PATHS[1], TYPES[3], json),
        (PATHS[0], "application/json", "x".repeat(4 << 20)),
    ] {
        let method = if path == PATHS[0] { "POST" } else { "PATCH" };
        let request = Request::builder()
            .method(method)
            .uri(format!("{path}?fieldManager=f"))
            .header("content-type", media)
            .body(Body::from(body.into_bytes()))
            .unwrap();
        let response = send(&cluster, request).await;
        assert!(response.0 >= 400, "{media}: {response:?}");
        check(media, &response);
    }
}

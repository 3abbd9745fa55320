//! CustomResourceDefinitions and their custom resources.

use crate::fixture::{
    CONFIG_MAPS, Response, cluster, config_map, delete, get, kubectl::Kubectl, patch, post,
    wait_for_deletion,
};
use kube_embedded::Cluster;
use serde_json::{Value, json};

pub(crate) const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const CANARIES: &str = "/apis/shop.example.com/v1/namespaces/default/canaries";
const MERGE: &str = "merge-patch+json";

pub(crate) fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "canaries.shop.example.com" },
        "spec": {
            "group": "shop.example.com",
            "scope": "Namespaced",
            "names": {
                "kind": "Canary", "plural": "canaries", "shortNames": ["cny"], "categories": ["all"],
            },
            "versions": [{
                "name": "v1",
                "served": true,
                "storage": true,
                "subresources": {
                    "status": {},
                    "scale": {
                        "specReplicasPath": ".spec.replicas",
                        "statusReplicasPath": ".status.replicas",
                        "labelSelectorPath": ".status.selector",
                    },
                },
                "additionalPrinterColumns": [
                    { "name": "Weight", "type": "integer", "jsonPath": ".spec.weight" },
                    {
                        "name": "Ready",
                        "type": "string",
                        "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status",
                    },
                    { "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" },
                ],
                "schema": { "openAPIV3Schema": {
                    "type": "object",
                    "properties": {
                        "spec": {
                            "type": "object",
                            "description": "The desired state.",
                            "required": ["weight"],
                            "properties": spec_fields(),
                        },
                        "status": {
                            "type": "object",
                            "x-kubernetes-preserve-unknown-fields": true,
                        },
                    },
                } },
            }],
        },
    })
}

fn spec_fields() -> Value {
    json!({
        "weight": { "type": "integer", "minimum": 0, "maximum": 100 },
        "replicas": { "type": "integer", "default": 1 },
        "mode": { "type": "string", "enum": ["weight", "header"] },
        "name": { "type": "string", "pattern": "^[a-z]+$", "maxLength": 5 },
        "port": { "x-kubernetes-int-or-string": true },
        "note": { "type": "string", "nullable": true },
        "tags": {
            "type": "array",
            "items": { "type": "string" },
            "x-kubernetes-list-type": "set",
        },
        "labels": {
            "type": "object",
            "additionalProperties": { "type": "string" },
        },
        "steps": {
            "type": "array",
            "maxItems": 2,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": { "type": "string" },
                    "pause": { "type": "string", "default": "10s" },
                },
            },
        },
        "free": {
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": true,
        },
    })
}

fn canary(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "shop.example.com/v1",
        "kind": "Canary",
        "metadata": { "name": name },
        "spec": spec,
    })
}

async fn with_canaries() -> Cluster {
    let cluster = cluster().await;
    let created = post(&cluster, DEFINITIONS, &definition()).await;
    assert_eq!(created.code, 201, "{}", created.text);
    cluster
}

async fn create(cluster: &Cluster, name: &str, spec: Value) -> Value {
    let created = post(cluster, CANARIES, &canary(name, spec)).await;
    assert_eq!(created.code, 201, "{}", created.text);
    created.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn definition_is_served_as_soon_as_it_is_created() {
    let cluster = cluster().await;
    assert_eq!(get(&cluster, CANARIES).await.code, 404);
    let first = post(&cluster, DEFINITIONS, &definition()).await.json();
    assert_eq!(first["spec"]["names"]["listKind"], "CanaryList");
    assert_eq!(first["spec"]["names"]["singular"], "canary");
    assert_eq!(first["spec"]["conversion"], json!({ "strategy": "None" }));
    assert_eq!(first["status"]["storedVersions"], json!(["v1"]));
    let path = format!("{DEFINITIONS}/canaries.shop.example.com");
    let established = get(&cluster, &path).await.json();
    let conditions = established["status"]["conditions"].as_array().unwrap();
    let conditions: Vec<_> = conditions.iter().map(|c| (&c["type"], &c["status"])).collect();
    assert_eq!(json!(conditions), json!([["NamesAccepted", "True"], ["Established", "True"]]));
    assert_eq!(established["status"]["acceptedNames"], first["spec"]["names"]);
    assert_eq!(get(&cluster, CANARIES).await.json()["kind"], "CanaryList");
    let resources = get(&cluster, "/apis/shop.example.com/v1").await.json();
    let names: Vec<_> =
        resources["resources"].as_array().unwrap().iter().map(|r| &r["name"]).collect();
    assert_eq!(json!(names), json!(["canaries", "canaries/status", "canaries/scale"]));
    assert_eq!(resources["resources"][0]["shortNames"], json!(["cny"]));
    // The first eight bytes of the SHA-256 of shop.example.com/v1/Canary.
    assert_eq!(resources["resources"][0]["storageVersionHash"], "K+wB0//WnGE=");
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_resource_is_validated_defaulted_and_pruned_by_its_schema() {
    let cluster = with_canaries().await;
    let object = create(
        &cluster,
        "good",
        json!({
            "weight": 10, "unknown": 1, "note": null, "mode": null, "port": "http",
            "steps": [{ "name": "a" }], "free": { "any": [1] }, "labels": { "a": "b" },
        }),
    )
    .await;
    assert_eq!(
        object["spec"],
        json!({
            "weight": 10, "replicas": 1, "note": null, "port": "http",
            "steps": [{ "name": "a", "pause": "10s" }], "free": { "any": [1] },
            "labels": { "a": "b" },
        })
    );
    assert_eq!((&object["metadata"]["generation"], object.get("status")), (&json!(1), None));
    let listed = get(&cluster, CANARIES).await.json();
    assert_eq!(listed["items"][0]["kind"], "Canary", "items of a custom resource list have a kind");
    for (spec, expected) in [
        (json!({}), "spec.weight: Required value"),
        (
            json!({ "weight": 101 }),
            "spec.weight: Invalid value: 101: spec.weight in body should be less than or equal to \
             100",
        ),
        (
            json!({ "weight": "ten" }),
            "spec.weight: Invalid value: \"string\": spec.weight in body must be of type integer: \
             \"string\"",
        ),
        (json!({ "weight": null }), "spec.weight: Required value"),
        (
            json!({ "weight": 1, "mode": "magic" }),
            "spec.mode: Unsupported value: \"magic\": supported values: \"weight\", \"header\"",
        ),
        (
            json!({ "weight": 1, "name": "A" }),
            "spec.name: Invalid value: \"A\": spec.name in body should match '^[a-z]+$'",
        ),
        (
            json!({ "weight": 1, "name": "abcdef" }),
            "spec.name: Too long: may not be more than 5 bytes",
        ),
        (
            json!({ "weight": 1, "port": true }),
            "spec.port: Invalid value: \"boolean\": spec.port in body must be of type \
             integer,string: \"boolean\"",
        ),
        (json!({ "weight": 1, "tags": ["a", "a"] }), "spec.tags[1]: Duplicate value: \"a\""),
        (
            json!({ "weight": 1, "steps": [{ "name": "a" }, { "name": "a" }] }),
            "spec.steps[1]: Duplicate value: {\"name\":\"a\"}",
        ),
        (json!({ "weight": 1, "steps": [{}] }), "spec.steps[0].name: Required value"),
        (
            json!({ "weight": 1, "labels": { "a": 1 } }),
            "spec.labels.a: Invalid value: \"integer\": spec.labels.a in body must be of type \
             string: \"integer\"",
        ),
    ] {
        let response = post(&cluster, CANARIES, &canary("bad", spec.clone())).await;
        let expected = format!("Canary.shop.example.com \"bad\" is invalid: {expected}");
        assert_eq!(response.status(), (422, expected), "{spec}");
    }
    let three = json!([{ "name": "a" }, { "name": "b" }, { "name": "c" }]);
    let response =
        post(&cluster, CANARIES, &canary("bad", json!({ "weight": 1, "steps": three }))).await;
    let (_, message) = response.status();
    assert!(message.ends_with("spec.steps: Too many: 3: must have at most 2 items"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_field_is_pruned_warned_about_or_rejected() {
    let cluster = with_canaries().await;
    let typo =
        canary("typo", json!({ "weight": 1, "wieght": 2, "steps": [{ "name": "a", "x": 1 }] }));
    let strict = post(&cluster, &format!("{CANARIES}?fieldValidation=Strict"), &typo).await;
    let expected = "Canary in version \"v1\" cannot be handled as a Canary: strict decoding error: \
                    unknown field \"spec.steps[0].x\", unknown field \"spec.wieght\"";
    assert_eq!(strict.status(), (400, expected.to_owned()));
    let warned = post(&cluster, CANARIES, &typo).await;
    assert_eq!(warned.code, 201);
    assert_eq!(
        warned.warnings,
        [
            "299 - \"unknown field \\\"spec.steps[0].x\\\"\"",
            "299 - \"unknown field \\\"spec.wieght\\\"\""
        ]
    );
    let ignored = format!("{CANARIES}/typo?fieldValidation=Ignore");
    let change = json!({ "spec": { "wieght": 3 } });
    let response = patch(&cluster, &ignored, MERGE, &change).await;
    assert_eq!((response.code, response.warnings.len()), (200, 0));
    assert!(response.json()["spec"].get("wieght").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_scale_are_separate_subresources() {
    let cluster = with_canaries().await;
    create(&cluster, "c", json!({ "weight": 1 })).await;
    let path = format!("{CANARIES}/c");
    let both = json!({
        "metadata": { "labels": { "a": "b" } },
        "spec": { "weight": 50 },
        "status": { "phase": "Ready", "replicas": 3, "selector": "app=c" },
    });
    let status = patch(&cluster, &format!("{path}/status"), MERGE, &both).await.json();
    assert_eq!(
        (&status["spec"]["weight"], &status["status"]["phase"]),
        (&json!(1), &json!("Ready"))
    );
    assert_eq!(status["metadata"].get("labels"), None);
    assert_eq!(status["metadata"]["generation"], 1);
    let spec =
        patch(&cluster, &path, MERGE, &json!({ "spec": { "weight": 2 }, "status": null })).await;
    let spec = spec.json();
    assert_eq!(
        (&spec["metadata"]["generation"], &spec["status"]["replicas"]),
        (&json!(2), &json!(3))
    );
    let scale = get(&cluster, &format!("{path}/scale")).await.json();
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(1)));
    assert_eq!(scale["status"], json!({ "replicas": 3, "selector": "app=c" }));
    let change = json!({ "spec": { "replicas": 7 } });
    assert_eq!(patch(&cluster, &format!("{path}/scale"), MERGE, &change).await.code, 200);
    let scaled = get(&cluster, &path).await.json();
    assert_eq!(
        (&scaled["spec"]["replicas"], &scaled["metadata"]["generation"]),
        (&json!(7), &json!(3))
    );
    let strategic = patch(&cluster, &path, "strategic-merge-patch+json", &change).await;
    assert_eq!(strategic.code, 415);
}

async fn apply(cluster: &Cluster, manager: &str, spec: Value) -> Response {
    let path = format!("{CANARIES}/c?fieldManager={manager}");
    patch(cluster, &path, "apply-patch+yaml", &canary("c", spec)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn server_side_apply_merges_lists_by_key() {
    let cluster = with_canaries().await;
    let step = |name: &str, pause: &str| json!({ "name": name, "pause": pause });
    let one = json!({ "weight": 1, "steps": [step("a", "1s")], "tags": ["x"] });
    assert_eq!(apply(&cluster, "one", one).await.code, 201);
    let two = json!({ "steps": [step("b", "2s")], "tags": ["y"], "free": { "k": { "l": 1 } } });
    let both = apply(&cluster, "two", two).await.json();
    assert_eq!(both["spec"]["steps"], json!([step("a", "1s"), step("b", "2s")]));
    assert_eq!(both["spec"]["tags"], json!(["x", "y"]));
    let owned = &both["metadata"]["managedFields"][1]["fieldsV1"]["f:spec"];
    assert_eq!(
        owned["f:steps"],
        json!({ "k:{\"name\":\"b\"}": { ".": {}, "f:name": {}, "f:pause": {} } })
    );
    let (code, message) = apply(&cluster, "two", json!({ "weight": 9 })).await.status();
    assert_eq!(code, 409);
    assert_eq!(message, "Apply failed with 1 conflict: conflict with \"one\": .spec.weight");
    let less = apply(&cluster, "two", json!({ "steps": [step("b", "3s")] })).await.json();
    assert_eq!(less["spec"]["steps"], json!([step("a", "1s"), step("b", "3s")]));
    assert_eq!((&less["spec"]["tags"], less["spec"].get("free")), (&json!(["x"]), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn conversion_changes_only_the_api_version() {
    let cluster = cluster().await;
    let mut two = definition();
    let mut beta = two["spec"]["versions"][0].clone();
    beta["name"] = "v1beta1".into();
    beta["storage"] = false.into();
    beta["deprecated"] = true.into();
    two["spec"]["versions"].as_array_mut().unwrap().insert(0, beta);
    post(&cluster, DEFINITIONS, &two).await;
    let group = get(&cluster, "/apis/shop.example.com").await.json();
    assert_eq!(group["preferredVersion"]["version"], "v1");
    create(&cluster, "c", json!({ "weight": 1 })).await;
    let old = CANARIES.replace("/v1/", "/v1beta1/");
    let response = get(&cluster, &format!("{old}/c")).await;
    assert_eq!(response.json()["apiVersion"], "shop.example.com/v1beta1");
    assert_eq!(response.warnings, ["299 - \"shop.example.com/v1beta1 Canary is deprecated\""]);
    let patched =
        patch(&cluster, &format!("{old}/c"), MERGE, &json!({ "spec": { "weight": 2 } })).await;
    assert_eq!(patched.json()["apiVersion"], "shop.example.com/v1beta1");
    assert_eq!(get(&cluster, &format!("{CANARIES}/c")).await.json()["spec"]["weight"], 2);
    two["spec"]["versions"][0]["served"] = false.into();
    let path = format!("{DEFINITIONS}/canaries.shop.example.com");
    let change = json!({ "spec": { "versions": two["spec"]["versions"] } });
    assert_eq!(patch(&cluster, &path, MERGE, &change).await.code, 200);
    assert_eq!(get(&cluster, &old).await.code, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_definition_is_rejected() {
    let cluster = cluster().await;
    let with = |change: &dyn Fn(&mut Value)| {
        let mut changed = definition();
        change(&mut changed["spec"]);
        changed
    };
    let schema = |spec: &mut Value, at: &str, value: Value| {
        let root = &mut spec["versions"][0]["schema"]["openAPIV3Schema"];
        *root.pointer_mut(at).unwrap() = value;
    };
    for (given, expected) in [
        (
            with(&|spec| spec["group"] = "other.com".into()),
            "must be spec.names.plural+\".\"+spec.group",
        ),
        (
            with(&|spec| spec["scope"] = "Galaxy".into()),
            "supported values: \"Cluster\", \"Namespaced\"",
        ),
        (
            with(&|spec| spec["versions"][0]["storage"] = false.into()),
            "must have exactly one version marked as storage version",
        ),
        (
            with(&|spec| spec["names"]["kind"] = "no_kind".into()),
            "may have mixed case, but should otherwise match",
        ),
        (
            with(&|spec| spec["conversion"] = json!({ "strategy": "Webhook" })),
            "this server calls no webhooks",
        ),
        (
            with(&|spec| schema(spec, "/properties/spec/properties/mode", json!({}))),
            "properties[mode].type: Required value: must not be empty for specified object fields",
        ),
        (
            with(&|spec| schema(spec, "/properties/spec/properties/tags/items", json!(null))),
            "items: Required value: must be specified",
        ),
        (
            with(&|spec| schema(spec, "/properties/spec/properties/replicas/default", json!("x"))),
            "replicas].default: Invalid value",
        ),
        (
            with(&|spec| schema(spec, "/properties/spec/properties/name/pattern", json!("("))),
            "must be a valid regular expression",
        ),
        (
            with(&|spec| {
                schema(
                    spec,
                    "/properties/spec/properties/mode",
                    json!({ "type": "string", "anyOf": [{ "type": "string" }] }),
                )
            }),
            "anyOf[0].type: Forbidden: must be empty to be structural",
        ),
    ] {
        let (code, message) = post(&cluster, DEFINITIONS, &given).await.status();
        assert_eq!(code, 422, "{message}");
        assert!(message.contains(expected), "{message} does not contain {expected}");
    }
    post(&cluster, DEFINITIONS, &definition()).await;
    let path = format!("{DEFINITIONS}/canaries.shop.example.com");
    let change = json!({ "spec": { "scope": "Cluster" } });
    let (code, message) = patch(&cluster, &path, MERGE, &change).await.status();
    assert_eq!(code, 422);
    assert!(
        message.contains("spec.scope: Invalid value: \"Cluster\": field is immutable"),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_definition_deletes_objects_and_ends_watches() {
    let cluster = with_canaries().await;
    let mut held = canary("held", json!({ "weight": 1 }));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    post(&cluster, CANARIES, &held).await;
    create(&cluster, "free", json!({ "weight": 1 })).await;
    let path = format!("{DEFINITIONS}/canaries.shop.example.com");
    let watch = format!("{CANARIES}?watch=1");
    let delete_definition = async {
        let deleted = delete(&cluster, &path).await.json();
        assert_eq!(deleted["status"]["conditions"][2]["type"], "Terminating");
        assert_eq!(get(&cluster, &format!("{CANARIES}/free")).await.code, 404);
        let new = post(&cluster, CANARIES, &canary("new", json!({ "weight": 1 }))).await;
        assert_eq!(new.code, 405);
        let release = json!({ "metadata": { "finalizers": null } });
        assert_eq!(patch(&cluster, &format!("{CANARIES}/held"), MERGE, &release).await.code, 200);
        assert_eq!(get(&cluster, CANARIES).await.code, 404);
        assert_eq!(get(&cluster, &path).await.code, 404);
    };
    let (lines, ()) = tokio::join!(get(&cluster, &watch), delete_definition);
    let events: Vec<String> = lines
        .text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|line| {
            format!("{} {}", line["type"], line["object"]["metadata"]["name"]).replace('"', "")
        })
        .collect();
    assert_eq!(events.last().unwrap(), "DELETED held", "{events:?}");
    post(&cluster, DEFINITIONS, &definition()).await;
    assert_eq!(get(&cluster, CANARIES).await.json()["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_works_with_custom_resources() {
    let cluster = cluster().await;
    let Some(kubectl) = Kubectl::new(&cluster).await else { return };
    let run = async |line: &str, stdin: &str| kubectl.line_with_stdin(line, stdin).await;
    run("apply -f -", &definition().to_string()).await;
    run("wait --for=condition=Established crd/canaries.shop.example.com", "").await;
    let manifest = canary("c", json!({ "weight": 5 })).to_string();
    assert_eq!(run("apply -f -", &manifest).await, "canary.shop.example.com/c created\n");
    assert_eq!(run("apply -f -", &manifest).await, "canary.shop.example.com/c unchanged\n");
    let side = run("apply --server-side --force-conflicts -f -", &manifest).await;
    assert_eq!(side, "canary.shop.example.com/c serverside-applied\n");
    assert_eq!(run("scale cny/c --replicas=4", "").await, "canary.shop.example.com/c scaled\n");
    assert_eq!(run("get cny c -o jsonpath={.spec.replicas}", "").await, "4");
    let table = run("get canaries", "").await;
    let head: Vec<&str> = table.split_whitespace().take(4).collect();
    assert_eq!(head, ["NAME", "WEIGHT", "READY", "AGE"], "{table}");
    assert!(run("get all", "").await.contains("canary.shop.example.com/c"));
    let explained = run("explain canary.spec", "").await;
    assert!(
        explained.contains("The desired state.")
            && explained.contains("weight\t<integer> -required-"),
        "{explained}"
    );
    assert!(run("api-resources", "").await.contains("canaries"));
    assert!(run("describe canary c", "").await.contains("Weight:"));
    let typo = canary("t", json!({ "weight": 5, "wat": 1 })).to_string();
    let error = kubectl.run(&["apply", "-f", "-"], &typo).await.unwrap_err();
    assert!(error.contains("unknown field \"spec.wat\""), "{error}");
    run("delete crd canaries.shop.example.com", "").await;
    let error = kubectl.run(&["get", "canaries"], "").await.unwrap_err();
    // Older versions use their cached discovery and get a 404.
    assert!(
        error.contains("the server doesn't have a resource") || error.contains("NotFound"),
        "{error}"
    );
}

/// Dependents are deleted with their custom resource, with its definition as well, and custom resources with
/// their namespace.
#[tokio::test(flavor = "multi_thread")]
async fn garbage_collection_covers_custom_resources() {
    let cluster = with_canaries().await;
    let create_with_dependent = async |name: &str| {
        let owner = create(&cluster, name, json!({ "weight": 1 })).await;
        let mut map = config_map(&format!("of-{name}"));
        map["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "shop.example.com/v1",
            "kind": "Canary",
            "name": name,
            "uid": owner["metadata"]["uid"],
        }]);
        assert_eq!(post(&cluster, CONFIG_MAPS, &map).await.code, 201);
        format!("{CONFIG_MAPS}/of-{name}")
    };
    let one = create_with_dependent("one").await;
    delete(&cluster, &format!("{CANARIES}/one")).await;
    wait_for_deletion(&cluster, &one).await;

    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "n" } });
    post(&cluster, "/api/v1/namespaces", &namespace).await;
    let canaries = CANARIES.replace("/default/", "/n/");
    assert_eq!(post(&cluster, &canaries, &canary("a", json!({ "weight": 1 }))).await.code, 201);
    delete(&cluster, "/api/v1/namespaces/n").await;
    wait_for_deletion(&cluster, "/api/v1/namespaces/n").await;
    assert_eq!(get(&cluster, &canaries).await.json()["items"], json!([]));

    let two = create_with_dependent("two").await;
    delete(&cluster, &format!("{DEFINITIONS}/canaries.shop.example.com")).await;
    wait_for_deletion(&cluster, &two).await;
}

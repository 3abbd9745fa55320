//! Examples of each patch type and of `managedFields`; general laws are in [`super::properties`].

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{error::Conflict, *};
use crate::resources::{registry, resource_type::ResourceType};

mod managers;

fn deployments() -> &'static ResourceType<'static> {
    registry::find("apps", "v1", "deployments").unwrap()
}

fn config_maps() -> &'static ResourceType<'static> {
    registry::find("", "v1", "configmaps").unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + seconds).unwrap()
}

fn managed(object: &Value) -> Vec<(String, String, Value)> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap().to_owned();
    entries
        .iter()
        .map(|entry| (text(entry, "manager"), text(entry, "operation"), entry["fieldsV1"].clone()))
        .collect()
}

fn entry(manager: &str, operation: &str, fields: Value) -> (String, String, Value) {
    (manager.to_owned(), operation.to_owned(), fields)
}

/// Unlike RFC 6902; as the library of Kubernetes does.
#[test]
fn json_patch_sets_a_missing_field_that_it_replaces() {
    let replace = |path: &str| json!([{ "op": "replace", "path": path, "value": 1 }]);
    let mut object = json!({ "a": { "list": [0] } });
    assert_eq!(json(&mut object, &replace("/a/b")), Ok(()));
    assert_eq!(object, json!({ "a": { "list": [0], "b": 1 } }));
    for missing in ["/x/y", "/a/list/1", "/a/b/c"] {
        assert!(json(&mut object, &replace(missing)).is_err(), "{missing}");
    }
}

#[test]
fn json_patch_beyond_limits_is_rejected() {
    let copies = |path: &str, n: usize| {
        let copy =
            |n: String| json!({ "op": "copy", "from": "/data", "path": path.replace('N', &n) });
        Value::Array((0..n).map(|n| copy(n.to_string())).collect())
    };
    let object = json!({ "data": { "a": "1" } });
    // Each of these doubles the object.
    for (patch, valid) in [
        (copies("/data/N", 5), true),
        (copies("/data/N", 40), false),
        // And each of these nests it one level deeper.
        (copies("/data/a", 100), true),
        (copies("/data/a", 5_000), false),
    ] {
        match json(&mut object.clone(), &patch) {
            Ok(()) => assert!(valid),
            Err(PatchError::Unprocessable(_)) => assert!(!valid),
            Err(error) => panic!("{error:?}"),
        }
    }
    let test = json!({ "op": "test", "path": "/data/a", "value": "1" });
    assert_eq!(json(&mut object.clone(), &Value::Array(vec![test.clone(); 10_000])), Ok(()));
    let message = "The allowed maximum operations in a JSON patch is 10000, got 10001";
    assert_eq!(
        json(&mut object.clone(), &Value::Array(vec![test; 10_001])),
        Err(PatchError::TooLarge(message.to_owned()))
    );
}

#[test]
fn json_patch_applies_or_is_rejected_as_a_whole() {
    let map = json!({ "data": { "a": "1" } });
    for (patch, expected) in [
        (json!([{ "op": "replace", "path": "/data/a", "value": "2" }]), Some(json!({ "a": "2" }))),
        (json!([{ "op": "test", "path": "/data/a", "value": "2" }]), None),
        (json!([{ "op": "remove", "path": "/data/z" }]), None),
        // A missing field of an existing object tests as null.
        (
            json!([
                { "op": "test", "path": "/data/z", "value": null },
                { "op": "add", "path": "/data/z", "value": "1" },
            ]),
            Some(json!({ "a": "1", "z": "1" })),
        ),
        (json!([{ "op": "test", "path": "/none/z", "value": null }]), None),
        (json!([{ "op": "test", "path": "/data/a", "value": null }]), None),
    ] {
        let mut target = map.clone();
        match (json(&mut target, &patch), expected) {
            (Ok(()), Some(data)) => assert_eq!(target["data"], data),
            (Err(PatchError::Unprocessable(_)), None) => {}
            (result, _) => panic!("{patch}: {result:?}"),
        }
    }
    assert_eq!(
        json(&mut map.clone(), &json!({ "op": "x" })),
        Err(PatchError::BadRequest(
            "error decoding patch: json: cannot unmarshal object into Go value of type \
             []handlers.jsonPatchOp"
                .to_owned()
        ))
    );
}

#[test]
fn strategic_merge_patch_follows_merge_keys_and_directives() {
    let pod = |spec: Value| json!({ "spec": { "template": { "spec": spec } } });
    let containers = |list: Value| pod(json!({ "containers": list }));
    let two = json!([{ "name": "a", "image": "1" }, { "name": "b", "image": "1" }]);
    for (case, before, patch, after) in [
        (
            "an element is found by its merge key",
            containers(two.clone()),
            containers(json!([{ "name": "b", "image": "2" }])),
            containers(json!([{ "name": "a", "image": "1" }, { "name": "b", "image": "2" }])),
        ),
        (
            "a new element comes first",
            containers(two.clone()),
            containers(json!([{ "name": "c" }])),
            containers(json!([
                { "name": "c" }, { "name": "a", "image": "1" }, { "name": "b", "image": "1" }
            ])),
        ),
        (
            "unless an order is given",
            containers(two.clone()),
            pod(json!({
                "$setElementOrder/containers": [{ "name": "b" }, { "name": "c" }, { "name": "a" }],
                "containers": [{ "name": "c" }],
            })),
            containers(json!([
                { "name": "b", "image": "1" }, { "name": "c" }, { "name": "a", "image": "1" }
            ])),
        ),
        (
            "an order alone orders",
            containers(two.clone()),
            pod(json!({ "$setElementOrder/containers": [{ "name": "b" }, { "name": "a" }] })),
            containers(json!([{ "name": "b", "image": "1" }, { "name": "a", "image": "1" }])),
        ),
        (
            "an element is deleted",
            containers(two.clone()),
            containers(json!([{ "name": "a", "$patch": "delete" }])),
            containers(json!([{ "name": "b", "image": "1" }])),
        ),
        (
            "a list is replaced",
            containers(two.clone()),
            containers(json!([{ "$patch": "replace" }, { "name": "only" }])),
            containers(json!([{ "name": "only" }])),
        ),
        (
            "a list without merge key is replaced",
            containers(json!([{ "name": "a", "command": ["x", "y"] }])),
            containers(json!([{ "name": "a", "command": ["z"] }])),
            containers(json!([{ "name": "a", "command": ["z"] }])),
        ),
        (
            "only what is retained stays",
            json!({ "spec": { "strategy": { "type": "RollingUpdate", "rollingUpdate": {} } } }),
            json!({ "spec": { "strategy": { "$retainKeys": ["type"], "type": "Recreate" } } }),
            json!({ "spec": { "strategy": { "type": "Recreate" } } }),
        ),
        (
            "a map is replaced",
            json!({ "metadata": { "labels": { "a": "1", "b": "2" } } }),
            json!({ "metadata": { "labels": { "$patch": "replace", "c": "3" } } }),
            json!({ "metadata": { "labels": { "c": "3" } } }),
        ),
        (
            "a null removes, and leaves nothing where there was nothing",
            json!({ "metadata": { "labels": { "a": "1" } } }),
            json!({ "metadata": { "labels": { "a": null, "b": "2" }, "annotations": { "x": null } } }),
            json!({ "metadata": { "labels": { "b": "2" }, "annotations": {} } }),
        ),
        (
            "scalars are deleted from a list and added to it",
            json!({ "metadata": { "finalizers": ["a/a", "b/b"] } }),
            json!({ "metadata": {
                "$deleteFromPrimitiveList/finalizers": ["a/a"], "finalizers": ["c/c"]
            } }),
            json!({ "metadata": { "finalizers": ["c/c", "b/b"] } }),
        ),
    ] {
        let mut target = before;
        strategic(deployments(), &mut target, &patch).unwrap();
        assert_eq!(target, after, "{case}");
    }
}

#[test]
fn malformed_strategic_merge_patch_is_rejected() {
    for patch in [
        json!({ "spec": { "$patch": "mangle" } }),
        json!({ "spec": { "strategy": { "$retainKeys": "type" } } }),
        json!({ "spec": { "template": { "spec": { "containers": [{ "image": "1" }] } } } }),
        json!([]),
    ] {
        let mut target = json!({ "spec": { "template": { "spec": { "containers": [] } } } });
        assert!(strategic(deployments(), &mut target, &patch).is_err(), "{patch}");
    }
}

#[test]
fn apply_owns_its_fields_and_prunes_dropped_ones() {
    let resource = config_maps();
    let map = |data: Value| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a" }, "data": data });
    let first = apply(resource, None, &map(json!({ "x": "1", "y": "1" })), "one", false, "", at(0))
        .unwrap();
    assert_eq!(
        managed(&first),
        [entry("one", "Apply", json!({ "f:data": { "f:x": {}, "f:y": {} } }))]
    );

    let other = map(json!({ "x": "2" }));
    let refused = apply(resource, Some(&first), &other, "two", false, "", at(1));
    assert_eq!(
        refused,
        Err(PatchError::Conflict {
            message: "Apply failed with 1 conflict: conflict with \"one\": .data.x".to_owned(),
            causes: vec![Conflict {
                field: ".data.x".to_owned(),
                message: "conflict with \"one\"".to_owned(),
            }],
        })
    );

    let forced = apply(resource, Some(&first), &other, "two", true, "", at(1)).unwrap();
    assert_eq!(forced["data"], json!({ "x": "2", "y": "1" }));
    assert_eq!(
        managed(&forced),
        [
            entry("one", "Apply", json!({ "f:data": { "f:y": {} } })),
            entry("two", "Apply", json!({ "f:data": { "f:x": {} } })),
        ]
    );

    let dropped = apply(resource, Some(&forced), &map(json!({})), "one", false, "", at(2)).unwrap();
    assert_eq!(dropped["data"], json!({ "x": "2" }));
    assert_eq!(
        managed(&dropped),
        [
            entry("two", "Apply", json!({ "f:data": { "f:x": {} } })),
            entry("one", "Apply", json!({ "f:data": {} })),
        ]
    );
    let shared = apply(resource, Some(&dropped), &other, "three", false, "", at(3)).unwrap();
    assert_eq!(managed(&shared).len(), 3, "the same value is no conflict");
}

#[test]
fn apply_conflict_with_an_update_names_its_version() {
    let resource = config_maps();
    let mut object = json!({ "metadata": { "name": "a" }, "data": { "x": "1", "y": "1" } });
    track_update(resource, None, &mut object, "kubectl", Operation::Update, "", at(0));
    let applied = json!({ "metadata": { "name": "a" }, "data": { "x": "2", "y": "2" } });
    let Err(PatchError::Conflict { message, causes }) =
        apply(resource, Some(&object), &applied, "labs", false, "", at(1))
    else {
        panic!("no conflict");
    };
    assert_eq!(
        message,
        "Apply failed with 2 conflicts: conflicts with \"kubectl\" using v1:\n- .data.x\n- .data.y"
    );
    assert_eq!(causes.len(), 2);
}

#[test]
fn dropped_element_is_removed_unless_another_manager_owns_it() {
    let resource = deployments();
    let of = |containers: Value| {
        json!({
            "metadata": { "name": "d" },
            "spec": { "template": { "spec": { "containers": containers } } },
        })
    };
    let names = |object: &Value| -> Vec<String> {
        let list = object["spec"]["template"]["spec"]["containers"].as_array().unwrap();
        list.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    };
    let both = of(json!([{ "name": "a", "image": "1" }, { "name": "b", "image": "1" }]));
    let mut live = apply(resource, None, &both, "one", false, "", at(0)).unwrap();
    (resource.defaults)(&mut live);
    let one = of(json!([{ "name": "a", "image": "1" }]));
    let pruned = apply(resource, Some(&live), &one, "one", false, "", at(1)).unwrap();
    assert_eq!(names(&pruned), ["a"]);

    let second = of(json!([{ "name": "b", "image": "1" }]));
    let shared = apply(resource, Some(&live), &second, "two", false, "", at(1)).unwrap();
    assert_eq!(names(&shared), ["a", "b"]);
    let kept = apply(resource, Some(&shared), &one, "one", false, "", at(2)).unwrap();
    assert_eq!(names(&kept), ["a", "b"]);
}

#[test]
fn create_owns_the_object_with_its_defaults() {
    let resource = deployments();
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "d", "labels": { "a": "b" } },
        "spec": {
            "selector": { "matchLabels": { "app": "x" } },
            "template": {
                "metadata": { "labels": { "app": "x" } },
                "spec": { "containers": [{
                    "name": "c", "image": "kubeapp:1.0", "ports": [{ "containerPort": 8080 }],
                }] },
            },
        },
    });
    (resource.defaults)(&mut object);
    track_update(resource, None, &mut object, "kubectl", Operation::Update, "", at(0));
    assert_eq!(
        managed(&object),
        [entry(
            "kubectl",
            "Update",
            json!({
                "f:metadata": { "f:labels": { ".": {}, "f:a": {} } },
                "f:spec": {
                    "f:progressDeadlineSeconds": {}, "f:replicas": {}, "f:revisionHistoryLimit": {},
                    "f:selector": {},
                    "f:strategy": {
                        "f:rollingUpdate": { ".": {}, "f:maxSurge": {}, "f:maxUnavailable": {} },
                        "f:type": {},
                    },
                    "f:template": {
                        "f:metadata": { "f:labels": { ".": {}, "f:app": {} } },
                        "f:spec": {
                            "f:containers": { "k:{\"name\":\"c\"}": {
                                ".": {}, "f:image": {}, "f:imagePullPolicy": {}, "f:name": {},
                                "f:ports": {
                                    ".": {},
                                    "k:{\"containerPort\":8080,\"protocol\":\"TCP\"}": {
                                        ".": {}, "f:containerPort": {}, "f:protocol": {},
                                    },
                                },
                                "f:resources": {}, "f:terminationMessagePath": {},
                                "f:terminationMessagePolicy": {},
                            } },
                            "f:dnsPolicy": {}, "f:restartPolicy": {}, "f:schedulerName": {},
                            "f:securityContext": {}, "f:terminationGracePeriodSeconds": {},
                        },
                    },
                },
            })
        )]
    );
}

#[test]
fn update_owns_only_the_fields_it_changes() {
    let resource = deployments();
    let mut old = json!({ "metadata": { "name": "d" }, "spec": { "replicas": 1, "paused": true } });
    track_update(resource, None, &mut old, "one", Operation::Update, "", at(0));
    let mut new = old.clone();
    new["spec"]["replicas"] = 2.into();
    track_update(resource, Some(&old), &mut new, "two", Operation::Update, "", at(1));
    assert_eq!(
        managed(&new),
        [
            entry("one", "Update", json!({ "f:spec": { "f:paused": {} } })),
            entry("two", "Update", json!({ "f:spec": { "f:replicas": {} } })),
        ]
    );
    let mut status = new.clone();
    status["status"] = json!({ "readyReplicas": 1 });
    track_update(resource, Some(&new), &mut status, "ctl", Operation::Update, "status", at(2));
    assert_eq!(
        managed(&status)[2],
        entry("ctl", "Update", json!({ "f:status": { "f:readyReplicas": {} } }))
    );
    let mut removed = status.clone();
    removed["spec"].as_object_mut().unwrap().remove("paused");
    track_update(resource, Some(&status), &mut removed, "two", Operation::Update, "", at(3));
    assert_eq!(managed(&removed).len(), 2, "a manager without fields is dropped");
}

#[test]
fn kubectl_takes_over_from_client_side_apply_without_conflict() {
    const LAST: &str = "kubectl.kubernetes.io/last-applied-configuration";
    let resource = config_maps();
    let map = |data: Value| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "m" }, "data": data });
    let mut live = map(json!({ "a": "1", "b": "1" }));
    let last = map(json!({ "a": "1", "b": "0" })).to_string();
    live["metadata"]["annotations"] = json!({ LAST: last });
    let manager = "kubectl-client-side-apply";
    track_update(resource, None, &mut live, manager, Operation::Update, "", at(0));
    let applied = map(json!({ "a": "2" }));
    for (manager, conflicts) in [("kubectl", false), ("other", true)] {
        let result = apply(resource, Some(&live), &applied, manager, false, "", at(1));
        assert_eq!(result.is_err(), conflicts, "{manager}");
        let Ok(object) = result else { continue };
        assert_eq!(object["data"], json!({ "a": "2", "b": "1" }));
        // A later client-side apply compares with what was applied now.
        let last = object["metadata"]["annotations"][LAST].as_str().unwrap();
        assert_eq!(serde_json::from_str::<Value>(last).unwrap(), applied);
    }
    // A field that was changed since belongs to who changed it.
    let applied = map(json!({ "a": "2", "b": "2" }));
    let result = apply(resource, Some(&live), &applied, "kubectl", false, "", at(1));
    let Err(PatchError::Conflict { causes, .. }) = result else { panic!("{result:?}") };
    assert_eq!(causes.iter().map(|cause| &*cause.field).collect::<Vec<_>>(), [".data.b"]);
}

#[test]
fn applied_object_is_checked_by_the_schema_of_its_type() {
    let deployment = |template: Value| json!({ "spec": { "template": { "spec": template } } });
    let at = ".spec.template.spec";
    for (applied, expected) in [
        (json!({ "spec": [] }), ".spec: expected map, got &{[]}".to_owned()),
        (
            json!({ "spec": { "replicas": "x" } }),
            ".spec.replicas: expected numeric (int or float), got string".to_owned(),
        ),
        // A schema does not know the sizes of numbers.
        (json!({ "spec": { "replicas": 1.5 } }), String::new()),
        (
            json!({ "spec": { "paused": 1 } }),
            ".spec.paused: expected boolean, got &{1}".to_owned(),
        ),
        (
            json!({ "metadata": { "labels": { "a": { "b": [1, "c"] } } } }),
            ".metadata.labels.a: expected string, got &value.valueUnstructured{Value:map[string]interface {}\
             {\"b\":[]interface {}{1, \"c\"}}}"
                .to_owned(),
        ),
        (
            json!({ "metadata": { "finalizers": ["a", "a"] } }),
            ".metadata.finalizers: duplicate entries for key [=\"a\"]".to_owned(),
        ),
        (
            json!({ "metadata": { "finalizers": [{}] } }),
            ".metadata.finalizers: element 0: associative list without keys has an element that's a map type"
                .to_owned(),
        ),
        (
            deployment(json!({ "containers": [{ "name": "c", "imagee": "x" }] })),
            format!("{at}.containers[name=\"c\"].imagee: field not declared in schema"),
        ),
        (
            deployment(json!({ "containers": [{ "name": [] }] })),
            format!(
                "{at}.containers[name=[]].name: expected string, got \
                 &value.valueUnstructured{{Value:[]interface {{}}{{}}}}"
            ),
        ),
        (
            deployment(json!({ "containers": [{ "name": "c" }, null] })),
            format!(
                "{at}.containers: element 1: associative list with keys may not have a null element"
            ),
        ),
        (
            deployment(json!({ "tolerations": [{ "nope": 1 }] })),
            format!("{at}.tolerations[0].nope: field not declared in schema"),
        ),
        (
            deployment(json!({ "volumes": [{ "name": "v", "emptyDir": { "sizeLimit": {} } }] })),
            format!(
                "{at}.volumes[name=\"v\"].emptyDir.sizeLimit: expected any scalar, got &{{map[]}}"
            ),
        ),
        // Either side of a port's key has a default.
        (
            deployment(json!({ "containers": [{ "name": "c", "ports": [
                { "containerPort": 1 }, { "containerPort": 1, "protocol": "TCP" },
            ] }] })),
            format!(
                "{at}.containers[name=\"c\"].ports: duplicate entries for key \
                 [containerPort=1,protocol=\"TCP\"]"
            ),
        ),
        (json!({ "spec": null, "metadata": { "labels": null } }), String::new()),
    ] {
        assert_eq!(typed_errors(deployments(), &applied).join("; "), expected, "{applied}");
    }
}

//! Unknown fields, types and pruning of a built-in type, and the merge keys compared with
//! `k8s-openapi`.

use kube_embedded_core::quantity;
use std::collections::BTreeSet;

use k8s_openapi::{DeepMerge, api, schemars::JsonSchema};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use crate::schema::{
    conversion::go_format,
    object_schema::ObjectSchema,
    tree::structure,
    types::{Shape, Structure, Topology},
};

fn structure_of<K: JsonSchema>() -> &'static Structure {
    structure(&K::schema_name(), |generator| {
        generator.subschema_for::<K>();
    })
}

fn deployments() -> ObjectSchema<'static> {
    ObjectSchema::Typed(structure_of::<api::apps::v1::Deployment>())
}

#[test]
fn unknown_field_is_reported_with_its_path() {
    let object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "labels": { "any": "thing" } },
        "spec": {
            "replica": 3,
            "template": { "spec": { "containers": [{ "imagee": "x", "resources": { "limits": { "cpu": "1" } } }] } },
        },
    });
    assert_eq!(
        deployments().unknown_fields(&object),
        [
            "unknown field \"spec.replica\"",
            "unknown field \"spec.template.spec.containers[0].imagee\"",
        ]
    );
}

#[test]
fn wrong_type_is_reported_as_go_does() {
    let pod_spec = |spec: Value| json!({ "spec": { "template": { "spec": spec } } });
    for (object, message) in [
        (
            json!({ "spec": { "replicas": "three" } }),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            json!({ "spec": { "replicas": 1.5 } }),
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            json!({ "metadata": { "labels": { "a": 1 } } }),
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            pod_spec(json!({ "containers": {} })),
            "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
        ),
        (
            pod_spec(json!({ "containers": [{ "tty": "yes" }] })),
            "json: cannot unmarshal string into Go struct field Container.spec.template.spec.containers.tty of type bool",
        ),
        (
            pod_spec(json!({ "containers": [{ "resources": { "limits": { "cpu": "lots" } } }] })),
            quantity::MALFORMED,
        ),
        (
            json!({ "spec": { "strategy": { "rollingUpdate": { "maxSurge": true } } } }),
            "json: cannot unmarshal bool into Go struct field RollingUpdateDeployment.spec.strategy.rollingUpdate.maxSurge of type int32",
        ),
    ] {
        assert_eq!(deployments().check_types(&object), Err(message.to_owned()), "{object}");
    }
    let valid = json!({
        "metadata": { "creationTimestamp": null },
        "spec": { "replicas": 3, "strategy": { "rollingUpdate": { "maxSurge": "25%", "maxUnavailable": 1 } } },
    });
    assert_eq!(deployments().check_types(&valid), Ok(()));
}

#[test]
fn base64_may_be_wrapped_and_is_stored_in_one_line() {
    let secrets = ObjectSchema::Typed(structure_of::<api::core::v1::Secret>());
    let mut wrapped = json!({ "data": { "a": "YWJj\r\nZGVm\n" } });
    assert_eq!(secrets.check_types(&wrapped), Ok(()));
    secrets.normalize(&mut wrapped);
    assert_eq!(wrapped, json!({ "data": { "a": "YWJjZGVm" } }));
    let malformed = json!({ "data": { "a": "YWJj\nZ*Vm" } });
    let expected = "illegal base64 data at input byte 6".to_owned();
    assert_eq!(secrets.check_types(&malformed), Err(expected));
}

/// Adds fields that no type has to structures at random, and returns how many.
fn litter(value: &mut Value, structure: Option<&Structure>, rng: &mut StdRng) -> usize {
    let mut count = 0;
    match value {
        Value::Object(object) => {
            for (name, value) in object.iter_mut() {
                let field = structure.and_then(|structure| structure.field(name));
                let shape = field.map(|field| match &field.shape {
                    Shape::List(element) => element,
                    shape => shape,
                });
                count += litter(value, shape.and_then(|shape| shape.structure()), rng);
            }
            if structure.is_some() && rng.random_bool(0.5) {
                object.insert("noSuchField".to_owned(), json!({ "x": [1] }));
                count += 1;
            }
        }
        Value::Array(items) => {
            for item in items {
                count += litter(item, structure, rng);
            }
        }
        _ => {}
    }
    count
}

#[test]
fn pruning_removes_exactly_the_unknown_fields() {
    let mut rng = StdRng::seed_from_u64(7);
    let mut clean = json!({
        "metadata": { "name": "d", "labels": { "noSuchField": "is a fine label" } },
        "spec": {
            "selector": { "matchLabels": { "app": "x" } },
            "template": { "spec": {
                "containers": [{ "name": "c", "image": "x", "ports": [{ "containerPort": 80 }] }],
                "volumes": [{ "name": "v", "emptyDir": {} }],
            } },
        },
    });
    let spec = &mut clean["spec"];
    spec["strategy"] = json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": "25%" } });
    spec["template"]["spec"]["containers"][0]["resources"] = json!({});
    spec["template"]["spec"]["securityContext"] = json!({});
    for round in 0..200 {
        let mut object = clean.clone();
        let structure = structure_of::<api::apps::v1::Deployment>();
        let added = litter(&mut object, Some(structure), &mut rng);
        assert_eq!(deployments().unknown_fields(&object).len(), added, "round {round}");
        deployments().prune(&mut object);
        assert_eq!(object, clean, "round {round}");
    }
    let mut empties = json!({ "metadata": { "labels": {}, "name": null }, "spec": { "template": { "spec": { "containers": [{ "env": [], "resources": {} }] } } } });
    deployments().normalize(&mut empties);
    assert_eq!(
        empties,
        json!({ "metadata": {}, "spec": { "template": { "spec": { "containers": [{ "resources": {} }] } } } })
    );
}

#[test]
fn what_go_leaves_out_is_left_out_and_nulls_in_lists_are_zero_values() {
    let pod = |spec: Value| json!({ "spec": { "template": { "spec": spec } } });
    for (mut given, expected) in [
        // Zero values of plain fields with `omitempty`; those of pointers stay.
        (
            json!({ "spec": { "paused": false, "minReadySeconds": 0, "replicas": 0 } }),
            json!({ "spec": { "replicas": 0 } }),
        ),
        (json!({ "metadata": { "name": "" } }), json!({ "metadata": {} })),
        (
            pod(json!({ "hostNetwork": false, "containers": [{ "name": "", "tty": false }] })),
            pod(json!({ "containers": [{ "name": "" }] })),
        ),
        (
            json!({ "metadata": { "labels": { "a": null } } }),
            json!({ "metadata": { "labels": { "a": "" } } }),
        ),
        (
            pod(json!({ "containers": [null, { "args": [null] }] })),
            pod(json!({ "containers": [{}, { "args": [""] }] })),
        ),
        (
            pod(json!({ "containers": [{ "resources": { "limits": { "cpu": 5 } } }] })),
            pod(json!({ "containers": [{ "resources": { "limits": { "cpu": "5" } } }] })),
        ),
    ] {
        deployments().normalize(&mut given);
        assert_eq!(given, expected);
    }
}

#[test]
fn named_types_and_embedded_structs_are_in_messages() {
    let ingresses = ObjectSchema::Typed(structure_of::<api::networking::v1::Ingress>());
    let pods = ObjectSchema::Typed(structure_of::<api::core::v1::Pod>());
    for (schema, object, message) in [
        (
            pods,
            json!({ "spec": { "restartPolicy": 5 } }),
            "number into Go struct field PodSpec.spec.restartPolicy of type v1.RestartPolicy",
        ),
        (
            pods,
            json!({ "spec": { "volumes": [{ "name": "v", "emptyDir": { "medium": 1 } }] } }),
            "number into Go struct field EmptyDirVolumeSource.spec.volumes.VolumeSource.emptyDir.medium of \
             type v1.StorageMedium",
        ),
        (
            ingresses,
            json!({ "spec": { "rules": [{ "http": { "paths": {} } }] } }),
            "object into Go struct field HTTPIngressRuleValue.spec.rules.IngressRuleValue.http.paths of \
             type []v1.HTTPIngressPath",
        ),
    ] {
        let expected = format!("json: cannot unmarshal {message}");
        assert_eq!(schema.check_types(&object), Err(expected));
    }
}

#[test]
fn patch_of_another_type_is_reported_as_by_the_converter() {
    let spec = |spec: Value| json!({ "spec": spec });
    let pod = |spec: Value| json!({ "spec": { "template": { "spec": spec } } });
    for (object, message) in [
        (spec(json!({ "replicas": "three" })), "unrecognized type: int32"),
        (spec(json!({ "replicas": 1.5 })), "cannot convert float64 to int32"),
        (spec(json!({ "paused": 1 })), "unrecognized type: bool"),
        (
            spec(json!({ "strategy": { "type": 5 } })),
            "cannot convert int64 to v1.DeploymentStrategyType",
        ),
        (spec(json!({ "strategy": [] })), "cannot restore struct from: slice"),
        (json!({ "metadata": { "labels": "x" } }), "cannot restore map from string"),
        (json!({ "metadata": { "name": {} } }), "unrecognized type: string"),
        (pod(json!({ "containers": {} })), "cannot restore slice from map"),
        (
            spec(json!({ "strategy": { "rollingUpdate": { "maxSurge": true } } })),
            "json: cannot unmarshal bool into Go value of type int32",
        ),
    ] {
        assert_eq!(deployments().check_conversion(&object), Err(message.to_owned()), "{object}");
    }
    assert_eq!(deployments().check_conversion(&spec(json!({ "replicas": 2.0 }))), Ok(()));
    let shown = go_format(&json!({ "b": [1, "x", null], "a": { "c": true } }));
    assert_eq!(shown, "map[a:map[c:true] b:[1 x <nil>]]");
}

/// Fields that `k8s-openapi` merges differently from Kubernetes' markers, or has no key for.
const DIFFERS: &[&str] = &[
    // Keyed by port and protocol in server-side apply; merged by the patch key alone there.
    "Container.ports",
    "EphemeralContainer.ports",
    "ServiceSpec.ports",
    "PodSpec.topologySpreadConstraints",
    // Merged by patches, atomic in server-side apply.
    "PodStatus.hostIPs",
];

/// Follows every list of objects below a type, and records those whose elements `k8s-openapi`
/// merges by other keys.
struct Probe<'a, T> {
    seen: &'a mut BTreeSet<String>,
    wrong: &'a mut Vec<String>,
    /// A list above is atomic.
    replaced: bool,
    of: std::marker::PhantomData<T>,
}

impl<T: DeepMerge + DeserializeOwned + Serialize> Probe<'_, T> {
    fn walk(&mut self, structure: &Structure, path: &mut Vec<(String, bool)>) {
        if path.len() > 12 {
            return;
        }
        for field in &structure.fields {
            let name = format!("{}.{}", structure.short_name(), field.name);
            let list = matches!(field.shape, Shape::List(_));
            let element = match &field.shape {
                Shape::List(element) => element,
                shape => shape,
            };
            let Some(below) = element.structure() else { continue };
            if !self.seen.insert(name.clone()) {
                continue;
            }
            path.push((field.name.clone(), list));
            // Below an atomic list, everything is replaced with it, so the merge shows nothing.
            let replaced = self.replaced;
            if list && !replaced && !DIFFERS.contains(&name.as_str()) {
                self.probe(&name, below, &field.topology, path);
            }
            self.replaced |= list && field.topology == Topology::Atomic;
            self.walk(below, path);
            self.replaced = replaced;
            path.pop();
        }
    }

    fn probe(
        &mut self,
        name: &str,
        element: &Structure,
        topology: &Topology,
        path: &[(String, bool)],
    ) {
        let ours: &[&str] = match topology {
            Topology::Keyed(keys) => keys,
            _ => &[],
        };
        // Two elements that differ in every field stay two in a keyed list only.
        let (one, two) = (filled(element, 1, &[]), filled(element, 2, &[]));
        if let Some(count) = self.merged(&one, &two, path) {
            let keyed = count == 2;
            if keyed == ours.is_empty() {
                self.wrong.push(format!("{name}: {count} elements left, our keys are {ours:?}"));
                return;
            }
        }
        if !ours.is_empty() {
            let same = filled(element, 2, ours);
            if self.merged(&filled(element, 1, ours), &same, path) != Some(1) {
                self.wrong.push(format!("{name}: not merged by {ours:?}"));
            }
        }
    }

    fn merged(&self, one: &Value, two: &Value, path: &[(String, bool)]) -> Option<usize> {
        let mut left: T = serde_json::from_value(wrapped(one, path)).ok()?;
        let right: T = serde_json::from_value(wrapped(two, path)).ok()?;
        left.merge_from(right);
        let mut value = &serde_json::to_value(left).ok()?;
        for (at, (name, list)) in path.iter().enumerate() {
            value = &value[name];
            if *list && at + 1 < path.len() {
                value = &value[0];
            }
        }
        value.as_array().map(Vec::len)
    }
}

/// An element whose scalars are all `which`, except for those in `same`.
fn filled(element: &Structure, which: i64, same: &[&str]) -> Value {
    let mut filled = Map::new();
    for field in &element.fields {
        let which = if same.contains(&field.name.as_str()) { 0 } else { which };
        let value = match field.shape {
            Shape::String => which.to_string().into(),
            Shape::Int32 | Shape::Int64 => which.into(),
            Shape::Time => "2026-11-23T09:00:00Z".into(),
            _ => continue,
        };
        filled.insert(field.name.clone(), value);
    }
    Value::Object(filled)
}

/// The list with that one element at a path; elements on the way get equal keys, so that they
/// merge.
fn wrapped(element: &Value, path: &[(String, bool)]) -> Value {
    let mut value = element.clone();
    for (at, (name, list)) in path.iter().enumerate().rev() {
        if *list {
            value = json!([value]);
        }
        value = json!({ name.as_str(): value });
        if at > 0 && path[at - 1].1 {
            for key in ["name", "type", "mountPath", "ip"] {
                if value.get(key).is_none() {
                    value[key] = "0".into();
                }
            }
        }
    }
    value
}

#[test]
fn merge_keys_agree_with_k8s_openapi() {
    let (mut seen, mut wrong) = (BTreeSet::new(), Vec::new());
    macro_rules! probe {
        ($($kind:ty),* $(,)?) => {$(
            let root = structure_of::<$kind>();
            Probe::<$kind> { seen: &mut seen, wrong: &mut wrong, replaced: false, of: std::marker::PhantomData }
                .walk(root, &mut Vec::new());
        )*};
    }
    probe![
        api::core::v1::Pod,
        api::apps::v1::Deployment,
        api::apps::v1::ReplicaSet,
        api::core::v1::Service,
        api::core::v1::Endpoints,
        api::core::v1::ServiceAccount,
        api::core::v1::Namespace,
        api::core::v1::Node,
        api::discovery::v1::EndpointSlice,
    ];
    assert!(seen.len() > 100, "only {} fields seen", seen.len());
    assert_eq!(wrong, Vec::<String>::new());
    for name in DIFFERS {
        assert!(seen.contains(*name), "{name} is no longer a field");
    }
}

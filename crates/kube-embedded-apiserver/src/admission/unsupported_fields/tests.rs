use super::{
    table::{HONORED, UNSUPPORTED},
    *,
};
use crate::resources::registry;
use serde_json::json;
use std::collections::BTreeSet;

/// The types whose specs are listed completely.
const TYPES: [(&str, &str); 6] = [
    ("", "Pod"),
    ("", "Service"),
    ("apps", "Deployment"),
    ("apps", "ReplicaSet"),
    ("batch", "Job"),
    ("networking.k8s.io", "Ingress"),
];

/// Adds the fields of a structure and of those below it, as `Structure.field`; not those below a field that is not
/// acted upon.
fn collect(structure: &Structure, fields: &mut BTreeSet<String>) {
    let of = structure.short_name();
    // Labels and annotations are for clients.
    if of == "ObjectMeta" {
        return;
    }
    for field in &structure.fields {
        let is_new = fields.insert(format!("{of}.{}", field.name));
        let unsupported = BY_NAME.get(&(of, field.name.as_str()));
        if is_new && unsupported.is_none_or(|field| !field.applies_in("")) {
            let mut shape = &field.shape;
            while let Shape::List(element) | Shape::Map(element) = shape {
                shape = element;
            }
            if let Some(below) = shape.structure() {
                collect(below, fields);
            }
        }
    }
}

/// A field that Kubernetes adds is in neither list, and fails here until someone decides what becomes of it.
#[test]
fn every_field_is_honored_or_said_to_be_ignored() {
    let mut known = BTreeSet::new();
    for (group, kind) in TYPES {
        let resource = registry::find_kind(group, "v1", kind).unwrap();
        let spec = resource.structure().field("spec").unwrap();
        collect(spec.shape.structure().unwrap(), &mut known);
    }
    let listed: Vec<String> = HONORED
        .iter()
        .flat_map(|(of, names)| names.split_whitespace().map(move |name| format!("{of}.{name}")))
        .chain(UNSUPPORTED.iter().map(|field| format!("{}.{}", field.structure, field.name)))
        .collect();
    let distinct: BTreeSet<String> = listed.iter().cloned().collect();
    assert_eq!(listed.len(), distinct.len(), "a field is listed twice");
    let forgotten: Vec<_> = known.difference(&distinct).collect();
    let unknown: Vec<_> = distinct.difference(&known).collect();
    assert!(
        forgotten.is_empty() && unknown.is_empty(),
        "in neither list: {forgotten:#?}\nno field of these types: {unknown:#?}"
    );
}

fn warned(kind: (&str, &str), object: &Value) -> Vec<String> {
    warnings(registry::find_kind(kind.0, "v1", kind.1).unwrap(), object, None)
}

#[test]
fn ignored_field_is_named_with_its_path() {
    let spec = json!({
        "hostNetwork": true,
        "hostPID": false,
        "preemptionPolicy": "PreemptLowerPriority",
        "os": { "name": "linux" },
        "tolerations": [{ "tolerationSeconds": 300 }, { "tolerationSeconds": 5 }],
        "initContainers": [{ "name": "i", "restartPolicy": "Always" }],
        "containers": [
            { "name": "c", "restartPolicy": "Never", "ports": [{ "containerPort": 1, "hostPort": 0 }] },
            { "name": "d", "ports": [{ "containerPort": 1 }, { "containerPort": 2, "hostIP": "192.0.2.1" }] },
        ],
        "volumes": [{ "name": "v", "emptyDir": { "medium": "Memory" } }, { "name": "w", "nfs": { "server": "s" } }],
    });
    let paths = |object: &Value, kind| -> Vec<String> {
        let warnings = warned(kind, object).into_iter();
        warnings.map(|warning| warning.split(": ").next().unwrap().to_owned()).collect()
    };
    let mut expected = [
        "spec.containers[0].restartPolicy",
        "spec.hostNetwork",
        "spec.tolerations[1].tolerationSeconds",
        "spec.volumes[1].nfs",
    ]
    .map(str::to_owned)
    .to_vec();
    let mut found = paths(&json!({ "spec": spec }), ("", "Pod"));
    found.sort();
    assert_eq!(found, expected);

    for path in &mut expected {
        *path = path.replacen("spec.", "spec.template.spec.", 1);
    }
    let deployment = json!({ "spec": { "template": { "spec": spec } } });
    let mut found = paths(&deployment, ("apps", "Deployment"));
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn update_warns_only_if_the_spec_changes() {
    let pod = registry::find_kind("", "v1", "Pod").unwrap();
    let old = json!({ "spec": { "hostNetwork": true } });
    let mut new = old.clone();
    new["metadata"] = json!({ "labels": { "a": "b" } });
    assert_eq!(warnings(pod, &new, Some(&old)), [""; 0]);
    new["spec"]["hostIPC"] = json!(true);
    assert_eq!(warnings(pod, &new, Some(&old)).len(), 2);
}

#[test]
fn protocol_and_policies_are_ignored_by_value() {
    let service =
        |protocol: &str| json!({ "spec": { "ports": [{ "port": 53, "protocol": protocol }] } });
    for served in ["TCP", "UDP"] {
        assert_eq!(warned(("", "Service"), &service(served)), [""; 0]);
    }
    assert_eq!(
        warned(("", "Service"), &service("SCTP")),
        ["spec.ports[0].protocol: \"SCTP\" is not forwarded: only TCP and UDP are"]
    );
}

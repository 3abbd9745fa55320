//! The roles and bindings that every cluster has from the start
//! (`plugin/pkg/auth/authorizer/rbac/bootstrappolicy`), from the table in `bootstrap_policy.txt`.

use crate::{
    authorization::authorizer::GROUP,
    generate,
    store::{Key, Resource, Store},
    timestamps,
};
use serde_json::{Map, Value, json};

/// The prefix of the roles of controllers, each of which is a service account in [`SYSTEM`].
const CONTROLLER: &str = "system:controller:";
const SYSTEM: &str = "kube-system";

/// Stores the policy.
pub(crate) fn seed(store: &Store) {
    let now = timestamps::now();
    for (plural, mut object) in objects() {
        let metadata = &mut object["metadata"];
        metadata["uid"] = generate::uid().into();
        metadata["creationTimestamp"] = now.clone().into();
        let text = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
        let key = Key {
            resource: Resource::fixed(GROUP, plural),
            namespace: text("namespace"),
            name: text("name"),
        };
        // The names are unique, which a test ensures.
        let _ = store.create(key, |revision| {
            object["metadata"]["resourceVersion"] = revision.to_string().into();
            object
        });
    }
}

/// Returns the objects of the policy, with their resources.
fn objects() -> Vec<(&'static str, Value)> {
    let mut objects = Vec::new();
    let lines = include_str!("bootstrap_policy.txt").lines();
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        // Not by white space of any script: this takes half of the time.
        let words: Vec<&str> = line.trim_start_matches(' ').split(' ').collect();
        match words.as_slice() {
            ["ClusterRole", name, labels @ ..] => {
                objects.push(("clusterroles", role("", name, labels)));
                if let Some(account) = name.strip_prefix(CONTROLLER) {
                    let subjects = json!([subject(&format!("ServiceAccount:{account}"))]);
                    objects.push((
                        "clusterrolebindings",
                        binding("", name, "ClusterRole", name, subjects),
                    ));
                }
            }
            ["Role", namespace, name] => objects.push(("roles", role(namespace, name, &[]))),
            ["ClusterRoleBinding", role, subjects @ ..] => {
                let subjects = subjects.iter().map(|text| subject(text)).collect();
                objects.push((
                    "clusterrolebindings",
                    binding("", role, "ClusterRole", role, subjects),
                ));
            }
            ["RoleBinding", namespace, name, role, subjects @ ..] => {
                let subjects = subjects.iter().map(|text| subject(text)).collect();
                objects.push(("rolebindings", binding(namespace, name, "Role", role, subjects)));
            }
            rule => {
                let roles = objects.iter_mut().rev().map(|(_, object)| object);
                if let Some(role) = roles.into_iter().find(|object| object["roleRef"].is_null()) {
                    add_rule(role, rule);
                }
            }
        }
    }
    aggregate(&mut objects);
    objects
}

/// Adds to the roles that aggregate the rules of those that they select, as the controller would: clients need not wait
/// for it. From the last to the first, since `admin` includes `edit`, which includes `view`.
fn aggregate(objects: &mut [(&'static str, Value)]) {
    let selector = |role: &Value| -> Option<String> {
        let selector = &role["aggregationRule"]["clusterRoleSelectors"][0]["matchLabels"];
        selector.as_object()?.keys().next().cloned()
    };
    for at in (0..objects.len()).rev() {
        let Some(label) = objects.get(at).and_then(|(_, role)| selector(role)) else { continue };
        let mut selected: Vec<&Value> = objects
            .iter()
            .map(|(_, role)| role)
            .filter(|role| role["metadata"]["labels"].get(&label).is_some())
            .collect();
        selected.sort_by_key(|role| role["metadata"]["name"].as_str());
        let rules = selected.into_iter().filter_map(|role| role["rules"].as_array()).flatten();
        let rules: Vec<Value> = rules.cloned().collect();
        if let Some((_, role)) = objects.get_mut(at) {
            role["rules"] = rules.into();
        }
    }
}

fn object(kind: &str, namespace: &str, name: &str) -> Value {
    let mut metadata = json!({
        "name": name,
        "labels": { "kubernetes.io/bootstrapping": "rbac-defaults" },
        "annotations": { "rbac.authorization.kubernetes.io/autoupdate": "true" },
    });
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    json!({ "apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": metadata })
}

fn role(namespace: &str, name: &str, labels: &[&str]) -> Value {
    let kind = if namespace.is_empty() { "ClusterRole" } else { "Role" };
    let mut role = object(kind, namespace, name);
    for label in labels {
        role["metadata"]["labels"][format!("{GROUP}/{label}")] = "true".into();
    }
    role
}

fn binding(namespace: &str, name: &str, kind: &str, role: &str, subjects: Value) -> Value {
    let of = if namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" };
    let mut binding = object(of, namespace, name);
    binding["roleRef"] = json!({ "apiGroup": GROUP, "kind": kind, "name": role });
    if subjects.as_array().is_some_and(|subjects| !subjects.is_empty()) {
        binding["subjects"] = subjects;
    }
    binding
}

/// Reads `Group:system:masters`.
fn subject(text: &str) -> Value {
    match text.split_once(':') {
        Some(("ServiceAccount", name)) => {
            json!({ "kind": "ServiceAccount", "name": name, "namespace": SYSTEM })
        }
        Some((kind, name)) => json!({ "apiGroup": GROUP, "kind": kind, "name": name }),
        None => Value::Null,
    }
}

/// Adds the rule of a line to a role.
fn add_rule(role: &mut Value, words: &[&str]) {
    if let ["aggregates", label] = words {
        let labels = Map::from_iter([(format!("{GROUP}/{label}"), "true".into())]);
        role["aggregationRule"] = json!({ "clusterRoleSelectors": [{ "matchLabels": labels }] });
        return;
    }
    let fields: &[&str] = match words.len() {
        2 => &["verbs", "nonResourceURLs"],
        _ => &["verbs", "apiGroups", "resources", "resourceNames"],
    };
    let rule = fields.iter().zip(words).map(|(field, text)| ((*field).to_owned(), list(text)));
    let rule = Value::Object(rule.collect());
    match role["rules"].as_array_mut() {
        Some(rules) => rules.push(rule),
        None => role["rules"] = Value::Array(vec![rule]),
    }
}

/// Reads a list of a rule, and sorts it.
fn list(text: &str) -> Value {
    let mut words = Vec::new();
    for word in text.split(',') {
        match word {
            "core" => words.push(""),
            "read" => words.extend(["get", "list", "watch"]),
            "write" => words.extend(["create", "delete", "deletecollection", "patch", "update"]),
            word => words.push(word),
        }
    }
    words.sort_unstable();
    words.into()
}

#[cfg(test)]
mod tests;

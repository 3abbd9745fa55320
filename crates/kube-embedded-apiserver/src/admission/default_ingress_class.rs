//! The `DefaultIngressClass` admission plugin.

use crate::store::{Resource, Store};
use kube_embedded_core::well_known::INGRESS_CLASS_ANNOTATION;
use serde_json::Value;

/// Marks the default class.
const DEFAULT_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";
const INGRESS_CLASSES: Resource = Resource::fixed("networking.k8s.io", "ingressclasses");

/// Sets the class of an Ingress that names none to the default class; to the newest of several, as since
/// Kubernetes 1.26.
pub(crate) fn admit(store: &Store, ingress: &mut Value) -> Result<(), String> {
    let named = !ingress["spec"]["ingressClassName"].is_null()
        || !ingress["metadata"]["annotations"][INGRESS_CLASS_ANNOTATION].is_null();
    if named {
        return Ok(());
    }
    let stored = store.list(INGRESS_CLASSES, None, None).objects;
    let values = stored.iter().map(|object| &object.value);
    if let (Some(name), Some(spec)) =
        (choose(values).map(str::to_owned), ingress["spec"].as_object_mut())
    {
        spec.insert("ingressClassName".into(), name.into());
    }
    Ok(())
}

fn choose<'a>(classes: impl Iterator<Item = &'a Value>) -> Option<&'a str> {
    let marked = classes
        .map(|class| &class["metadata"])
        .filter(|metadata| metadata["annotations"][DEFAULT_ANNOTATION] == "true");
    let mut marked: Vec<(&str, &str)> = marked
        .filter_map(|metadata| {
            Some((metadata["creationTimestamp"].as_str()?, metadata["name"].as_str()?))
        })
        .collect();
    // Of two that were created in the same second, the first by name.
    marked.sort_by(|(one, name), (other, other_name)| other.cmp(one).then(name.cmp(other_name)));
    marked.first().map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn newest_default_class_is_chosen() {
        let class = |name: &str, second: u8, marked: &str| {
            json!({ "metadata": {
                "name": name,
                "creationTimestamp": format!("2026-01-01T00:00:0{second}Z"),
                "annotations": { DEFAULT_ANNOTATION: marked },
            } })
        };
        let bare = json!({ "metadata": { "name": "bare", "creationTimestamp": "2026" } });
        for (classes, chosen) in [
            (vec![], None),
            (vec![bare.clone(), class("a", 9, "false")], None),
            (vec![bare, class("a", 1, "true"), class("b", 0, "true")], Some("a")),
            (vec![class("a", 0, "true"), class("b", 1, "true"), class("c", 2, "no")], Some("b")),
            (vec![class("b", 1, "true"), class("a", 1, "true")], Some("a")),
        ] {
            assert_eq!(choose(classes.iter()), chosen);
        }
    }
}

//! What Kubernetes' admission plugins fill into new objects with the help of others that are
//! stored, and what no one here would act upon. After [`crate::patch::track_update`], since nobody
//! owns what it sets.

mod service_account;
pub(crate) mod service_ip;

pub(crate) use service_account::wait_for_default;

use crate::{
    api::Inner,
    http::status::{ApiError, ApiResult},
    resources::types::ingress_class,
    resources::{registry, resource_type::ResourceType},
};
use kube_embedded_core::well_known::INGRESS_CLASS_ANNOTATION;
use serde_json::Value;

/// To be called once the object is prepared, before it is validated.
pub(crate) fn admit(inner: &Inner, resource: &ResourceType, object: &mut Value) -> ApiResult<()> {
    match (resource.group, resource.kind) {
        ("networking.k8s.io", "Ingress") => default_class(inner, object),
        ("", "Pod") => service_account::admit(inner, resource, object)?,
        _ => {}
    }
    Ok(())
}

/// What can be tried (dry run) and not be made, and why: better than to take it and do nothing.
const UNSUPPORTED: &[(&str, &str, &str)] = &[
    (
        "autoscaling",
        "HorizontalPodAutoscaler",
        "this cluster has no metrics to scale by: use kubectl scale",
    ),
    ("", "ResourceQuota", "this cluster enforces no quotas"),
    ("", "LimitRange", "this cluster enforces no limit ranges"),
];

/// To be called last before a new object is stored.
pub(crate) fn reject_unsupported(resource: &ResourceType, name: &str) -> ApiResult<()> {
    let known =
        UNSUPPORTED.iter().find(|(group, of, _)| (*group, *of) == (resource.group, resource.kind));
    known.map_or(Ok(()), |(.., why)| Err(ApiError::forbidden(resource, name, why)))
}

/// `DefaultIngressClass`: an Ingress that names no class gets the one that is marked, and the
/// newest of several, as since Kubernetes 1.26.
fn default_class(inner: &Inner, ingress: &mut Value) {
    let named = !ingress["spec"]["ingressClassName"].is_null()
        || !ingress["metadata"]["annotations"][INGRESS_CLASS_ANNOTATION].is_null();
    let classes = registry::find("networking.k8s.io", "v1", "ingressclasses");
    let Some(classes) = classes.filter(|_| !named) else { return };
    let stored = inner.store.list(classes.storage_resource(), None, None).objects;
    let values = stored.iter().map(|object| &object.value);
    if let (Some(name), Some(spec)) =
        (choose(values).map(str::to_owned), ingress["spec"].as_object_mut())
    {
        spec.insert("ingressClassName".into(), name.into());
    }
}

fn choose<'a>(classes: impl Iterator<Item = &'a Value>) -> Option<&'a str> {
    let marked = classes
        .map(|class| &class["metadata"])
        .filter(|metadata| metadata["annotations"][ingress_class::DEFAULT_ANNOTATION] == "true");
    let mut marked: Vec<(&str, &str)> = marked
        .filter_map(|metadata| {
            Some((metadata["creationTimestamp"].as_str()?, metadata["name"].as_str()?))
        })
        .collect();
    // Of two that were made in the same second, the first by name.
    marked.sort_by(|(one, name), (other, other_name)| other.cmp(one).then(name.cmp(other_name)));
    marked.first().map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_newest_default_wins() {
        let class = |name: &str, second: u8, marked: &str| {
            json!({ "metadata": {
                "name": name,
                "creationTimestamp": format!("2026-01-01T00:00:0{second}Z"),
                "annotations": { ingress_class::DEFAULT_ANNOTATION: marked },
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

//! The parameters of a policy: the objects to which `paramKind` and the `paramRef` of a binding refer
//! (`CollectParams`).

use super::index::Policy;
use crate::{
    fields::text,
    http::encode,
    resources::{registry::ResourceRegistry, resource_type::ResourceType},
    store::{Key, Store},
    validation::names::selects,
};
use serde_json::Value;

/// Returns the type of a policy's parameters; `None` if it has none.
///
/// # Errors
/// The type is not served.
pub(super) fn find_type<'a>(
    policy: &Policy,
    served: &'a ResourceRegistry,
) -> Result<Option<ResourceType<'a>>, String> {
    let Some((api_version, kind)) = &policy.param_kind else { return Ok(None) };
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    served.find_kind(group, version, kind).map(Some).ok_or_else(|| {
        format!("failed to find resource referenced by paramKind: '{group}/{version}, Kind={kind}'")
    })
}

/// Returns the parameters, for each of which the policy is evaluated: `None` for a policy or binding without.
///
/// # Errors
/// There are none, and the binding says that there must be, or it does not fit the type.
pub(super) fn collect(
    store: &Store,
    resource: Option<&ResourceType<'_>>,
    reference: Option<&Value>,
    request_namespace: &str,
) -> Result<Vec<Option<Value>>, String> {
    let (Some(resource), Some(reference)) = (resource, reference) else { return Ok(vec![None]) };
    let given = text(reference, &["namespace"]);
    let namespace = match (resource.namespaced, given) {
        (false, "") => "",
        (false, _) => {
            return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`"
                .to_owned());
        }
        (true, "") if request_namespace.is_empty() => {
            let why = "cannot use namespaced paramRef in policy binding that matches \
                       cluster-scoped resources";
            return Err(why.to_owned());
        }
        (true, "") => request_namespace,
        (true, given) => given,
    };
    let name = text(reference, &["name"]);
    let stored = if name.is_empty() {
        let within = Some(namespace).filter(|namespace| !namespace.is_empty());
        let mut found = store.list(resource.storage_resource(), within, None).objects;
        found.retain(|object| selects(&reference["selector"], &object.value["metadata"]["labels"]));
        found
    } else {
        let key = Key {
            resource: resource.storage_resource(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        store.get(&key).into_iter().collect()
    };
    if stored.is_empty() && text(reference, &["parameterNotFoundAction"]) == "Deny" {
        return Err(
            "no params found for policy binding with `Deny` parameterNotFoundAction".to_owned()
        );
    }
    Ok(stored.iter().map(|object| Some(encode::view(resource, &object.value))).collect())
}

//! The `NamespaceLifecycle` admission plugin: objects are created only in namespaces that exist and are not being
//! deleted.

use crate::{
    http::{
        path::Target,
        status::{ApiError, ApiResult},
    },
    resources::types::namespace,
    store::{Key, Store},
};

/// Admits the creation of a target's object.
pub(crate) fn admit(store: &Store, target: &Target) -> ApiResult<()> {
    if !target.resource.namespaced {
        return Ok(());
    }
    let (namespaces, name) = (&namespace::RESOURCE, &target.namespace);
    let key = Key {
        resource: namespaces.storage_resource(),
        namespace: String::new(),
        name: name.clone(),
    };
    match store.get(&key) {
        None => Err(ApiError::not_found(namespaces, name)),
        Some(found) if found.value["metadata"].get("deletionTimestamp").is_some() => {
            Err(ApiError::terminating(&target.resource, &target.name, name))
        }
        Some(_) => Ok(()),
    }
}

//! What a target means in the store: one object, a collection, or the part of it that selectors choose.

use crate::{
    http::{
        encode,
        path::Target,
        selector::Selector,
        status::{ApiError, ApiResult},
    },
    resources::resource_type::ResourceType,
    state::ServerState,
    store::{Key, Object},
};
use std::sync::Arc;

/// Finds the object that a target names.
pub(crate) fn find(state: &ServerState, target: &Target) -> ApiResult<Arc<Object>> {
    state.store.get(&key(target)).ok_or_else(|| ApiError::not_found(&target.resource, &target.name))
}

/// Returns the key of a target's object.
pub(crate) fn key(target: &Target) -> Key {
    Key {
        resource: target.resource.storage_resource(),
        namespace: target.namespace.clone(),
        name: target.name.clone(),
    }
}

/// Returns the namespace of a collection, `None` for all namespaces.
pub(crate) fn namespace<'a>(target: &'a Target<'_>) -> Option<&'a str> {
    Some(&*target.namespace).filter(|namespace| !namespace.is_empty())
}

/// Returns true if the selector chooses a stored object, as the resource type shows it.
pub(crate) fn matches(resource: &ResourceType, selector: &Selector, object: &Object) -> bool {
    if selector.is_empty() || resource.is_storage_version() {
        selector.matches(&object.value)
    } else {
        selector.matches(&encode::view(resource, &object.value))
    }
}

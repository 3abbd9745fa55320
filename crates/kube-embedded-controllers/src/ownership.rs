//! Owners that find what is theirs by a selector, as `ControllerRefManager` of Kubernetes does it:
//! whom to wake, what to adopt and what to let go of.

use super::{
    cache::{Cache, Key},
    queue::Queue,
    selection::{Claim, claim, controlled_by, controller, controller_named, matches},
    write::{self, Part},
};
use k8s_openapi::{
    api::apps::v1::{Deployment, ReplicaSet},
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use kube::{Api, Resource};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt::Debug, sync::Arc};

/// An object of the API with one type in Rust.
pub(crate) trait Object:
    Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + Debug + 'static
{
}

impl<K> Object for K where
    K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + Debug + 'static
{
}

/// What says by a selector which objects it wants.
pub(crate) trait Selects: Object {
    fn selector(&self) -> Option<&LabelSelector>;
}

impl Selects for Deployment {
    fn selector(&self) -> Option<&LabelSelector> {
        self.spec.as_ref().map(|spec| &spec.selector)
    }
}

impl Selects for ReplicaSet {
    fn selector(&self) -> Option<&LabelSelector> {
        self.spec.as_ref().map(|spec| &spec.selector)
    }
}

/// Wakes the owner of what changed; where nobody controls it, all whose selector takes it.
pub(crate) fn wake<O: Selects>(queue: &Queue<Key>, owners: &Cache<O>, changed: &ObjectMeta) {
    let namespace = changed.namespace.as_deref().unwrap_or_default();
    if let Some(name) = controller_named(changed, &O::kind(&())) {
        queue.add(Key::new(namespace, name));
    } else if controller(changed).is_none() {
        for owner in owners.in_namespace(namespace) {
            let selector = owner.selector();
            if selector.is_some_and(|selector| matches(selector, changed.labels.as_ref())) {
                queue.add(Key::of(&*owner));
            }
        }
    }
}

/// What is the owner's, after adopting what is `wanted` and letting go of what it no longer
/// selects. `None` when the owner is gone or another by now.
pub(crate) async fn owned<O: Selects, D: Object>(
    owner: &O,
    owners: &Api<O>,
    api: &Api<D>,
    cache: &Cache<D>,
    wanted: impl Fn(&D) -> bool,
) -> kube::Result<Option<Vec<Arc<D>>>> {
    let meta = owner.meta();
    let Some(selector) = owner.selector() else { return Ok(None) };
    let mut ours = Vec::new();
    for object in cache.in_namespace(meta.namespace.as_deref().unwrap_or_default()) {
        match claim(meta, selector, object.meta()) {
            Claim::Ours => ours.push(object),
            Claim::Foreign => {}
            Claim::Adopt if !wanted(&object) => {}
            Claim::Release => {
                let mut new = (*object).clone();
                let_go(new.meta_mut(), meta.uid.as_deref());
                write::update(api, cache, Part::Main, &*object, &new).await?;
            }
            Claim::Adopt => {
                if !still_there(owners, meta).await? {
                    return Ok(None);
                }
                let mut new = (*object).clone();
                new.meta_mut().owner_references.get_or_insert_default().push(controlled_by(owner));
                write::update(api, cache, Part::Main, &*object, &new).await?;
                ours.extend(cache.get(&Key::of(&*object)));
            }
        }
    }
    Ok(Some(ours))
}

/// Takes an owner out of an object's references.
fn let_go(meta: &mut ObjectMeta, owner: Option<&str>) {
    if let Some(owners) = &mut meta.owner_references {
        owners.retain(|reference| Some(reference.uid.as_str()) != owner);
        if owners.is_empty() {
            meta.owner_references = None;
        }
    }
}

/// Whether an owner still exists and stays. Asked before adopting anything: an orphan of a
/// deleted owner must not be caught by a cache that does not know yet.
pub(crate) async fn still_there<K>(api: &Api<K>, meta: &ObjectMeta) -> kube::Result<bool>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let found = api.get_opt(meta.name.as_deref().unwrap_or_default()).await?;
    Ok(found.is_some_and(|found| {
        found.meta().uid == meta.uid && found.meta().deletion_timestamp.is_none()
    }))
}

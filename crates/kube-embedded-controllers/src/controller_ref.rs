//! Controller owner references, and adoption and release by label selector (Kubernetes'
//! `ControllerRefManager`).

use crate::{patch, selector::matches};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        core::v1::ReplicationController,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference},
};
use kube::{Api, Resource};
use kube_embedded_core::{
    informer::{Informer, ObjectKey},
    workqueue::Workqueue,
};
use serde::{Serialize, de::DeserializeOwned};
use std::{borrow::Cow, fmt::Debug, sync::Arc};

/// Returns the reference to the one owner that controls an object (`metav1.GetControllerOf`).
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Returns the name of the controller of an object if it is of this kind.
pub(crate) fn controller_name<'a>(meta: &'a ObjectMeta, kind: &str) -> Option<&'a str> {
    controller_of(meta).filter(|owner| owner.kind == kind).map(|owner| owner.name.as_str())
}

/// Returns `true` if the object is controlled by the owner with this uid
/// (`metav1.IsControlledBy`).
pub(crate) fn is_controlled_by(meta: &ObjectMeta, uid: Option<&str>) -> bool {
    controller_of(meta).is_some_and(|owner| Some(owner.uid.as_str()) == uid)
}

/// Creates the reference that makes `owner` the controller of an object
/// (`metav1.NewControllerRef`).
pub(crate) fn controller_ref<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// An API object with a static type.
pub(crate) trait Object:
    Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + Debug + Send + Sync + 'static
{
}

impl<K> Object for K where
    K: Resource<DynamicType = ()>
        + Clone
        + Serialize
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static
{
}

/// A resource that selects the objects it owns by their labels.
pub(crate) trait Selecting: Object {
    /// The finalizer of the objects it owns: added with adoption, removed with release.
    const FINALIZER: Option<&'static str> = None;

    /// Returns the selector; `None` for an object without a spec.
    fn selector(&self) -> Option<Cow<'_, LabelSelector>>;
}

impl Selecting for Deployment {
    fn selector(&self) -> Option<Cow<'_, LabelSelector>> {
        self.spec.as_ref().map(|spec| Cow::Borrowed(&spec.selector))
    }
}

impl Selecting for ReplicaSet {
    fn selector(&self) -> Option<Cow<'_, LabelSelector>> {
        self.spec.as_ref().map(|spec| Cow::Borrowed(&spec.selector))
    }
}

impl Selecting for ReplicationController {
    fn selector(&self) -> Option<Cow<'_, LabelSelector>> {
        let match_labels = self.spec.as_ref()?.selector.clone();
        Some(Cow::Owned(LabelSelector { match_labels, ..Default::default() }))
    }
}

/// Enqueues the controller of an object that changed or, if it has none, all owners whose selector
/// matches it.
pub(crate) fn enqueue_owner<O: Selecting>(
    queue: &Workqueue<ObjectKey>,
    owners: &Informer<O>,
    changed: &ObjectMeta,
) {
    let namespace = changed.namespace.as_deref().unwrap_or_default();
    if let Some(name) = controller_name(changed, &O::kind(&())) {
        queue.add(ObjectKey::new(namespace, name));
    } else if controller_of(changed).is_none() {
        for owner in owners.list_namespaced(namespace) {
            let selector = owner.selector();
            if selector.is_some_and(|selector| matches(&selector, changed.labels.as_ref())) {
                queue.add(ObjectKey::of(&*owner));
            }
        }
    }
}

/// The decision about one object that an owner controls or might adopt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    /// Controlled by the owner.
    Owned,
    /// Matches and has no controller: take control.
    Adopt,
    /// Controlled by the owner, but does not match any more: give up control.
    Release,
    /// Controlled by another owner, or not matching.
    Foreign,
}

/// Decides on an object. A terminating owner adopts and releases nothing, and a terminating object
/// is not adopted.
fn decide(owner: &ObjectMeta, selector: &LabelSelector, object: &ObjectMeta) -> Claim {
    let matches = matches(selector, object.labels.as_ref());
    let terminating = owner.deletion_timestamp.is_some() || object.deletion_timestamp.is_some();
    match controller_of(object) {
        Some(reference) if Some(&reference.uid) != owner.uid.as_ref() => Claim::Foreign,
        Some(_) if matches => Claim::Owned,
        Some(_) if owner.deletion_timestamp.is_some() => Claim::Foreign,
        Some(_) => Claim::Release,
        None if matches && !terminating => Claim::Adopt,
        None => Claim::Foreign,
    }
}

/// Returns the objects that `owner` controls, after adopting those that match and pass `adoptable`
/// and releasing those that do not match any more. Returns `None` if the owner has been deleted or
/// re-created.
pub(crate) async fn claim<O: Selecting, D: Object>(
    owner: &O,
    owners: &Api<O>,
    api: &Api<D>,
    informer: &Informer<D>,
    adoptable: impl Fn(&D) -> bool,
) -> kube::Result<Option<Vec<Arc<D>>>> {
    let meta = owner.meta();
    let Some(selector) = owner.selector() else { return Ok(None) };
    let mut owned = Vec::new();
    for object in informer.list_namespaced(meta.namespace.as_deref().unwrap_or_default()) {
        match decide(meta, &selector, object.meta()) {
            Claim::Owned => owned.push(object),
            Claim::Foreign => {}
            Claim::Adopt if !adoptable(&object) => {}
            Claim::Release => {
                tracing::debug!(object = %ObjectKey::of(&*object), "releasing");
                let mut new = (*object).clone();
                remove_owner(new.meta_mut(), meta.uid.as_deref());
                if let Some(finalizer) = O::FINALIZER {
                    remove_finalizer(new.meta_mut(), finalizer);
                }
                patch::update(api, informer, &*object, &new).await?;
            }
            Claim::Adopt => {
                if !is_live(owners, meta).await? {
                    return Ok(None);
                }
                tracing::debug!(object = %ObjectKey::of(&*object), "adopting");
                let mut new = (*object).clone();
                new.meta_mut().owner_references.get_or_insert_default().push(controller_ref(owner));
                if let Some(finalizer) = O::FINALIZER {
                    add_finalizer(new.meta_mut(), finalizer);
                }
                patch::update(api, informer, &*object, &new).await?;
                owned.extend(informer.get(&ObjectKey::of(&*object)));
            }
        }
    }
    Ok(Some(owned))
}

/// Removes an owner from the references. The field is removed with its last element.
fn remove_owner(meta: &mut ObjectMeta, uid: Option<&str>) {
    if let Some(owners) = &mut meta.owner_references {
        owners.retain(|reference| Some(reference.uid.as_str()) != uid);
        if owners.is_empty() {
            meta.owner_references = None;
        }
    }
}

/// Adds a finalizer that the object does not have.
pub(crate) fn add_finalizer(meta: &mut ObjectMeta, finalizer: &str) {
    let finalizers = meta.finalizers.get_or_insert_default();
    if finalizers.iter().all(|known| known != finalizer) {
        finalizers.push(finalizer.into());
    }
}

/// Removes a finalizer.
pub(crate) fn remove_finalizer(meta: &mut ObjectMeta, finalizer: &str) {
    if let Some(finalizers) = &mut meta.finalizers {
        finalizers.retain(|known| known != finalizer);
    }
}

/// Asks the API server whether an owner still exists and is not terminating. The informer may lag
/// behind a deletion, and an orphan of the deleted owner must not be adopted again.
pub(crate) async fn is_live<K>(api: &Api<K>, meta: &ObjectMeta) -> kube::Result<bool>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let found = api.get_opt(meta.name.as_deref().unwrap_or_default()).await?;
    Ok(found.is_some_and(|found| {
        found.meta().uid == meta.uid && found.meta().deletion_timestamp.is_none()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claim_depends_on_controller_labels_and_termination() {
        let labels = |value: &str| Some([("app".to_owned(), value.to_owned())].into());
        let selector = LabelSelector { match_labels: labels("web"), ..Default::default() };
        let object = |label: &str, controller: Option<&str>| ObjectMeta {
            labels: labels(label),
            owner_references: controller.map(|uid| {
                vec![OwnerReference {
                    uid: uid.into(),
                    controller: Some(true),
                    ..Default::default()
                }]
            }),
            ..Default::default()
        };
        let terminating = |mut meta: ObjectMeta| {
            meta.deletion_timestamp = Some(kube_embedded_core::time::now());
            meta
        };
        let owner = ObjectMeta { uid: Some("owner".into()), ..Default::default() };
        let cases = [
            (object("web", Some("owner")), Claim::Owned, Claim::Owned),
            (object("other", Some("owner")), Claim::Release, Claim::Foreign),
            (object("web", Some("stranger")), Claim::Foreign, Claim::Foreign),
            (object("web", None), Claim::Adopt, Claim::Foreign),
            (object("other", None), Claim::Foreign, Claim::Foreign),
            (terminating(object("web", None)), Claim::Foreign, Claim::Foreign),
        ];
        for (object, expected, while_terminating) in cases {
            assert_eq!(decide(&owner, &selector, &object), expected, "{object:?}");
            let owner = terminating(owner.clone());
            assert_eq!(decide(&owner, &selector, &object), while_terminating, "{object:?}");
        }
    }
}

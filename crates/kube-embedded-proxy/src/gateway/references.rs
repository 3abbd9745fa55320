//! References between objects: which are valid, and which another namespace has granted.

use super::{
    api::{BackendRef, ObjectRef, ReferenceGrant},
    object::GROUP,
};
use kube_embedded_core::informer::ObjectKey;
use std::sync::Arc;

/// The kind of an object that refers to another one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Referrer<'a> {
    pub(super) kind: &'a str,
    pub(super) namespace: &'a str,
}

/// Why a reference is not resolved: reason and message of the condition.
pub(super) type Unresolved = (&'static str, String);

/// Returns whether a grant in the namespace of the target permits the reference.
pub(super) fn is_permitted(
    grants: &[Arc<ReferenceGrant>],
    from: Referrer<'_>,
    (group, kind): (&str, &str),
    to: &ObjectKey,
) -> bool {
    from.namespace == to.namespace
        || grants.iter().any(|grant| {
            let spec = &grant.spec;
            grant.metadata.namespace.as_deref() == Some(&to.namespace)
                && spec.from.iter().any(|granted| {
                    granted.group == GROUP
                        && granted.kind == from.kind
                        && granted.namespace == from.namespace
                })
                && spec.to.iter().any(|granted| {
                    granted.group.as_deref().unwrap_or_default() == group
                        && granted.kind.as_deref() == Some(kind)
                        && (granted.name.is_empty() || granted.name == to.name)
                })
        })
}

/// Returns the Service and port that a backend reference names.
pub(super) fn service_of(
    reference: &BackendRef,
    from: Referrer<'_>,
    grants: &[Arc<ReferenceGrant>],
) -> Result<(ObjectKey, i32), Unresolved> {
    let group = reference.group.as_deref().unwrap_or_default();
    let kind = reference.kind.as_deref().unwrap_or("Service");
    let key = key_of(reference.namespace.as_deref(), from, &reference.name);
    if (group, kind) != ("", "Service") {
        return Err(("InvalidKind", format!("backend {kind}.{group} {key} is not a Service")));
    }
    if !is_permitted(grants, from, ("", "Service"), &key) {
        return Err(("RefNotPermitted", not_permitted("Service", &key, from)));
    }
    match reference.port {
        Some(port) => Ok((key, port)),
        None => Err(("BackendNotFound", format!("the reference to Service {key} has no port"))),
    }
}

/// Returns the object of the core group that a reference to certificates names. One to an object of
/// another kind has the reason `invalid`.
pub(super) fn object_of(
    reference: &ObjectRef,
    expected: &str,
    invalid: &'static str,
    from: Referrer<'_>,
    grants: &[Arc<ReferenceGrant>],
) -> Result<ObjectKey, Unresolved> {
    let group = reference.group.as_deref().unwrap_or_default();
    let kind = reference.kind.as_deref().unwrap_or("Secret");
    let key = key_of(reference.namespace.as_deref(), from, &reference.name);
    if (group, kind) != ("", expected) {
        return Err((invalid, format!("{kind}.{group} {key} is not a {expected}")));
    }
    match is_permitted(grants, from, ("", expected), &key) {
        true => Ok(key),
        false => Err(("RefNotPermitted", not_permitted(expected, &key, from))),
    }
}

fn key_of(namespace: Option<&str>, from: Referrer<'_>, name: &str) -> ObjectKey {
    ObjectKey::new(namespace.unwrap_or(from.namespace), name)
}

fn not_permitted(kind: &str, key: &ObjectKey, from: Referrer<'_>) -> String {
    format!(
        "no ReferenceGrant in namespace {} permits {} objects of namespace {} to refer to {kind} {}",
        key.namespace, from.kind, from.namespace, key.name
    )
}

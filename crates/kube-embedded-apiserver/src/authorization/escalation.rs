//! Checks that users grant only permissions that they have (`pkg/registry/rbac/*/policybased`), unless they may
//! `escalate` the role or `bind` it.

use crate::{
    authentication::user::User,
    authorization::{
        attributes::Attributes,
        authorizer::{Authorizer, GROUP},
        index::RoleRef,
        rules::PolicyRule,
    },
    store::Store,
    validation::field_error::FieldError,
};
use serde_json::Value;

/// Finds the plural of a kind that is served, by group, version and kind.
pub(crate) type FindPlural<'a> = &'a dyn Fn(&str, &str, &str) -> Option<String>;

/// A write of a role or a binding, or of a policy or its binding.
pub(crate) struct Grant<'a> {
    pub(crate) user: &'a User,
    pub(crate) namespace: &'a str,
    /// `roles`, `clusterroles`, `rolebindings`, `clusterrolebindings`.
    pub(crate) plural: &'a str,
    /// The name in the path of the request; empty for creations.
    pub(crate) name: &'a str,
    pub(crate) new: &'a Value,
    pub(crate) old: Option<&'a Value>,
    /// The other objects.
    pub(crate) store: &'a Store,
    pub(crate) find_plural: FindPlural<'a>,
}

/// The reason why a write is refused.
#[derive(Debug, PartialEq)]
pub(crate) enum Refusal {
    Forbidden(String),
    /// The role of a binding does not exist.
    NoRole(RoleRef),
    /// A field refers to what the user may not read.
    Invalid(FieldError),
}

/// Checks the write of a role.
pub(crate) fn check_role(authorizer: &Authorizer, grant: &Grant<'_>) -> Result<(), Refusal> {
    let Grant { user, namespace, new, old, .. } = grant;
    if user.is_privileged()
        || may(authorizer, grant, "escalate", grant.plural, grant.name)
        || is_bookkeeping(new, *old)
    {
        return Ok(());
    }
    let rules = PolicyRule::of_role(new);
    authorizer.confirm_no_escalation(user, namespace, &rules).map_err(Refusal::Forbidden)?;
    let aggregates = |role: &Value| !role["aggregationRule"].is_null();
    if aggregates(new) || old.is_some_and(aggregates) {
        // It can gather anything.
        let full = PolicyRule::full_authority();
        authorizer.confirm_no_escalation(user, namespace, &full).map_err(|_| {
            let why = "must have cluster-admin privileges to use the aggregationRule";
            Refusal::Forbidden(why.to_owned())
        })?;
    }
    Ok(())
}

/// Checks the write of a binding.
pub(crate) fn check_binding(authorizer: &Authorizer, grant: &Grant<'_>) -> Result<(), Refusal> {
    let Grant { user, namespace, new, old, .. } = grant;
    let role = RoleRef::new(&new["roleRef"]);
    if user.is_privileged()
        || may(authorizer, grant, "bind", role.plural(), &role.name)
        || is_bookkeeping(new, *old)
    {
        return Ok(());
    }
    let Some(rules) = authorizer.role_rules(&role, namespace) else {
        return Err(Refusal::NoRole(role));
    };
    authorizer.confirm_no_escalation(user, namespace, &rules).map_err(Refusal::Forbidden)
}

fn may(authorizer: &Authorizer, grant: &Grant<'_>, verb: &str, plural: &str, name: &str) -> bool {
    let action = Attributes {
        verb: verb.into(),
        namespace: grant.namespace.into(),
        group: GROUP.into(),
        resource: plural.into(),
        name: name.into(),
        ..Attributes::default()
    };
    authorizer.authorize(grant.user, &action).allowed
}

/// Returns true if a write changes only what the garbage collector does (`IsOnlyMutatingGCFields`).
fn is_bookkeeping(new: &Value, old: Option<&Value>) -> bool {
    let granting = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object["metadata"].as_object_mut() {
            for field in ["finalizers", "managedFields", "ownerReferences", "resourceVersion"] {
                metadata.remove(field);
            }
        }
        object
    };
    old.is_some_and(|old| granting(new) == granting(old))
}

//! The RBAC authorizer. It follows the roles and bindings in the store, so that a change counts from the next request
//! on.

use crate::{
    authentication::user::User,
    authorization::{
        attributes::Attributes,
        index::{Binding, Index, RoleRef},
        rules::{self, PolicyRule},
    },
    store::{Resource, Store, Watch},
};
use serde_json::Value;
use std::sync::{Arc, Mutex, MutexGuard};

/// The API group of roles and bindings.
pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";

/// The resources that are followed, and where they are kept.
const FOLLOWED: [(Resource, Keep); 4] = [
    (Resource::fixed(GROUP, "roles"), Index::set_role),
    (Resource::fixed(GROUP, "clusterroles"), Index::set_role),
    (Resource::fixed(GROUP, "rolebindings"), Index::set_binding),
    (Resource::fixed(GROUP, "clusterrolebindings"), Index::set_binding),
];

type Keep = fn(&mut Index, namespace: &str, name: &str, object: Option<&Value>);

/// See the module.
pub(crate) struct Authorizer {
    store: Store,
    followed: Mutex<Followed>,
}

/// The index, and how far it is. The first request fills it.
#[derive(Default)]
struct Followed {
    watches: Vec<(Watch, Keep)>,
    index: Index,
}

/// The decision on an action.
pub(crate) struct Decision {
    /// The binding that allows it; `None` also where membership in `system:masters` does.
    binding: Option<Arc<Binding>>,
    pub(crate) allowed: bool,
    /// Why roles could not be found.
    errors: Vec<String>,
}

impl Decision {
    /// Returns the reason, as reviews and refusals show it.
    pub(crate) fn reason(&self, user: &User) -> String {
        if let Some(binding) = &self.binding {
            return binding.reason(user);
        }
        match self.errors.as_slice() {
            [] => String::new(),
            [error] => format!("RBAC: {error}"),
            errors => format!("RBAC: [{}]", errors.join(", ")),
        }
    }
}

impl Authorizer {
    /// An authorizer by the roles and bindings of a store.
    pub(crate) fn new(store: Store) -> Self {
        Self { store, followed: Mutex::default() }
    }

    /// Decides whether a user may do something.
    pub(crate) fn authorize(&self, user: &User, action: &Attributes<'_>) -> Decision {
        let mut decision =
            Decision { binding: None, allowed: user.is_privileged(), errors: Vec::new() };
        if decision.allowed {
            return decision;
        }
        self.current().index.visit(user, &action.namespace, |binding, rules| {
            match rules {
                Ok(rules) => decision.allowed = rules.iter().any(|rule| rule.allows(action)),
                Err(error) if !decision.errors.contains(&error) => decision.errors.push(error),
                Err(_) => {}
            }
            if decision.allowed {
                decision.binding = Some(binding.clone());
            }
            !decision.allowed
        });
        decision
    }

    /// Returns the rules that apply to a user in a namespace, and why some could not be found.
    pub(crate) fn rules_for(&self, user: &User, namespace: &str) -> (Vec<PolicyRule>, Vec<String>) {
        let (mut found, mut errors) = (Vec::new(), Vec::new());
        self.current().index.visit(user, namespace, |_, rules| {
            match rules {
                Ok(rules) => found.extend(rules.iter().cloned()),
                Err(error) => errors.push(error),
            }
            true
        });
        (found, errors)
    }

    /// Returns the rules of a role that a binding in a namespace refers to.
    pub(crate) fn role_rules(&self, role: &RoleRef, namespace: &str) -> Option<Arc<[PolicyRule]>> {
        self.current().index.role(role, namespace).cloned()
    }

    /// Checks that a user has all permissions of some rules (`ConfirmNoEscalation`).
    ///
    /// # Errors
    /// Names those that the user does not have.
    pub(crate) fn confirm_no_escalation(
        &self,
        user: &User,
        namespace: &str,
        requested: &[PolicyRule],
    ) -> Result<(), String> {
        let (owned, errors) = self.rules_for(user, namespace);
        let missing = rules::missing(&owned, requested);
        if missing.is_empty() {
            return Ok(());
        }
        let mut why = format!(
            "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            user.name,
            rules::quoted(&user.groups),
            rules::describe(&missing).join("\n")
        );
        if !errors.is_empty() {
            why += &format!("; resolution errors: [{}]", errors.join(" "));
        }
        Err(why)
    }

    /// Brings the index up to date.
    fn current(&self) -> MutexGuard<'_, Followed> {
        let mut followed = match self.followed.lock() {
            Ok(followed) => followed,
            Err(poisoned) => {
                // A change was applied in part: rebuild the index.
                let mut followed = poisoned.into_inner();
                *followed = Followed::default();
                self.followed.clear_poison();
                followed
            }
        };
        if !followed.catch_up() {
            // The first request, or more changes than the history has.
            *followed = Followed::list(&self.store);
        }
        followed
    }
}

impl Followed {
    /// Reads all roles and bindings, and watches them from there on.
    fn list(store: &Store) -> Self {
        let mut new = Self::default();
        for (resource, keep) in FOLLOWED {
            let page = store.list(resource.clone(), None, None);
            for object in page.objects {
                keep(&mut new.index, &object.key.namespace, &object.key.name, Some(&object.value));
            }
            // If that fails, the next request lists again.
            if let Ok(watch) = store.watch(resource, page.revision) {
                new.watches.push((watch, keep));
            }
        }
        new
    }

    /// Applies what has changed; false if that is not known any more.
    fn catch_up(&mut self) -> bool {
        if self.watches.len() < FOLLOWED.len() {
            return false;
        }
        for (watch, keep) in &mut self.watches {
            let Ok((events, _)) = watch.take(usize::MAX) else { return false };
            for event in events {
                let object = &event.object;
                let value = (!event.removed).then_some(&object.value);
                keep(&mut self.index, &object.key.namespace, &object.key.name, value);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;

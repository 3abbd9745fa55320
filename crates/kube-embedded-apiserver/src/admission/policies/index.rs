//! The policies of the cluster and their bindings. The index follows the store, so that a change counts from the next
//! request on, and a request looks at nothing where there are no policies.

use super::{expressions::Expressions, matching::MatchResources};
use crate::{
    fields::{strings, text},
    resources::types::{
        validating_admission_policy::RESOURCE as POLICIES,
        validating_admission_policy_binding::RESOURCE as BINDINGS,
    },
    store::{Object, Store, Watch},
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

/// See the module.
pub(crate) struct PolicyIndex {
    store: Store,
    followed: Mutex<Followed>,
}

/// A policy.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) name: String,
    /// `failurePolicy: Fail`.
    pub(crate) fails: bool,
    pub(crate) matches: MatchResources,
    /// `apiVersion` and `kind`.
    pub(crate) param_kind: Option<(String, String)>,
    spec: Value,
    /// Compiled for the first request that matches.
    expressions: OnceLock<Expressions>,
}

/// A binding.
#[derive(Debug)]
pub(crate) struct Binding {
    pub(crate) name: String,
    policy: String,
    /// `None` for all requests that the policy matches.
    pub(crate) matches: Option<MatchResources>,
    pub(crate) param_ref: Option<Value>,
    /// `Deny`, `Warn`, `Audit`.
    pub(crate) actions: Vec<String>,
}

/// A policy with its bindings, of which there is one at least.
#[derive(Debug)]
pub(crate) struct Hook {
    pub(crate) policy: Arc<Policy>,
    pub(crate) bindings: Vec<Arc<Binding>>,
}

#[derive(Default)]
struct Followed {
    /// Of policies and bindings.
    watches: Option<[Watch; 2]>,
    policies: BTreeMap<String, Arc<Policy>>,
    bindings: BTreeMap<String, Arc<Binding>>,
    hooks: Arc<[Hook]>,
}

impl PolicyIndex {
    /// The index of the policies in a store.
    pub(crate) fn new(store: Store) -> Self {
        Self { store, followed: Mutex::default() }
    }

    /// Returns the policies that are in force now.
    pub(crate) fn current(&self) -> Arc<[Hook]> {
        let mut followed = self.followed.lock().unwrap_or_else(|poisoned| {
            // A change was applied in part: read all again.
            let mut followed = PoisonError::into_inner(poisoned);
            *followed = Followed::default();
            self.followed.clear_poison();
            followed
        });
        if !followed.is_current() && !followed.catch_up() {
            // The first request, or more changes than the history has.
            *followed = Followed::list(&self.store);
        }
        followed.hooks.clone()
    }
}

impl Followed {
    fn is_current(&self) -> bool {
        self.watches.as_ref().is_some_and(|watches| watches.iter().all(Watch::is_current))
    }

    /// Reads all policies and bindings, and watches them from there on.
    fn list(store: &Store) -> Self {
        let mut new = Self::default();
        let [policies, bindings] = [POLICIES, BINDINGS].map(|resource| {
            let page = store.list(resource.storage_resource(), None, None);
            (page.objects, store.watch(resource.storage_resource(), page.revision))
        });
        policies.0.iter().for_each(|object| new.set_policy(object, false));
        bindings.0.iter().for_each(|object| new.set_binding(object, false));
        // If that fails, the next request lists again.
        if let (Ok(policies), Ok(bindings)) = (policies.1, bindings.1) {
            new.watches = Some([policies, bindings]);
        }
        new.rebuild();
        new
    }

    /// Applies what has changed; false if that is not known any more.
    fn catch_up(&mut self) -> bool {
        let Some([policies, bindings]) = &mut self.watches else { return false };
        let (Ok((policies, _)), Ok((bindings, _))) =
            (policies.take(usize::MAX), bindings.take(usize::MAX))
        else {
            return false;
        };
        policies.iter().for_each(|event| self.set_policy(&event.object, event.removed));
        bindings.iter().for_each(|event| self.set_binding(&event.object, event.removed));
        self.rebuild();
        true
    }

    fn set_policy(&mut self, object: &Object, removed: bool) {
        let name = object.key.name.clone();
        match removed {
            true => self.policies.remove(&name),
            false => self.policies.insert(name, Arc::new(Policy::new(object))),
        };
    }

    fn set_binding(&mut self, object: &Object, removed: bool) {
        let name = object.key.name.clone();
        match removed {
            true => self.bindings.remove(&name),
            false => self.bindings.insert(name, Arc::new(Binding::new(object))),
        };
    }

    fn rebuild(&mut self) {
        let hooks = self.policies.iter().map(|(name, policy)| {
            let bindings = self.bindings.values().filter(|binding| binding.policy == *name);
            Hook { policy: policy.clone(), bindings: bindings.cloned().collect() }
        });
        self.hooks = hooks.filter(|hook| !hook.bindings.is_empty()).collect();
    }
}

impl Policy {
    pub(super) fn new(object: &Object) -> Self {
        let spec = &object.value["spec"];
        let kind = &spec["paramKind"];
        let field = |name: &str| text(kind, &[name]).to_owned();
        Self {
            name: object.key.name.clone(),
            fails: text(spec, &["failurePolicy"]) != "Ignore",
            matches: MatchResources::new(&spec["matchConstraints"]),
            param_kind: (!kind.is_null()).then(|| (field("apiVersion"), field("kind"))),
            spec: spec.clone(),
            expressions: OnceLock::new(),
        }
    }

    /// Returns the compiled expressions.
    pub(crate) fn expressions(&self) -> &Expressions {
        self.expressions.get_or_init(|| Expressions::of(&self.spec))
    }
}

impl Binding {
    fn new(object: &Object) -> Self {
        let spec = &object.value["spec"];
        let given = |name: &str| Some(&spec[name]).filter(|value| !value.is_null());
        Self {
            name: object.key.name.clone(),
            policy: text(spec, &["policyName"]).to_owned(),
            matches: given("matchResources").map(MatchResources::new),
            param_ref: given("paramRef").cloned(),
            actions: strings(&spec["validationActions"]),
        }
    }
}

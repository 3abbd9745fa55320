//! ValidatingAdmissionPolicies: expressions that decide on requests, where bindings put them in force. Stands for
//! `k8s.io/apiserver/pkg/admission/plugin/policy`. A policy that fails refuses requests that match it, or lets them
//! through, as its `failurePolicy` says, and never others.

pub(crate) mod attributes;
mod evaluation;
pub(crate) mod expressions;
pub(crate) mod index;
mod matching;
mod params;
#[cfg(test)]
mod tests;
pub(crate) mod type_checking;

use crate::{
    admission::policies::{
        attributes::{Attributes, Kind, Operation},
        evaluation::{Input, Outcome, evaluate},
        index::{Binding, Hook, Policy},
        matching::{Matched, Surroundings},
    },
    authentication::user::{User, service_account_groups, service_account_user},
    authorization::{attributes::Attributes as Action, authorizer::Authorizer},
    cel::authorization::{Authorize, Check, Decision},
    http::{
        decode,
        status::{ApiError, ApiResult},
    },
    resources::{resource_type::ResourceType, types::namespace},
    state::ServerState,
    store::{Key, Object},
};
use serde_json::{Map, Value};
use std::{cell::OnceCell, fmt, rc::Rc, sync::Arc};

/// Returns true if a policy is in force, for callers that would have to make what policies see.
pub(crate) fn are_in_force(state: &ServerState) -> bool {
    !state.policies.current().is_empty()
}

/// Reviews a request by all policies in force; returns the warnings of those that only warn.
///
/// # Errors
/// A policy refuses the request.
pub(crate) fn review(state: &ServerState, request: &Attributes<'_>) -> ApiResult<Vec<String>> {
    // A policy on policies could not be removed any more.
    if request.resource.configures_admission {
        return Ok(Vec::new());
    }
    let hooks = state.policies.current();
    if hooks.is_empty() {
        return Ok(Vec::new());
    }
    let namespace = find_namespace(state, request);
    let served = state.crds.served();
    let around = Surroundings {
        served: &served,
        namespace: namespace.as_ref().map(|found| &found.value),
        equivalents: OnceCell::new(),
    };
    let mut reviewed = Reviewed::default();
    for hook in &*hooks {
        let Some(matched) = hook.policy.matches.matches(request, &around) else { continue };
        Review { state, request, around: &around, hook, reviewed: &mut reviewed }.run(&matched);
    }
    match reviewed.denial {
        Some((message, reason)) => {
            Err(ApiError::denied(request.resource, shown_name(request), &message, &reason))
        }
        None => Ok(reviewed.warnings),
    }
}

/// Reviews a request that has no place in the write pipeline: the creation of a subresource's object, or a connection.
///
/// # Errors
/// A policy refuses the request.
pub(crate) fn review_object(
    state: &ServerState,
    request: Attributes<'_>,
    kind: Kind<'_>,
    object: &Value,
) -> ApiResult<Vec<String>> {
    review(state, &Attributes { kind, object: Some(object), ..request })
}

/// Returns the name in a refusal.
fn shown_name<'a>(request: &Attributes<'a>) -> &'a str {
    let given = request.object.and_then(|object| object["metadata"]["name"].as_str());
    if request.name.is_empty() { given.unwrap_or("Unknown") } else { request.name }
}

fn find_namespace(state: &ServerState, request: &Attributes<'_>) -> Option<Arc<Object>> {
    let key = Key {
        resource: namespace::RESOURCE.storage_resource(),
        namespace: String::new(),
        name: request.namespace.to_owned(),
    };
    if request.namespace.is_empty() { None } else { state.store.get(&key) }
}

/// What policies have decided.
#[derive(Default)]
struct Reviewed {
    /// The first refusal: message and reason.
    denial: Option<(String, String)>,
    warnings: Vec<String>,
}

impl Reviewed {
    fn deny(&mut self, policy: &str, binding: Option<&str>, message: &str, reason: &str) {
        let by = match binding {
            Some(binding) => format!("'{policy}' with binding '{binding}'"),
            None => format!("'{policy}'"),
        };
        let reason = if reason.is_empty() { "Invalid" } else { reason };
        self.denial.get_or_insert_with(|| {
            let message = format!("ValidatingAdmissionPolicy {by} denied request: {message}");
            (message, reason.to_owned())
        });
    }
}

/// The review of a request by a policy that matches it.
struct Review<'r, 'a> {
    state: &'r ServerState,
    request: &'r Attributes<'r>,
    around: &'r Surroundings<'a>,
    hook: &'r Hook,
    reviewed: &'r mut Reviewed,
}

impl Review<'_, '_> {
    fn run(&mut self, matched: &Matched<'_, '_>) {
        let Hook { policy, bindings } = self.hook;
        let param_type = match params::find_type(policy, self.around.served) {
            Ok(found) => found,
            Err(why) => {
                let message = format!("failed to configure policy: {why}");
                return self.misconfigured(policy, None, &message);
            }
        };
        let mut view = None;
        for binding in bindings {
            let matches = binding.matches.as_ref();
            if matches.is_some_and(|rules| rules.matches(self.request, self.around).is_none()) {
                continue;
            }
            let found = params::collect(
                &self.state.store,
                param_type.as_ref(),
                binding.param_ref.as_ref(),
                self.request.namespace,
            );
            let found = match found {
                Ok(found) => found,
                Err(why) => {
                    let message = format!("failed to configure binding: {why}");
                    self.misconfigured(policy, Some(&binding.name), &message);
                    continue;
                }
            };
            let view = &*view.get_or_insert_with(|| View::new(self.request, matched));
            for params in &found {
                let outcome = self.evaluate(policy, view, params.as_ref());
                self.apply(policy, binding, outcome);
            }
        }
    }

    fn misconfigured(&mut self, policy: &Policy, binding: Option<&str>, message: &str) {
        if policy.fails {
            self.reviewed.deny(&policy.name, binding, message, "");
        }
    }

    fn evaluate(&self, policy: &Policy, view: &View, params: Option<&Value>) -> Outcome {
        let request = self.request;
        let namespace = self.around.namespace.filter(|_| !request.is_namespace());
        let namespace = namespace.map(shown_namespace);
        let check = Rc::new(Check {
            group: request.resource.group.to_owned(),
            resource: request.resource.plural.to_owned(),
            subresource: request.subresource.to_owned(),
            namespace: request.namespace.to_owned(),
            name: request.name.to_owned(),
            path: None,
        });
        let permissions =
            Permissions { authorizer: &self.state.authorizer, user: self.request.user };
        let input = Input {
            object: view.object.as_ref().or(request.object),
            old: view.old.as_ref().or(request.old),
            request: &view.request,
            namespace: namespace.as_ref(),
            params,
            authorizer: &permissions,
            resource: &check,
        };
        evaluate(policy, input)
    }

    /// Does with the decision what the binding says.
    fn apply(&mut self, policy: &Policy, binding: &Binding, outcome: Outcome) {
        let (policy, binding, actions) = (&*policy.name, &*binding.name, &binding.actions);
        for denial in outcome.denials {
            let message = &denial.message;
            let takes = |action: &str| actions.iter().any(|known| known == action);
            if denial.always || takes("Deny") {
                self.reviewed.deny(policy, Some(binding), message, &denial.reason);
            }
            if takes("Warn") && !denial.always {
                self.reviewed.warnings.push(format!(
                    "Validation failed for ValidatingAdmissionPolicy '{policy}' with binding \
                     '{binding}': {message}"
                ));
            }
            if takes("Audit") && !denial.always {
                self.audit(policy, "validation_failure", message);
            }
        }
        for (key, text) in outcome.annotations {
            self.audit(policy, &key, &text);
        }
    }

    /// There is no audit log: what would be in it is logged.
    fn audit(&self, policy: &str, key: &str, text: &str) {
        let Attributes { resource, namespace, name, .. } = self.request;
        tracing::info!(
            target: "apiserver::audit",
            policy,
            key,
            object = format!("{} {namespace}/{name}", resource.plural),
            "{text}"
        );
    }
}

/// A request in the version in which a policy matches it.
struct View {
    request: Value,
    /// Set where they differ from those of the request.
    object: Option<Value>,
    old: Option<Value>,
}

impl View {
    fn new(request: &Attributes<'_>, matched: &Matched<'_, '_>) -> Self {
        let own = request.resource;
        match matched {
            Matched::Itself => {
                Self { request: request.request(own, request.kind), object: None, old: None }
            }
            Matched::Equivalent(other) => {
                // A `Scale` is one in all versions of what it scales.
                let is_whole = request.kind == (own.group, own.version, own.kind);
                let kind = (other.group, other.version, other.kind);
                let kind = if is_whole { kind } else { request.kind };
                let converted = |object: Option<&Value>| {
                    object.filter(|_| is_whole).map(|object| convert(own, other, object))
                };
                Self {
                    request: request.request(other, kind),
                    object: converted(request.object),
                    old: converted(request.old),
                }
            }
        }
    }
}

/// Converts an object between types of the same objects.
fn convert(from: &ResourceType<'_>, to: &ResourceType<'_>, object: &Value) -> Value {
    let mut object = object.clone();
    (from.to_storage)(&mut object);
    to.show(&mut object);
    decode::set_type(to, &mut object);
    object
}

/// Returns what expressions see of a namespace (`CreateNamespaceObject`).
fn shown_namespace(namespace: &Value) -> Value {
    let mut shown = Map::new();
    for field in ["metadata", "spec", "status"] {
        let mut part = namespace[field].clone();
        if let Some(part) = part.as_object_mut() {
            part.remove("managedFields");
            part.remove("ownerReferences");
        }
        shown.insert(field.to_owned(), part);
    }
    shown.into()
}

/// The variable `authorizer`: RBAC.
struct Permissions<'a> {
    authorizer: &'a Authorizer,
    user: &'a User,
}

impl fmt::Debug for Permissions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.user.fmt(f)
    }
}

impl Authorize for Permissions<'_> {
    fn authorize(
        &self,
        service_account: Option<&(String, String)>,
        check: &Check,
        verb: &str,
    ) -> Decision {
        let account = service_account.map(|(namespace, name)| User {
            name: service_account_user(namespace, name),
            groups: service_account_groups(namespace),
            ..User::default()
        });
        let user = account.as_ref().unwrap_or(self.user);
        let action = Action {
            verb: verb.into(),
            namespace: (&*check.namespace).into(),
            group: (&*check.group).into(),
            resource: (&*check.resource).into(),
            subresource: (&*check.subresource).into(),
            name: (&*check.name).into(),
            path: check.path.as_deref().map(Into::into),
        };
        let decision = self.authorizer.authorize(user, &action);
        let (allowed, reason) = (decision.allowed, decision.reason(user));
        Decision { allowed, reason, error: String::new() }
    }
}

/// Returns the operation of a write.
pub(crate) fn operation_of(old: Option<&Value>) -> Operation {
    if old.is_some() { Operation::Update } else { Operation::Create }
}

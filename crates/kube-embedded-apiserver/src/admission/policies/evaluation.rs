//! What a policy decides on a request: stands for `k8s.io/apiserver/pkg/admission/plugin/policy/validating/validator.go`.

use super::{
    expressions::{Expression, Expressions, Refused, VARIABLES, Validation, Variable, types},
    index::Policy,
};
use crate::cel::{
    Budget, Deferred, EvalError,
    authorization::{Authorization, Authorize, Authorizer, Check},
    value::{DYN, Val},
};
use serde_json::Value;
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeSet, HashMap},
    rc::Rc,
};

/// What all `matchConditions` may cost together (`RuntimeCELCostBudgetMatchConditions`).
const MATCH_CONDITIONS: u64 = 2_500_000;
/// The limit to the text of a `messageExpression`, in bytes.
const MESSAGE: usize = 5 * 1024;
/// The limit to the text of an audit annotation, in bytes.
const ANNOTATION: usize = 10 * 1024;
/// How deep variables may be evaluated within each other, as they are only where `dyn` hides their names.
const NESTING: usize = 16;

const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// The values that the expressions of a policy see.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    pub(super) object: Option<&'a Value>,
    pub(super) old: Option<&'a Value>,
    pub(super) request: &'a Value,
    pub(super) namespace: Option<&'a Value>,
    pub(super) params: Option<&'a Value>,
    pub(super) authorizer: &'a dyn Authorize,
    /// `authorizer.requestResource`.
    pub(super) resource: &'a Rc<Check>,
}

/// A refusal.
#[derive(Debug, PartialEq)]
pub(super) struct Denial {
    pub(super) message: String,
    /// The reason that the policy gives; empty for an expression that fails.
    pub(super) reason: String,
    /// It is refused whatever the binding says: an audit annotation failed.
    pub(super) always: bool,
}

impl Denial {
    fn failed(message: impl Into<String>) -> Self {
        Self { message: message.into(), reason: String::new(), always: false }
    }
}

/// What a policy decides.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Outcome {
    /// In the order of the policy, after an expression that fails alone if the policy fails with it.
    pub(super) denials: Vec<Denial>,
    /// Keys and texts.
    pub(super) annotations: Vec<(String, String)>,
}

/// Evaluates a policy.
pub(super) fn evaluate<'a>(policy: &'a Policy, input: Input<'a>) -> Outcome {
    let mut outcome = Outcome::default();
    match run(policy, input, &mut outcome) {
        Err(message) if policy.fails => outcome.denials = vec![Denial::failed(message)],
        Err(_) => outcome.denials.clear(),
        Ok(()) => {}
    }
    outcome
}

/// Evaluates all expressions. An error is one of the policy as a whole.
fn run<'a>(policy: &'a Policy, input: Input<'a>, outcome: &mut Outcome) -> Result<(), String> {
    let expressions = policy.expressions();
    let without_namespace = Input { namespace: None, ..input };
    let mut budget = Budget::of(MATCH_CONDITIONS);
    let scope = Scope::new(without_namespace, expressions);
    if !meets(&expressions.match_conditions, &scope, &mut budget)? {
        return Ok(());
    }
    let scope = Scope::new(input, expressions);
    let mut budget = Budget::default();
    let mut results = Vec::new();
    for validation in &expressions.validations {
        results.push(scope.value(&validation.expression, &mut budget)?);
    }
    // Messages are evaluated after all validations, with what is left.
    let mut exhausted = None;
    for (validation, result) in expressions.validations.iter().zip(results) {
        let message = match (&validation.message_expression, &exhausted) {
            (Some(expression), None) => match scope.value(expression, &mut budget) {
                Ok(result) => result.ok(),
                Err(why) => {
                    exhausted = Some(format!("failed messageExpression: {why}"));
                    None
                }
            },
            _ => None,
        };
        outcome.denials.extend(decide(policy.fails, validation, result, message, &exhausted));
    }
    let mut budget = Budget::default();
    for (key, expression) in &expressions.audit_annotations {
        match scope.value(expression, &mut budget)? {
            Ok(Val::Text(text)) if !text.trim().is_empty() => {
                let mut text = text.trim().to_owned();
                text.truncate(text.floor_char_boundary(ANNOTATION));
                outcome.annotations.push((key.clone(), text));
            }
            Ok(_) => {}
            Err(message) if policy.fails => {
                outcome.denials.push(Denial { always: true, ..Denial::failed(message) });
            }
            Err(_) => {}
        }
    }
    Ok(())
}

/// Returns true if all conditions hold. One that does not outweighs errors of others.
fn meets<'a>(
    conditions: &'a [Expression],
    scope: &Scope<'a>,
    budget: &mut Budget,
) -> Result<bool, String> {
    let mut errors = Vec::new();
    for condition in conditions {
        match scope.value(condition, budget)? {
            Ok(Val::Bool(false)) => return Ok(false),
            Ok(_) => {}
            Err(why) => errors.push(why),
        }
    }
    match errors.as_slice() {
        [] => Ok(true),
        [one] => Err(one.clone()),
        all => Err(format!("[{}]", all.join(", "))),
    }
}

fn decide(
    fails: bool,
    validation: &Validation,
    result: Result<Val<'_>, String>,
    message: Option<Val<'_>>,
    exhausted: &Option<String>,
) -> Option<Denial> {
    match (result, exhausted) {
        (Err(why), _) => fails.then(|| Denial::failed(why)),
        (Ok(_), Some(why)) => fails.then(|| Denial::failed(why)),
        (Ok(Val::Bool(true)), None) => None,
        (Ok(_), None) => {
            let given = match &message {
                Some(Val::Text(text)) => text.trim(),
                _ => "",
            };
            let usable = !given.is_empty() && given.len() <= MESSAGE && !given.contains('\n');
            let message = match (usable, &*validation.message) {
                (true, _) => given.to_owned(),
                (false, "") => {
                    format!("failed expression: {}", validation.expression.source.trim())
                }
                (false, message) => message.to_owned(),
            };
            let reason = match &*validation.reason {
                "" => "Invalid",
                reason => reason,
            };
            Some(Denial { message, reason: reason.to_owned(), always: false })
        }
    }
}

/// The variables of expressions. Those of the policy are evaluated when they are accessed, once.
struct Scope<'a> {
    values: Vec<(&'a str, Val<'a>)>,
    variables: &'a [Variable],
    by_name: &'a HashMap<String, Vec<usize>>,
    known: RefCell<Vec<Option<Result<Val<'a>, EvalError>>>>,
    /// How many of the variables the current expression sees: those before it.
    visible: Cell<usize>,
    nesting: Cell<usize>,
}

impl<'a> Scope<'a> {
    fn new(input: Input<'a>, expressions: &'a Expressions) -> Self {
        let Expressions { variables, by_name, .. } = expressions;
        let (request, namespace) = types();
        let optional =
            |value: Option<&'a Value>, kind| value.map_or(Val::Null, |v| Val::of(v, kind));
        let authorizer = Authorizer {
            backend: input.authorizer,
            service_account: None,
            request: input.resource.clone(),
        };
        Self {
            values: vec![
                ("object", optional(input.object, &DYN)),
                ("oldObject", optional(input.old, &DYN)),
                ("request", Val::of(input.request, request)),
                ("namespaceObject", optional(input.namespace, namespace)),
                ("params", optional(input.params, &DYN)),
                ("authorizer", Val::Authorization(Authorization::Authorizer(authorizer))),
                (VARIABLES, Val::Deferred),
            ],
            variables,
            by_name,
            known: RefCell::new(vec![None; variables.len()]),
            visible: Cell::new(variables.len()),
            nesting: Cell::new(0),
        }
    }

    /// Evaluates an expression. The outer error is that nothing is left of the budget.
    fn value(
        &self,
        expression: &'a Expression,
        budget: &mut Budget,
    ) -> Result<Result<Val<'a>, String>, String> {
        let program = match &expression.program {
            Ok(program) => program,
            Err(Refused::Invalid(why) | Refused::Internal(why)) => {
                return Ok(Err(format!("compilation error: {why}")));
            }
        };
        budget.start();
        let result = program.run_with(&self.values, self, budget);
        if !budget.settle() {
            return Err(OUT_OF_BUDGET.to_owned());
        }
        let source = &expression.source;
        Ok(result.map_err(|why| format!("expression '{source}' resulted in error: {why}")))
    }

    /// Evaluates a variable.
    fn variable(&self, at: usize, budget: &mut Budget) -> Result<Val<'a>, EvalError> {
        let Some(Variable { name, expression, .. }) = self.variables.get(at) else {
            return Err(EvalError::Overload);
        };
        let program = expression.program.as_ref().map_err(|refused| {
            let (Refused::Invalid(why) | Refused::Internal(why)) = refused;
            EvalError::Failed(format!("composited variable {name:?} fails to compile: {why}"))
        })?;
        if self.nesting.get() >= NESTING {
            return Err(EvalError::Failed("variables are nested too deeply".to_owned()));
        }
        let visible = self.visible.replace(at);
        self.nesting.set(self.nesting.get() + 1);
        let result = budget.nested(|budget| program.run_with(&self.values, self, budget));
        self.nesting.set(self.nesting.get() - 1);
        self.visible.set(visible);
        result.map_err(|why| {
            EvalError::Failed(format!("composited variable {name:?} fails to evaluate: {why}"))
        })
    }

    /// Returns a variable and those on which it depends that are not evaluated yet, in their order. So the stack does
    /// not grow with a chain of variables.
    fn pending(&self, at: usize) -> BTreeSet<usize> {
        let known = self.known.borrow();
        let (mut pending, mut next) = (BTreeSet::new(), vec![at]);
        while let Some(at) = next.pop() {
            if matches!(known.get(at), Some(None)) && pending.insert(at) {
                next.extend(self.variables.get(at).into_iter().flat_map(|one| &one.uses));
            }
        }
        pending
    }
}

impl<'a> Deferred<'a> for Scope<'a> {
    fn field(&self, name: &str, budget: &mut Budget) -> Option<Result<Val<'a>, EvalError>> {
        let all = self.by_name.get(name)?;
        let visible = all.partition_point(|at| *at < self.visible.get());
        let at = *all.get(..visible)?.last()?;
        for one in self.pending(at) {
            let value = self.variable(one, budget);
            if let Some(known) = self.known.borrow_mut().get_mut(one) {
                *known = Some(value);
            }
        }
        self.known.borrow().get(at).cloned().flatten()
    }
}

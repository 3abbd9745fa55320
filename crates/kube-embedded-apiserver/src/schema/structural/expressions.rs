//! `x-kubernetes-validations`: the rules of a schema in CEL, compiled and evaluated.
//!
//! Stands for `pkg/apiserver/schema/cel` of the apiextensions API server.

use crate::{
    cel::{
        Budget, EvalError, Program,
        types::Type,
        value::{Text, Val},
    },
    schema::structural::{
        declarations::{child, declare, element},
        given_rule::{GivenRule, path_steps},
        schema::{Additional, ListType, Schema},
    },
    validation::field_error::FieldError,
};
use serde_json::Value;
use std::{collections::BTreeMap, rc::Rc};

/// A compiled rule.
#[derive(Debug)]
struct Rule {
    given: GivenRule,
    program: Result<Program, String>,
    message: Option<Program>,
    /// The field that errors name, below the node of the rule.
    field_path: String,
}

/// The rules of a schema: those of a node, and below it.
#[derive(Debug)]
pub(crate) struct Rules {
    kind: Type,
    /// `object`; shown instead of the value.
    type_name: String,
    rules: Vec<Rule>,
    properties: BTreeMap<String, Rules>,
    additional: Option<Box<Rules>>,
    items: Option<Box<Rules>>,
    /// By which the elements of a list are matched with their old state.
    keys: Vec<String>,
}

impl Rules {
    /// Compiles the rules of a schema; `None` if there are none. `root` is true for that of a custom
    /// resource, of which rules see the name.
    pub(crate) fn of(schema: &Schema, root: bool) -> Option<Self> {
        if !has_rules(schema) {
            return None;
        }
        Self::at(schema, &declare(schema, root, "selfType")?, root)
    }

    fn at(schema: &Schema, kind: &Type, root: bool) -> Option<Self> {
        let own = self_type(schema, kind, root);
        let kind = &own;
        let rules: Vec<Rule> = schema.rules.iter().map(|given| Rule::new(given, kind)).collect();
        let below =
            |below: &Schema, kind: Option<Type>| Self::at(below, &kind?, below.embedded_resource);
        let properties: BTreeMap<_, _> = schema
            .properties
            .iter()
            .filter_map(|(name, schema)| {
                Some((name.clone(), below(schema, child(kind, name, schema))?))
            })
            .collect();
        let additional = match &schema.additional {
            Additional::Like(schema) => below(schema, element(kind)).map(Box::new),
            _ => None,
        };
        let items = schema.items.as_ref();
        let items = items.and_then(|schema| below(schema, element(kind))).map(Box::new);
        let nothing = properties.is_empty() && additional.is_none() && items.is_none();
        if rules.is_empty() && nothing {
            return None;
        }
        Some(Self {
            kind: kind.clone(),
            type_name: schema.type_name.clone(),
            rules,
            properties,
            additional,
            items,
            keys: match &schema.list {
                ListType::Map(keys) => keys.clone(),
                _ => Vec::new(),
            },
        })
    }

    /// Evaluates the rules on an object (new, old on update).
    pub(crate) fn evaluate(&self, new: &Value, old: Option<&Value>) -> Outcome {
        let mut evaluation = Evaluation { budget: Budget::default(), outcome: Outcome::default() };
        let node = Node { value: new, old, parent: None };
        // An error ends the evaluation; it is reported already.
        let _ = evaluation.node(self, &node, &mut String::new());
        evaluation.outcome
    }
}

/// Returns true if there are rules at a node or below it.
fn has_rules(schema: &Schema) -> bool {
    let additional = match &schema.additional {
        Additional::Like(schema) => has_rules(schema),
        _ => false,
    };
    !schema.rules.is_empty()
        || additional
        || schema.items.as_deref().is_some_and(has_rules)
        || schema.properties.values().any(has_rules)
}

impl Rule {
    fn new(given: &GivenRule, kind: &Type) -> Self {
        Self {
            program: given.compile(kind),
            message: given.compile_message(kind).ok().flatten(),
            field_path: field_path(&given.field_path).unwrap_or_default(),
            given: given.clone(),
        }
    }
}

/// What evaluating rules has found.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) errors: Vec<FieldError>,
    /// Errors of values that have not changed since the rule was made.
    pub(crate) warnings: Vec<String>,
}

/// A value, its old state if that can be told, and the value around it.
struct Node<'a> {
    value: &'a Value,
    old: Option<&'a Value>,
    parent: Option<&'a Node<'a>>,
}

impl Node<'_> {
    /// Returns true if the value, or the nearest one around it with an old state, is unchanged.
    fn is_unchanged(&self) -> bool {
        match (self.old, self.parent) {
            (Some(old), _) => old == self.value,
            (None, Some(parent)) => parent.is_unchanged(),
            (None, None) => false,
        }
    }
}

/// No further rule is to be run.
struct Exhausted;

struct Evaluation {
    budget: Budget,
    outcome: Outcome,
}

const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";
/// The limit to the text of a `messageExpression`, in bytes.
const MESSAGE: usize = 5 * 1024;

impl Evaluation {
    /// Evaluates the rules of a node and those below it.
    fn node(&mut self, rules: &Rules, node: &Node, path: &mut String) -> Result<(), Exhausted> {
        if node.value.is_null() {
            return Ok(());
        }
        for rule in &rules.rules {
            self.rule(rules, rule, node, path)?;
        }
        let before = path.len();
        match node.value {
            Value::Array(items) => {
                let Some(below) = &rules.items else { return Ok(()) };
                let olds =
                    node.old.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                let olds = ByKeys::new(&rules.keys, olds);
                for (at, value) in items.iter().enumerate() {
                    path.push_str(&format!("[{at}]"));
                    let node = Node { value, old: olds.find(value), parent: Some(node) };
                    self.node(below, &node, path)?;
                    path.truncate(before);
                }
            }
            Value::Object(fields) => {
                for (name, value) in fields {
                    let below = match (rules.properties.get(name), &rules.additional) {
                        (Some(below), _) => {
                            path.push_str(if path.is_empty() { "" } else { "." });
                            path.push_str(name);
                            below
                        }
                        (None, Some(below)) => {
                            path.push_str(&format!("[{name}]"));
                            below
                        }
                        _ => continue,
                    };
                    let old = node.old.and_then(|old| old.get(name));
                    self.node(below, &Node { value, old, parent: Some(node) }, path)?;
                    path.truncate(before);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn rule(
        &mut self,
        rules: &Rules,
        rule: &Rule,
        node: &Node,
        path: &str,
    ) -> Result<(), Exhausted> {
        let of_type = format!("{:?}", rules.type_name);
        if self.budget.is_spent() {
            self.error("FieldValueInvalid", path, Some(&of_type), OUT_OF_BUDGET);
            return Err(Exhausted);
        }
        let program = match &rule.program {
            Ok(program) => program,
            Err(why) => {
                let detail = format!("rule compile error: {why}");
                self.error("FieldValueInvalid", path, Some(&of_type), &detail);
                return Ok(());
            }
        };
        let optional = rule.given.optional_old_self == Some(true);
        let uses_old = program.uses("oldSelf");
        let old = node.old.filter(|old| !old.is_null());
        if uses_old && old.is_none() && !optional {
            return Ok(());
        }
        let old = match (old.map(|old| Val::of(old, &rules.kind)), optional) {
            (old, true) => Val::Optional(old.map(Rc::new)),
            (old, false) => old.unwrap_or(Val::Null),
        };
        let variables = [("self", Val::of(node.value, &rules.kind)), ("oldSelf", old)];
        self.budget.start();
        let result = program.run(&variables, &mut self.budget);
        if !self.budget.settle() {
            self.error("FieldValueInvalid", path, Some(&of_type), OUT_OF_BUDGET);
            return Err(Exhausted);
        }
        match result {
            Ok(Val::Bool(true)) => Ok(()),
            Ok(_) => {
                let detail = self.message(rules, rule, &variables, path)?;
                let value = match &*rules.type_name {
                    "object" | "array" => None,
                    _ => Some(node.value.to_string()),
                };
                let unchanged = !uses_old && node.is_unchanged();
                self.failed(rule, value.as_deref(), &detail, unchanged, path);
                Ok(())
            }
            Err(error) => {
                let detail = failure(&error, rule.given.shown());
                self.error("FieldValueInvalid", path, Some(&of_type), &detail);
                if error == EvalError::CallLimit { Err(Exhausted) } else { Ok(()) }
            }
        }
    }

    /// The message of a rule that does not hold.
    fn message(
        &mut self,
        rules: &Rules,
        rule: &Rule,
        variables: &[(&'static str, Val)],
        path: &str,
    ) -> Result<String, Exhausted> {
        let default = match rule.given.message.trim() {
            "" => format!("failed rule: {}", rule.given.shown()),
            message => message.to_owned(),
        };
        let Some(program) = &rule.message else { return Ok(default) };
        self.budget.start();
        let text = program.run(variables, &mut self.budget);
        let enough = self.budget.settle();
        let exhausted = match &text {
            Err(EvalError::CallLimit) => Some(format!(
                "no further validation rules will be run due to call cost exceeds limit for \
                 messageExpression: {:?}",
                rule.given.message_expression
            )),
            _ if !enough => Some(
                "messageExpression evaluation failed due to running out of cost budget, no \
                 further validation rules will be run"
                    .to_owned(),
            ),
            _ => None,
        };
        if let Some(detail) = exhausted {
            let of_type = format!("{:?}", rules.type_name);
            let path = below(path, &rule.field_path);
            self.error("FieldValueInvalid", &path, Some(&of_type), &detail);
            return Err(Exhausted);
        }
        // One that fails, or is not fit to be shown, is replaced by the message.
        Ok(match text {
            Ok(Val::Text(text)) => usable(&text).unwrap_or(default),
            _ => default,
        })
    }

    /// Reports a rule that does not hold; of an unchanged value, with a warning alone.
    fn failed(
        &mut self,
        rule: &Rule,
        value: Option<&str>,
        detail: &str,
        unchanged: bool,
        path: &str,
    ) {
        let path = below(path, &rule.field_path);
        let before = self.outcome.errors.len();
        match rule.given.reason.as_deref() {
            Some("FieldValueForbidden") => {
                self.push("FieldValueForbidden", &path, format!("Forbidden: {detail}"));
            }
            Some("FieldValueRequired") => {
                self.push("FieldValueRequired", &path, format!("Required value: {detail}"));
            }
            Some("FieldValueDuplicate") => {
                let value = value.map(|value| format!(": {value}")).unwrap_or_default();
                self.push("FieldValueDuplicate", &path, format!("Duplicate value{value}"));
            }
            _ => self.error("FieldValueInvalid", &path, value, detail),
        }
        if unchanged {
            let ratcheted = self.outcome.errors.drain(before..);
            let shown = ratcheted.map(|error| format!("{}: {}", error.field, error.message));
            self.outcome.warnings.extend(shown);
        }
    }

    fn error(&mut self, reason: &'static str, path: &str, value: Option<&str>, detail: &str) {
        let value = value.map(|value| format!(": {value}")).unwrap_or_default();
        self.push(reason, path, format!("Invalid value{value}: {detail}"));
    }

    fn push(&mut self, reason: &'static str, path: &str, message: String) {
        let field = if path.is_empty() { "<nil>" } else { path }.to_owned();
        self.outcome.errors.push(FieldError { reason, field, message });
    }
}

/// The detail for a rule that could not be evaluated.
fn failure(error: &EvalError, rule: &str) -> String {
    match error {
        EvalError::CallLimit => format!(
            "'operation cancelled: actual cost limit exceeded': no further validation rules will \
             be run due to call cost exceeds limit for rule: {rule}"
        ),
        EvalError::Overload => format!(
            "'no such overload': call arguments did not match a supported operator, function or \
             macro signature for rule: {rule}"
        ),
        EvalError::Failed(why) => format!("{why} evaluating rule: {rule}"),
    }
}

/// A message that may be shown.
fn usable(text: &Text) -> Option<String> {
    let text = text.trim();
    let fits = !text.is_empty() && text.len() <= MESSAGE && !text.contains('\n');
    fits.then(|| text.to_owned())
}

fn below(path: &str, field: &str) -> String {
    match (path, field) {
        (path, "") => path.to_owned(),
        ("", field) => field.to_owned(),
        (path, field) => format!("{path}.{field}"),
    }
}

/// The elements of the old list, by their keys.
struct ByKeys<'a> {
    keys: &'a [String],
    all: BTreeMap<Vec<String>, &'a Value>,
}

impl<'a> ByKeys<'a> {
    fn new(keys: &'a [String], olds: &'a [Value]) -> Self {
        let mut all = BTreeMap::new();
        for old in olds.iter().filter(|_| !keys.is_empty()) {
            all.entry(Self::id(keys, old)).or_insert(old);
        }
        Self { keys, all }
    }

    fn id(keys: &[String], item: &Value) -> Vec<String> {
        keys.iter().map(|key| item[key].to_string()).collect()
    }

    fn find(&self, item: &Value) -> Option<&'a Value> {
        self.all.get(&Self::id(self.keys, item)).copied()
    }
}

/// Parses `fieldPath`, such as `.spec['a-b'].c`, and returns it as errors show it.
fn field_path(given: &str) -> Option<String> {
    let mut path = String::new();
    for (name, quoted) in path_steps(given).ok()? {
        match quoted {
            true => path.push_str(&format!("[{name}]")),
            false if path.is_empty() => path.push_str(&name),
            false => path.push_str(&format!(".{name}")),
        }
    }
    Some(path)
}

/// A node with rules.
pub(super) struct Place<'a, 'p> {
    pub(super) schema: &'a Schema,
    /// The type of `self`.
    pub(super) kind: &'p Type,
    /// It is a resource, whose metadata has names.
    pub(super) root: bool,
    pub(super) path: &'p str,
    /// The list or map whose elements have no old state, within which it is.
    pub(super) uncorrelatable: Option<&'p str>,
    /// How many such values an object may have; `None` if there is a list or map without a limit
    /// around it.
    pub(super) count: Option<u64>,
}

/// Visits each node with rules, children first, as validation of a definition reports them.
pub(super) fn each_node<'a>(
    schema: &'a Schema,
    path: &str,
    visit: &mut impl FnMut(&Place<'a, '_>),
) {
    let Some(kind) = declare(schema, true, "selfType") else { return };
    let (root, uncorrelatable, count) = (true, None, Some(1));
    walk(&Place { schema, kind: &kind, root, path, uncorrelatable, count }, visit);
}

/// The type of `self` in the rules of a node: it is named after the node, as messages show.
fn self_type(schema: &Schema, kind: &Type, root: bool) -> Type {
    match schema.rules.is_empty() {
        true => kind.clone(),
        false => declare(schema, root, "selfType").unwrap_or_else(|| kind.clone()),
    }
}

fn walk<'a>(place: &Place<'a, '_>, visit: &mut impl FnMut(&Place<'a, '_>)) {
    let Place { schema, kind, path, .. } = *place;
    let count = place.count.and_then(|count| Some(count.saturating_mul(max_elements(schema)?)));
    let mut below = |below: &'a Schema, kind: Option<Type>, path: &str, lost: Option<&str>| {
        let Some(kind) = kind else { return };
        let (kind, root) = (&kind, below.embedded_resource);
        walk(&Place { schema: below, kind, root, path, uncorrelatable: lost, count }, visit);
    };
    if let Additional::Like(values) = &schema.additional {
        let path = format!("{path}.additionalProperties");
        below(values, element(kind), &path, place.uncorrelatable);
    }
    for (name, field) in &schema.properties {
        let path = format!("{path}.properties[{name}]");
        below(field, child(kind, name, field), &path, place.uncorrelatable);
    }
    if let Some(items) = &schema.items {
        // Only the elements of lists with keys have an old state.
        let lost = !matches!(schema.list, ListType::Map(_));
        let lost = place.uncorrelatable.or(lost.then_some(path));
        below(items, element(kind), &format!("{path}.items"), lost);
    }
    if !schema.rules.is_empty() {
        visit(&Place { kind: &self_type(schema, kind, place.root), ..*place });
    }
}

/// How many values of the schema below a node there may be in one of the node; `None` if the
/// schema does not limit them.
fn max_elements(schema: &Schema) -> Option<u64> {
    match (&*schema.type_name, &schema.additional) {
        ("array", _) => schema.items_count.max,
        ("object", Additional::Any | Additional::Like(_)) => schema.properties_count.max,
        _ => Some(1),
    }
}

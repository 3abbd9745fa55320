//! The expressions of a policy, compiled: by validation, which refuses those that do not compile, and for requests
//! (`k8s.io/apiserver/pkg/admission/plugin/cel`).

use crate::{
    cel::{CompileError, Program, types::Type},
    fields::{list, text},
};
use serde_json::Value;
use std::{collections::HashMap, sync::LazyLock};

/// The variable whose fields are the `variables` of a policy.
pub(crate) const VARIABLES: &str = "variables";

/// The variable that messages do not have.
const AUTHORIZER: &str = "authorizer";

/// The values that an expression may have.
#[derive(Clone, Copy)]
enum Returns {
    Bool,
    Text,
    TextOrNull,
    Any,
}

/// Why an expression is refused.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Refused {
    Invalid(String),
    /// cel-go fails when it makes the program.
    Internal(String),
}

/// A compiled expression.
#[derive(Debug)]
pub(crate) struct Expression {
    pub(crate) source: String,
    pub(crate) program: Result<Program, Refused>,
}

/// One of the `variables`.
#[derive(Debug)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) expression: Expression,
    /// The variables that it names, all of them before it.
    pub(crate) uses: Vec<usize>,
}

/// One of the `validations`.
#[derive(Debug)]
pub(crate) struct Validation {
    pub(crate) expression: Expression,
    pub(crate) message: String,
    pub(crate) message_expression: Option<Expression>,
    pub(crate) reason: String,
}

/// All expressions of a policy. Those that are empty do not compile.
#[derive(Debug)]
pub(crate) struct Expressions {
    pub(crate) match_conditions: Vec<Expression>,
    pub(crate) variables: Vec<Variable>,
    /// Where the variables of a name are: as in Kubernetes, the last one counts.
    pub(crate) by_name: HashMap<String, Vec<usize>>,
    pub(crate) validations: Vec<Validation>,
    /// With their keys.
    pub(crate) audit_annotations: Vec<(String, Expression)>,
}

impl Expressions {
    /// Compiles the expressions in the spec of a policy.
    pub(crate) fn of(spec: &Value) -> Self {
        let params = (!spec["paramKind"].is_null()).then_some(Type::Dyn);
        let mut scope = scope(Type::Dyn, params);
        let match_conditions = list(spec, &["matchConditions"]).iter().map(|condition| {
            compile(text(condition, &["expression"]).trim(), &scope, Returns::Bool)
        });
        let match_conditions = match_conditions.collect();
        let variables = variables(list(spec, &["variables"]), &mut scope);
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        for (n, variable) in variables.iter().enumerate() {
            by_name.entry(variable.name.clone()).or_default().push(n);
        }
        let mut of_messages = scope.clone();
        of_messages.retain(|(name, _)| *name != AUTHORIZER);
        let validations = list(spec, &["validations"]).iter().map(|validation| Validation {
            expression: compile(text(validation, &["expression"]), &scope, Returns::Bool),
            message: text(validation, &["message"]).trim().to_owned(),
            message_expression: Some(text(validation, &["messageExpression"]))
                .filter(|source| !source.trim().is_empty())
                .map(|source| compile(source, &of_messages, Returns::Text)),
            reason: text(validation, &["reason"]).to_owned(),
        });
        let audit_annotations = list(spec, &["auditAnnotations"]).iter().map(|annotation| {
            let source = text(annotation, &["valueExpression"]).trim();
            let expression = compile(source, &scope, Returns::TextOrNull);
            (text(annotation, &["key"]).to_owned(), expression)
        });
        Self {
            match_conditions,
            variables,
            by_name,
            validations: validations.collect(),
            audit_annotations: audit_annotations.collect(),
        }
    }
}

/// The variables of an expression and their types.
pub(super) type Scope = Vec<(&'static str, Type)>;

/// Returns the scope of expressions on objects of a type, with parameters if there are any, but without `variables`.
pub(super) fn scope(object: Type, params: Option<Type>) -> Scope {
    let mut scope = vec![
        ("object", object.clone()),
        ("oldObject", object),
        ("namespaceObject", NAMESPACE.clone()),
        ("request", REQUEST.clone()),
        (AUTHORIZER, Type::authorizer()),
    ];
    scope.extend(params.map(|params| ("params", params)));
    scope
}

/// Compiles the variables, each with those before it in scope, and adds them to the scope. There may be many.
pub(super) fn variables(given: &[Value], scope: &mut Scope) -> Vec<Variable> {
    let mut all: Vec<Variable> = Vec::new();
    let mut known: HashMap<&str, usize> = HashMap::new();
    if !given.is_empty() {
        scope.push((VARIABLES, Type::object("kubernetes.variables", [])));
    }
    for (n, variable) in given.iter().enumerate() {
        let expression = compile(text(variable, &["expression"]), scope, Returns::Any);
        let (mut uses, mut kind) = (Vec::new(), Type::Dyn);
        if let Ok(program) = &expression.program {
            uses.extend(program.fields_of(VARIABLES).filter_map(|name| known.get(name).copied()));
            kind = type_of_variable(&program.output);
        }
        let name = text(variable, &["name"]);
        known.insert(name, n);
        if let Some((_, fields)) = scope.last_mut() {
            fields.set_field(name, kind);
        }
        all.push(Variable { name: name.to_owned(), expression, uses });
    }
    all
}

/// Returns the type of a variable: of an object or a type of a library, nothing is known (`convertCelTypeToDeclType`).
fn type_of_variable(value: &Type) -> Type {
    match value {
        Type::List(list) => Type::list(type_of_variable(&list.element)),
        Type::Map(of) => Type::map(type_of_variable(&of.0), type_of_variable(&of.1)),
        Type::Null
        | Type::Bool
        | Type::Int
        | Type::Uint
        | Type::Double
        | Type::Text
        | Type::Bytes
        | Type::Duration
        | Type::Timestamp => value.clone(),
        Type::Dyn
        | Type::Error
        | Type::Object(_)
        | Type::Optional(_)
        | Type::Type
        | Type::Opaque(_)
        | Type::Param(_) => Type::Dyn,
    }
}

fn compile(source: &str, scope: &[(&str, Type)], returns: Returns) -> Expression {
    let program = Program::compile(source, scope).map_err(|error| match error {
        CompileError::Compilation(_) => Refused::Invalid(error.of("program")),
        CompileError::Instantiation(_) => Refused::Internal(error.of("program")),
    });
    let program = program.and_then(|program| match (returns, &program.output) {
        (Returns::Any, _)
        | (Returns::Bool, Type::Bool)
        | (Returns::Text | Returns::TextOrNull, Type::Text)
        | (Returns::TextOrNull, Type::Null) => Ok(program),
        (_, found) => {
            let expected = match returns {
                Returns::Bool => "bool",
                Returns::Text => "string",
                Returns::TextOrNull => "one of [string null_type]",
                Returns::Any => "dyn",
            };
            let found = match found {
                Type::Null => "null_type".to_owned(),
                other => other.to_string(),
            };
            Err(Refused::Invalid(format!("must evaluate to {expected} but got {found}")))
        }
    });
    Expression { source: source.to_owned(), program }
}

/// The type of `request` (`BuildRequestType`).
static REQUEST: LazyLock<Type> = LazyLock::new(|| {
    let text = || Type::Text;
    let kind = Type::object(
        "kubernetes.GroupVersionKind",
        [("group", text()), ("version", text()), ("kind", text())],
    );
    let resource = Type::object(
        "kubernetes.GroupVersionResource",
        [("group", text()), ("version", text()), ("resource", text())],
    );
    let user = Type::object(
        "kubernetes.UserInfo",
        [
            ("username", text()),
            ("uid", text()),
            ("groups", Type::list(text())),
            ("extra", Type::map(text(), Type::list(text()))),
        ],
    );
    Type::object(
        "kubernetes.AdmissionRequest",
        [
            ("kind", kind.clone()),
            ("resource", resource.clone()),
            ("subResource", text()),
            ("requestKind", kind),
            ("requestResource", resource),
            ("requestSubResource", text()),
            ("name", text()),
            ("namespace", text()),
            ("operation", text()),
            ("userInfo", user),
            ("dryRun", Type::Bool),
            ("options", Type::Dyn),
        ],
    )
});

/// The type of `namespaceObject` (`BuildNamespaceType`).
static NAMESPACE: LazyLock<Type> = LazyLock::new(|| {
    let text = || Type::Text;
    let texts = || Type::map(text(), text());
    let metadata = Type::object(
        "kubernetes.NamespaceMetadata",
        [
            ("name", text()),
            ("generateName", text()),
            ("namespace", text()),
            ("labels", texts()),
            ("annotations", texts()),
            // As in Kubernetes, where the field of the object is `uid`, so that this one is never set.
            ("UID", text()),
            ("creationTimestamp", Type::Timestamp),
            ("deletionGracePeriodSeconds", Type::Int),
            ("deletionTimestamp", Type::Timestamp),
            ("generation", Type::Int),
            ("resourceVersion", text()),
            ("finalizers", Type::list(text())),
        ],
    );
    let condition = Type::object(
        "kubernetes.NamespaceCondition",
        [
            ("status", text()),
            ("type", text()),
            ("lastTransitionTime", Type::Timestamp),
            ("message", text()),
            ("reason", text()),
        ],
    );
    let status = Type::object(
        "kubernetes.NamespaceStatus",
        [("conditions", Type::list(condition)), ("phase", text())],
    );
    let spec = Type::object("kubernetes.NamespaceSpec", [("finalizers", Type::list(text()))]);
    Type::object(
        "kubernetes.Namespace",
        [("metadata", metadata), ("spec", spec), ("status", status)],
    )
});

/// Returns the types of `request` and `namespaceObject`, by which their values are read.
pub(super) fn types() -> (&'static Type, &'static Type) {
    (&REQUEST, &NAMESPACE)
}

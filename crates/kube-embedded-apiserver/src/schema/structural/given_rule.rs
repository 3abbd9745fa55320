//! An entry of `x-kubernetes-validations`, and how it compiles for a type.

use crate::cel::{Program, types::Type};
use serde_json::Value;

/// One entry of `x-kubernetes-validations`, as it is given.
#[derive(Clone, Debug, Default)]
pub(crate) struct GivenRule {
    pub(crate) rule: String,
    pub(crate) message: String,
    pub(crate) message_expression: String,
    pub(crate) reason: Option<String>,
    pub(crate) field_path: String,
    pub(crate) optional_old_self: Option<bool>,
}

impl GivenRule {
    /// Parses the rules of a node.
    pub(crate) fn parse(given: &Value) -> Vec<Self> {
        let rules = given.as_array().into_iter().flatten();
        rules
            .map(|rule| {
                let text = |field: &str| rule[field].as_str().unwrap_or_default().to_owned();
                Self {
                    rule: text("rule"),
                    message: text("message"),
                    message_expression: text("messageExpression"),
                    reason: rule["reason"].as_str().map(str::to_owned),
                    field_path: text("fieldPath"),
                    optional_old_self: rule["optionalOldSelf"].as_bool(),
                }
            })
            .collect()
    }

    /// What messages call the rule.
    pub(super) fn shown(&self) -> &str {
        if self.message.is_empty() { self.rule.trim() } else { self.message.trim() }
    }

    /// Compiles the rule for values of a type.
    ///
    /// # Errors
    /// Why it does not compile.
    pub(crate) fn compile(&self, kind: &Type) -> Result<Program, String> {
        let program = Program::compile(&self.rule, &self.variables(kind))
            .map_err(|error| error.of("program"))?;
        match program.output {
            Type::Bool => Ok(program),
            _ => Err("cel expression must evaluate to a bool".to_owned()),
        }
    }

    /// Compiles `messageExpression`.
    ///
    /// # Errors
    /// Why it does not compile.
    pub(crate) fn compile_message(&self, kind: &Type) -> Result<Option<Program>, String> {
        if self.message_expression.is_empty() {
            return Ok(None);
        }
        let program = Program::compile(&self.message_expression, &self.variables(kind))
            .map_err(|error| error.of("messageExpression"))?;
        match program.output {
            Type::Text => Ok(Some(program)),
            _ => Err("messageExpression must evaluate to a string".to_owned()),
        }
    }

    /// The variables of both expressions, for values of a type.
    pub(super) fn variables(&self, kind: &Type) -> [(&'static str, Type); 2] {
        let old = match self.optional_old_self {
            Some(true) => Type::optional(kind.clone()),
            _ => kind.clone(),
        };
        [("self", kind.clone()), ("oldSelf", old)]
    }
}

/// The steps of a path of names, and whether each is in brackets.
pub(super) fn path_steps(given: &str) -> Result<Vec<(String, bool)>, ()> {
    let mut steps = Vec::new();
    let mut rest = given;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("['") {
            let end = after.find("']").ok_or(())?;
            let (name, after) = after.split_at(end);
            steps.push((name.replace("\\'", "'"), true));
            rest = after.get(2..).ok_or(())?;
        } else {
            let after = rest.strip_prefix('.').ok_or(())?;
            let end = after.find(['.', '[']).unwrap_or(after.len());
            let (name, after) = after.split_at(end);
            steps.push((name.to_owned(), false));
            rest = after;
        }
    }
    Ok(steps)
}

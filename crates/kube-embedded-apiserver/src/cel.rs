//! The Common Expression Language, as rules of CustomResourceDefinitions and admission policies are written in it:
//! parsed, checked against types, and evaluated within a budget.
//!
//! Stands for `github.com/google/cel-go` with the libraries of `k8s.io/apiserver/pkg/cel`. It is our
//! own because the crates for it neither check types, by which Kubernetes refuses a bad rule when
//! its definition is created, nor bound what an evaluation costs. Knows no schemas.

mod address;
mod ast;
pub(crate) mod authorization;
mod budget;
mod checker;
pub(crate) mod cost;
mod interpreter;
mod lexer;
mod library;
mod parser;
mod quantity;
mod timestamp;
pub(crate) mod types;
mod url;
mod validators;
pub(crate) mod value;

#[cfg(test)]
mod tests;

pub(crate) use budget::{Budget, EvalError};
pub(crate) use interpreter::Deferred;
pub(crate) use lexer::RESERVED;

use checker::Refused;
use std::collections::BTreeSet;
use types::Type;
use value::Val;

/// Why an expression does not compile.
#[derive(Debug, PartialEq)]
pub(crate) enum CompileError {
    /// Errors, each with its place.
    Compilation(String),
    /// A pattern that is none.
    Instantiation(String),
}

impl CompileError {
    /// The error as Kubernetes shows it, of an expression of some kind.
    pub(crate) fn of(self, what: &str) -> String {
        match self {
            Self::Compilation(errors) if what == "program" => {
                format!("compilation failed: {errors}")
            }
            Self::Compilation(errors) => format!("{what} compilation failed: {errors}"),
            Self::Instantiation(why) => format!("{what} instantiation failed: {why}"),
        }
    }
}

/// A checked expression.
#[derive(Debug)]
pub(crate) struct Program {
    expr: ast::Expr,
    /// The calls whose overload is chosen when they are evaluated.
    dynamic: BTreeSet<usize>,
    /// The type of its value.
    pub(crate) output: Type,
    /// The variables that it refers to, and their fields: `a`, `a.b`.
    variables: BTreeSet<String>,
}

impl Program {
    /// Compiles an expression over variables of given types.
    ///
    /// # Errors
    /// Those of cel-go, each with the line and a mark below it.
    pub(crate) fn compile(source: &str, variables: &[(&str, Type)]) -> Result<Self, CompileError> {
        let shown = |errors: Vec<(usize, String)>| {
            let mut errors = errors;
            errors.sort_by_key(|(at, _)| *at);
            let all: Vec<String> =
                errors.into_iter().map(|(at, message)| marked(source, at, &message)).collect();
            CompileError::Compilation(all.join("\n"))
        };
        let expr = parser::parse(source).map_err(shown)?;
        let checked = checker::check(&expr, variables).map_err(|refused| match refused {
            Refused::Errors(errors) => shown(errors),
            Refused::Late(why) => CompileError::Instantiation(why),
        })?;
        let checker::Checked { output, variables, dynamic, .. } = checked;
        Ok(Self { expr, dynamic, output, variables })
    }

    /// Estimates what evaluating the expression over variables of given types and sizes costs.
    pub(crate) fn estimate(&self, variables: &[(&str, Type)], sizes: &cost::Sizes) -> cost::Range {
        match checker::check(&self.expr, variables) {
            Ok(checked) => cost::estimate(&self.expr, &checked.types, sizes),
            // It was checked when it was compiled.
            Err(_) => cost::Range::UNKNOWN,
        }
    }

    /// Returns the fields of a variable that the expression names.
    pub(crate) fn fields_of<'p>(&'p self, variable: &'p str) -> impl Iterator<Item = &'p str> {
        let all = self.variables.iter().filter_map(|name| name.split_once('.'));
        all.filter(move |(of, _)| *of == variable).map(|(_, field)| field)
    }

    /// Returns true if the expression refers to a variable.
    pub(crate) fn uses(&self, variable: &str) -> bool {
        self.variables.contains(variable)
    }

    /// Evaluates the expression.
    ///
    /// # Errors
    /// The expression failed, or the budget is spent.
    pub(crate) fn run<'a>(
        &'a self,
        variables: &[(&'a str, Val<'a>)],
        budget: &mut Budget,
    ) -> Result<Val<'a>, EvalError> {
        interpreter::run((&self.expr, &self.dynamic), variables, None, budget)
    }

    /// Evaluates the expression, and what it accesses of [`Val::Deferred`].
    ///
    /// # Errors
    /// Those of [`Program::run`].
    pub(crate) fn run_with<'a>(
        &'a self,
        variables: &[(&'a str, Val<'a>)],
        deferred: &dyn Deferred<'a>,
        budget: &mut Budget,
    ) -> Result<Val<'a>, EvalError> {
        interpreter::run((&self.expr, &self.dynamic), variables, Some(deferred), budget)
    }
}

/// An error as cel-go displays it; `at` counts characters.
fn marked(source: &str, at: usize, message: &str) -> String {
    let (mut line, mut column) = (1, 0);
    for c in source.chars().take(at) {
        if c == '\n' {
            (line, column) = (line + 1, 0);
        } else {
            column += 1;
        }
    }
    let text = source.lines().nth(line - 1).unwrap_or_default().replace('\t', " ");
    let mark = |narrow, wide, c: char| if c.is_ascii() { narrow } else { wide };
    let dots: String = text.chars().take(column).map(|c| mark('.', '．', c)).collect();
    let below = mark('^', '＾', text.chars().nth(column).unwrap_or(' '));
    format!("ERROR: <input>:{line}:{}: {message}\n | {text}\n | {dots}{below}", column + 1)
}

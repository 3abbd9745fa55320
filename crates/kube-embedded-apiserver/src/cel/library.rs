//! The functions of expressions: a table of names, types and implementations.
//!
//! Stands for cel-go's standard library, its extensions `Strings` (version 2), `Sets`, `Lists`
//! (version 3) and optional types, and `k8s.io/apiserver/pkg/cel/library`. What
//! is not in the table does not compile.

mod authorization;
pub(super) mod format;
mod kubernetes;
mod lists;
mod network;
mod numbers;
mod operators;
mod strings;
mod table;
mod text_format;
mod time;

use crate::cel::{
    budget::{Budget, EvalError},
    types::Type,
    value::Val,
};
use crate::pattern::Pattern;
use std::{collections::HashMap, fmt, sync::LazyLock};
use table::{Row, Run};

/// A function, with its overloads of all rows.
pub(super) struct Function {
    overloads: Vec<Overload>,
    runs: Vec<Run>,
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} overloads", self.overloads.len())
    }
}

/// The types of a function.
pub(super) struct Overload {
    /// The first argument stands before the dot.
    pub(super) method: bool,
    pub(super) args: Vec<Type>,
    pub(super) result: Type,
}

impl Overload {
    fn parse(text: &str) -> Self {
        let (before, result) = text.rsplit_once(") ").unwrap_or_default();
        let (target, args) = before.split_once('(').unwrap_or_default();
        let target = target.strip_suffix('.');
        let args = args.split(", ").filter(|arg| !arg.is_empty());
        Self {
            method: target.is_some(),
            args: target.into_iter().chain(args).map(Type::parse).collect(),
            result: Type::parse(result),
        }
    }
}

static FUNCTIONS: LazyLock<HashMap<&str, Function>> = LazyLock::new(|| {
    let mut all: HashMap<&str, Function> = HashMap::new();
    let tables = [
        operators::TABLE,
        numbers::TABLE,
        strings::TABLE,
        text_format::TABLE,
        format::TABLE,
        lists::TABLE,
        time::TABLE,
        network::TABLE,
        kubernetes::TABLE,
        authorization::TABLE,
    ];
    for Row(name, overloads, run) in tables.into_iter().flatten() {
        let empty = || Function { overloads: Vec::new(), runs: Vec::new() };
        let function = all.entry(*name).or_insert_with(empty);
        function.overloads.extend(overloads.iter().map(|text| Overload::parse(text)));
        function.runs.push(*run);
    }
    all
});

/// Returns the function of a name.
pub(super) fn function(name: &str) -> Option<&'static Function> {
    FUNCTIONS.get(name)
}

/// Returns the overloads that take arguments of given types, with the type parameters bound.
pub(super) fn matching<'t>(
    function: &'static Function,
    method: bool,
    args: &'t [Type],
) -> impl Iterator<Item = (&'static Overload, [Option<Type>; 2])> + 't {
    let all = function.overloads.iter().filter(move |one| one.method == method);
    all.filter(|one| one.args.len() == args.len()).filter_map(move |one| {
        let mut bound = [None, None];
        let fits = one.args.iter().zip(args).all(|(arg, kind)| arg.accepts(kind, &mut bound));
        fits.then_some((one, bound))
    })
}

/// Calls a function.
pub(super) fn run<'a>(
    function: &Function,
    args: &[Val<'a>],
    budget: &mut Budget,
) -> Result<Val<'a>, EvalError> {
    budget.charge(1)?;
    for run in &function.runs {
        match run(args, budget) {
            Err(EvalError::Overload) => {}
            other => return other,
        }
    }
    Err(EvalError::Overload)
}

/// The names of types that are values.
const TYPES: [&str; 10] =
    ["bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type", "type"];

pub(super) fn type_of_name(name: &str) -> Option<&'static str> {
    TYPES.into_iter().find(|known| *known == name)
}

pub(super) fn is_type(name: &str) -> bool {
    type_of_name(name).is_some()
}

/// Returns the error of a literal pattern that cel-go compiles when it makes the program: that of
/// `find`, and of `matches` as a function.
pub(super) fn pattern_error(function: &str, method: bool, literal: Option<&str>) -> Option<String> {
    let early = matches!((function, method), ("find" | "findAll", _) | ("matches", false));
    let literal = literal.filter(|_| early)?;
    Pattern::new(literal).err().map(|error| strings::pattern_message(literal, &error))
}

//! The type checker, with the errors of cel-go.

use crate::cel::{
    ast::{Expr, Kind, Macro, MacroKind},
    lexer::Located,
    library,
    types::Type,
};
use std::collections::{BTreeSet, HashMap};

/// The types of all parts of an expression, by their numbers.
pub(super) type Types = HashMap<usize, Type>;

/// What checking finds out.
pub(super) struct Checked {
    pub(super) output: Type,
    pub(super) variables: BTreeSet<String>,
    pub(super) types: Types,
    /// The calls whose overload is chosen when they are evaluated, by their numbers.
    pub(super) dynamic: BTreeSet<usize>,
}

/// Why an expression is refused.
pub(super) enum Refused {
    Errors(Vec<Located>),
    Late(String),
}

/// Checks an expression over variables of given types.
///
/// # Errors
/// All that are found, with their places.
pub(super) fn check(expr: &Expr, variables: &[(&str, Type)]) -> Result<Checked, Refused> {
    let scopes = variables.iter().map(|(name, kind)| ((*name).to_owned(), kind.clone())).collect();
    let mut checker = Checker {
        globals: variables.len(),
        scopes,
        errors: Vec::new(),
        mixed: Vec::new(),
        used: BTreeSet::new(),
        types: Types::new(),
        dynamic: BTreeSet::new(),
        mixes: false,
        late: None,
    };
    let output = checker.expr(expr);
    let errors = if checker.errors.is_empty() { checker.mixed } else { checker.errors };
    match (errors.is_empty(), checker.late) {
        (false, _) => Err(Refused::Errors(errors)),
        (true, Some(late)) => Err(Refused::Late(late)),
        (true, None) => {
            let Checker { used: variables, types, dynamic, .. } = checker;
            Ok(Checked { output, variables, types, dynamic })
        }
    }
}

struct Checker {
    /// The inner ones last.
    scopes: Vec<(String, Type)>,
    /// How many of them are variables of the expression.
    globals: usize,
    errors: Vec<Located>,
    /// Elements of literals that are of another type than those before. They count where nothing else is wrong.
    mixed: Vec<Located>,
    used: BTreeSet<String>,
    types: Types,
    dynamic: BTreeSet<usize>,
    /// Lists may have elements of different types: the values of `format`.
    mixes: bool,
    /// An error of a program that has none of its types.
    late: Option<String>,
}

impl Checker {
    fn error(&mut self, at: usize, message: String) -> Type {
        self.errors.push((at, message));
        Type::Error
    }

    fn expect_bool(&mut self, expr: &Expr) -> Type {
        let found = self.expr(expr);
        match Type::Bool.accepts(&found, &mut [None, None]) {
            true => Type::Bool,
            false => self.error(expr.at, format!("expected type 'bool' but found '{found}'")),
        }
    }

    fn expect_bools(&mut self, all: &[Expr]) -> Type {
        // One alone stands for parentheses.
        if let [one] = all {
            return self.expr(one);
        }
        let found: Vec<Type> = all.iter().map(|one| self.expect_bool(one)).collect();
        found.into_iter().find(|one| matches!(one, Type::Error)).unwrap_or(Type::Bool)
    }

    fn expr(&mut self, expr: &Expr) -> Type {
        let kind = self.type_of(expr);
        self.types.insert(expr.id, kind.clone());
        kind
    }

    fn type_of(&mut self, expr: &Expr) -> Type {
        match &expr.kind {
            Kind::Null => Type::Null,
            Kind::Bool(_) => Type::Bool,
            Kind::Int(_) => Type::Int,
            Kind::Uint(_) => Type::Uint,
            Kind::Double(_) => Type::Double,
            Kind::Text(_) => Type::Text,
            Kind::Bytes(_) => Type::Bytes,
            Kind::Ident(name) => self.variable(expr.at, name),
            Kind::Select { of, field, optional } => self.select(expr.at, of, field, *optional),
            Kind::Has { of, field } => {
                self.select(expr.at, of, field, false);
                Type::Bool
            }
            Kind::Call { name, method, args, .. } => self.call(expr, name, *method, args),
            Kind::And(all) | Kind::Or(all) => self.expect_bools(all),
            Kind::Conditional(of) => self.conditional(expr.at, of),
            Kind::List(all) => self.list(all),
            Kind::Map(all) => self.map(all),
            Kind::Macro(of) => self.comprehension(of),
        }
    }

    fn variable(&mut self, at: usize, name: &str) -> Type {
        let found = self.scopes.iter().rposition(|(known, _)| known == name);
        if let Some((n, (_, kind))) = found.and_then(|n| Some((n, self.scopes.get(n)?))) {
            if n < self.globals {
                self.used.insert(name.to_owned());
            }
            return kind.clone();
        }
        match library::is_type(name) {
            true => Type::Type,
            false => self.error(at, format!("undeclared reference to '{name}' (in container '')")),
        }
    }

    fn select(&mut self, at: usize, of: &Expr, field: &str, optional: bool) -> Type {
        let (kind, chained) = match self.expr(of) {
            Type::Optional(inside) => ((*inside).clone(), true),
            other => (other, false),
        };
        let found = match &kind {
            Type::Dyn | Type::Error => Type::Dyn,
            Type::Map(of) => of.1.clone(),
            Type::Object(kind) => match kind.field(field) {
                Some(found) => {
                    self.note_field(of, field);
                    found.kind.clone()
                }
                None => self.error(at, format!("undefined field '{field}'")),
            },
            other => self.error(at, format!("type '{other}' does not support field selection")),
        };
        match optional || chained {
            true if !matches!(found, Type::Optional(_)) => Type::optional(found),
            _ => found,
        }
    }

    /// Notes a field of a variable of the expression.
    fn note_field(&mut self, of: &Expr, field: &str) {
        if let Kind::Ident(name) = &of.kind
            && self.scopes.iter().rposition(|(known, _)| known == name) < Some(self.globals)
        {
            self.used.insert(format!("{name}.{field}"));
        }
    }

    fn call(&mut self, call: &Expr, name: &str, method: bool, args: &[Expr]) -> Type {
        let at = call.at;
        let outer = std::mem::replace(&mut self.mixes, name == "format");
        let kinds: Vec<Type> = args.iter().map(|arg| self.expr(arg)).collect();
        self.mixes = outer;
        let Some(function) = library::function(name) else {
            return self.error(at, format!("undeclared reference to '{name}' (in container '')"));
        };
        let mut results: Vec<Type> = Vec::new();
        for (overload, bound) in library::matching(function, method, &kinds) {
            results.push(overload.result.substitute(&bound));
        }
        if let Some((at, message)) = library::literal_error(name, method, args.iter().map(literal))
        {
            let at = args.get(at).map_or(0, |arg| arg.at);
            return self.error(at, message);
        }
        let pattern = args.get(1).and_then(literal);
        self.late = self.late.take().or(library::pattern_error(name, method, pattern));
        let Some(first) = results.first().cloned() else {
            let shown: Vec<String> = kinds.iter().map(Type::to_string).collect();
            let shown = match (method, shown.split_first()) {
                (true, Some((target, rest))) => format!("{target}.({})", rest.join(", ")),
                _ => format!("({})", shown.join(", ")),
            };
            let what = "found no matching overload for";
            return self.error(at, format!("{what} '{name}' applied to '{shown}'"));
        };
        if results.len() > 1 {
            self.dynamic.insert(call.id);
        }
        // An argument of any type decides only when it is evaluated.
        let same = results.iter().all(|one| one.to_string() == first.to_string());
        if same { first } else { Type::Dyn }
    }

    fn conditional(&mut self, at: usize, of: &[Expr; 3]) -> Type {
        let [condition, yes, no] = of;
        let [condition, yes, no] = [self.expr(condition), self.expr(yes), self.expr(no)];
        let same = join(&yes, &no);
        match same.filter(|_| Type::Bool.accepts(&condition, &mut [None, None])) {
            Some(kind) => kind,
            None => {
                let what = "found no matching overload for '_?_:_' applied to";
                self.error(at, format!("{what} '({condition}, {yes}, {no})'"))
            }
        }
    }

    fn list(&mut self, all: &[(Expr, bool)]) -> Type {
        let mut element: Option<Type> = None;
        for (one, optional) in all {
            let mut found = self.expr(one);
            if *optional {
                match &found {
                    Type::Optional(of) => found = (**of).clone(),
                    Type::Dyn | Type::Error => {}
                    other => {
                        let what =
                            format!("expected type 'optional_type(dyn)' but found '{other}'");
                        self.error(one.at, what);
                    }
                }
            }
            element = Some(self.same(one.at, element, found));
        }
        Type::list(element.unwrap_or(Type::Dyn))
    }

    fn map(&mut self, all: &[(Expr, Expr)]) -> Type {
        let (mut key, mut value) = (None, None);
        for (one, of) in all {
            let found = self.expr(one);
            key = Some(self.same(one.at, key, found));
            let found = self.expr(of);
            value = Some(self.same(of.at, value, found));
        }
        Type::map(key.unwrap_or(Type::Dyn), value.unwrap_or(Type::Dyn))
    }

    /// The elements of a literal are of one type.
    fn same(&mut self, at: usize, before: Option<Type>, found: Type) -> Type {
        let Some(before) = before else { return found };
        match join(&before, &found) {
            Some(both) => both,
            None if self.mixes => Type::Dyn,
            None => {
                self.mixed.push((at, format!("expected type '{before}' but found '{found}'")));
                Type::Dyn
            }
        }
    }

    fn comprehension(&mut self, of: &Macro) -> Type {
        let Macro { kind, over, variable, second, condition, body } = of;
        let range = self.expr(over);
        let for_optionals = matches!(kind, MacroKind::OptMap | MacroKind::OptFlatMap);
        let (first, value, optional) = match &range {
            Type::List(list) => match second {
                Some(_) => (Type::Int, list.element.clone(), false),
                None => (list.element.clone(), Type::Dyn, false),
            },
            Type::Map(of) => (of.0.clone(), of.1.clone(), false),
            Type::Dyn => (Type::Dyn, Type::Dyn, false),
            Type::Optional(of) if for_optionals => ((**of).clone(), Type::Dyn, true),
            _ => (Type::Error, Type::Error, false),
        };
        let iterable = matches!(range, Type::List(_) | Type::Map(_) | Type::Dyn | Type::Error);
        if for_optionals != optional && !matches!(range, Type::Dyn | Type::Error)
            || !for_optionals && !iterable
        {
            let what = "cannot be range of a comprehension (must be list, map, or dynamic)";
            self.error(over.at, format!("expression of type '{range}' {what}"));
        }
        let outer = self.scopes.len();
        let second_is_index = matches!(range, Type::List(_));
        self.scopes.push((variable.clone(), first.clone()));
        if let Some(second) = second {
            self.scopes.push((second.clone(), value));
        }
        if let Some(condition) = condition {
            self.expect_bool(condition);
        }
        let body = body.as_ref().map(|body| self.expr(body));
        self.scopes.truncate(outer);
        match (kind, body) {
            (MacroKind::Map, Some(body)) => Type::list(body),
            (MacroKind::TransformMap, Some(body)) => {
                Type::map(if second_is_index { Type::Int } else { first }, body)
            }
            (MacroKind::SortBy, _) => range,
            (MacroKind::OptMap, Some(body)) => Type::optional(body),
            (MacroKind::OptFlatMap, Some(body)) => body,
            (MacroKind::Filter, _) => match range {
                Type::Map(of) => Type::list(of.0.clone()),
                Type::List(list) => Type::list(list.element.clone()),
                _ => Type::list(Type::Dyn),
            },
            _ => Type::Bool,
        }
    }
}

/// Returns the type of values of either type, if there is one.
fn join(a: &Type, b: &Type) -> Option<Type> {
    let mut bound = [None, None];
    let both = Type::Param(0);
    (both.accepts(a, &mut bound) && both.accepts(b, &mut bound)).then(|| both.substitute(&bound))
}

/// Returns the text of a literal.
fn literal(expr: &Expr) -> Option<&str> {
    match &expr.kind {
        Kind::Text(text) => Some(text),
        _ => None,
    }
}

//! The type checker, with the errors of cel-go.

use crate::cel::{
    ast::{Expr, Kind, Macro, MacroKind},
    lexer::Located,
    library,
    types::Type,
    validators,
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
        invalid: Vec::new(),
        used: BTreeSet::new(),
        types: Types::new(),
        dynamic: BTreeSet::new(),
        mixes: false,
        late: None,
    };
    let output = checker.expr(expr);
    let errors = if checker.errors.is_empty() { checker.invalid } else { checker.errors };
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
    /// The errors of cel-go's validators, which see only expressions whose types are right: literals
    /// that a function cannot take, and elements of another type than the first.
    invalid: Vec<Located>,
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
            Kind::Macro(of) => match of.kind {
                MacroKind::OptMap | MacroKind::OptFlatMap => self.optional(expr.at, of),
                _ => self.comprehension(expr.at, of),
            },
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
        let outer = self.mixes;
        self.mixes |= name == "format";
        let kinds: Vec<Type> = args.iter().map(|arg| self.expr(arg)).collect();
        self.mixes = outer;
        let Some(function) = library::function(name) else {
            return self.error(at, format!("undeclared reference to '{name}' (in container '')"));
        };
        let mut results: Vec<Type> = Vec::new();
        for (overload, bound) in library::matching(function, method, &kinds) {
            results.push(overload.result.substitute(&bound));
        }
        let type_of = |of: &Expr| self.types.get(&of.id).cloned().unwrap_or(Type::Dyn);
        let invalid = validators::literal_error(call, (name, method), args, &type_of);
        self.invalid.extend(invalid);
        let pattern = args.get(1).and_then(Expr::text);
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
            None => self.no_choice(at, &condition, &yes, &no),
        }
    }

    fn list(&mut self, all: &[(Expr, bool)]) -> Type {
        let mut elements = Elements::default();
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
            // `optional.none()` may be of any type.
            if !(*optional && matches!(found, Type::Dyn)) {
                elements.add(one.at, found);
            }
        }
        // Of a list only the first is reported.
        elements.mixed.truncate(1);
        Type::list(self.joined(elements))
    }

    fn map(&mut self, all: &[(Expr, Expr)]) -> Type {
        let (mut keys, mut values) = (Elements::default(), Elements::default());
        for (key, value) in all {
            let found = self.expr(key);
            keys.add(key.at, found);
            let found = self.expr(value);
            values.add(value.at, found);
        }
        Type::map(self.joined(keys), self.joined(values))
    }

    /// Returns the type of the elements of a literal, which are of one type except for the values of `format`.
    fn joined(&mut self, elements: Elements) -> Type {
        if !self.mixes {
            self.invalid.extend(elements.mixed);
        }
        elements.joined.unwrap_or(Type::Dyn)
    }

    fn comprehension(&mut self, at: usize, of: &Macro) -> Type {
        let Macro { kind, over, variable, second, condition, body } = of;
        let range = self.expr(over);
        let (first, value) = match &range {
            Type::List(list) => match second {
                Some(_) => (Type::Int, list.element.clone()),
                None => (list.element.clone(), Type::Dyn),
            },
            Type::Map(of) => (of.0.clone(), of.1.clone()),
            Type::Dyn => (Type::Dyn, Type::Dyn),
            _ => (Type::Error, Type::Error),
        };
        if !matches!(range, Type::List(_) | Type::Map(_) | Type::Dyn | Type::Error) {
            let what = "cannot be range of a comprehension (must be list, map, or dynamic)";
            self.error(over.at, format!("expression of type '{range}' {what}"));
        }
        let outer = self.scopes.len();
        let second_is_index = matches!(range, Type::List(_));
        self.scopes.push((variable.clone(), first.clone()));
        if let Some(second) = second {
            self.scopes.push((second.clone(), value));
        }
        let condition = condition.as_ref().map(|one| match kind {
            MacroKind::All | MacroKind::Exists => self.expect_bool(one),
            _ => self.expr(one),
        });
        let body = body.as_ref().map(|body| self.expr(body));
        self.scopes.truncate(outer);
        let result = match (kind, body) {
            (MacroKind::Map, Some(body)) => Type::list(body),
            (MacroKind::TransformMap, Some(body)) => {
                Type::map(if second_is_index { Type::Int } else { first }, body)
            }
            (MacroKind::TransformMapEntry, Some(body)) => self.entries(at, body),
            (MacroKind::SortBy, _) => range,
            (MacroKind::Filter, _) => match range {
                Type::Map(of) => Type::list(of.0.clone()),
                Type::List(list) => Type::list(list.element.clone()),
                _ => Type::list(Type::Dyn),
            },
            (MacroKind::ExistsOne, _) => Type::Int,
            _ => Type::Bool,
        };
        if let Some(condition) = condition
            && !Type::Bool.accepts(&condition, &mut [None, None])
        {
            self.no_choice(at, &condition, &result, &result);
        }
        if *kind == MacroKind::ExistsOne { Type::Bool } else { result }
    }

    /// The value of `transformMapEntry`, of which each body is a map.
    fn entries(&mut self, at: usize, body: Type) -> Type {
        let any = Type::map(Type::Dyn, Type::Dyn);
        match body {
            Type::Map(_) => body,
            Type::Dyn | Type::Error => any,
            other => {
                let what = "found no matching overload for 'cel.@mapInsert' applied to";
                self.error(at, format!("{what} '({any}, {other})'"));
                any
            }
        }
    }

    /// `optMap` and `optFlatMap`: `of.hasValue() ? optional.of(body) : optional.none()`, and without
    /// `optional.of`, where the body sees `of.value()`.
    fn optional(&mut self, at: usize, of: &Macro) -> Type {
        let (condition, inside) = match self.expr(&of.over) {
            Type::Optional(inside) => (Type::Bool, (*inside).clone()),
            Type::Dyn => (Type::Bool, Type::Dyn),
            Type::Error => (Type::Error, Type::Error),
            other => {
                for function in ["hasValue", "value"] {
                    let what = format!("found no matching overload for '{function}' applied to");
                    self.error(at, format!("{what} '{other}.()'"));
                }
                (Type::Error, Type::Error)
            }
        };
        self.scopes.push((of.variable.clone(), inside));
        let body = of.body.as_ref().map_or(Type::Error, |body| self.expr(body));
        self.scopes.pop();
        let body = if of.kind == MacroKind::OptMap { Type::optional(body) } else { body };
        let none = Type::optional(Type::Dyn);
        match join(&body, &none) {
            Some(_) => body,
            None => self.no_choice(at, &condition, &body, &none),
        }
    }

    fn no_choice(&mut self, at: usize, condition: &Type, yes: &Type, no: &Type) -> Type {
        let what = "found no matching overload for '_?_:_' applied to";
        self.error(at, format!("{what} '({condition}, {yes}, {no})'"))
    }
}

/// The elements of a literal.
#[derive(Default)]
struct Elements {
    first: Option<Type>,
    joined: Option<Type>,
    /// Those of another type than the first.
    mixed: Vec<Located>,
}

impl Elements {
    fn add(&mut self, at: usize, found: Type) {
        let (Some(first), Some(joined)) = (&self.first, self.joined.take()) else {
            (self.first, self.joined) = (Some(found.clone()), Some(found));
            return;
        };
        // `dyn` and `null` may stand for the others, and are still not of their type.
        let is_same = match (first, &found) {
            (Type::Error, _) | (_, Type::Error) => true,
            (Type::Dyn | Type::Null, _) | (_, Type::Dyn | Type::Null) => {
                std::mem::discriminant(first) == std::mem::discriminant(&found)
            }
            _ => join(first, &found).is_some(),
        };
        if !is_same {
            self.mixed.push((at, format!("expected type '{first}' but found '{found}'")));
        }
        self.joined = Some(join(&joined, &found).unwrap_or(Type::Dyn));
    }
}

/// Returns the type of values of either type, if there is one.
fn join(a: &Type, b: &Type) -> Option<Type> {
    if matches!((a, b), (Type::Dyn, _) | (_, Type::Dyn)) {
        return Some(Type::Dyn);
    }
    let mut bound = [None, None];
    let both = Type::Param(0);
    (both.accepts(a, &mut bound) && both.accepts(b, &mut bound)).then(|| both.substitute(&bound))
}

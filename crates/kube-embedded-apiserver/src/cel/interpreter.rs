//! Evaluates syntax trees. What the type checker has left open (`dyn`) is checked here.

use crate::cel::{
    ast::{Expr, Kind, Macro, MacroKind},
    budget::{Budget, EvalError},
    cost::{
        ACCESS, Loop, NEW_LIST, NEW_MAP,
        calls::{self, Called},
    },
    library::{self, Function},
    value::{Text, Val, equal, sort},
};
use std::{collections::BTreeSet, rc::Rc};

type Evaluated<'a> = Result<Val<'a>, EvalError>;

/// The fields of [`Val::Deferred`].
pub(crate) trait Deferred<'a> {
    /// Evaluates a field; `None` if there is none of the name.
    fn field(&self, name: &str, budget: &mut Budget) -> Option<Evaluated<'a>>;
}

/// Evaluates an expression, of which some calls are dynamic, with variables.
pub(super) fn run<'a>(
    (expr, dynamic): (&'a Expr, &BTreeSet<usize>),
    variables: &[(&'a str, Val<'a>)],
    deferred: Option<&dyn Deferred<'a>>,
    budget: &mut Budget,
) -> Evaluated<'a> {
    Interpreter { scopes: variables.to_vec(), dynamic, deferred, budget }.expr(expr)
}

struct Interpreter<'a, 'b> {
    scopes: Vec<(&'a str, Val<'a>)>,
    /// The calls whose overload is chosen here, by their numbers.
    dynamic: &'b BTreeSet<usize>,
    deferred: Option<&'b dyn Deferred<'a>>,
    budget: &'b mut Budget,
}

/// What a comprehension has found so far.
#[derive(Default)]
struct Collected<'a> {
    /// No further element matters.
    decided: bool,
    failed: Option<EvalError>,
    /// How many elements hold.
    found: usize,
    values: Vec<Val<'a>>,
    /// Keys and values.
    pairs: Vec<(Val<'a>, Val<'a>)>,
}

impl<'a> Interpreter<'a, '_> {
    fn expr(&mut self, expr: &'a Expr) -> Evaluated<'a> {
        let before = self.budget.spent();
        let value = self.evaluate(expr)?;
        if expr.is_constant {
            self.budget.refund(self.budget.spent() - before);
        }
        Ok(value)
    }

    /// Evaluates a part of an attribute, whose own access is not counted.
    fn part(&mut self, expr: &'a Expr) -> Evaluated<'a> {
        let value = self.expr(expr)?;
        if expr.has_own_access() {
            self.budget.refund(ACCESS);
        }
        Ok(value)
    }

    /// Evaluates that of which something is selected.
    fn operand(&mut self, expr: &'a Expr) -> Evaluated<'a> {
        if !expr.is_attribute() {
            self.budget.spend(ACCESS)?;
        }
        self.expr(expr)
    }

    fn evaluate(&mut self, expr: &'a Expr) -> Evaluated<'a> {
        match &expr.kind {
            Kind::Null => Ok(Val::Null),
            Kind::Bool(flag) => Ok(Val::Bool(*flag)),
            Kind::Int(number) => Ok(Val::Int(*number)),
            Kind::Uint(number) => Ok(Val::Uint(*number)),
            Kind::Double(number) => Ok(Val::Double(*number)),
            Kind::Text(text) => Ok(Val::Text(Text::Borrowed(text))),
            Kind::Bytes(bytes) => Ok(Val::Bytes(bytes.as_slice().into())),
            Kind::Ident(name) => self.variable(name),
            Kind::Select { of, field, optional } => self.select(of, field, *optional),
            Kind::Has { of, field } => self.has(of, field),
            Kind::Call { name, function, method, args } => match function {
                Some(function) => {
                    let is_dynamic = self.dynamic.contains(&expr.id);
                    let called = Called { name, method: *method, is_dynamic };
                    self.call(&called, function, args)
                }
                None => Err(EvalError::Overload),
            },
            Kind::And(all) => self.logic(all, false),
            Kind::Or(all) => self.logic(all, true),
            Kind::Conditional(of) => {
                let [condition, yes, no] = &**of;
                match self.expr(condition)? {
                    Val::Bool(true) => self.part(yes),
                    Val::Bool(false) => self.part(no),
                    _ => Err(EvalError::Overload),
                }
            }
            Kind::List(all) => self.list(all),
            Kind::Map(all) => self.map(all),
            Kind::Macro(of) => self.comprehension(of),
        }
    }

    fn call(&mut self, called: &Called, function: &Function, args: &'a [Expr]) -> Evaluated<'a> {
        let values = match (called.name, args) {
            ("_[_]" | "_[?_]", [of, at]) => vec![self.operand(of)?, self.part(at)?],
            // The alternative is not evaluated where there is a value.
            ("or" | "orValue", [of, other]) if called.method => match self.expr(of)? {
                found @ Val::Optional(Some(_)) => vec![found, Val::Null],
                found => vec![found, self.expr(other)?],
            },
            // cel-go makes a set of constants, in which it looks up for nothing.
            ("@in", [one, all @ Expr { is_constant: true, kind: Kind::List(_), .. }]) => {
                let values = [self.expr(one)?, self.expr(all)?];
                return library::run(function, &values, self.budget);
            }
            _ => {
                let mut values = Vec::with_capacity(args.len());
                for arg in args {
                    values.push(self.expr(arg)?);
                }
                values
            }
        };
        let result = library::run(function, &values, self.budget)?;
        self.budget.spend(calls::of_call(called, &values, &result))?;
        Ok(result)
    }

    fn variable(&mut self, name: &str) -> Evaluated<'a> {
        self.budget.spend(ACCESS)?;
        if let Some((_, value)) = self.scopes.iter().rev().find(|(known, _)| *known == name) {
            return Ok(value.clone());
        }
        match library::type_of_name(name) {
            Some(name) => Ok(Val::Type(name)),
            None => EvalError::fail(format!("no such attribute(s): {name}")),
        }
    }

    fn select(&mut self, of: &'a Expr, field: &str, optional: bool) -> Evaluated<'a> {
        let (of, chained) = match self.operand(of)? {
            Val::Optional(None) => return Ok(Val::Optional(None)),
            Val::Optional(Some(of)) => ((*of).clone(), true),
            other => (other, false),
        };
        let found = self.field(&of, field)?;
        let is_optional = optional || chained;
        // Looking for what is optional and missing is free in cel-go.
        if found.is_some() || !is_optional {
            self.budget.spend(ACCESS)?;
        }
        match (found, is_optional) {
            (Some(found), false) => Ok(found),
            (None, false) => EvalError::fail(format!("no such key: {field}")),
            (found, true) => Ok(Val::Optional(found.map(Rc::new))),
        }
    }

    fn has(&mut self, of: &'a Expr, field: &str) -> Evaluated<'a> {
        let of = match self.operand(of)? {
            Val::Optional(None) => return Ok(Val::Bool(false)),
            Val::Optional(Some(of)) => (*of).clone(),
            other => other,
        };
        // Free in Kubernetes.
        self.budget.charge(1)?;
        Ok(Val::Bool(self.field(&of, field)?.is_some()))
    }

    fn field(&mut self, of: &Val<'a>, name: &str) -> Result<Option<Val<'a>>, EvalError> {
        match (of, self.deferred) {
            (Val::Deferred, Some(deferred)) => deferred.field(name, self.budget).transpose(),
            _ => of.field(name),
        }
    }

    /// `&&` and `||`: an operand that decides outweighs errors of others.
    fn logic(&mut self, all: &'a [Expr], decides: bool) -> Evaluated<'a> {
        let mut failed = None;
        for one in all {
            match self.expr(one) {
                Ok(Val::Bool(value)) if value == decides => return Ok(Val::Bool(decides)),
                Ok(Val::Bool(_)) => {}
                Ok(_) => failed = failed.or(Some(EvalError::Overload)),
                Err(EvalError::CallLimit) => return Err(EvalError::CallLimit),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(Val::Bool(!decides)), Err)
    }

    fn list(&mut self, all: &'a [(Expr, bool)]) -> Evaluated<'a> {
        self.budget.spend(NEW_LIST)?;
        let mut values = Vec::with_capacity(all.len());
        for (one, optional) in all {
            match self.expr(one)? {
                Val::Optional(of) if *optional => values.extend(of.map(|of| (*of).clone())),
                _ if *optional => return Err(EvalError::Overload),
                value => values.push(value),
            }
        }
        Ok(Val::list(values))
    }

    fn map(&mut self, all: &'a [(Expr, Expr)]) -> Evaluated<'a> {
        self.budget.spend(NEW_MAP)?;
        let mut entries: Vec<(Val<'a>, Val<'a>)> = Vec::with_capacity(all.len());
        for (key, value) in all {
            let (key, value) = (self.expr(key)?, self.expr(value)?);
            // The last of equal keys counts.
            let mut before = None;
            for (n, (known, _)) in entries.iter().enumerate() {
                if known.type_name() == key.type_name() && equal(known, &key, self.budget)? {
                    before = Some(n);
                }
            }
            match before.and_then(|n| entries.get_mut(n)) {
                Some(entry) => entry.1 = value,
                None => entries.push((key, value)),
            }
        }
        Ok(Val::Map(Rc::new(entries)))
    }

    fn comprehension(&mut self, of: &'a Macro) -> Evaluated<'a> {
        let before = self.budget.spent();
        let range = self.expr(&of.over)?;
        if let Val::Optional(inside) = &range {
            let cost = self.budget.spent() - before;
            return self.optional(of, inside.as_deref(), cost);
        }
        let entries = if range.elements().is_none() { range.entries() } else { None };
        let keys = match &entries {
            Some(entries) => entries.iter().map(|(key, _)| key.clone()).collect(),
            None => range.elements().ok_or(EvalError::Overload)?,
        };
        self.budget.traverse(keys.len())?;
        let Loop { check, end, .. } = Loop::of(of.kind);
        self.budget.spend(end)?;
        let depth = self.scopes.len();
        let mut all = Collected::default();
        for (n, item) in keys.into_iter().enumerate() {
            // Also where it ends the loop.
            self.budget.spend(check)?;
            if all.decided {
                break;
            }
            self.budget.charge(1)?;
            self.bind(of, n, &item, entries.as_deref());
            let step = self.step(of, depth, item, &mut all);
            self.scopes.truncate(depth);
            step?;
        }
        self.result(of.kind, all)
    }

    /// Evaluates a comprehension for one element, whose variables are those from `depth` on.
    fn step(
        &mut self,
        of: &'a Macro,
        depth: usize,
        item: Val<'a>,
        all: &mut Collected<'a>,
    ) -> Result<(), EvalError> {
        let decides = match of.kind {
            MacroKind::All => Some(false),
            MacroKind::Exists => Some(true),
            _ => None,
        };
        if decides.is_some() {
            self.budget.spend(ACCESS)?;
        }
        let holds = match &of.condition {
            Some(condition) => self.expr(condition),
            None => Ok(Val::Bool(true)),
        };
        let holds = match holds {
            Err(EvalError::CallLimit) => return Err(EvalError::CallLimit),
            // One that decides outweighs errors of others.
            Err(error) if decides.is_some() => {
                all.failed = all.failed.take().or(Some(error));
                return Ok(());
            }
            Ok(Val::Bool(holds)) => holds,
            other => return other.and(Err(EvalError::Overload)),
        };
        all.decided = decides == Some(holds);
        if of.kind == MacroKind::ExistsOne && holds {
            all.found += 1;
            self.budget.spend(ACCESS + 1)?;
        }
        if !of.kind.collects() || !holds {
            return Ok(());
        }
        self.budget.spend(match of.kind {
            MacroKind::TransformMap => 2 * ACCESS + 1,
            MacroKind::TransformMapEntry => ACCESS + 1,
            MacroKind::Filter => ACCESS + NEW_LIST + ACCESS + 1,
            // A list of a constant is a constant.
            _ if of.body.as_ref().is_some_and(|body| body.is_constant) => ACCESS + 1,
            _ => ACCESS + NEW_LIST + 1,
        })?;
        let value = of.body.as_ref().map(|body| self.expr(body)).transpose()?;
        let key = self.scopes.get(depth).map_or(Val::Null, |(_, key)| key.clone());
        match (of.kind, value) {
            (MacroKind::SortBy, Some(by)) => all.pairs.push((by, item)),
            (MacroKind::TransformMap, Some(value)) => all.pairs.push((key, value)),
            (MacroKind::TransformMapEntry, Some(map)) => self.insert(&mut all.pairs, &map)?,
            (_, value) => all.values.push(value.unwrap_or(item)),
        }
        Ok(())
    }

    /// Inserts the entries of a map into one that has none of their keys.
    fn insert(
        &mut self,
        pairs: &mut Vec<(Val<'a>, Val<'a>)>,
        map: &Val<'a>,
    ) -> Result<(), EvalError> {
        for (key, value) in map.entries().ok_or(EvalError::Overload)? {
            for (known, _) in &*pairs {
                if equal(known, &key, self.budget)? {
                    let key = key.as_key();
                    return EvalError::fail(format!("insert failed: key {key} already exists"));
                }
            }
            pairs.push((key, value));
        }
        Ok(())
    }

    fn result(&mut self, kind: MacroKind, mut all: Collected<'a>) -> Evaluated<'a> {
        match kind {
            MacroKind::All | MacroKind::Exists if all.decided => {
                Ok(Val::Bool(kind == MacroKind::Exists))
            }
            MacroKind::All | MacroKind::Exists => {
                all.failed.map_or(Ok(Val::Bool(kind == MacroKind::All)), Err)
            }
            MacroKind::ExistsOne => Ok(Val::Bool(all.found == 1)),
            _ if kind.makes_map() => Ok(Val::Map(Rc::new(all.pairs))),
            MacroKind::SortBy => {
                // The list is a variable, of which the keys are made and which is then sorted.
                let first = all.pairs.first().map(|(key, _)| key);
                self.budget.spend(2 * ACCESS + calls::of_sorting(all.pairs.len() as u64, first))?;
                sort(&mut all.pairs, self.budget)?;
                Ok(Val::list(all.pairs.into_iter().map(|(_, value)| value).collect()))
            }
            _ => Ok(Val::list(all.values)),
        }
    }

    /// Binds the variables of a comprehension to its element of a number.
    fn bind(
        &mut self,
        of: &'a Macro,
        n: usize,
        item: &Val<'a>,
        entries: Option<&[(Val<'a>, Val<'a>)]>,
    ) {
        let second = match (&of.second, entries) {
            (None, _) => None,
            // The first variable is the index, the second the element.
            (Some(second), None) => {
                let index = Val::Int(i64::try_from(n).unwrap_or(i64::MAX));
                self.scopes.push((&of.variable, index));
                self.scopes.push((second, item.clone()));
                return;
            }
            (Some(second), Some(entries)) => {
                Some((second, entries.get(n).map_or(Val::Null, |(_, value)| value.clone())))
            }
        };
        self.scopes.push((&of.variable, item.clone()));
        if let Some((name, value)) = second {
            self.scopes.push((name, value));
        }
    }

    /// `optMap` and `optFlatMap` of an optional that has cost something.
    fn optional(&mut self, of: &'a Macro, inside: Option<&Val<'a>>, cost: u64) -> Evaluated<'a> {
        // `of.hasValue()`, and `optional.none()` or `of.value()`.
        self.budget.spend(2)?;
        let (Some(inside), Some(body)) = (inside, &of.body) else { return Ok(Val::Optional(None)) };
        self.budget.spend(cost)?;
        let depth = self.scopes.len();
        self.scopes.push((&of.variable, inside.clone()));
        let value = self.expr(body);
        self.scopes.truncate(depth);
        match of.kind {
            MacroKind::OptFlatMap => value,
            _ => {
                self.budget.spend(1)?;
                value.map(Val::some)
            }
        }
    }
}

//! Evaluates syntax trees. What the type checker has left open (`dyn`) is checked here.

use crate::cel::{
    ast::{Expr, Kind, Macro, MacroKind},
    budget::{Budget, EvalError},
    library,
    value::{Text, Val, equal, sort},
};
use std::rc::Rc;

type Evaluated<'a> = Result<Val<'a>, EvalError>;

/// The fields of [`Val::Deferred`].
pub(crate) trait Deferred<'a> {
    /// Evaluates a field; `None` if there is none of the name.
    fn field(&self, name: &str, budget: &mut Budget) -> Option<Evaluated<'a>>;
}

/// Evaluates an expression with variables.
pub(super) fn run<'a>(
    expr: &'a Expr,
    variables: &[(&'a str, Val<'a>)],
    deferred: Option<&dyn Deferred<'a>>,
    budget: &mut Budget,
) -> Evaluated<'a> {
    Interpreter { scopes: variables.to_vec(), deferred, budget }.expr(expr)
}

struct Interpreter<'a, 'b> {
    scopes: Vec<(&'a str, Val<'a>)>,
    deferred: Option<&'b dyn Deferred<'a>>,
    budget: &'b mut Budget,
}

/// What a list costs to make, and what a loop does besides its body.
const NEW_LIST: usize = 10;
const NEW_MAP: usize = 30;
const LOOP: usize = 3;

impl<'a> Interpreter<'a, '_> {
    fn expr(&mut self, expr: &'a Expr) -> Evaluated<'a> {
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
            Kind::Call { function, args, .. } => {
                let mut values = Vec::with_capacity(args.len());
                for arg in args {
                    values.push(self.expr(arg)?);
                }
                match function {
                    Some(function) => library::run(function, &values, self.budget),
                    None => Err(EvalError::Overload),
                }
            }
            Kind::And(all) => self.logic(all, false),
            Kind::Or(all) => self.logic(all, true),
            Kind::Conditional(of) => {
                let [condition, yes, no] = &**of;
                match self.expr(condition)? {
                    Val::Bool(true) => self.expr(yes),
                    Val::Bool(false) => self.expr(no),
                    _ => Err(EvalError::Overload),
                }
            }
            Kind::List(all) => self.list(all),
            Kind::Map(all) => self.map(all),
            Kind::Macro(of) => self.comprehension(of),
        }
    }

    fn variable(&mut self, name: &str) -> Evaluated<'a> {
        self.budget.charge(1)?;
        if let Some((_, value)) = self.scopes.iter().rev().find(|(known, _)| *known == name) {
            return Ok(value.clone());
        }
        match library::type_of_name(name) {
            Some(name) => Ok(Val::Type(name)),
            None => EvalError::fail(format!("no such attribute(s): {name}")),
        }
    }

    fn select(&mut self, of: &'a Expr, field: &str, optional: bool) -> Evaluated<'a> {
        let (of, chained) = match self.expr(of)? {
            Val::Optional(None) => return Ok(Val::Optional(None)),
            Val::Optional(Some(of)) => ((*of).clone(), true),
            other => (other, false),
        };
        self.budget.charge(1)?;
        match (self.field(&of, field)?, optional || chained) {
            (Some(found), false) => Ok(found),
            (None, false) => EvalError::fail(format!("no such key: {field}")),
            (found, true) => Ok(Val::Optional(found.map(Rc::new))),
        }
    }

    fn has(&mut self, of: &'a Expr, field: &str) -> Evaluated<'a> {
        let of = match self.expr(of)? {
            Val::Optional(None) => return Ok(Val::Bool(false)),
            Val::Optional(Some(of)) => (*of).clone(),
            other => other,
        };
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
        self.budget.charge(NEW_LIST)?;
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
        self.budget.charge(NEW_MAP)?;
        let mut entries: Vec<(Val<'a>, Val<'a>)> = Vec::with_capacity(all.len());
        for (key, value) in all {
            let key = self.expr(key)?;
            for (known, _) in &entries {
                if equal(known, &key, self.budget)? {
                    return EvalError::fail("Failed with repeated key");
                }
            }
            entries.push((key, self.expr(value)?));
        }
        Ok(Val::Map(Rc::new(entries)))
    }

    fn comprehension(&mut self, of: &'a Macro) -> Evaluated<'a> {
        let range = self.expr(&of.over)?;
        if let Val::Optional(inside) = &range {
            return self.optional(of, inside.as_deref());
        }
        let entries = if range.elements().is_none() { range.entries() } else { None };
        let keys = match &entries {
            Some(entries) => entries.iter().map(|(key, _)| key.clone()).collect(),
            None => range.elements().ok_or(EvalError::Overload)?,
        };
        self.budget.traverse(keys.len())?;
        let depth = self.scopes.len();
        let (mut found, mut values, mut failed) = (0, Vec::new(), None);
        let mut pairs = Vec::new();
        for (n, item) in keys.into_iter().enumerate() {
            self.budget.charge(LOOP)?;
            self.bind(of, n, &item, entries.as_deref());
            let holds = match &of.condition {
                Some(condition) => self.expr(condition),
                None => Ok(Val::Bool(true)),
            };
            let kept = match (holds, of.kind) {
                (Err(EvalError::CallLimit), _) => return Err(EvalError::CallLimit),
                // One that decides outweighs errors of others.
                (Err(error), MacroKind::All | MacroKind::Exists) => {
                    failed = failed.or(Some(error));
                    None
                }
                (Err(error), _) => return Err(error),
                (Ok(Val::Bool(holds)), _) => Some(holds),
                (Ok(_), _) => return Err(EvalError::Overload),
            };
            match (of.kind, kept) {
                (MacroKind::All, Some(false)) | (MacroKind::Exists, Some(true)) => {
                    self.scopes.truncate(depth);
                    return Ok(Val::Bool(of.kind == MacroKind::Exists));
                }
                (MacroKind::ExistsOne, Some(true)) => found += 1,
                (kind, Some(true)) if kind.collects() => {
                    self.budget.charge(NEW_LIST)?;
                    let value = of.body.as_ref().map(|body| self.expr(body)).transpose()?;
                    let key = self.scopes.get(depth).map_or(Val::Null, |(_, key)| key.clone());
                    match (kind, value) {
                        (MacroKind::SortBy, Some(by)) => pairs.push((by, item)),
                        (MacroKind::TransformMap, Some(value)) => pairs.push((key, value)),
                        (_, value) => values.push(value.unwrap_or(item)),
                    }
                }
                _ => {}
            }
            self.scopes.truncate(depth);
        }
        match (of.kind, failed) {
            (_, Some(error)) => Err(error),
            (MacroKind::All, None) => Ok(Val::Bool(true)),
            (MacroKind::Exists, None) => Ok(Val::Bool(false)),
            (MacroKind::ExistsOne, None) => Ok(Val::Bool(found == 1)),
            (MacroKind::TransformMap, None) => Ok(Val::Map(Rc::new(pairs))),
            (MacroKind::SortBy, None) => {
                sort(&mut pairs, self.budget)?;
                Ok(Val::list(pairs.into_iter().map(|(_, value)| value).collect()))
            }
            _ => Ok(Val::list(values)),
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

    /// `optMap` and `optFlatMap`.
    fn optional(&mut self, of: &'a Macro, inside: Option<&Val<'a>>) -> Evaluated<'a> {
        let (Some(inside), Some(body)) = (inside, &of.body) else { return Ok(Val::Optional(None)) };
        let depth = self.scopes.len();
        self.scopes.push((&of.variable, inside.clone()));
        let value = self.expr(body);
        self.scopes.truncate(depth);
        match of.kind {
            MacroKind::OptFlatMap => value,
            _ => value.map(Val::some),
        }
    }
}

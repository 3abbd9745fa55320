//! What macros cost: the sums of the comprehensions to which cel-go expands them.

use super::{
    ACCESS, NEW_LIST, NEW_MAP,
    estimate::Estimator,
    lists,
    node::{Entries, Local, Node},
    path::{Path, Step},
    range::Range,
};
use crate::cel::{
    ast::{Expr, Macro, MacroKind},
    types::Type,
};

const ONE: Range = Range::fixed(1);

/// The parts of a comprehension that depend on the macro alone.
pub(in crate::cel) struct Loop {
    /// The first value of the result, which is a constant when it is evaluated.
    start: u64,
    /// The condition to go on.
    pub(in crate::cel) check: u64,
    /// The result after the loop.
    pub(in crate::cel) end: u64,
}

impl Loop {
    pub(in crate::cel) fn of(kind: MacroKind) -> Self {
        let (start, check, end) = match kind {
            // `@not_strictly_false(result)`, and with `!` before the result.
            MacroKind::All => (0, ACCESS + 1, ACCESS),
            MacroKind::Exists => (0, ACCESS + 2, ACCESS),
            // `result == 1`.
            MacroKind::ExistsOne => (0, 0, ACCESS + 1),
            _ if kind.makes_map() => (NEW_MAP, 0, ACCESS),
            _ => (NEW_LIST, 0, ACCESS),
        };
        Self { start, check, end }
    }
}

impl<'e> Estimator<'e, '_> {
    pub(super) fn comprehension(&mut self, of: &'e Macro, kind: Type) -> Node<'e> {
        let range = self.expr(&of.over);
        match of.kind {
            MacroKind::OptMap | MacroKind::OptFlatMap => self.optional(of, &range, kind),
            MacroKind::SortBy => self.sort_by(of, &range, kind),
            _ => self.iterate(of, of.kind, &range, kind),
        }
    }

    /// A loop over a list or map.
    fn iterate(
        &mut self,
        of: &'e Macro,
        of_kind: MacroKind,
        range: &Node<'e>,
        kind: Type,
    ) -> Node<'e> {
        let depth = self.scopes.len();
        self.bind(of, range);
        let condition = of.condition.as_ref().map(|condition| self.expr(condition).cost);
        let (body, value) = self.collected(of, of_kind, range);
        self.scopes.truncate(depth);
        let step = match (of_kind, condition) {
            (MacroKind::All | MacroKind::Exists, condition) => {
                // `result && condition`, of which the result may decide.
                let condition = condition.unwrap_or(Range::fixed(0));
                Range::of(ACCESS, condition.max.saturating_add(ACCESS))
            }
            // `condition ? result + 1 : result`.
            (MacroKind::ExistsOne, condition) => {
                condition.unwrap_or(Range::fixed(0)).plus(Range::of(ACCESS, ACCESS + 1))
            }
            (_, Some(condition)) => condition.plus(body.union(Range::fixed(ACCESS))),
            (_, None) => body,
        };
        let Loop { start, check, end } = Loop::of(of_kind);
        // After the body, as in cel-go: the path may have been overwritten.
        let count = range.size_or_unknown(self.sizes);
        let all = count.times(step.plus(Range::fixed(check)));
        let cost = range.cost.plus(Range::fixed(start)).plus(Range::fixed(end)).plus(all);
        let mut node = Node::new(cost, kind);
        if of_kind.collects() {
            node.computed = Some(count);
            node.entries =
                value.map(|value| Entries { is_list: true, key: Range::fixed(1), value });
        }
        node
    }

    /// Adding an element to the result: its cost, and for a list the sizes of elements.
    fn collected(
        &mut self,
        of: &'e Macro,
        kind: MacroKind,
        range: &Node<'e>,
    ) -> (Range, Option<Range>) {
        // `result + [element]`, `@mapInsert(result, key, value)` or `@mapInsert(result, map)`.
        let added = match kind {
            MacroKind::TransformMap => Range::fixed(2 * ACCESS + 1),
            MacroKind::TransformMapEntry => Range::fixed(ACCESS + 1),
            _ => Range::fixed(ACCESS + NEW_LIST + 1),
        };
        let body = match (&of.body, kind) {
            (Some(body), _) => self.expr(body),
            (None, MacroKind::Filter) => self.element(&range.kind),
            _ => return (Range::fixed(0), None),
        };
        // The result starts with no element, of which the size counts.
        let size = Range::of(0, body.size_or_unknown(self.sizes).max);
        (added.plus(body.cost), (!kind.makes_map()).then_some(size))
    }

    /// The variable that was bound last, of a range of a type.
    fn element(&self, range: &Type) -> Node<'e> {
        let kind = match range {
            Type::List(of) => of.element.clone(),
            Type::Map(of) => of.0.clone(),
            _ => Type::Dyn,
        };
        let node = Node::new(Range::fixed(ACCESS), kind);
        match self.scopes.last() {
            Some((_, Local { path, size, entries })) => {
                Node { path: path.clone(), local: *size, entries: *entries, ..node }
            }
            None => node,
        }
    }

    /// Binds the variables of a comprehension.
    fn bind(&mut self, of: &'e Macro, range: &Node<'e>) {
        let is_list = match range.entries {
            Some(entries) => entries.is_list,
            None => matches!(range.kind, Type::List(_)),
        };
        let key = (
            if is_list { Step::Index } else { Step::Key },
            range.entries.map(|entries| entries.key),
        );
        let value = (Step::Inside, range.entries.map(|entries| entries.value));
        let bound = match (&of.second, is_list) {
            (Some(second), _) => vec![(&of.variable, key), (second, value)],
            (None, true) => vec![(&of.variable, value)],
            (None, false) => vec![(&of.variable, key)],
        };
        for (name, (step, size)) in bound {
            let local = Local { path: range.path.child(step), size, entries: None };
            self.scopes.push((name, local));
        }
    }

    /// `sortBy`: binds the list, and sorts it by a list of keys.
    fn sort_by(&mut self, of: &'e Macro, list: &Node<'e>, kind: Type) -> Node<'e> {
        let bound = Node {
            path: list.path.clone(),
            local: list.size(self.sizes),
            entries: list.entries,
            ..Node::new(Range::fixed(ACCESS), list.kind.clone())
        };
        let keys = self.iterate(of, MacroKind::Map, &bound, kind.clone());
        let size = keys.size_or_unknown(self.sizes);
        let of_keys = of.body.as_ref().map_or(Type::Dyn, |body: &Expr| self.kind(body));
        let mut call = lists::sorted(size, Some(&of_keys));
        if matches!(of_keys, Type::Dyn) {
            // Any type may be found, and text is the most expensive.
            let text = lists::sorted(size, Some(&Type::Text));
            call.cost = call.cost.union(text.cost);
        }
        let binding = list.cost.plus(Range::fixed(NEW_LIST));
        let cost = binding.plus(keys.cost).plus(Range::fixed(ACCESS)).plus(call.cost);
        Node { computed: call.size, ..Node::new(cost, kind) }
    }

    /// `optMap` and `optFlatMap`: `of.hasValue() ? optional.of(body) : optional.none()`, where the
    /// body sees `of.value()`.
    fn optional(&mut self, of: &'e Macro, target: &Node<'e>, kind: Type) -> Node<'e> {
        let inside = match &target.kind {
            Type::Optional(of) => (**of).clone(),
            _ => Type::Dyn,
        };
        let called = target.cost.plus(ONE);
        let size = Node::new(called, inside).size(self.sizes);
        let local = Local { path: Path::default(), size, entries: None };
        let depth = self.scopes.len();
        self.scopes.push((&of.variable, local));
        let body = of.body.as_ref().map(|body| self.expr(body));
        self.scopes.truncate(depth);
        let mut yes = body.unwrap_or_else(|| Node::new(Range::fixed(0), Type::Dyn));
        yes.cost = yes.cost.plus(called).plus(Range::fixed(NEW_LIST));
        if of.kind == MacroKind::OptMap {
            yes = Node::new(yes.cost.plus(ONE), kind.clone());
        }
        let no = Node::new(ONE, kind.clone());
        Self::either(called, &yes, &no, kind, self.sizes)
    }
}

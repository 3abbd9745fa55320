//! The estimate of a checked expression.

use super::{
    ACCESS, NEW_LIST, NEW_MAP, functions,
    node::{Call, Entries, Local, Node},
    path::{Path, Step},
    range::Range,
    sizes::Sizes,
};
use crate::cel::{
    ast::{Expr, Kind},
    checker::Types,
    library::{self, Function},
    types::Type,
};

/// Estimates the cost of an expression of which the checker has found the types.
pub(in crate::cel) fn estimate(expr: &Expr, types: &Types, sizes: &Sizes) -> Range {
    Estimator { types, sizes, scopes: Vec::new() }.expr(expr).cost
}

pub(super) struct Estimator<'e, 't> {
    types: &'t Types,
    pub(super) sizes: &'t Sizes,
    /// The inner ones last.
    pub(super) scopes: Vec<(&'e str, Local<'e>)>,
}

impl<'e> Estimator<'e, '_> {
    pub(super) fn expr(&mut self, expr: &'e Expr) -> Node<'e> {
        let kind = self.kind(expr);
        match &expr.kind {
            Kind::Text(text) => literal(kind, text.chars().count()),
            Kind::Bytes(bytes) => literal(kind, bytes.len()),
            Kind::Int(number) => Node { literal: Some(*number), ..literal(kind, 1) },
            Kind::Null | Kind::Bool(_) | Kind::Uint(_) | Kind::Double(_) => literal(kind, 1),
            Kind::Ident(name) => self.variable(name, kind),
            Kind::Select { of, field, optional } => self.select(of, field, *optional, kind),
            // In Kubernetes, testing for a field is free.
            Kind::Has { of, .. } => Node::new(self.expr(of).cost, kind),
            Kind::Call { name, function, method, args } => match function {
                Some(function) => self.call((name, function, *method), args, kind),
                None => Node::new(Range::fixed(0), kind),
            },
            Kind::And(all) | Kind::Or(all) => self.logic(all, kind),
            Kind::Conditional(of) => self.conditional(of, kind),
            Kind::List(all) => self.list(all, kind),
            Kind::Map(all) => self.map(all, kind),
            Kind::Macro(of) => self.comprehension(of, kind),
        }
    }

    pub(super) fn kind(&self, expr: &Expr) -> Type {
        self.types.get(&expr.id).cloned().unwrap_or(Type::Dyn)
    }

    fn variable(&self, name: &'e str, kind: Type) -> Node<'e> {
        let node = Node::new(Range::fixed(ACCESS), kind);
        match self.scopes.iter().rev().find(|(known, _)| *known == name) {
            Some((_, Local { path, size, entries })) => {
                Node { path: path.clone(), local: *size, entries: *entries, ..node }
            }
            None => Node { path: Path::variable(name), ..node },
        }
    }

    fn select(&mut self, of: &'e Expr, field: &'e str, optional: bool, kind: Type) -> Node<'e> {
        let of = self.expr(of);
        if optional {
            // A call, whose result is no part of a variable.
            return Node::new(of.cost.plus(Range::fixed(1)), kind).settled(self.sizes);
        }
        let access = match of.kind {
            Type::Map(_) | Type::Object(_) | Type::Param(_) => ACCESS,
            _ => 0,
        };
        let path = of.path.child(Step::Field(field));
        Node { path, ..Node::new(of.cost.plus(Range::fixed(access)), kind) }
    }

    fn call(
        &mut self,
        (name, function, method): (&str, &'static Function, bool),
        args: &'e [Expr],
        kind: Type,
    ) -> Node<'e> {
        // The target comes last, as in cel-go: paths depend on the order.
        let mut nodes = Vec::with_capacity(args.len());
        for arg in args.iter().skip(usize::from(method)) {
            nodes.push(self.expr(arg).settled(self.sizes));
        }
        if method && let Some(target) = args.first() {
            nodes.insert(0, self.expr(target).settled(self.sizes));
        }
        let of_args = nodes.iter().fold(Range::fixed(0), |sum, node| sum.plus(node.cost));
        if let ("dyn", [inside]) = (name, &nodes[..]) {
            let cost = of_args.plus(Range::fixed(1));
            let (computed, entries) = (inside.computed, inside.entries);
            return Node { computed, entries, ..Node::new(cost, kind) };
        }
        let kinds: Vec<Type> = nodes.iter().map(|node| node.kind.clone()).collect();
        let mut node = Node::new(Range::of(u64::MAX, 0), kind);
        for (overload, _) in library::matching(function, method, &kinds) {
            let Call { cost, size } = functions::call(name, overload, &nodes, self.sizes);
            node.cost = node.cost.union(cost);
            node.computed = match (size, node.computed) {
                (Some(size), Some(before)) => Some(size.union(before)),
                (size, before) => size.or(before),
            };
            if let ("_[_]", [of, ..]) = (name, &nodes[..]) {
                node.path = of.path.child(Step::Inside);
                node.computed = of.entries.map(|entries| entries.value);
            }
            node = node.settled(self.sizes);
        }
        if name == "_+_"
            && let [a, b] = &nodes[..]
        {
            node.entries = Entries::union(a.entries, b.entries);
        }
        node.cost = node.cost.plus(of_args);
        node
    }

    /// `&&` and `||`, of which the first operand may decide.
    fn logic(&mut self, all: &'e [Expr], kind: Type) -> Node<'e> {
        let mut cost: Option<Range> = None;
        for one in all {
            let more = self.expr(one).cost;
            cost = Some(match cost {
                None => more,
                Some(before) => Range::of(before.min, before.max.saturating_add(more.max)),
            });
        }
        Node::new(cost.unwrap_or(Range::fixed(0)), kind)
    }

    fn conditional(&mut self, of: &'e [Expr; 3], kind: Type) -> Node<'e> {
        let [condition, yes, no] = of;
        let condition = self.expr(condition);
        let yes = self.expr(yes).settled(self.sizes);
        let no = self.expr(no).settled(self.sizes);
        Self::either(condition.cost, &yes, &no, kind, self.sizes)
    }

    /// One of two values, by a condition of a cost.
    pub(super) fn either(
        condition: Range,
        yes: &Node<'e>,
        no: &Node<'e>,
        kind: Type,
        sizes: &Sizes,
    ) -> Node<'e> {
        let size = yes.size_or_unknown(sizes).union(no.size_or_unknown(sizes));
        Node {
            computed: Some(size),
            entries: Entries::union(yes.entries, no.entries),
            ..Node::new(condition.plus(yes.cost.union(no.cost)), kind)
        }
    }

    fn list(&mut self, all: &'e [(Expr, bool)], kind: Type) -> Node<'e> {
        let (mut cost, mut value) = (Range::fixed(NEW_LIST), None);
        for (one, _) in all {
            let one = self.expr(one);
            cost = cost.plus(one.cost);
            value = Some(joined(value, one.size_or_unknown(self.sizes)));
        }
        let value = value.unwrap_or(Range::fixed(0));
        Node {
            entries: Some(Entries { is_list: true, key: Range::fixed(1), value }),
            cost,
            ..literal(kind, all.len())
        }
    }

    fn map(&mut self, all: &'e [(Expr, Expr)], kind: Type) -> Node<'e> {
        let (mut cost, mut sizes) = (Range::fixed(NEW_MAP), [None; 2]);
        for (key, value) in all {
            let (key, value) = (self.expr(key), self.expr(value));
            cost = cost.plus(key.cost).plus(value.cost);
            let found = [&key, &value].map(|node| node.size_or_unknown(self.sizes));
            sizes = [joined(sizes[0], found[0]), joined(sizes[1], found[1])].map(Some);
        }
        let [key, value] = sizes.map(|size| size.unwrap_or(Range::fixed(0)));
        Node {
            entries: Some(Entries { is_list: false, key, value }),
            cost,
            ..literal(kind, all.len())
        }
    }
}

fn joined(before: Option<Range>, more: Range) -> Range {
    before.map_or(more, |before| before.union(more))
}

/// A literal of a size, which costs nothing.
fn literal<'e>(kind: Type, size: usize) -> Node<'e> {
    Node { computed: Some(Range::fixed(size as u64)), ..Node::new(Range::fixed(0), kind) }
}

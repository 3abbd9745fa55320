//! What is known of an evaluated part of an expression.

use super::{path::Path, range::Range, sizes::Sizes};
use crate::cel::types::Type;

/// What is known of an evaluated part of the expression.
#[derive(Clone)]
pub(super) struct Node<'e> {
    pub(super) cost: Range,
    pub(super) kind: Type,
    pub(super) path: Path<'e>,
    /// The size, as the expression itself determines it.
    pub(super) computed: Option<Range>,
    /// The size of a variable of a comprehension, if nothing else determines it.
    pub(super) local: Option<Range>,
    pub(super) entries: Option<Entries>,
    /// The number that it is.
    pub(super) literal: Option<i64>,
}

/// The sizes of the entries of a list or map that the expression makes.
#[derive(Clone, Copy)]
pub(super) struct Entries {
    pub(super) is_list: bool,
    pub(super) key: Range,
    pub(super) value: Range,
}

impl Entries {
    /// Returns the sizes of the entries of one of two containers.
    pub(super) fn union(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        let (one, other) = (one?, other?);
        let (key, value) = (one.key.union(other.key), one.value.union(other.value));
        Some(Self { is_list: one.is_list, key, value })
    }
}

impl<'e> Node<'e> {
    pub(super) fn new(cost: Range, kind: Type) -> Self {
        let path = Path::default();
        Self { cost, kind, path, computed: None, local: None, entries: None, literal: None }
    }

    pub(super) fn size(&self, sizes: &Sizes) -> Option<Range> {
        self.computed
            .or_else(|| size_at(&self.path, sizes))
            .or_else(|| is_scalar(&self.kind).then_some(Range::fixed(1)))
            .or(self.local)
    }

    pub(super) fn size_or_unknown(&self, sizes: &Sizes) -> Range {
        self.size(sizes).unwrap_or(Range::UNKNOWN)
    }

    /// Keeps the size that the value has now; its path may be overwritten later.
    pub(super) fn settled(mut self, sizes: &Sizes) -> Self {
        self.computed = self.size(sizes);
        self
    }
}

fn size_at(path: &Path, sizes: &Sizes) -> Option<Range> {
    let max = sizes.at(path.below()?.into_iter())?;
    Some(Range::of(0, max))
}

/// Returns true for types whose values have the size 1.
fn is_scalar(kind: &Type) -> bool {
    match kind {
        Type::Optional(of) => is_scalar(of),
        _ => matches!(
            kind,
            Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint
        ),
    }
}

/// A variable of a comprehension.
#[derive(Clone)]
pub(super) struct Local<'e> {
    pub(super) path: Path<'e>,
    pub(super) size: Option<Range>,
    pub(super) entries: Option<Entries>,
}

/// The cost of a call, and the size of its result, if the call determines it.
pub(super) struct Call {
    pub(super) cost: Range,
    pub(super) size: Option<Range>,
}

impl From<Range> for Call {
    fn from(cost: Range) -> Self {
        Self { cost, size: None }
    }
}

//! What the functions of cel-go's extensions `Lists` and `Sets` cost.

use super::{
    NEW_LIST, TEXT,
    node::{Call, Node},
    range::Range,
};
use crate::cel::{cost::Sizes, library::Overload, types::Type};

/// Estimates a call of one overload; `None` for functions of other libraries.
pub(super) fn call(name: &str, overload: &Overload, args: &[Node], sizes: &Sizes) -> Option<Call> {
    let size = |n: usize| args.get(n).map_or(Range::UNKNOWN, |arg| arg.size_or_unknown(sizes));
    let number = |n: usize, default: u64| {
        let literal = args.get(n).and_then(|arg| arg.literal);
        literal.map_or(default, |number| u64::try_from(number).unwrap_or(0))
    };
    Some(match name {
        "sets.contains" | "sets.intersects" => compared_sets(size(0), size(1), 1.0),
        // Each is looked for in the other.
        "sets.equivalent" => compared_sets(size(0), size(1), 2.0),
        "slice" => {
            // Wraps around if the bounds are the wrong way round, as in cel-go.
            let count = number(2, size(0).max).wrapping_sub(number(1, 0));
            made(1.0, Range::fixed(count))
        }
        "lists.range" => made(1.0, Range::fixed(number(0, u64::MAX))),
        "reverse" => made(1.0, size(0)),
        #[allow(clippy::cast_precision_loss, reason = "cel-go's estimate is as precise")]
        "flatten" if args.len() > 1 => made(number(1, u64::MAX) as f64, size(0)),
        "flatten" => made(1.0, size(0)),
        "distinct" => made(2.0, size(0).times(size(0))),
        "sort" => sorted(size(0), overload.args.first().and_then(element)),
        _ => return None,
    })
}

/// Sorting a list by keys of a type. The result is taken to have the size of the comparisons.
pub(super) fn sorted(keys: Range, kind: Option<&Type>) -> Call {
    let factor = match kind {
        Some(Type::Text | Type::Bytes) => 2.0 + TEXT,
        _ => 2.0,
    };
    made(factor, keys.times(keys))
}

fn element(list: &Type) -> Option<&Type> {
    match list {
        Type::List(of) => Some(&of.element),
        _ => None,
    }
}

fn compared_sets(a: Range, b: Range, factor: f64) -> Call {
    a.times(b).scaled(factor).plus(Range::fixed(1)).into()
}

/// A new list, made by going through a number of elements.
fn made(factor: f64, count: Range) -> Call {
    let cost = count.scaled(factor).plus(Range::fixed(1 + NEW_LIST));
    Call { cost, size: Some(count) }
}

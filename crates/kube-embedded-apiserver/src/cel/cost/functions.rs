//! What calls of functions cost, besides their arguments.

use super::{
    PATTERN, TEXT, lists,
    node::{Call, Node},
    path::Step,
    range::Range,
};
use crate::cel::{cost::Sizes, library::Overload, types::Type};

const ONE: Range = Range::fixed(1);

/// Estimates a call of one overload. The target of a method is the first argument.
pub(super) fn call(name: &str, overload: &Overload, args: &[Node], sizes: &Sizes) -> Call {
    let size = |n: usize| args.get(n).map_or(Range::UNKNOWN, |arg| arg.size_or_unknown(sizes));
    let traversed = || Call::from(size(0).scaled(TEXT));
    if let Some(call) = lists::call(name, overload, args, sizes) {
        return call;
    }
    let of_text = matches!(overload.args.first(), Some(Type::Text | Type::Bytes));
    match name {
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => {
            comparisons(args, sizes).into()
        }
        "url" | "lowerAscii" | "upperAscii" | "substring" | "trim" => {
            Call { size: Some(size(0)), ..traversed() }
        }
        "replace" => Call {
            cost: size(0).scaled(2.0 * TEXT),
            size: Some(replaced(size(0), size(1), size(2))),
        },
        "split" => split(args, sizes),
        "join" => join(args, sizes),
        "find" | "findAll" => {
            let cost = matching(size(0), size(1));
            Call { cost, size: Some(Range::of(0, size(0).max)) }
        }
        "ip" if overload.method => ONE.into(),
        "ip" | "cidr" | "isIP" | "isCIDR" | "quantity" | "isQuantity" | "semver" | "isSemver" => {
            traversed()
        }
        "ip.isCanonical" => size(0).scaled(2.0 * TEXT).into(),
        "containsIP" | "containsCIDR" => contains_address(name, overload, size(1)).into(),
        // The pattern of a format is taken to have 128 characters.
        "validate" => size(1).scaled(TEXT).scaled(128.0 * PATTERN).into(),
        "format" => traversed(),
        "startsWith" | "endsWith" => size(1).scaled(TEXT).into(),
        "@in" if matches!(overload.args.get(1), Some(Type::List(_))) => size(1).into(),
        "matches" if overload.method => matching(size(0), size(1)).into(),
        "contains" => size(0).scaled(TEXT).times(size(1).scaled(TEXT)).into(),
        "_+_" if of_text => {
            let both = size(0).plus(size(1));
            Call { cost: both.scaled(TEXT), size: Some(both) }
        }
        "_+_" if matches!(overload.args.first(), Some(Type::List(_))) => {
            Call { cost: ONE, size: Some(size(0).plus(size(1))) }
        }
        "_<_" | "_<=_" | "_>_" | "_>=_" if of_text => compared(size(0), size(1)).into(),
        "_==_" => equality(args, sizes).unwrap_or_else(|| compared(size(0), size(1))).into(),
        "_!=_" => compared(size(0), size(1)).into(),
        "bytes" | "string" | "strings.quote" => conversion(name, overload, size(0)),
        _ => ONE.into(),
    }
}

/// Applying a pattern to text.
fn matching(text: Range, pattern: Range) -> Range {
    text.plus(ONE).scaled(TEXT).times(pattern.scaled(PATTERN))
}

/// Comparing two values, of which the smaller one decides.
fn compared(a: Range, b: Range) -> Range {
    let smaller = a.max.min(b.max);
    Range::of(smaller.min(1), smaller).scaled(TEXT)
}

/// The equality of types of libraries, which is not by size.
fn equality(args: &[Node], sizes: &Sizes) -> Option<Range> {
    let [Node { kind: Type::Opaque(a), .. }, right @ Node { kind: Type::Opaque(b), .. }] = args
    else {
        return None;
    };
    match *a {
        _ if a != b => None,
        "kubernetes.NamedFormat" => Some(Range::of(1, 64).scaled(TEXT)),
        "kubernetes.URL" => {
            let size = right.size(sizes).unwrap_or(ONE);
            Some(Range::of(1, size.max).scaled(TEXT))
        }
        _ => Some(ONE),
    }
}

/// Conversions that go through text. The sizes of results wrap around as in cel-go.
fn conversion(name: &str, overload: &Overload, of: Range) -> Call {
    let cost = of.scaled(TEXT);
    let size = match (name, overload.args.first()) {
        // Each character has up to four bytes.
        ("bytes", Some(Type::Text)) => Range::of(of.min, of.max.wrapping_mul(4)),
        ("string", Some(Type::Bytes)) => Range::of(of.min / 4, of.max),
        // Each character may be escaped.
        ("strings.quote", _) => {
            Range::of(of.min.wrapping_add(2), of.max.wrapping_mul(2).wrapping_add(2))
        }
        _ => return ONE.into(),
    };
    Call { cost, size: Some(size) }
}

/// Comparing addresses, which have 4 or 16 bytes.
fn contains_address(name: &str, overload: &Overload, other: Range) -> Range {
    let bytes = Range::of(4, 16);
    let mut cost = bytes.plus(bytes).scaled(TEXT);
    if name == "containsCIDR" {
        cost = cost.plus(bytes.scaled(TEXT)).plus(ONE);
    }
    match overload.args.get(1) {
        Some(Type::Text) => cost.plus(other.scaled(TEXT)),
        _ => cost,
    }
}

/// The type and the size of the elements of a list. Their size is that of the schema, also where
/// the expression makes the list.
fn element(list: &Node, sizes: &Sizes) -> Option<(Type, Range)> {
    let kind = match &list.kind {
        Type::List(of) => of.element.clone(),
        Type::Map(of) => of.0.clone(),
        Type::Optional(of) => (**of).clone(),
        _ => return None,
    };
    let size = list.path.below().and_then(|mut steps| {
        steps.push(Step::Inside);
        Some(Range::of(0, sizes.at(steps.into_iter())?))
    });
    Some((kind, size.unwrap_or(Range::UNKNOWN)))
}

/// Comparing all elements of a list, or finding text in text.
fn comparisons(args: &[Node], sizes: &Sizes) -> Range {
    let Some(of) = args.first() else { return ONE };
    let size = of.size_or_unknown(sizes);
    match element(of, sizes) {
        Some((Type::Text | Type::Bytes, element)) => size.times(ONE.plus(element.scaled(TEXT))),
        Some(_) => size,
        None => size.scaled(TEXT),
    }
}

/// The size of text in which some text is replaced.
fn replaced(of: Range, old: Range, new: Range) -> Range {
    let (max_count, max_kept) = match old.min {
        // Each character is surrounded by the replacement.
        0 => (of.max.saturating_add(1), of.max),
        // The replacement is not longer.
        _ if new.max <= old.min => (0, of.max),
        least => (of.max.div_ceil(least), 0),
    };
    let (min_count, min_kept) = match old.max {
        0 => (of.min.saturating_add(1), of.min),
        // The replacement is not shorter.
        _ if old.max <= new.min => (0, of.min),
        most => (of.min.div_ceil(most), 0),
    };
    Range::of(min_count, max_count).times(new).plus(Range::of(min_kept, max_kept))
}

fn split(args: &[Node], sizes: &Sizes) -> Call {
    let of = args.first().map_or(Range::UNKNOWN, |of| of.size_or_unknown(sizes));
    let limit = args.get(2).and_then(|limit| limit.literal).map(i64::cast_unsigned);
    Call { cost: of.scaled(2.0 * TEXT), size: Some(Range::of(0, limit.unwrap_or(of.max))) }
}

fn join(args: &[Node], sizes: &Sizes) -> Call {
    let Some(of) = args.first() else { return ONE.into() };
    let list = of.size_or_unknown(sizes);
    let mut size = element(of, sizes).map_or(Range::fixed(0), |(_, one)| list.times(one));
    if let Some(separator) = args.get(1) {
        let count = Range::of(list.min.saturating_sub(1), list.max.saturating_sub(1));
        size = size.plus(separator.size_or_unknown(sizes).times(count));
    }
    Call { cost: size.scaled(TEXT), size: Some(size) }
}

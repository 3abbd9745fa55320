//! Operators, conversions and optional values.

use super::table::Row;
use crate::cel::{
    budget::{Budget, EvalError},
    types::Merge,
    value::{Text, Val, compare, equal, merge},
};
use std::{cmp::Ordering, rc::Rc};

type Evaluated<'a> = Result<Val<'a>, EvalError>;

const ORDERED: &[&str] = &[
    "(bool, bool) bool",
    "(int, int) bool",
    "(uint, uint) bool",
    "(double, double) bool",
    "(int, uint) bool",
    "(int, double) bool",
    "(uint, int) bool",
    "(uint, double) bool",
    "(double, int) bool",
    "(double, uint) bool",
    "(string, string) bool",
    "(bytes, bytes) bool",
    "(timestamp, timestamp) bool",
    "(duration, duration) bool",
];

pub(super) const TABLE: &[Row] = &[
    Row("_==_", &["(A, A) bool"], |args, budget| equality(args, budget, true)),
    Row("_!=_", &["(A, A) bool"], |args, budget| equality(args, budget, false)),
    Row("_<_", ORDERED, |args, budget| order(args, budget, |found| found == Ordering::Less)),
    Row("_<=_", ORDERED, |args, budget| order(args, budget, |found| found != Ordering::Greater)),
    Row("_>_", ORDERED, |args, budget| order(args, budget, |found| found == Ordering::Greater)),
    Row("_>=_", ORDERED, |args, budget| order(args, budget, |found| found != Ordering::Less)),
    Row("!_", &["(bool) bool"], |args, _| match args {
        [Val::Bool(flag)] => Ok(Val::Bool(!flag)),
        _ => Err(EvalError::Overload),
    }),
    Row("@in", &["(A, list<A>) bool", "(A, map<A B>) bool"], is_in),
    Row(
        "_[_]",
        &[
            "(list<A>, int) A",
            "(map<A B>, A) B",
            "(optional<list<A>>, int) optional<A>",
            "(optional<map<A B>>, A) optional<B>",
        ],
        |args, budget| match args {
            // Once a part of a chain is optional, what follows is.
            [Val::Optional(_), _] => optional_index(args, budget),
            _ => index(args, budget)?.map_or_else(EvalError::fail, Ok),
        },
    ),
    Row(
        "_[?_]",
        &[
            "(list<A>, int) optional<A>",
            "(map<A B>, A) optional<B>",
            "(optional<list<A>>, int) optional<A>",
            "(optional<map<A B>>, A) optional<B>",
        ],
        optional_index,
    ),
    Row(
        "size",
        &[
            "(string) int",
            "(bytes) int",
            "(list<A>) int",
            "(map<A B>) int",
            "string.() int",
            "bytes.() int",
            "list<A>.() int",
            "map<A B>.() int",
        ],
        size,
    ),
    Row("type", &["(A) type"], |args, _| match args {
        [value] => Ok(Val::Type(value.type_name())),
        _ => Err(EvalError::Overload),
    }),
    Row("dyn", &["(A) dyn"], |args, _| args.first().cloned().ok_or(EvalError::Overload)),
    Row("bool", &["(bool) bool", "(string) bool"], |args, _| match args {
        [Val::Bool(flag)] => Ok(Val::Bool(*flag)),
        [Val::Text(text)] => match &**text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Val::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Val::Bool(false)),
            _ => EvalError::fail("type conversion error from 'string' to 'bool'"),
        },
        _ => Err(EvalError::Overload),
    }),
    Row("bytes", &["(bytes) bytes", "(string) bytes"], |args, budget| match args {
        [Val::Bytes(bytes)] => Ok(Val::Bytes(bytes.clone())),
        [Val::Text(text)] => {
            budget.traverse(text.len())?;
            Ok(Val::Bytes(text.as_bytes().into()))
        }
        _ => Err(EvalError::Overload),
    }),
    Row("optional.of", &["(A) optional<A>"], |args, _| match args {
        [value] => Ok(Val::some(value.clone())),
        _ => Err(EvalError::Overload),
    }),
    Row("optional.ofNonZeroValue", &["(A) optional<A>"], |args, _| match args {
        [value] => Ok(if is_zero(value) { Val::Optional(None) } else { Val::some(value.clone()) }),
        _ => Err(EvalError::Overload),
    }),
    Row("optional.none", &["() optional<A>"], |_, _| Ok(Val::Optional(None))),
    Row("hasValue", &["optional<A>.() bool"], |args, _| match args {
        [Val::Optional(of)] => Ok(Val::Bool(of.is_some())),
        _ => Err(EvalError::Overload),
    }),
    Row("value", &["optional<A>.() A"], |args, _| match args {
        [Val::Optional(Some(of))] => Ok((**of).clone()),
        [Val::Optional(None)] => EvalError::fail("optional.none() dereference"),
        _ => Err(EvalError::Overload),
    }),
    Row("orValue", &["optional<A>.(A) A"], |args, _| match args {
        [Val::Optional(Some(of)), _] => Ok((**of).clone()),
        [Val::Optional(None), other] => Ok(other.clone()),
        _ => Err(EvalError::Overload),
    }),
    Row("or", &["optional<A>.(optional<A>) optional<A>"], |args, _| match args {
        [Val::Optional(None), other] => Ok(other.clone()),
        [of, _] => Ok(of.clone()),
        _ => Err(EvalError::Overload),
    }),
    Row("_+_", &["(list<A>, list<A>) list<A>"], concat_lists),
];

fn equality<'a>(args: &[Val<'a>], budget: &mut Budget, wanted: bool) -> Evaluated<'a> {
    match args {
        [a, b] => Ok(Val::Bool(equal(a, b, budget)? == wanted)),
        _ => Err(EvalError::Overload),
    }
}

fn order<'a>(
    args: &[Val<'a>],
    budget: &mut Budget,
    holds: impl Fn(Ordering) -> bool,
) -> Evaluated<'a> {
    match args {
        [a, b] => Ok(Val::Bool(holds(compare(a, b, budget)?))),
        _ => Err(EvalError::Overload),
    }
}

fn is_in<'a>(args: &[Val<'a>], budget: &mut Budget) -> Evaluated<'a> {
    let [wanted, of] = args else { return Err(EvalError::Overload) };
    budget.charge(of.size())?;
    if let Some(all) = of.elements() {
        for one in &all {
            if equal(one, wanted, budget)? {
                return Ok(Val::Bool(true));
            }
        }
        return Ok(Val::Bool(false));
    }
    match (of.entries(), wanted) {
        (Some(_), Val::Text(name)) if matches!(of, Val::Json(..)) => {
            Ok(Val::Bool(of.field(name)?.is_some()))
        }
        (Some(all), _) => {
            for (key, _) in &all {
                if equal(key, wanted, budget)? {
                    return Ok(Val::Bool(true));
                }
            }
            Ok(Val::Bool(false))
        }
        (None, _) => Err(EvalError::Overload),
    }
}

/// An element of a list or map, or why there is none.
fn optional_index<'a>(args: &[Val<'a>], budget: &mut Budget) -> Evaluated<'a> {
    let found = match args {
        [Val::Optional(None), _] => None,
        [Val::Optional(Some(of)), key] => index(&[(**of).clone(), key.clone()], budget)?.ok(),
        _ => index(args, budget)?.ok(),
    };
    Ok(Val::Optional(found.map(Rc::new)))
}

fn index<'a>(args: &[Val<'a>], budget: &mut Budget) -> Result<Result<Val<'a>, String>, EvalError> {
    match args {
        [of @ (Val::List(_) | Val::Json(serde_json::Value::Array(_), _)), at] => {
            let at = match at {
                Val::Int(at) => *at,
                Val::Uint(at) => i64::try_from(*at).unwrap_or(i64::MAX),
                #[allow(clippy::cast_possible_truncation, reason = "it has no fraction")]
                Val::Double(at) if at.fract() == 0.0 => *at as i64,
                _ => return Err(EvalError::Overload),
            };
            let found = usize::try_from(at).ok().and_then(|at| of.at(at));
            Ok(found.ok_or_else(|| format!("index out of bounds: {at}")))
        }
        [of @ Val::Json(..), Val::Text(name)] => {
            Ok(of.field(name)?.ok_or_else(|| format!("no such key: {}", &**name)))
        }
        [Val::Map(all), key] => {
            for (known, value) in all.iter() {
                if equal(known, key, budget)? {
                    return Ok(Ok(value.clone()));
                }
            }
            Ok(Err(format!("no such key: {}", key.as_key())))
        }
        [Val::Json(..), key] => Ok(Err(format!("no such key: {}", key.as_key()))),
        _ => Err(EvalError::Overload),
    }
}

fn size<'a>(args: &[Val<'a>], budget: &mut Budget) -> Evaluated<'a> {
    let size = match args {
        [Val::Text(text)] => {
            // Free in cel-go, which goes through the text as well.
            budget.charge(text.len() / 100)?;
            text.chars().count()
        }
        [of @ (Val::Bytes(_) | Val::List(_) | Val::Map(_) | Val::Json(..))] => of.size(),
        _ => return Err(EvalError::Overload),
    };
    Ok(Val::Int(i64::try_from(size).unwrap_or(i64::MAX)))
}

fn is_zero(value: &Val) -> bool {
    match value {
        Val::Null => true,
        Val::Bool(flag) => !flag,
        Val::Int(n) => *n == 0,
        Val::Uint(n) => *n == 0,
        Val::Double(n) => *n == 0.0,
        Val::Duration(n) => *n == 0,
        Val::Optional(of) => of.is_none(),
        Val::Text(_) | Val::Bytes(_) | Val::List(_) | Val::Map(_) | Val::Json(..) => {
            value.size() == 0
        }
        _ => false,
    }
}

/// `+` of lists: those with keys are merged by them, and sets have each element once.
fn concat_lists<'a>(args: &[Val<'a>], budget: &mut Budget) -> Evaluated<'a> {
    let [a, b] = args else { return Err(EvalError::Overload) };
    budget.charge(a.size() + b.size())?;
    let (Some(mut all), Some(more)) = (a.elements(), b.elements()) else {
        return Err(EvalError::Overload);
    };
    let Some(merge) = merge(a) else {
        all.extend(more);
        return Ok(Val::list(all));
    };
    for one in more {
        let mut known = None;
        for (n, other) in all.iter().enumerate() {
            if is_same_entry(merge, other, &one, budget)? {
                known = Some(n);
                break;
            }
        }
        match known.and_then(|n| all.get_mut(n)) {
            Some(known) => *known = one,
            None => all.push(one),
        }
    }
    Ok(Val::list(all))
}

fn is_same_entry(merge: &Merge, a: &Val, b: &Val, budget: &mut Budget) -> Result<bool, EvalError> {
    let Merge::Keyed(keys) = merge else { return equal(a, b, budget) };
    for key in keys {
        let (a, b) = (a.field(key)?, b.field(key)?);
        let same = match (&a, &b) {
            (Some(a), Some(b)) => equal(a, b, budget)?,
            (None, None) => true,
            _ => false,
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The text of an argument.
pub(super) fn text<'v>(value: &'v Val) -> Result<&'v str, EvalError> {
    match value {
        Val::Text(text) => Ok(text),
        _ => Err(EvalError::Overload),
    }
}

/// A text that is part of an argument.
pub(super) fn part<'a>(of: &Val<'a>, from: usize, to: usize) -> Val<'a> {
    match of {
        Val::Text(Text::Borrowed(text)) => {
            Val::Text(Text::Borrowed(text.get(from..to).unwrap_or_default()))
        }
        Val::Text(Text::Shared(text)) => Val::text(text.get(from..to).unwrap_or_default()),
        _ => Val::Null,
    }
}

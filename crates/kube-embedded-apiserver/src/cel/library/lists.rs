//! Functions of lists, and of lists as sets.

use super::table::Row;
use crate::cel::{
    budget::{Budget, EvalError},
    value::{Val, compare, equal, sort},
};
use std::{cmp::Ordering, rc::Rc};

type Evaluated<'a> = Result<Val<'a>, EvalError>;

pub(super) const TABLE: &[Row] = &[
    Row(
        "isSorted",
        &[
            "list<bool>.() bool",
            "list<int>.() bool",
            "list<uint>.() bool",
            "list<double>.() bool",
            "list<string>.() bool",
            "list<bytes>.() bool",
            "list<timestamp>.() bool",
            "list<duration>.() bool",
        ],
        |args, budget| {
            let all = elements(&args[0], budget)?;
            for pair in all.windows(2) {
                if compare(&pair[0], &pair[1], budget)? == Ordering::Greater {
                    return Ok(Val::Bool(false));
                }
            }
            Ok(Val::Bool(true))
        },
    ),
    Row(
        "sum",
        &[
            "list<int>.() int",
            "list<uint>.() uint",
            "list<double>.() double",
            "list<duration>.() duration",
        ],
        sum,
    ),
    Row("min", ORDERED, |args, budget| extreme(args, budget, "min", Ordering::Less)),
    Row("max", ORDERED, |args, budget| extreme(args, budget, "max", Ordering::Greater)),
    Row("indexOf", &["list<A>.(A) int"], |args, budget| position(args, budget, false)),
    Row("lastIndexOf", &["list<A>.(A) int"], |args, budget| position(args, budget, true)),
    Row("first", &["list<A>.() optional<A>"], |args, _| match args {
        [Val::List(_) | Val::Json(..)] => Ok(Val::Optional(args[0].at(0).map(Rc::new))),
        _ => Err(EvalError::Overload),
    }),
    Row("last", &["list<A>.() optional<A>"], |args, _| match args {
        [of @ (Val::List(_) | Val::Json(..))] => {
            let last = of.size().checked_sub(1).and_then(|n| of.at(n));
            Ok(Val::Optional(last.map(Rc::new)))
        }
        _ => Err(EvalError::Overload),
    }),
    Row("reverse", &["list<A>.() list<A>"], |args, budget| {
        let mut all = elements(&args[0], budget)?;
        all.reverse();
        Ok(Val::list(all))
    }),
    Row("slice", &["list<A>.(int, int) list<A>"], |args, budget| {
        let [of, Val::Int(from), Val::Int(to)] = args else { return Err(EvalError::Overload) };
        let all = elements(of, budget)?;
        let range = usize::try_from(*from).ok().zip(usize::try_from(*to).ok());
        match range.and_then(|(from, to)| all.get(from..to)) {
            Some(part) => Ok(Val::list(part.to_vec())),
            None => {
                let why = match (*from, *to) {
                    (from, to) if from < 0 || to < 0 => "negative indexes not supported".to_owned(),
                    (from, to) if from > to => {
                        "start index must be less than or equal to end index".to_owned()
                    }
                    _ => format!("list is length {}", all.len()),
                };
                EvalError::fail(format!("cannot slice({from}, {to}), {why}"))
            }
        }
    }),
    Row("flatten", &["list<list<A>>.() list<A>", "list<dyn>.(int) list<dyn>"], |args, budget| {
        let depth = match args.get(1) {
            None => 1,
            Some(Val::Int(depth)) if *depth >= 0 => *depth,
            Some(_) => return EvalError::fail("level must be non-negative"),
        };
        let mut all = Vec::new();
        flatten(&args[0], depth.min(64), &mut all, budget)?;
        Ok(Val::list(all))
    }),
    Row("sort", SORTED, |args, budget| {
        let all = elements(&args[0], budget)?;
        let mut pairs: Vec<_> = all.into_iter().map(|one| (one.clone(), one)).collect();
        sort(&mut pairs, budget)?;
        Ok(Val::list(pairs.into_iter().map(|(_, one)| one).collect()))
    }),
    Row("distinct", &["list<A>.() list<A>"], |args, budget| {
        let mut kept: Vec<Val> = Vec::new();
        for one in elements(&args[0], budget)? {
            if !contains(&kept, &one, budget)? {
                kept.push(one);
            }
        }
        Ok(Val::list(kept))
    }),
    Row("lists.range", &["(int) list<int>"], |args, budget| match args {
        [Val::Int(count)] => {
            budget.charge(usize::try_from(*count).unwrap_or(0))?;
            Ok(Val::list((0..*count).map(Val::Int).collect()))
        }
        _ => Err(EvalError::Overload),
    }),
    Row("sets.contains", &["(list<A>, list<A>) bool"], |args, budget| {
        let (all, wanted) = (elements(&args[0], budget)?, elements(&args[1], budget)?);
        Ok(Val::Bool(contains_all(&all, &wanted, budget)?))
    }),
    Row("sets.equivalent", &["(list<A>, list<A>) bool"], |args, budget| {
        let (a, b) = (elements(&args[0], budget)?, elements(&args[1], budget)?);
        Ok(Val::Bool(contains_all(&a, &b, budget)? && contains_all(&b, &a, budget)?))
    }),
    Row("sets.intersects", &["(list<A>, list<A>) bool"], |args, budget| {
        let (a, b) = (elements(&args[0], budget)?, elements(&args[1], budget)?);
        for one in &b {
            if contains(&a, one, budget)? {
                return Ok(Val::Bool(true));
            }
        }
        Ok(Val::Bool(false))
    }),
];

const ORDERED: &[&str] = &[
    "list<bool>.() bool",
    "list<int>.() int",
    "list<uint>.() uint",
    "list<double>.() double",
    "list<string>.() string",
    "list<bytes>.() bytes",
    "list<timestamp>.() timestamp",
    "list<duration>.() duration",
];

const SORTED: &[&str] = &[
    "list<bool>.() list<bool>",
    "list<int>.() list<int>",
    "list<uint>.() list<uint>",
    "list<double>.() list<double>",
    "list<string>.() list<string>",
    "list<bytes>.() list<bytes>",
    "list<timestamp>.() list<timestamp>",
    "list<duration>.() list<duration>",
];

fn elements<'a>(of: &Val<'a>, budget: &mut Budget) -> Result<Vec<Val<'a>>, EvalError> {
    budget.charge(of.size())?;
    of.elements().ok_or(EvalError::Overload)
}

fn sum<'a>(args: &[Val<'a>], budget: &mut Budget) -> Evaluated<'a> {
    let all = elements(&args[0], budget)?;
    let overflow = || EvalError::Failed("integer overflow".to_owned());
    let Some((first, rest)) = all.split_first() else { return Ok(Val::Int(0)) };
    let mut total = first.clone();
    for one in rest {
        total = match (&total, one) {
            (Val::Int(a), Val::Int(b)) => Val::Int(a.checked_add(*b).ok_or_else(overflow)?),
            (Val::Uint(a), Val::Uint(b)) => Val::Uint(a.checked_add(*b).ok_or_else(overflow)?),
            (Val::Double(a), Val::Double(b)) => Val::Double(a + b),
            (Val::Duration(a), Val::Duration(b)) => {
                Val::Duration(a.checked_add(*b).ok_or_else(overflow)?)
            }
            _ => return Err(EvalError::Overload),
        };
    }
    Ok(total)
}

fn extreme<'a>(
    args: &[Val<'a>],
    budget: &mut Budget,
    name: &str,
    wanted: Ordering,
) -> Evaluated<'a> {
    let mut best: Option<Val> = None;
    for one in elements(&args[0], budget)? {
        let better = match &best {
            Some(best) => compare(&one, best, budget)? == wanted,
            None => true,
        };
        if better {
            best = Some(one);
        }
    }
    best.map_or_else(|| EvalError::fail(format!("{name} called on empty list")), Ok)
}

fn position<'a>(args: &[Val<'a>], budget: &mut Budget, last: bool) -> Evaluated<'a> {
    let [of, wanted] = args else { return Err(EvalError::Overload) };
    let mut found = -1;
    for (n, one) in elements(of, budget)?.iter().enumerate() {
        if equal(one, wanted, budget)? {
            found = i64::try_from(n).unwrap_or(i64::MAX);
            if !last {
                break;
            }
        }
    }
    Ok(Val::Int(found))
}

fn flatten<'a>(
    of: &Val<'a>,
    depth: i64,
    all: &mut Vec<Val<'a>>,
    budget: &mut Budget,
) -> Result<(), EvalError> {
    for one in elements(of, budget)? {
        match depth > 0 && one.type_name() == "list" {
            true => flatten(&one, depth - 1, all, budget)?,
            false => all.push(one),
        }
    }
    Ok(())
}

fn contains(all: &[Val], wanted: &Val, budget: &mut Budget) -> Result<bool, EvalError> {
    for one in all {
        if equal(one, wanted, budget)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn contains_all(all: &[Val], wanted: &[Val], budget: &mut Budget) -> Result<bool, EvalError> {
    for one in wanted {
        if !contains(all, one, budget)? {
            return Ok(false);
        }
    }
    Ok(true)
}

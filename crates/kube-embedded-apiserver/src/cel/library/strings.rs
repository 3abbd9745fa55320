//! Functions of strings and bytes. Positions count characters.

use super::{
    operators::{part, text},
    table::Row,
};
use crate::{
    cel::{
        budget::{Budget, EvalError},
        value::Val,
    },
    pattern::Pattern,
};
use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

type Evaluated<'a> = Result<Val<'a>, EvalError>;

pub(super) const TABLE: &[Row] = &[
    Row("_+_", &["(string, string) string", "(bytes, bytes) bytes"], concat),
    Row("contains", &["string.(string) bool"], |args, budget| {
        let (of, wanted) = (text(&args[0])?, text(&args[1])?);
        budget.charge(of.len().div_ceil(10) * wanted.len().div_ceil(10))?;
        Ok(Val::Bool(of.contains(wanted)))
    }),
    Row("startsWith", &["string.(string) bool"], |args, budget| {
        budget.traverse(args[0].size())?;
        Ok(Val::Bool(text(&args[0])?.starts_with(text(&args[1])?)))
    }),
    Row("endsWith", &["string.(string) bool"], |args, budget| {
        budget.traverse(args[0].size())?;
        Ok(Val::Bool(text(&args[0])?.ends_with(text(&args[1])?)))
    }),
    Row("matches", &["string.(string) bool", "(string, string) bool"], |args, budget| {
        let (of, pattern) = (text(&args[0])?, text(&args[1])?);
        Ok(Val::Bool(pattern_of(of, pattern, budget)?.is_match(of)))
    }),
    Row("find", &["string.(string) string"], |args, budget| {
        let (of, pattern) = (text(&args[0])?, text(&args[1])?);
        let pattern = pattern_of(of, pattern, budget)?;
        Ok(Val::text(pattern.matches(of).next().unwrap_or_default()))
    }),
    Row(
        "findAll",
        &["string.(string) list<string>", "string.(string, int) list<string>"],
        find_all,
    ),
    Row("charAt", &["string.(int) string"], |args, budget| {
        let [of @ Val::Text(_), Val::Int(at)] = args else { return Err(EvalError::Overload) };
        budget.traverse(of.size())?;
        substring(of, *at, Some(at.saturating_add(1)), true)
    }),
    Row("substring", &["string.(int) string", "string.(int, int) string"], |args, budget| {
        budget.traverse(args[0].size())?;
        match args {
            [of @ Val::Text(_), Val::Int(from)] => substring(of, *from, None, false),
            [of @ Val::Text(_), Val::Int(from), Val::Int(to)] => {
                substring(of, *from, Some(*to), false)
            }
            _ => Err(EvalError::Overload),
        }
    }),
    Row("indexOf", &["string.(string) int", "string.(string, int) int"], |args, budget| {
        index_of(args, budget, false)
    }),
    Row("lastIndexOf", &["string.(string) int", "string.(string, int) int"], |args, budget| {
        index_of(args, budget, true)
    }),
    Row("lowerAscii", &["string.() string"], |args, budget| {
        budget.traverse(args[0].size())?;
        Ok(Val::text(text(&args[0])?.to_ascii_lowercase()))
    }),
    Row("upperAscii", &["string.() string"], |args, budget| {
        budget.traverse(args[0].size())?;
        Ok(Val::text(text(&args[0])?.to_ascii_uppercase()))
    }),
    Row("trim", &["string.() string"], |args, budget| {
        budget.traverse(args[0].size())?;
        Ok(Val::text(text(&args[0])?.trim()))
    }),
    Row(
        "replace",
        &["string.(string, string) string", "string.(string, string, int) string"],
        replace,
    ),
    Row("split", &["string.(string) list<string>", "string.(string, int) list<string>"], split),
    Row("join", &["list<string>.() string", "list<string>.(string) string"], join),
];

fn concat<'a>(args: &[Val<'a>], budget: &mut Budget) -> Evaluated<'a> {
    match args {
        [Val::Text(a), Val::Text(b)] => {
            budget.traverse(a.len() + b.len())?;
            Ok(Val::text([&**a, &**b].concat()))
        }
        [Val::Bytes(a), Val::Bytes(b)] => {
            budget.traverse(a.len() + b.len())?;
            Ok(Val::Bytes([&**a, &**b].concat().into()))
        }
        _ => Err(EvalError::Overload),
    }
}

/// Compiled patterns, since most are literals of rules that run again and again.
static PATTERNS: LazyLock<Mutex<HashMap<String, Arc<Pattern>>>> = LazyLock::new(Mutex::default);
/// How many are kept.
const KEPT: usize = 256;
/// What compiling one costs: large ones take milliseconds, which is free in cel-go.
const COMPILE: usize = 20_000;

/// Compiles a pattern, and charges for its match with a text.
fn pattern_of(text: &str, pattern: &str, budget: &mut Budget) -> Result<Arc<Pattern>, EvalError> {
    budget.charge((text.len() + 1).div_ceil(10) * pattern.len().div_ceil(4))?;
    let mut known = PATTERNS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(compiled) = known.get(pattern) {
        return Ok(compiled.clone());
    }
    drop(known);
    budget.charge(COMPILE)?;
    let compiled = match Pattern::new(pattern) {
        Ok(compiled) => Arc::new(compiled),
        Err(error) => return EvalError::fail(pattern_message(pattern, &error)),
    };
    known = PATTERNS.lock().unwrap_or_else(PoisonError::into_inner);
    if known.len() >= KEPT {
        known.clear();
    }
    known.insert(pattern.to_owned(), compiled.clone());
    Ok(compiled)
}

/// The error of a pattern.
pub(super) fn pattern_message(pattern: &str, error: &regex::Error) -> String {
    let why = error.to_string();
    let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ");
    format!("error parsing regexp: {why}: `{pattern}`")
}

fn find_all<'a>(args: &[Val<'a>], budget: &mut Budget) -> Evaluated<'a> {
    let limit = match args.get(2) {
        None => usize::MAX,
        Some(Val::Int(limit)) => usize::try_from(*limit).unwrap_or(usize::MAX),
        Some(_) => return Err(EvalError::Overload),
    };
    let (of, pattern) = (text(&args[0])?, text(&args[1])?);
    let pattern = pattern_of(of, pattern, budget)?;
    budget.charge(of.len())?;
    Ok(Val::list(pattern.matches(of).take(limit).map(Val::text).collect()))
}

/// The byte at which a character starts; `None` beyond the end.
fn byte_at(text: &str, at: i64) -> Option<usize> {
    let at = usize::try_from(at).ok()?;
    text.char_indices().map(|(byte, _)| byte).chain([text.len()]).nth(at)
}

/// The characters of a range. That of one character may lie right behind the end.
fn substring<'a>(of: &Val<'a>, from: i64, to: Option<i64>, one: bool) -> Evaluated<'a> {
    let given = text(of)?;
    if let Some(to) = to.filter(|to| from > *to) {
        return EvalError::fail(format!("invalid substring range. start: {from}, end: {to}"));
    }
    let Some(start) = byte_at(given, from) else {
        return EvalError::fail(format!("index out of range: {from}"));
    };
    let end = match to {
        None => given.len(),
        Some(_) if one && start == given.len() => start,
        Some(to) => match byte_at(given, to) {
            Some(end) => end,
            None => return EvalError::fail(format!("index out of range: {to}")),
        },
    };
    Ok(part(of, start, end))
}

fn index_of<'a>(args: &[Val<'a>], budget: &mut Budget, last: bool) -> Evaluated<'a> {
    let (of, wanted) = (text(&args[0])?, text(&args[1])?);
    budget.traverse(of.len())?;
    let offset = match args.get(2) {
        None => None,
        // Nothing is found wherever one looks.
        Some(Val::Int(offset)) if wanted.is_empty() => return Ok(Val::Int(*offset)),
        Some(Val::Int(offset)) if *offset < 0 => {
            return EvalError::fail(format!("index out of range: {offset}"));
        }
        Some(Val::Int(offset)) => match byte_at(of, *offset).filter(|byte| *byte < of.len()) {
            Some(byte) => Some(byte),
            None => return Ok(Val::Int(-1)),
        },
        Some(_) => return Err(EvalError::Overload),
    };
    let found = if last {
        // The match starts at the offset at the latest.
        let end = offset.map_or(of.len(), |at| at.saturating_add(wanted.len()).min(of.len()));
        let end = (end..=of.len()).find(|end| of.is_char_boundary(*end)).unwrap_or(of.len());
        of.get(..end).unwrap_or_default().rfind(wanted)
    } else {
        let from = offset.unwrap_or(0);
        of.get(from..).unwrap_or_default().find(wanted).map(|at| from + at)
    };
    let characters = found.map(|byte| of.get(..byte).unwrap_or_default().chars().count());
    Ok(Val::Int(characters.and_then(|n| i64::try_from(n).ok()).unwrap_or(-1)))
}

fn replace<'a>(args: &[Val<'a>], budget: &mut Budget) -> Evaluated<'a> {
    let (of, from, to) = (text(&args[0])?, text(&args[1])?, text(&args[2])?);
    let limit = match args.get(3) {
        None => usize::MAX,
        Some(Val::Int(limit)) => usize::try_from(*limit).unwrap_or(usize::MAX),
        Some(_) => return Err(EvalError::Overload),
    };
    budget.traverse(of.len() * 2)?;
    // The result may be far longer than what it is made of.
    let count = of.matches(from).take(limit).count();
    budget.traverse(count.saturating_mul(to.len()))?;
    Ok(Val::text(of.replacen(from, to, limit)))
}

fn split<'a>(args: &[Val<'a>], budget: &mut Budget) -> Evaluated<'a> {
    let (of, separator) = (text(&args[0])?, text(&args[1])?);
    budget.traverse(of.len() * 2)?;
    let limit = match args.get(2) {
        None => usize::MAX,
        Some(Val::Int(limit)) => usize::try_from(*limit).unwrap_or(usize::MAX),
        Some(_) => return Err(EvalError::Overload),
    };
    let parts: Vec<&str> = match separator {
        "" => of
            .char_indices()
            .take(limit)
            .enumerate()
            .map(|(n, (at, c))| match n + 1 == limit {
                true => &of[at..],
                false => &of[at..at + c.len_utf8()],
            })
            .collect(),
        _ if limit == 0 => Vec::new(),
        _ => of.splitn(limit, separator).collect(),
    };
    budget.charge(parts.len())?;
    let start = of.as_ptr() as usize;
    let place = |one: &str| (one.as_ptr() as usize).saturating_sub(start);
    Ok(Val::list(
        parts.into_iter().map(|one| part(&args[0], place(one), place(one) + one.len())).collect(),
    ))
}

fn join<'a>(args: &[Val<'a>], budget: &mut Budget) -> Evaluated<'a> {
    let separator = args.get(1).map_or(Ok(""), text)?;
    let all = args[0].elements().ok_or(EvalError::Overload)?;
    budget.traverse(all.len())?;
    let parts: Vec<&str> = all.iter().map(text).collect::<Result<_, _>>()?;
    let length: usize = parts.iter().map(|part| part.len() + separator.len()).sum();
    budget.traverse(length * 2)?;
    Ok(Val::text(parts.join(separator)))
}

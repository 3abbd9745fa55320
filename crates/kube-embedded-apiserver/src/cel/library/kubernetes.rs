//! Quantities, named formats and semantic versions.

use super::{operators::text, table::Row};
use crate::{
    cel::{
        budget::{Budget, EvalError},
        quantity::Quantity,
        timestamp::Timestamp,
        url::Url,
        value::{Semver, Val},
    },
    go_quote::quoted,
    validation::names::{dns_1035_label, dns_label, dns_subdomain, label_value, qualified_name},
};
use base64::Engine;
use std::{cmp::Ordering, rc::Rc};

type Evaluated<'a> = Result<Val<'a>, EvalError>;

pub(super) const TABLE: &[Row] = &[
    Row("quantity", &["(string) quantity"], |args, budget| {
        budget.traverse(args[0].size())?;
        Quantity::parse(text(&args[0])?).map_or_else(EvalError::fail, |n| Ok(Val::Quantity(n)))
    }),
    Row("isQuantity", &["(string) bool"], |args, budget| {
        budget.traverse(args[0].size())?;
        Ok(Val::Bool(Quantity::parse(text(&args[0])?).is_ok()))
    }),
    Row("sign", &["(quantity) int"], |args, _| match args {
        [Val::Quantity(n)] => Ok(Val::Int(n.sign())),
        _ => Err(EvalError::Overload),
    }),
    Row("isInteger", &["quantity.() bool"], |args, _| match args {
        [Val::Quantity(n)] => Ok(Val::Bool(n.as_integer().is_some())),
        _ => Err(EvalError::Overload),
    }),
    Row("asInteger", &["quantity.() int"], |args, _| match args {
        [Val::Quantity(n)] => match n.as_integer() {
            Some(n) => Ok(Val::Int(n)),
            None => EvalError::fail("cannot convert value to integer"),
        },
        _ => Err(EvalError::Overload),
    }),
    Row("asApproximateFloat", &["quantity.() double"], |args, _| match args {
        [Val::Quantity(n)] => Ok(Val::Double(n.as_float())),
        _ => Err(EvalError::Overload),
    }),
    Row("add", &["quantity.(quantity) quantity", "quantity.(int) quantity"], |args, _| {
        sum(args, Quantity::plus)
    }),
    Row("sub", &["quantity.(quantity) quantity", "quantity.(int) quantity"], |args, _| {
        sum(args, Quantity::minus)
    }),
    Row("isLessThan", COMPARED, |args, _| Ok(Val::Bool(order(args)? == Ordering::Less))),
    Row("isGreaterThan", COMPARED, |args, _| Ok(Val::Bool(order(args)? == Ordering::Greater))),
    Row("compareTo", &["quantity.(quantity) int", "semver.(semver) int"], |args, _| {
        Ok(Val::Int(order(args)? as i64))
    }),
    Row("semver", &["(string) semver", "(string, bool) semver"], |args, budget| {
        budget.traverse(args[0].size())?;
        let version = semver(args)?;
        version.map_or_else(
            || EvalError::fail("No Major.Minor.Patch elements found"),
            |found| Ok(Val::Semver(Rc::new(found))),
        )
    }),
    Row("isSemver", &["(string) bool", "(string, bool) bool"], |args, budget| {
        budget.traverse(args[0].size())?;
        Ok(Val::Bool(semver(args)?.is_some()))
    }),
    Row("major", &["semver.() int"], |args, _| number(args, 0)),
    Row("minor", &["semver.() int"], |args, _| number(args, 1)),
    Row("patch", &["semver.() int"], |args, _| number(args, 2)),
    Row("format.named", &["(string) optional<format>"], |args, _| {
        let name = text(&args[0])?;
        let known = FORMATS.iter().find(|(known, _)| *known == name);
        Ok(Val::Optional(known.map(|(known, _)| Rc::new(Val::Format(known)))))
    }),
    Row("validate", &["format.(string) optional<list<string>>"], validate),
    Row("format.dns1123Label", NAMED, |_, _| Ok(Val::Format("dns1123Label"))),
    Row("format.dns1123Subdomain", NAMED, |_, _| Ok(Val::Format("dns1123Subdomain"))),
    Row("format.dns1035Label", NAMED, |_, _| Ok(Val::Format("dns1035Label"))),
    Row("format.dns1123LabelPrefix", NAMED, |_, _| Ok(Val::Format("dns1123LabelPrefix"))),
    Row("format.dns1123SubdomainPrefix", NAMED, |_, _| Ok(Val::Format("dns1123SubdomainPrefix"))),
    Row("format.dns1035LabelPrefix", NAMED, |_, _| Ok(Val::Format("dns1035LabelPrefix"))),
    Row("format.qualifiedName", NAMED, |_, _| Ok(Val::Format("qualifiedName"))),
    Row("format.labelValue", NAMED, |_, _| Ok(Val::Format("labelValue"))),
    Row("format.uri", NAMED, |_, _| Ok(Val::Format("uri"))),
    Row("format.uuid", NAMED, |_, _| Ok(Val::Format("uuid"))),
    Row("format.byte", NAMED, |_, _| Ok(Val::Format("byte"))),
    Row("format.date", NAMED, |_, _| Ok(Val::Format("date"))),
    Row("format.datetime", NAMED, |_, _| Ok(Val::Format("datetime"))),
];

const NAMED: &[&str] = &["() format"];
const COMPARED: &[&str] = &["quantity.(quantity) bool", "semver.(semver) bool"];

/// The formats, and what is wrong with a text that is not of one.
const FORMATS: &[(&str, fn(&str) -> Vec<String>)] = &[
    ("dns1123Label", dns_label),
    ("dns1123Subdomain", dns_subdomain),
    ("dns1035Label", dns_1035_label),
    ("dns1123LabelPrefix", |text| dns_label(&without_dash(text))),
    ("dns1123SubdomainPrefix", |text| dns_subdomain(&without_dash(text))),
    ("dns1035LabelPrefix", |text| dns_1035_label(&without_dash(text))),
    ("qualifiedName", qualified_name),
    ("labelValue", |text| label_value(text).into_iter().map(str::to_owned).collect()),
    ("uri", |text| {
        let why = Url::check(text).err();
        why.map(|why| format!("parse {}: {why}", quoted(text))).into_iter().collect()
    }),
    ("uuid", |text| {
        let hex = text.replace('-', "");
        let valid = hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit());
        unless(valid, "does not match the UUID format")
    }),
    ("byte", |text| {
        let valid = base64::engine::general_purpose::STANDARD.decode(text).is_ok();
        unless(valid && !text.is_empty(), "invalid base64")
    }),
    ("date", |text| unless(text.parse::<jiff::civil::Date>().is_ok(), "invalid date")),
    ("datetime", |text| {
        unless(Timestamp::parse(&text.to_ascii_uppercase()).is_some(), "invalid datetime")
    }),
];

/// A prefix may end with a dash, in place of which something follows (`maskTrailingDash`).
fn without_dash(text: &str) -> String {
    match text.strip_suffix('-') {
        Some(before) if !before.is_empty() => format!("{before}a"),
        _ => text.to_owned(),
    }
}

fn unless(valid: bool, error: &str) -> Vec<String> {
    if valid { Vec::new() } else { vec![error.to_owned()] }
}

fn validate<'a>(args: &[Val<'a>], budget: &mut Budget) -> Evaluated<'a> {
    let [Val::Format(name), given] = args else { return Err(EvalError::Overload) };
    let given = text(given)?;
    // As a match with a pattern of some length.
    budget.charge((given.len() + 1).div_ceil(10) * 16)?;
    let check = FORMATS.iter().find(|(known, _)| known == name).map(|(_, check)| check);
    let errors = check.map(|check| check(given)).unwrap_or_default();
    Ok(match errors.is_empty() {
        true => Val::Optional(None),
        false => Val::some(Val::list(errors.into_iter().map(Val::text).collect())),
    })
}

fn sum<'a>(args: &[Val<'a>], by: fn(Quantity, Quantity) -> Quantity) -> Evaluated<'a> {
    match args {
        [Val::Quantity(a), Val::Quantity(b)] => Ok(Val::Quantity(by(*a, *b))),
        [Val::Quantity(a), Val::Int(b)] => Ok(Val::Quantity(by(*a, Quantity::from_int(*b)))),
        _ => Err(EvalError::Overload),
    }
}

fn order(args: &[Val]) -> Result<Ordering, EvalError> {
    match args {
        [Val::Quantity(a), Val::Quantity(b)] => Ok(a.compare(*b)),
        [Val::Semver(a), Val::Semver(b)] => Ok(compare_versions(a, b)),
        _ => Err(EvalError::Overload),
    }
}

/// The order of Semantic Versioning 2.0, in which a pre-release comes before its release.
fn compare_versions(a: &Semver, b: &Semver) -> Ordering {
    let rank = |part: &str| match part.parse::<u64>() {
        Ok(number) => (0, number, String::new()),
        Err(_) => (1, 0, part.to_owned()),
    };
    a.numbers.cmp(&b.numbers).then_with(|| match (a.pre.is_empty(), b.pre.is_empty()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        (false, false) => a.pre.iter().map(|p| rank(p)).cmp(b.pre.iter().map(|p| rank(p))),
    })
}

/// Parses a version; with a second argument `true`, one with a `v` or without all numbers, too.
fn semver(args: &[Val]) -> Result<Option<Semver>, EvalError> {
    let given = text(&args[0])?;
    let lenient = matches!(args.get(1), Some(Val::Bool(true)));
    let given = if lenient { given.trim().trim_start_matches('v') } else { given };
    let (given, build) = given.split_once('+').map_or((given, None), |(v, b)| (v, Some(b)));
    let (core, pre) = given.split_once('-').map_or((given, None), |(v, p)| (v, Some(p)));
    let parts: Vec<&str> = core.split('.').collect();
    let few = parts.len() < 3 && (!lenient || core.is_empty());
    if few || parts.len() > 3 {
        return Ok(None);
    }
    let mut numbers = [0; 3];
    for (number, part) in numbers.iter_mut().zip(&parts) {
        let digits = part.bytes().all(|b| b.is_ascii_digit());
        let leading = part.len() > 1 && part.starts_with('0') && !lenient;
        match part.parse() {
            Ok(parsed) if digits && !leading => *number = parsed,
            _ => return Ok(None),
        }
    }
    let valid = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let pre: Vec<String> = pre.iter().flat_map(|p| p.split('.')).map(str::to_owned).collect();
    let numeric =
        |p: &str| p.len() > 1 && p.starts_with('0') && p.bytes().all(|b| b.is_ascii_digit());
    let fine = pre.iter().all(|p| valid(p) && !numeric(p));
    let build = build.is_none_or(|build| build.split('.').all(valid));
    Ok((fine && build).then_some(Semver { numbers, pre }))
}

fn number<'a>(args: &[Val<'a>], at: usize) -> Evaluated<'a> {
    match args {
        [Val::Semver(version)] => {
            let number = version.numbers.get(at).copied().unwrap_or_default();
            Ok(Val::Int(i64::try_from(number).unwrap_or(i64::MAX)))
        }
        _ => Err(EvalError::Overload),
    }
}

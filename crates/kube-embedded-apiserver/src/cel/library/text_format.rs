//! Conversion to text: `string()`, `format` and `strings.quote`.

use super::{operators::text, table::Row};
use crate::cel::{
    budget::{Budget, EvalError},
    value::Val,
};
use std::fmt::Write;

type Evaluated<'a> = Result<Val<'a>, EvalError>;

pub(super) const TABLE: &[Row] = &[
    Row(
        "string",
        &[
            "(string) string",
            "(bool) string",
            "(int) string",
            "(uint) string",
            "(double) string",
            "(bytes) string",
            "(timestamp) string",
            "(duration) string",
            "(ip) string",
            "(cidr) string",
        ],
        to_string,
    ),
    Row("format", &["string.(list<dyn>) string"], format),
    Row("strings.quote", &["(string) string"], |args, budget| {
        budget.traverse(args[0].size())?;
        Ok(Val::text(quoted(text(&args[0])?)))
    }),
];

fn to_string<'a>(args: &[Val<'a>], budget: &mut Budget) -> Evaluated<'a> {
    budget.traverse(args.first().map_or(0, Val::size))?;
    Ok(Val::text(match args {
        [Val::Text(text)] => return Ok(Val::Text(text.clone())),
        [Val::Bytes(bytes)] => match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => return EvalError::fail("invalid UTF-8 in bytes, cannot convert to string"),
        },
        [Val::Null | Val::List(_) | Val::Map(_) | Val::Json(..)] => {
            return Err(EvalError::Overload);
        }
        [value] => scalar(value).ok_or(EvalError::Overload)?,
        _ => return Err(EvalError::Overload),
    }))
}

/// The text of a scalar.
fn scalar(value: &Val) -> Option<String> {
    Some(match value {
        Val::Null => "null".to_owned(),
        Val::Bool(flag) => flag.to_string(),
        Val::Int(number) => number.to_string(),
        Val::Uint(number) => number.to_string(),
        Val::Double(number) => double(*number),
        Val::Text(text) => (**text).to_owned(),
        Val::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Val::Timestamp(at) => at.to_string(),
        Val::Duration(nanos) => duration(*nanos),
        Val::Ip(address) => address.to_string(),
        Val::Cidr(address, bits) => format!("{address}/{bits}"),
        Val::Type(name) => (*name).to_owned(),
        _ => return None,
    })
}

/// As Go prints a number of 64 bits: with an exponent if it is very large or small.
fn double(number: f64) -> String {
    let size = number.abs();
    if number.is_infinite() {
        return if number > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    if size == 0.0 || (1e-4..1e21).contains(&size) || number.is_nan() {
        return number.to_string();
    }
    let text = format!("{number:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}

/// Seconds, with a fraction if there is one.
fn duration(nanos: i64) -> String {
    let (whole, fraction) =
        (nanos.unsigned_abs() / 1_000_000_000, nanos.unsigned_abs() % 1_000_000_000);
    let fraction = format!(".{fraction:09}");
    let sign = if nanos < 0 { "-" } else { "" };
    format!("{sign}{whole}{}s", fraction.trim_end_matches('0').trim_end_matches('.'))
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            _ => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn format<'a>(args: &[Val<'a>], budget: &mut Budget) -> Evaluated<'a> {
    let template = text(&args[0])?;
    budget.traverse(template.len())?;
    let values = args.get(1).and_then(Val::elements).ok_or(EvalError::Overload)?;
    let mut values = values.iter();
    let mut result = String::new();
    let mut rest = template.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            result.push(c);
            continue;
        }
        let mut precision = None;
        let mut verb = rest.next();
        if verb == Some('.') {
            let mut digits = String::new();
            verb = rest.next();
            while let Some(digit) = verb.filter(char::is_ascii_digit) {
                digits.push(digit);
                verb = rest.next();
            }
            precision = digits.parse::<usize>().ok().filter(|digits| *digits <= 1000);
        }
        if verb == Some('%') {
            result.push('%');
            continue;
        }
        let Some(value) = values.next() else {
            return EvalError::fail("error during formatting: index out of range");
        };
        let before = result.len();
        clause(&mut result, verb, precision.unwrap_or(6), value, budget)?;
        budget.traverse(result.len() - before)?;
    }
    Ok(Val::text(result))
}

/// One clause of a template: `%s`, `%d`, `%.2f`, `%e`, `%b`, `%o`, `%x`, `%X`.
fn clause(
    result: &mut String,
    verb: Option<char>,
    precision: usize,
    value: &Val,
    budget: &mut Budget,
) -> Result<(), EvalError> {
    let number = match value {
        Val::Int(number) => Some(i128::from(*number)),
        Val::Uint(number) => Some(i128::from(*number)),
        Val::Bool(flag) if verb == Some('b') => Some(i128::from(*flag)),
        _ => None,
    };
    let float = match value {
        Val::Double(number) => Some(*number),
        #[allow(clippy::cast_precision_loss, reason = "as in Go")]
        _ => number.map(|number| number as f64),
    };
    let (sign, size) = number.map_or(("", 0), |n| (if n < 0 { "-" } else { "" }, n.unsigned_abs()));
    let bytes = match value {
        Val::Text(text) => Some(text.as_bytes()),
        Val::Bytes(bytes) => Some(&**bytes),
        _ => None,
    };
    let written = match (verb, number, float, bytes) {
        (Some('s'), ..) => return shown(result, value, 0, budget),
        (Some('d'), Some(number), ..) => write!(result, "{number}"),
        (Some('f'), _, Some(float), _) => write!(result, "{float:.precision$}"),
        (Some('e'), _, Some(float), _) => {
            let text = format!("{float:.precision$e}");
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let (sign, exponent) = match exponent.strip_prefix('-') {
                Some(exponent) => ('-', exponent),
                None => ('+', exponent),
            };
            write!(result, "{digits}e{sign}{exponent:0>2}")
        }
        (Some('b'), Some(_), ..) => write!(result, "{sign}{size:b}"),
        (Some('o'), Some(_), ..) => write!(result, "{sign}{size:o}"),
        (Some('x'), Some(_), ..) => write!(result, "{sign}{size:x}"),
        (Some('X'), Some(_), ..) => write!(result, "{sign}{size:X}"),
        (Some('x'), _, _, Some(bytes)) => {
            bytes.iter().try_for_each(|byte| write!(result, "{byte:02x}"))
        }
        (Some('X'), _, _, Some(bytes)) => {
            bytes.iter().try_for_each(|byte| write!(result, "{byte:02X}"))
        }
        (Some(verb @ ('d' | 'f' | 'e' | 'b' | 'o' | 'x' | 'X')), ..) => {
            let name = value.type_name();
            let message =
                format!("error during formatting: %{verb} clause cannot be used on {name}");
            return EvalError::fail(message);
        }
        _ => {
            let verb = verb.map(String::from).unwrap_or_default();
            return EvalError::fail(format!("unrecognized formatting clause \"{verb}\""));
        }
    };
    written.or(EvalError::fail("error during formatting"))
}

/// A value in `%s`: lists in brackets, maps in braces and sorted by key.
fn shown(
    result: &mut String,
    value: &Val,
    depth: usize,
    budget: &mut Budget,
) -> Result<(), EvalError> {
    budget.charge(1)?;
    if depth > 64 {
        return EvalError::fail("error during formatting: value is nested too deeply");
    }
    if let Some(all) = value.elements() {
        result.push('[');
        for (n, one) in all.iter().enumerate() {
            result.push_str(if n > 0 { ", " } else { "" });
            shown(result, one, depth + 1, budget)?;
        }
        result.push(']');
        return Ok(());
    }
    if let Some(all) = value.entries() {
        let mut sorted = Vec::with_capacity(all.len());
        for (key, value) in &all {
            let (mut name, mut of) = (String::new(), String::new());
            shown(&mut name, key, depth + 1, budget)?;
            shown(&mut of, value, depth + 1, budget)?;
            sorted.push(format!("{name}: {of}"));
        }
        sorted.sort();
        result.push_str(&format!("{{{}}}", sorted.join(", ")));
        return Ok(());
    }
    budget.traverse(value.size())?;
    match scalar(value) {
        Some(text) => result.push_str(&text),
        None => {
            let name = value.type_name();
            let what = "error during formatting: string clause can only be used on strings, bools, \
                        bytes, ints, doubles, maps, lists, types, durations, and timestamps";
            return EvalError::fail(format!("{what}, was given {name}"));
        }
    }
    Ok(())
}

//! `format`: templates with clauses, as cel-go of Kubernetes 1.36 fills them in for the locale `en-US`.

use super::{operators::text, table::Row, text_format::scalar};
use crate::{
    cel::{
        budget::{Budget, EvalError},
        value::Val,
    },
    go_quote::quoted,
};
use std::fmt::Write;

pub(super) const TABLE: &[Row] = &[Row("format", &["string.(list<dyn>) string"], format)];

/// The digits of `%f`, and the width of `%e`, without a precision.
const PRECISION: usize = 6;
/// The limit to the nesting of a value.
const DEPTH: usize = 64;

pub(in crate::cel) const AT_END: &str = "unexpected end of string";

/// A part of a template.
pub(in crate::cel) enum Piece<'t> {
    Text(&'t str),
    Clause(Result<Clause, Malformed>),
}

/// `%s`, `%d`, `%.2f`, `%e`, `%b`, `%o`, `%x` or `%X`.
pub(in crate::cel) struct Clause {
    pub(in crate::cel) verb: char,
    precision: usize,
}

pub(in crate::cel) enum Malformed {
    /// A `%` at the end.
    End,
    Other(String),
}

/// The parts of a template, up to the first malformed clause.
pub(in crate::cel) struct Pieces<'t>(pub(in crate::cel) &'t str);

impl<'t> Iterator for Pieces<'t> {
    type Item = Piece<'t>;

    fn next(&mut self) -> Option<Piece<'t>> {
        let Some(rest) = self.0.strip_prefix('%') else {
            let (before, rest) = self.0.split_at(self.0.find('%').unwrap_or(self.0.len()));
            self.0 = rest;
            return (!before.is_empty()).then_some(Piece::Text(before));
        };
        if let Some(after) = rest.strip_prefix('%') {
            self.0 = after;
            return Some(Piece::Text("%"));
        }
        if rest.is_empty() {
            self.0 = rest;
            return Some(Piece::Clause(Err(Malformed::End)));
        }
        let clause = match clause(rest) {
            Ok((clause, after)) => {
                self.0 = after;
                Ok(clause)
            }
            Err(why) => {
                self.0 = "";
                Err(Malformed::Other(format!("could not parse formatting clause: {why}")))
            }
        };
        Some(Piece::Clause(clause))
    }
}

/// Parses a clause after its `%`, and returns what follows.
fn clause(rest: &str) -> Result<(Clause, &str), String> {
    let (precision, rest) = match rest.strip_prefix('.') {
        None => (PRECISION, rest),
        Some(rest) => {
            let while_parsing = |why: &str| format!("error while parsing precision: {why}");
            let end = rest.find(|c: char| !c.is_ascii_digit());
            let Some(end) = end else {
                return Err(while_parsing("could not find end of precision specifier"));
            };
            let (digits, rest) = rest.split_at(end);
            let precision = digits.parse::<i64>().ok().and_then(|n| usize::try_from(n).ok());
            let Some(precision) = precision else {
                let why = if digits.is_empty() { "invalid syntax" } else { "value out of range" };
                let what = "error while converting precision to integer: strconv.Atoi: parsing";
                return Err(while_parsing(&format!("{what} \"{digits}\": {why}")));
            };
            (precision, rest)
        }
    };
    // cel-go reads bytes.
    match rest.bytes().next().map(char::from) {
        Some(verb @ ('s' | 'd' | 'f' | 'e' | 'b' | 'x' | 'X' | 'o')) => {
            Ok((Clause { verb, precision }, &rest[1..]))
        }
        other => {
            let verb = other.map(String::from).unwrap_or_default();
            Err(format!("unrecognized formatting clause \"{verb}\""))
        }
    }
}

/// The error of a clause that cannot show a value of a type.
pub(in crate::cel) fn refusal(verb: char, of: &str) -> String {
    let clause = match verb {
        's' => {
            "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, \
             types, durations, and timestamps"
        }
        'd' => "decimal clause can only be used on integers",
        'f' => "fixed-point clause can only be used on doubles",
        'e' => "scientific clause can only be used on doubles",
        'b' => "only integers and bools can be formatted as binary",
        'o' => "octal clause can only be used on integers",
        _ => "only integers, byte buffers, and strings can be formatted as hex",
    };
    format!("{clause}, was given {of}")
}

/// Fills in a template.
fn format<'a>(args: &[Val<'a>], budget: &mut Budget) -> Result<Val<'a>, EvalError> {
    let template = text(&args[0])?;
    budget.traverse(template.len())?;
    let values = args.get(1).and_then(Val::elements).ok_or(EvalError::Overload)?;
    let (mut count, mut result) = (0, String::new());
    for piece in Pieces(template) {
        let clause = match piece {
            Piece::Text(text) => {
                result.push_str(text);
                continue;
            }
            Piece::Clause(clause) => clause,
        };
        let Some(value) = values.get(count) else {
            return EvalError::fail(format!("index {count} out of range"));
        };
        match clause {
            Ok(clause) => {
                let before = result.len();
                fill(&mut result, &clause, value, budget)?;
                budget.traverse(result.len() - before)?;
            }
            Err(Malformed::End) => return EvalError::fail(AT_END),
            Err(Malformed::Other(why)) => return EvalError::fail(why),
        }
        count += 1;
    }
    Ok(Val::text(result))
}

/// Adds a value as a clause shows it.
fn fill(
    result: &mut String,
    &Clause { verb, precision }: &Clause,
    value: &Val,
    budget: &mut Budget,
) -> Result<(), EvalError> {
    let number = match value {
        Val::Int(number) => Some(i128::from(*number)),
        Val::Uint(number) => Some(i128::from(*number)),
        Val::Bool(flag) if verb == 'b' => Some(i128::from(*flag)),
        _ => None,
    };
    let (sign, size) = number.map_or(("", 0), |n| (if n < 0 { "-" } else { "" }, n.unsigned_abs()));
    let written = match (verb, value) {
        ('s', _) => return shown(result, value, 0, budget),
        ('f' | 'e', _) => {
            let Some(number) = float(value) else { return misfits(verb, value) };
            if verb == 'e' {
                budget.traverse(precision)?;
            }
            result.push_str(&match verb {
                'f' => fixed(number, precision),
                _ => scientific(number, precision),
            });
            Ok(())
        }
        ('d', _) if number.is_some() => write!(result, "{sign}{size}"),
        ('b', _) if number.is_some() => write!(result, "{sign}{size:b}"),
        ('o', _) if number.is_some() => write!(result, "{sign}{size:o}"),
        ('x', _) if number.is_some() => write!(result, "{sign}{size:x}"),
        ('X', _) if number.is_some() => write!(result, "{sign}{size:X}"),
        ('x' | 'X', Val::Text(text)) => hex(result, verb, text.as_bytes()),
        ('x' | 'X', Val::Bytes(bytes)) => hex(result, verb, bytes),
        _ => return misfits(verb, value),
    };
    written.or(EvalError::fail("error during formatting"))
}

fn misfits(verb: char, value: &Val) -> Result<(), EvalError> {
    let why = refusal(verb, value.type_name());
    EvalError::fail(format!("error during formatting: {why}"))
}

fn hex(result: &mut String, verb: char, bytes: &[u8]) -> std::fmt::Result {
    bytes.iter().try_for_each(|byte| match verb {
        'x' => write!(result, "{byte:02x}"),
        _ => write!(result, "{byte:02X}"),
    })
}

/// A double, or the name of one that has no digits.
fn float(value: &Val) -> Option<f64> {
    match value {
        Val::Double(number) => Some(*number),
        Val::Text(text) => match &**text {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

/// Returns the text of a number without digits.
fn special(number: f64) -> Option<&'static str> {
    match number {
        _ if number.is_nan() => Some("NaN"),
        f64::INFINITY => Some("∞"),
        f64::NEG_INFINITY => Some("-∞"),
        _ => None,
    }
}

/// `%f`: the digits before the point in groups of three. The precision is one byte in Go's library.
fn fixed(number: f64, precision: usize) -> String {
    if let Some(text) = special(number) {
        return text.to_owned();
    }
    let digits = format!("{:.*}", precision % 256, number.abs());
    let (whole, fraction) = digits.split_at(digits.find('.').unwrap_or(digits.len()));
    let mut text = String::from(if number < 0.0 { "-" } else { "" });
    for (n, digit) in whole.chars().enumerate() {
        if n > 0 && (whole.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text + fraction
}

/// `%e`: six digits and a power of ten. What is given as the precision is the width.
fn scientific(number: f64, width: usize) -> String {
    let text = match special(number) {
        Some(text) => text.to_owned(),
        None => {
            let text = format!("{:.PRECISION$e}", number.abs());
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let (below, exponent) = match exponent.strip_prefix('-') {
                Some(exponent) => ("⁻", exponent),
                None => ("", exponent),
            };
            let exponent: String = format!("{exponent:0>2}").chars().map(superscript).collect();
            let sign = if number < 0.0 { "-" } else { "" };
            format!("{sign}{digits}×10{below}{exponent}")
        }
    };
    let length = text.chars().count();
    " ".repeat(width.saturating_sub(length)) + &text
}

fn superscript(digit: char) -> char {
    const DIGITS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    digit.to_digit(10).and_then(|n| DIGITS.get(n as usize)).copied().unwrap_or(digit)
}

/// `%s`: a value inside a list or map is shown as a literal of the language.
fn shown(
    result: &mut String,
    value: &Val,
    depth: usize,
    budget: &mut Budget,
) -> Result<(), EvalError> {
    budget.charge(1)?;
    if depth > DEPTH {
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
            sorted.push((name, of));
        }
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        let all: Vec<String> =
            sorted.into_iter().map(|(name, of)| format!("{name}:{of}")).collect();
        result.push_str(&format!("{{{}}}", all.join(", ")));
        return Ok(());
    }
    budget.traverse(value.size())?;
    if let Val::Bytes(bytes) = value
        && std::str::from_utf8(bytes).is_err()
    {
        let why = "could not convert argument \"invalid UTF-8 in bytes, cannot convert to string\" \
                   to string";
        return EvalError::fail(format!("error during formatting: {why}"));
    }
    let text = match (value, scalar(value)) {
        (Val::Ip(_) | Val::Cidr(..), _) | (_, None) if depth > 0 => {
            let name = value.type_name();
            let why = format!("error during formatting: no formatting function for {name}");
            return EvalError::fail(why);
        }
        (Val::Ip(_) | Val::Cidr(..), _) | (_, None) => return misfits('s', value),
        (_, Some(text)) => text,
    };
    match value {
        _ if depth == 0 => result.push_str(&text),
        Val::Text(_) => result.push_str(&quoted(&text)),
        Val::Bytes(_) => result.push_str(&format!("b{}", quoted(&text))),
        Val::Timestamp(_) => result.push_str(&format!("timestamp(\"{text}\")")),
        Val::Duration(_) => result.push_str(&format!("duration(\"{text}\")")),
        Val::Double(number) if number.is_finite() => result.push_str(&format!("{number:.6}")),
        Val::Double(_) => result.push_str(&format!("\"{text}\"")),
        _ => result.push_str(&text),
    }
    Ok(())
}

//! Conversion to text: `string()` and `strings.quote`.

use super::{operators::text, table::Row};
use crate::{
    cel::{
        budget::{Budget, EvalError},
        value::Val,
    },
    go_quote::named_escape,
};

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
pub(super) fn scalar(value: &Val) -> Option<String> {
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

/// As Go prints a number with the digits that it needs: with an exponent from a million on, and if it is very small.
fn double(number: f64) -> String {
    let size = number.abs();
    if number.is_infinite() {
        return if number > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    if size == 0.0 || (1e-4..1e6).contains(&size) || number.is_nan() {
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

/// Seconds as a floating-point number, which may round what is below.
fn duration(nanos: i64) -> String {
    let (whole, fraction) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    #[allow(clippy::cast_precision_loss, reason = "as in Go")]
    let seconds = whole as f64 + fraction as f64 / 1e9;
    format!("{seconds}s")
}

/// Quotes text, with escapes for no more than what has a letter of its own.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match named_escape(c) {
            Some(escape) => quoted.push_str(escape),
            None => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

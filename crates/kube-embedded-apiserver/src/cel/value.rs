//! Values. Those of an object are not copied: they are looked up in its JSON, by its type.

use crate::cel::{
    authorization::Authorization,
    budget::{Budget, EvalError},
    quantity::Quantity,
    timestamp::Timestamp,
    types::{Field, Merge, Type},
    url::Url,
};
use base64::Engine;
use serde_json::Value;
use std::{cmp::Ordering, net::IpAddr, ops::Deref, rc::Rc};

/// The type of what has no schema.
pub(crate) static DYN: Type = Type::Dyn;

/// A value while an expression is evaluated.
#[derive(Clone, Debug)]
pub(crate) enum Val<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(Text<'a>),
    Bytes(Rc<[u8]>),
    /// In nanoseconds.
    Duration(i64),
    Timestamp(Timestamp),
    List(Rc<Vec<Val<'a>>>),
    Map(Rc<Vec<(Val<'a>, Val<'a>)>>),
    /// A list, map or object.
    Json(&'a Value, &'a Type),
    Type(&'static str),
    Optional(Option<Rc<Val<'a>>>),
    Ip(IpAddr),
    Cidr(IpAddr, u8),
    Url(Rc<Url>),
    Quantity(Quantity),
    /// The name of a format.
    Format(&'static str),
    Semver(Rc<Semver>),
    Authorization(Authorization<'a>),
    /// An object whose fields are expressions, evaluated when they are accessed.
    Deferred,
}

/// A semantic version: numbers, and the parts of a pre-release.
#[derive(Debug, PartialEq)]
pub(crate) struct Semver {
    pub(crate) numbers: [u64; 3],
    pub(crate) pre: Vec<String>,
}

/// Text that is part of the object or the expression, or that was made of such.
#[derive(Clone, Debug)]
pub(crate) enum Text<'a> {
    Borrowed(&'a str),
    Shared(Rc<str>),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Shared(text) => text,
        }
    }
}

impl<'a> Val<'a> {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(Text::Shared(text.into().into()))
    }

    pub(crate) fn list(all: Vec<Self>) -> Self {
        Self::List(Rc::new(all))
    }

    pub(crate) fn some(of: Self) -> Self {
        Self::Optional(Some(Rc::new(of)))
    }

    /// The value of JSON of a type.
    pub(crate) fn of(value: &'a Value, kind: &'a Type) -> Self {
        match (value, kind) {
            (Value::Null, _) => Self::Null,
            (Value::Bool(flag), _) => Self::Bool(*flag),
            (Value::Number(number), Type::Double) => {
                Self::Double(number.as_f64().unwrap_or(f64::NAN))
            }
            (Value::Number(number), _) => match (number.as_i64(), number.as_f64()) {
                (Some(int), _) => Self::Int(int),
                #[allow(clippy::cast_possible_truncation, reason = "it has no fraction")]
                (None, Some(float)) if matches!(kind, Type::Int) && float.fract() == 0.0 => {
                    Self::Int(float as i64)
                }
                (None, float) => Self::Double(float.unwrap_or(f64::NAN)),
            },
            (Value::String(text), kind) => Self::formatted(text, kind),
            (Value::Array(_) | Value::Object(_), _) => Self::Json(value, kind),
        }
    }

    /// Text in one of the formats that are types.
    fn formatted(text: &'a str, kind: &Type) -> Self {
        let parsed = match kind {
            Type::Bytes => base64::engine::general_purpose::STANDARD
                .decode(text)
                .ok()
                .map(|bytes| Self::Bytes(bytes.into())),
            Type::Duration => parse_duration(text).map(Self::Duration),
            Type::Timestamp => match text.len() {
                // The format `date`.
                10 => Timestamp::parse(&format!("{text}T00:00:00Z")),
                _ => Timestamp::parse(text),
            }
            .map(Self::Timestamp),
            _ => None,
        };
        // What the validation of formats has not refused is text.
        parsed.unwrap_or(Self::Text(Text::Borrowed(text)))
    }

    /// The name of the type, as `type()` gives it and messages show it.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::Text(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::List(_) | Self::Json(Value::Array(_), _) => "list",
            Self::Map(_) | Self::Json(..) | Self::Deferred => "map",
            Self::Authorization(of) => of.type_name(),
            Self::Type(_) => "type",
            Self::Optional(_) => "optional_type",
            Self::Ip(_) => "net.IP",
            Self::Cidr(..) => "net.CIDR",
            Self::Url(_) => "kubernetes.URL",
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Format(_) => "kubernetes.NamedFormat",
            Self::Semver(_) => "kubernetes.Semver",
        }
    }

    /// The text of a key in messages.
    pub(super) fn as_key(&self) -> String {
        match self {
            Self::Bool(key) => key.to_string(),
            Self::Int(key) => key.to_string(),
            Self::Uint(key) => key.to_string(),
            Self::Double(key) => key.to_string(),
            Self::Text(key) => (**key).to_owned(),
            other => other.type_name().to_owned(),
        }
    }

    /// The number of bytes or elements; 1 for all else.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            Self::List(all) => all.len(),
            Self::Map(all) => all.len(),
            Self::Json(Value::Array(all), _) => all.len(),
            Self::Json(Value::Object(all), _) => all.len(),
            Self::Optional(Some(of)) => of.size(),
            _ => 1,
        }
    }

    /// The elements of a list; `None` for all else.
    pub(super) fn elements(&self) -> Option<Vec<Self>> {
        match self {
            Self::List(all) => Some((**all).clone()),
            Self::Json(Value::Array(all), kind) => {
                let element = element(kind);
                Some(all.iter().map(|one| Self::of(one, element)).collect())
            }
            _ => None,
        }
    }

    /// The entries of a map, or of an object; `None` for all else.
    pub(super) fn entries(&self) -> Option<Vec<(Self, Self)>> {
        match self {
            Self::Map(all) => Some((**all).clone()),
            Self::Json(Value::Object(all), kind) => Some(
                all.iter()
                    .filter_map(|(name, value)| {
                        let key = Self::Text(Text::Borrowed(name));
                        Some((key, Self::of(value, entry(kind, name)?)))
                    })
                    .collect(),
            ),
            _ => None,
        }
    }

    /// The element of a list.
    pub(super) fn at(&self, index: usize) -> Option<Self> {
        match self {
            Self::List(all) => all.get(index).cloned(),
            Self::Json(Value::Array(all), kind) => {
                all.get(index).map(|one| Self::of(one, element(kind)))
            }
            _ => None,
        }
    }

    /// A field of an object, by its name in expressions, or an entry of a map.
    pub(super) fn field(&self, name: &str) -> Result<Option<Self>, EvalError> {
        match self {
            Self::Json(Value::Object(all), kind) => Ok(match kind {
                Type::Object(of) => of.field(name).and_then(|Field { name, kind }| {
                    all.get(name).map(|value| Self::of(value, kind))
                }),
                Type::Map(of) => all.get(name).map(|value| Self::of(value, &of.1)),
                _ => all.get(name).map(|value| Self::of(value, &DYN)),
            }),
            Self::Map(all) => Ok(all
                .iter()
                .find(|(key, _)| matches!(key, Self::Text(key) if **key == *name))
                .map(|(_, value)| value.clone())),
            Self::Authorization(Authorization::Authorizer(of)) if name == "requestResource" => {
                let check = Authorization::Resource(of.clone(), of.request.clone());
                Ok(Some(Self::Authorization(check)))
            }
            _ => Err(EvalError::Overload),
        }
    }
}

fn element(kind: &Type) -> &Type {
    match kind {
        Type::List(of) => &of.element,
        _ => &DYN,
    }
}

/// The type of the value of a key; `None` for a field that the type does not have.
fn entry<'a>(kind: &'a Type, name: &str) -> Option<&'a Type> {
    match kind {
        Type::Map(of) => Some(&of.1),
        Type::Object(of) => of.fields.values().find(|field| field.name == name).map(|f| &f.kind),
        _ => Some(&DYN),
    }
}

/// Returns true if two values are equal. Numbers of different types are by their amount.
pub(super) fn equal(a: &Val, b: &Val, budget: &mut Budget) -> Result<bool, EvalError> {
    budget.traverse(a.size().min(b.size()).max(1))?;
    Ok(match (a, b) {
        (Val::Null, Val::Null) => true,
        (Val::Bool(a), Val::Bool(b)) => a == b,
        (Val::Text(a), Val::Text(b)) => **a == **b,
        (Val::Bytes(a), Val::Bytes(b)) => a == b,
        (Val::Duration(a), Val::Duration(b)) => a == b,
        (Val::Timestamp(a), Val::Timestamp(b)) => a == b,
        (Val::Type(a), Val::Type(b)) | (Val::Format(a), Val::Format(b)) => a == b,
        (Val::Ip(a), Val::Ip(b)) => a == b,
        (Val::Cidr(a, n), Val::Cidr(b, m)) => (a, n) == (b, m),
        (Val::Url(a), Val::Url(b)) => a == b,
        (Val::Quantity(a), Val::Quantity(b)) => a == b,
        (Val::Semver(a), Val::Semver(b)) => a == b,
        (Val::Optional(None), Val::Optional(None)) => true,
        (Val::Optional(Some(a)), Val::Optional(Some(b))) => equal(a, b, budget)?,
        (Val::Int(_) | Val::Uint(_) | Val::Double(_), _) => {
            compare_numbers(a, b) == Some(Ordering::Equal)
        }
        _ if a.size() != b.size() => false,
        _ => match (a.elements(), b.elements(), a.entries(), b.entries()) {
            (Some(left), Some(right), ..) => {
                lists_equal(merge(a).or(merge(b)), &left, &right, budget)?
            }
            (_, _, Some(left), Some(right)) => maps_equal(&left, &right, budget)?,
            _ => false,
        },
    })
}

/// How the list of an object merges, if that decides what is equal to it.
pub(super) fn merge<'a>(list: &Val<'a>) -> Option<&'a Merge> {
    match list {
        Val::Json(_, Type::List(of)) if of.merge != Merge::Atomic => Some(&of.merge),
        _ => None,
    }
}

fn lists_equal(
    merge: Option<&Merge>,
    left: &[Val],
    right: &[Val],
    budget: &mut Budget,
) -> Result<bool, EvalError> {
    if left.len() != right.len() {
        return Ok(false);
    }
    if merge.is_none() {
        for (a, b) in left.iter().zip(right) {
            if !equal(a, b, budget)? {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    // The order of sets, and of lists with keys, means nothing.
    for a in left {
        let mut found = false;
        for b in right {
            if equal(a, b, budget)? {
                found = true;
                break;
            }
        }
        if !found {
            return Ok(false);
        }
    }
    Ok(true)
}

fn maps_equal(
    left: &[(Val, Val)],
    right: &[(Val, Val)],
    budget: &mut Budget,
) -> Result<bool, EvalError> {
    if left.len() != right.len() {
        return Ok(false);
    }
    for (n, (key, value)) in left.iter().enumerate() {
        // The keys of objects are sorted, so that the other is usually at the same place.
        let mut other = None;
        for (known, value) in right.get(n).into_iter().chain(right) {
            if equal(key, known, budget)? {
                other = Some(value);
                break;
            }
        }
        match other {
            Some(other) if equal(value, other, budget)? => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// Compares numbers of any types by their amount.
pub(super) fn compare_numbers(a: &Val, b: &Val) -> Option<Ordering> {
    let whole = |value: &Val| match value {
        Val::Int(n) => Some(i128::from(*n)),
        Val::Uint(n) => Some(i128::from(*n)),
        _ => None,
    };
    match (whole(a), whole(b), a, b) {
        (Some(a), Some(b), ..) => Some(a.cmp(&b)),
        (_, _, Val::Double(a), Val::Double(b)) => a.partial_cmp(b),
        (Some(a), _, _, Val::Double(b)) => whole_to_double(a).partial_cmp(b),
        (_, Some(b), Val::Double(a), _) => a.partial_cmp(&whole_to_double(b)),
        _ => None,
    }
}

#[allow(clippy::cast_precision_loss, reason = "compared with a double, which has no more")]
fn whole_to_double(number: i128) -> f64 {
    number as f64
}

/// Compares values of one ordered type.
pub(super) fn compare(a: &Val, b: &Val, budget: &mut Budget) -> Result<Ordering, EvalError> {
    budget.traverse(a.size().min(b.size()).max(1))?;
    let order = match (a, b) {
        (Val::Bool(a), Val::Bool(b)) => Some(a.cmp(b)),
        (Val::Text(a), Val::Text(b)) => Some((**a).cmp(&**b)),
        (Val::Bytes(a), Val::Bytes(b)) => Some(a.cmp(b)),
        (Val::Duration(a), Val::Duration(b)) => Some(a.cmp(b)),
        (Val::Timestamp(a), Val::Timestamp(b)) => Some(a.cmp(b)),
        _ => compare_numbers(a, b),
    };
    match order {
        Some(order) => Ok(order),
        None if matches!((a, b), (Val::Double(_), Val::Double(_))) => {
            EvalError::fail("NaN values cannot be ordered")
        }
        None => Err(EvalError::Overload),
    }
}

/// Sorts values by the first of each pair.
pub(super) fn sort<'a>(
    pairs: &mut [(Val<'a>, Val<'a>)],
    budget: &mut Budget,
) -> Result<(), EvalError> {
    let mut failed = None;
    pairs.sort_by(|(a, _), (b, _)| match compare(a, b, budget) {
        Ok(order) => order,
        Err(error) => {
            failed = failed.take().or(Some(error));
            Ordering::Equal
        }
    });
    failed.map_or(Ok(()), Err)
}

/// Parses a duration as Go does: `1h30m`, `-1.5s`. In nanoseconds.
pub(crate) fn parse_duration(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0_i128;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || whole.len() > 19 {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let fraction = fraction.get(..fraction.len().min(18))?;
        let part: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
        let scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
        total = total.checked_add(whole * unit + part * unit / scale)?;
        rest = after;
    }
    (!text.is_empty() && total > 0 || total == 0 && !text.trim_start_matches(['+', '-']).is_empty())
        .then(|| i64::try_from(total * sign).ok())
        .flatten()
}

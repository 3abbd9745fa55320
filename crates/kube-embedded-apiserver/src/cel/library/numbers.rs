//! Arithmetic, and conversions to numbers.

use super::table::Row;
use crate::cel::{
    budget::{Budget, EvalError},
    value::Val,
};

type Evaluated<'a> = Result<Val<'a>, EvalError>;

const INT_OVERFLOW: &str = "integer overflow";
const UINT_OVERFLOW: &str = "unsigned integer overflow";

pub(super) const TABLE: &[Row] = &[
    Row("_+_", &["(int, int) int", "(uint, uint) uint", "(double, double) double"], |args, _| {
        arithmetic(args, i64::checked_add, u64::checked_add, |a, b| a + b)
    }),
    Row("_-_", &["(int, int) int", "(uint, uint) uint", "(double, double) double"], |args, _| {
        arithmetic(args, i64::checked_sub, u64::checked_sub, |a, b| a - b)
    }),
    Row("_*_", &["(int, int) int", "(uint, uint) uint", "(double, double) double"], |args, _| {
        arithmetic(args, i64::checked_mul, u64::checked_mul, |a, b| a * b)
    }),
    Row("_/_", &["(int, int) int", "(uint, uint) uint", "(double, double) double"], |args, _| {
        match args {
            [Val::Int(_), Val::Int(0)] | [Val::Uint(_), Val::Uint(0)] => {
                EvalError::fail("division by zero")
            }
            _ => arithmetic(args, i64::checked_div, u64::checked_div, |a, b| a / b),
        }
    }),
    Row("_%_", &["(int, int) int", "(uint, uint) uint"], |args, _| match args {
        [Val::Int(_), Val::Int(0)] | [Val::Uint(_), Val::Uint(0)] => {
            EvalError::fail("modulus by zero")
        }
        [Val::Double(_), _] => Err(EvalError::Overload),
        _ => arithmetic(args, i64::checked_rem, u64::checked_rem, |a, _| a),
    }),
    Row("-_", &["(int) int", "(double) double"], |args, _| match args {
        [Val::Int(n)] => n.checked_neg().map_or_else(|| EvalError::fail(INT_OVERFLOW), int),
        [Val::Double(n)] => Ok(Val::Double(-n)),
        _ => Err(EvalError::Overload),
    }),
    Row(
        "int",
        &["(int) int", "(uint) int", "(double) int", "(string) int", "(timestamp) int"],
        to_int,
    ),
    Row("uint", &["(uint) uint", "(int) uint", "(double) uint", "(string) uint"], to_uint),
    Row(
        "double",
        &["(double) double", "(int) double", "(uint) double", "(string) double"],
        to_double,
    ),
];

fn int<'a>(number: i64) -> Evaluated<'a> {
    Ok(Val::Int(number))
}

fn arithmetic<'a>(
    args: &[Val<'a>],
    ints: fn(i64, i64) -> Option<i64>,
    uints: fn(u64, u64) -> Option<u64>,
    doubles: fn(f64, f64) -> f64,
) -> Evaluated<'a> {
    match args {
        [Val::Int(a), Val::Int(b)] => {
            ints(*a, *b).map_or_else(|| EvalError::fail(INT_OVERFLOW), int)
        }
        [Val::Uint(a), Val::Uint(b)] => uints(*a, *b)
            .map_or_else(|| EvalError::fail(UINT_OVERFLOW), |number| Ok(Val::Uint(number))),
        [Val::Double(a), Val::Double(b)] => Ok(Val::Double(doubles(*a, *b))),
        _ => Err(EvalError::Overload),
    }
}

fn conversion<'a>(to: &str) -> Evaluated<'a> {
    EvalError::fail(format!("type conversion error from 'string' to '{to}'"))
}

#[allow(clippy::cast_possible_truncation, reason = "the range is checked")]
fn to_int<'a>(args: &[Val<'a>], _: &mut Budget) -> Evaluated<'a> {
    match args {
        [Val::Int(n)] => int(*n),
        [Val::Uint(n)] => i64::try_from(*n).map_or_else(|_| EvalError::fail(INT_OVERFLOW), int),
        [Val::Double(n)] if n.abs() < 9.2e18 => int(*n as i64),
        [Val::Double(_)] => EvalError::fail(INT_OVERFLOW),
        [Val::Text(text)] => text.parse().map_or_else(|_| conversion("int"), int),
        [Val::Timestamp(at)] => int(at.seconds()),
        _ => Err(EvalError::Overload),
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
fn to_uint<'a>(args: &[Val<'a>], _: &mut Budget) -> Evaluated<'a> {
    let uint = |number| Ok(Val::Uint(number));
    match args {
        [Val::Uint(n)] => uint(*n),
        [Val::Int(n)] => u64::try_from(*n).map_or_else(|_| EvalError::fail(UINT_OVERFLOW), uint),
        [Val::Double(n)] if (0.0..1.8e19).contains(n) => uint(*n as u64),
        [Val::Double(_)] => EvalError::fail(UINT_OVERFLOW),
        [Val::Text(text)] => text.parse().map_or_else(|_| conversion("uint"), uint),
        _ => Err(EvalError::Overload),
    }
}

#[allow(clippy::cast_precision_loss, reason = "as in Go")]
fn to_double<'a>(args: &[Val<'a>], _: &mut Budget) -> Evaluated<'a> {
    match args {
        [Val::Double(n)] => Ok(Val::Double(*n)),
        [Val::Int(n)] => Ok(Val::Double(*n as f64)),
        [Val::Uint(n)] => Ok(Val::Double(*n as f64)),
        [Val::Text(text)] => {
            text.parse().map_or_else(|_| conversion("double"), |n| Ok(Val::Double(n)))
        }
        _ => Err(EvalError::Overload),
    }
}

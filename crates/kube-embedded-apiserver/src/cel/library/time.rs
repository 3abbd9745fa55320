//! Timestamps and durations. Names of time zones do not depend on the host.

use super::{operators::text, table::Row};
use crate::{
    cel::{
        budget::EvalError,
        value::{Val, parse_duration, parse_timestamp},
    },
    timestamps,
};
use jiff::{
    SignedDuration, Timestamp,
    civil::DateTime,
    tz::{Offset, TimeZone},
};

type Evaluated<'a> = Result<Val<'a>, EvalError>;

const SECOND: i64 = 1_000_000_000;

const OF_TIMESTAMP: &[&str] = &["timestamp.() int", "timestamp.(string) int"];
const OF_BOTH: &[&str] = &["timestamp.() int", "timestamp.(string) int", "duration.() int"];

pub(super) const TABLE: &[Row] = &[
    Row(
        "timestamp",
        &["(string) timestamp", "(int) timestamp", "(timestamp) timestamp"],
        |args, _| match args {
            [Val::Timestamp(at)] => Ok(Val::Timestamp(*at)),
            [Val::Int(seconds)] => at(Timestamp::from_second(*seconds).ok()),
            [value] => {
                let given = text(value)?;
                match parse_timestamp(given) {
                    Some(at) => Ok(Val::Timestamp(at)),
                    None => EvalError::fail(format!(
                        "parsing time {given:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse \
                         {given:?} as \"2006\""
                    )),
                }
            }
            _ => Err(EvalError::Overload),
        },
    ),
    Row("duration", &["(string) duration", "(int) duration", "(duration) duration"], |args, _| {
        match args {
            [Val::Duration(nanos)] => Ok(Val::Duration(*nanos)),
            [Val::Int(nanos)] => Ok(Val::Duration(*nanos)),
            [value] => {
                let given = text(value)?;
                match parse_duration(given) {
                    Some(nanos) => Ok(Val::Duration(nanos)),
                    None => EvalError::fail(format!("time: invalid duration {given:?}")),
                }
            }
            _ => Err(EvalError::Overload),
        }
    }),
    Row(
        "_+_",
        &[
            "(timestamp, duration) timestamp",
            "(duration, timestamp) timestamp",
            "(duration, duration) duration",
        ],
        |args, _| match args {
            [Val::Timestamp(from), Val::Duration(by)]
            | [Val::Duration(by), Val::Timestamp(from)] => {
                at(from.checked_add(SignedDuration::from_nanos(*by)).ok())
            }
            [Val::Duration(a), Val::Duration(b)] => duration(a.checked_add(*b)),
            _ => Err(EvalError::Overload),
        },
    ),
    Row(
        "_-_",
        &[
            "(timestamp, timestamp) duration",
            "(timestamp, duration) timestamp",
            "(duration, duration) duration",
        ],
        |args, _| match args {
            [Val::Timestamp(a), Val::Timestamp(b)] => {
                duration(i64::try_from(a.duration_since(*b).as_nanos()).ok())
            }
            [Val::Timestamp(from), Val::Duration(by)] => {
                at(from.checked_sub(SignedDuration::from_nanos(*by)).ok())
            }
            [Val::Duration(a), Val::Duration(b)] => duration(a.checked_sub(*b)),
            _ => Err(EvalError::Overload),
        },
    ),
    Row("getFullYear", OF_TIMESTAMP, |args, _| part(args, |at| at.year().into())),
    Row("getMonth", OF_TIMESTAMP, |args, _| part(args, |at| i64::from(at.month()) - 1)),
    Row("getDate", OF_TIMESTAMP, |args, _| part(args, |at| at.day().into())),
    Row("getDayOfMonth", OF_TIMESTAMP, |args, _| part(args, |at| i64::from(at.day()) - 1)),
    Row("getDayOfYear", OF_TIMESTAMP, |args, _| part(args, |at| i64::from(at.day_of_year()) - 1)),
    Row("getDayOfWeek", OF_TIMESTAMP, |args, _| {
        part(args, |at| at.weekday().to_sunday_zero_offset().into())
    }),
    Row("getHours", OF_BOTH, |args, _| part_or(args, |at| at.hour().into(), 3600 * SECOND)),
    Row("getMinutes", OF_BOTH, |args, _| part_or(args, |at| at.minute().into(), 60 * SECOND)),
    Row("getSeconds", OF_BOTH, |args, _| part_or(args, |at| at.second().into(), SECOND)),
    Row("getMilliseconds", OF_BOTH, |args, _| {
        part_or(args, |at| at.millisecond().into(), SECOND / 1000)
    }),
];

fn at<'a>(found: Option<Timestamp>) -> Evaluated<'a> {
    found.map_or_else(|| EvalError::fail("timestamp overflow"), |at| Ok(Val::Timestamp(at)))
}

fn duration<'a>(found: Option<i64>) -> Evaluated<'a> {
    found.map_or_else(|| EvalError::fail("duration overflow"), |nanos| Ok(Val::Duration(nanos)))
}

fn part<'a>(args: &[Val<'a>], of: fn(DateTime) -> i64) -> Evaluated<'a> {
    match args {
        [Val::Timestamp(at)] => Ok(Val::Int(of(TimeZone::UTC.to_datetime(*at)))),
        [Val::Timestamp(at), name] => {
            let name = text(name)?;
            match time_zone(name) {
                Some(zone) => Ok(Val::Int(of(zone.to_datetime(*at)))),
                None => EvalError::fail(format!("unknown time zone {name}")),
            }
        }
        _ => Err(EvalError::Overload),
    }
}

/// Returns the time zone of a name (`Europe/Berlin`) or of an offset (`-02:30`).
fn time_zone(name: &str) -> Option<TimeZone> {
    let Some((hours, minutes)) = name.split_once(':') else {
        return if name.is_empty() { Some(TimeZone::UTC) } else { timestamps::time_zone(name) };
    };
    let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
    let sign = if hours < 0 { -1 } else { 1 };
    let seconds = hours.checked_mul(3600)?.checked_add(minutes.checked_mul(60 * sign)?)?;
    Some(TimeZone::fixed(Offset::from_seconds(seconds).ok()?))
}

/// A part of a timestamp, or a duration in a unit.
fn part_or<'a>(args: &[Val<'a>], of: fn(DateTime) -> i64, unit: i64) -> Evaluated<'a> {
    match args {
        [Val::Duration(nanos)] => Ok(Val::Int(nanos / unit)),
        _ => part(args, of),
    }
}

//! Timestamps and durations. Names of time zones do not depend on the host.

use super::{operators::text, table::Row};
use crate::{
    cel::{
        budget::EvalError,
        timestamp::Timestamp,
        value::{Val, parse_duration},
    },
    timestamps,
};
use jiff::{civil::DateTime, tz::TimeZone};

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
            [Val::Int(seconds)] => at(Timestamp::from_seconds(*seconds)),
            [value] => {
                let given = text(value)?;
                match Timestamp::parse(given) {
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
            | [Val::Duration(by), Val::Timestamp(from)] => at(from.checked_add(i128::from(*by))),
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
            [Val::Timestamp(a), Val::Timestamp(b)] => duration(i64::try_from(a.since(*b)).ok()),
            [Val::Timestamp(from), Val::Duration(by)] => at(from.checked_add(-i128::from(*by))),
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
    found.map_or_else(|| EvalError::fail("integer overflow"), |nanos| Ok(Val::Duration(nanos)))
}

fn part<'a>(args: &[Val<'a>], of: fn(DateTime) -> i64) -> Evaluated<'a> {
    match args {
        [Val::Timestamp(at)] => Ok(Val::Int(of(at.at_offset(0)))),
        [Val::Timestamp(at), name] => {
            let offset = offset(*at, text(name)?).or_else(EvalError::fail)?;
            Ok(Val::Int(of(at.at_offset(offset))))
        }
        _ => Err(EvalError::Overload),
    }
}

/// Returns the offset in seconds of a time zone by its name (`Europe/Berlin`), or of an offset (`-02:30`).
fn offset(at: Timestamp, name: &str) -> Result<i64, String> {
    if let Some((hours, minutes)) = name.split_once(':') {
        let number = |text: &str| {
            let malformed = |_| format!("strconv.Atoi: parsing {text:?}: invalid syntax");
            text.parse::<i32>().map(i64::from).map_err(malformed)
        };
        let (hours, minutes) = (number(hours)?, number(minutes)?);
        let minutes = if name.starts_with('-') { -minutes } else { minutes };
        return Ok((hours * 60 + minutes) * 60);
    }
    let zone = match name {
        // kube-apiserver runs in UTC, too, as a rule.
        "" | "Local" => TimeZone::UTC,
        name => timestamps::time_zone(name).ok_or_else(|| format!("unknown time zone {name}"))?,
    };
    // The offsets of zones are known for a little less than the years 1 to 9999.
    let (first, last) = (jiff::Timestamp::MIN.as_second(), jiff::Timestamp::MAX.as_second());
    let at = jiff::Timestamp::from_second(at.seconds().clamp(first, last)).unwrap_or_default();
    Ok(zone.to_offset(at).seconds().into())
}

/// A part of a timestamp, or a duration in a unit.
fn part_or<'a>(args: &[Val<'a>], of: fn(DateTime) -> i64, unit: i64) -> Evaluated<'a> {
    match args {
        [Val::Duration(nanos)] => Ok(Val::Int(nanos / unit)),
        _ => part(args, of),
    }
}

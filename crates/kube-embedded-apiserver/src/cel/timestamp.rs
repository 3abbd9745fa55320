//! Points in time as cel-go's: of the years 1 to 9999, and with the offset in which they were written.

use jiff::{
    SignedDuration,
    civil::{Date, DateTime, Time},
};
use std::{
    cmp::Ordering,
    fmt::{self, Display, Formatter},
};

const SECOND: i128 = 1_000_000_000;
const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
/// The first and last second, since 1970.
const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// A point in time. The offset matters where it is shown alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timestamp {
    /// Since 1970.
    nanos: i128,
    /// East of UTC, in seconds.
    offset: i32,
}

impl PartialEq for Timestamp {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Timestamp {}

impl PartialOrd for Timestamp {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timestamp {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Timestamp {
    fn new(nanos: i128, offset: i32) -> Option<Self> {
        let seconds = i64::try_from(nanos.div_euclid(SECOND)).ok()?;
        SECONDS.contains(&seconds).then_some(Self { nanos, offset })
    }

    pub(super) fn from_seconds(seconds: i64) -> Option<Self> {
        Self::new(i128::from(seconds) * SECOND, 0)
    }

    /// Returns the whole seconds since 1970.
    pub(super) fn seconds(self) -> i64 {
        i64::try_from(self.nanos.div_euclid(SECOND)).unwrap_or(0)
    }

    /// Adds a duration in nanoseconds.
    pub(super) fn checked_add(self, nanos: i128) -> Option<Self> {
        Self::new(self.nanos.checked_add(nanos)?, self.offset)
    }

    /// Returns the nanoseconds since another.
    pub(super) fn since(self, other: Self) -> i128 {
        self.nanos - other.nanos
    }

    /// Returns the date and the time of day at an offset in seconds. Beyond the year 9999, which only an offset reaches,
    /// it is the end of that year.
    pub(super) fn at_offset(self, offset: i64) -> DateTime {
        let local = SignedDuration::from_nanos_i128(self.nanos) + SignedDuration::from_secs(offset);
        EPOCH.checked_add(local).unwrap_or(DateTime::MAX)
    }

    /// Parses a timestamp of RFC 3339, as leniently as Go does: an hour of one digit, a comma before the fraction.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (year, rest) = digits(text, 4)?;
        let (month, rest) = digits(rest.strip_prefix('-')?, 2)?;
        let (day, rest) = digits(rest.strip_prefix('-')?, 2)?;
        let rest = rest.strip_prefix('T')?;
        let (hour, rest) = digits(rest, 2).or_else(|| digits(rest, 1))?;
        let (minute, rest) = digits(rest.strip_prefix(':')?, 2)?;
        let (second, rest) = digits(rest.strip_prefix(':')?, 2)?;
        let (nanos, rest) = match rest.strip_prefix(['.', ',']) {
            None => (0, rest),
            Some(rest) => fraction(rest)?,
        };
        let offset = match rest {
            "Z" => 0,
            _ => {
                let (sign, rest) = match rest.strip_prefix('-') {
                    Some(rest) => (-1, rest),
                    None => (1, rest.strip_prefix('+')?),
                };
                let (hours, rest) = digits(rest, 2).filter(|(hours, _)| *hours <= 24)?;
                let (minutes, rest) = digits(rest.strip_prefix(':')?, 2)?;
                (rest.is_empty() && minutes <= 60)
                    .then_some(sign * (hours * 3600 + minutes * 60))?
            }
        };
        let narrow = |number: i64| i8::try_from(number).ok();
        let date = Date::new(i16::try_from(year).ok()?, narrow(month)?, narrow(day)?).ok()?;
        let time = Time::new(narrow(hour)?, narrow(minute)?, narrow(second)?, 0).ok()?;
        let since = date.to_datetime(time).duration_since(EPOCH).as_nanos();
        Self::new(since - i128::from(offset) * SECOND + nanos, i32::try_from(offset).ok()?)
    }
}

impl Display for Timestamp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let at = self.at_offset(self.offset.into());
        write!(f, "{}", at.strftime("%Y-%m-%dT%H:%M:%S"))?;
        if at.subsec_nanosecond() > 0 {
            let digits = format!("{:09}", at.subsec_nanosecond());
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        if self.offset == 0 {
            return f.write_str("Z");
        }
        let (sign, minutes) = (if self.offset < 0 { '-' } else { '+' }, self.offset.abs() / 60);
        write!(f, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }
}

/// Takes a number of so many digits.
fn digits(text: &str, count: usize) -> Option<(i64, &str)> {
    let (number, rest) = text.split_at_checked(count)?;
    let valid = number.bytes().all(|b| b.is_ascii_digit());
    Some((number.parse().ok().filter(|_| valid)?, rest))
}

/// Takes the digits of a fraction; beyond nanoseconds they are dropped.
fn fraction(text: &str) -> Option<(i128, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (all, rest) = text.split_at(end);
    let kept = all.get(..all.len().min(9)).filter(|kept| !kept.is_empty())?;
    Some((format!("{kept:0<9}").parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::Timestamp;

    #[test]
    fn timestamps_are_read_and_shown_as_by_cel_go() {
        for (text, expected) in [
            ("2023-12-31T23:30:00+05:30", Some("2023-12-31T23:30:00+05:30")),
            ("2023-12-31T23:30:00-00:00", Some("2023-12-31T23:30:00Z")),
            ("2023-12-31T1:30:00,50Z", Some("2023-12-31T01:30:00.5Z")),
            ("2023-12-31T23:30:00.1234567899Z", Some("2023-12-31T23:30:00.123456789Z")),
            ("2023-12-31T23:30:00+05:60", Some("2023-12-31T23:30:00+06:00")),
            ("9999-12-31T23:59:59.999999999Z", Some("9999-12-31T23:59:59.999999999Z")),
            ("0001-01-01T00:00:00Z", Some("0001-01-01T00:00:00Z")),
            ("9999-12-31T23:59:59-01:00", None),
            ("0001-01-01T00:00:00+01:00", None),
            ("0000-12-31T23:30:00Z", None),
            ("2023-12-31t23:30:00z", None),
            ("2023-12-31T23:59:60Z", None),
            ("2023-12-31T24:00:00Z", None),
            ("2023-12-31T23:30:00.Z", None),
            ("2023-02-29T00:00:00Z", None),
            ("2023-13-01T00:00:00Z", None),
            ("2023-00-01T00:00:00Z", None),
            ("+023-01-01T00:00:00Z", None),
            ("2023-12-31 23:30:00Z", None),
            ("2023-12-31T23:30:00ü", None),
        ] {
            let shown = Timestamp::parse(text).map(|at| at.to_string());
            assert_eq!(shown.as_deref(), expected, "{text}");
        }
    }
}

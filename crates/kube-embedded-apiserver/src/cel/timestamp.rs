//! Points in time as cel-go's: of the years 1 to 9999, and with the offset in which they were written.

use std::{
    cmp::Ordering,
    fmt::{self, Display, Formatter},
};

const SECOND: i128 = 1_000_000_000;
const DAY: i64 = 86_400;
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

/// A date and a time of day at an offset.
pub(super) struct Civil {
    pub(super) year: i64,
    pub(super) month: i64,
    pub(super) day: i64,
    /// From 0, the first of January.
    pub(super) day_of_year: i64,
    /// From 0, a Sunday.
    pub(super) weekday: i64,
    pub(super) hour: i64,
    pub(super) minute: i64,
    pub(super) second: i64,
    pub(super) nanosecond: i64,
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

    /// Returns the date and the time of day at an offset in seconds.
    pub(super) fn at_offset(self, offset: i64) -> Civil {
        let seconds = self.seconds() + offset;
        let (days, second) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
        let (year, month, day) = date_of(days);
        Civil {
            year,
            month,
            day,
            day_of_year: days - days_of(year, 1, 1),
            // 1970 began on a Thursday.
            weekday: (days + 4).rem_euclid(7),
            hour: second / 3600,
            minute: second / 60 % 60,
            second: second % 60,
            nanosecond: i64::try_from(self.nanos.rem_euclid(SECOND)).unwrap_or(0),
        }
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
        let days = days_of(year, month, day);
        if hour > 23 || minute > 59 || second > 59 || date_of(days) != (year, month, day) {
            return None;
        }
        let seconds = days * DAY + hour * 3600 + minute * 60 + second - offset;
        Self::new(i128::from(seconds) * SECOND + nanos, i32::try_from(offset).ok()?)
    }
}

impl Display for Timestamp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let at = self.at_offset(self.offset.into());
        let Civil { year, month, day, hour, minute, second, .. } = at;
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        if at.nanosecond > 0 {
            let digits = format!("{:09}", at.nanosecond);
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

/// Returns the days from 1970 to a date of the proleptic Gregorian calendar. A day beyond its month counts on.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    // Years that begin in March end with the leap day.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468
}

/// The inverse of [`days_of`].
fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::{Timestamp, date_of, days_of};
    use proptest::prelude::*;

    #[test]
    fn timestamps_are_read_and_shown_as_by_cel_go() {
        for (text, expected) in [
            ("2023-12-31T23:30:00+05:30", Some("2023-12-31T23:30:00+05:30")),
            ("2023-12-31T23:30:00-00:00", Some("2023-12-31T23:30:00Z")),
            ("2023-12-31T1:30:00,50Z", Some("2023-12-31T01:30:00.5Z")),
            ("2023-12-31T23:30:00.1234567899Z", Some("2023-12-31T23:30:00.123456789Z")),
            ("2023-12-31T23:30:00+05:60", Some("2023-12-31T23:30:00+06:00")),
            ("9999-12-31T23:59:59.999999999Z", Some("9999-12-31T23:59:59.999999999Z")),
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

    proptest! {
        #[test]
        fn dates_are_days_and_back(days in -800_000_i64..3_000_000) {
            let (year, month, day) = date_of(days);
            prop_assert_eq!(days_of(year, month, day), days);
            let civil = jiff::civil::Date::new(1970, 1, 1).unwrap();
            if let Ok(date) = civil.checked_add(jiff::Span::new().days(days)) {
                prop_assert_eq!((date.year().into(), date.month().into(), date.day().into()), (year, month, day));
            }
        }
    }
}

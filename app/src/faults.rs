//! Faults on request: variables of the environment that make the app as bad as others are, for exercises and for
//! releases that have to be rolled back. Without them it has none.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// The faults of this pod.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Faults {
    /// `START_DELAY`, in seconds: the time before the app listens.
    pub(crate) start_delay: Duration,
    /// `RESPONSE_DELAY`, in milliseconds: the time that the home page takes; `/version` stays quick to measure.
    pub(crate) response_delay: Duration,
    /// `FAIL_AFTER`: the number of pages after which all are errors. `/health` stays good.
    pub(crate) fail_after: Option<u64>,
    /// `LEAK`, in KiB: memory that each page takes and never frees.
    pub(crate) leak: usize,
    /// `DRAIN=off`: the app exits at SIGTERM at once, as a program does that handles no signals.
    pub(crate) drain: bool,
    /// `FAIL_PERCENT`: the share of pages that are errors, drawn for each.
    pub(crate) fail_percent: f64,
    /// `DELAY_PERCENT`: the share of pages, `/version` included, that take the time of `RESPONSE_DELAY`, drawn for each.
    pub(crate) delay_percent: Option<f64>,
    /// `CRASH_AFTER`, in seconds: the time from the start to an exit with code 1.
    pub(crate) crash_after: Option<Duration>,
    /// `WRONG_PAGE`: the page with another body than it should have.
    pub(crate) wrong_page: Option<&'static str>,
}

/// The pages that may be wrong.
const PAGES: [&str; 2] = ["/", "/version"];

impl Default for Faults {
    fn default() -> Self {
        let none = Duration::ZERO;
        Self {
            start_delay: none,
            response_delay: none,
            fail_after: None,
            leak: 0,
            drain: true,
            fail_percent: 0.0,
            delay_percent: None,
            crash_after: None,
            wrong_page: None,
        }
    }
}

impl Faults {
    /// Reads the variables; an empty one counts as not set.
    pub(crate) fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let number = |name: &str| {
            let parsed = set(name).map(|value| {
                value.parse::<u32>().map_err(|_| format!("{name}={value} is not a number"))
            });
            parsed.transpose()
        };
        let percent = |name: &str| match set(name).map(|text| (text.parse(), text)) {
            None => Ok(None),
            Some((Ok(share), _)) if (0.0..=100.0).contains(&share) => Ok(Some(share)),
            Some((_, text)) => Err(format!("{name}={text} is not a number from 0 to 100")),
        };
        let wrong_page = set("WRONG_PAGE").map(|page| {
            let known = PAGES.into_iter().find(|known| *known == page);
            known.ok_or_else(|| format!("WRONG_PAGE={page} is neither `/` nor `/version`"))
        });
        let drain = match set("DRAIN").as_deref() {
            None | Some("on") => true,
            Some("off") => false,
            Some(value) => return Err(format!("DRAIN={value} is neither `on` nor `off`")),
        };
        Ok(Self {
            start_delay: Duration::from_secs(number("START_DELAY")?.unwrap_or(0).into()),
            response_delay: Duration::from_millis(number("RESPONSE_DELAY")?.unwrap_or(0).into()),
            fail_after: number("FAIL_AFTER")?.map(Into::into),
            leak: number("LEAK")?.unwrap_or(0) as usize * 1024,
            drain,
            fail_percent: percent("FAIL_PERCENT")?.unwrap_or(0.0),
            delay_percent: percent("DELAY_PERCENT")?,
            crash_after: number("CRASH_AFTER")?.map(|seconds| Duration::from_secs(seconds.into())),
            wrong_page: wrong_page.transpose()?,
        })
    }
}

/// Draws random numbers, by the random keys of the standard library's hash maps.
#[derive(Default)]
pub(crate) struct Random {
    keys: RandomState,
    drawn: AtomicU64,
}

impl Random {
    /// Returns true with a probability given in percent.
    pub(crate) fn chance(&self, percent: f64) -> bool {
        let bits = self.keys.hash_one(self.drawn.fetch_add(1, Ordering::Relaxed));
        ((bits >> 11) as f64 / (1_u64 << 53) as f64) < percent / 100.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_from_the_environment() {
        let read = |name: &'static str, value: &'static str| {
            Faults::read(|asked| (asked == name).then(|| value.to_owned()))
        };
        let none = Faults::default();
        assert_eq!(read("OTHER", "1"), Ok(none));
        assert_eq!(read("FAIL_AFTER", ""), Ok(none), "as a ConfigMap without a value sets it");
        assert_eq!(read("FAIL_AFTER", "0"), Ok(Faults { fail_after: Some(0), ..none }));
        assert_eq!(read("LEAK", "4"), Ok(Faults { leak: 4096, ..none }));
        let second = Duration::from_secs(1);
        assert_eq!(read("START_DELAY", "1"), Ok(Faults { start_delay: second, ..none }));
        assert_eq!(read("RESPONSE_DELAY", "1000"), Ok(Faults { response_delay: second, ..none }));
        assert_eq!(read("DRAIN", "off"), Ok(Faults { drain: false, ..none }));
        let crash_after = Some(second);
        assert_eq!(read("CRASH_AFTER", "1"), Ok(Faults { crash_after, ..none }));
        assert_eq!(read("FAIL_PERCENT", "2.5"), Ok(Faults { fail_percent: 2.5, ..none }));
        assert_eq!(read("DELAY_PERCENT", "0"), Ok(Faults { delay_percent: Some(0.0), ..none }));
        assert_eq!(read("WRONG_PAGE", "/"), Ok(Faults { wrong_page: Some("/"), ..none }));
        let error = "WRONG_PAGE=/x is neither `/` nor `/version`";
        assert_eq!(read("WRONG_PAGE", "/x"), Err(error.into()));
        for text in ["101", "-1", "NaN", "x"] {
            let error = format!("FAIL_PERCENT={text} is not a number from 0 to 100");
            let found = Faults::read(|asked| (asked == "FAIL_PERCENT").then(|| text.to_owned()));
            assert_eq!(found, Err(error));
        }
        assert_eq!(read("DRAIN", "no"), Err("DRAIN=no is neither `on` nor `off`".into()));
        assert_eq!(read("LEAK", "much"), Err("LEAK=much is not a number".into()));
    }

    #[test]
    fn chance_is_the_percentage() {
        let random = Random::default();
        let share = |percent| (0..10_000).filter(|_| random.chance(percent)).count();
        assert_eq!((share(0.0), share(100.0)), (0, 10_000));
        // Eight standard deviations to either side.
        assert!((1680..=2320).contains(&share(20.0)));
    }
}

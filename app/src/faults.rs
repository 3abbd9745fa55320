//! Faults of a bad release, set by environment variables, so that a canary can be rolled back for a reason. Without the
//! variables, the app has none.

use hyper::StatusCode;
use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// The share of requests that get status 500.
const ERROR_PERCENT: &str = "KUBEAPP_ERROR_PERCENT";
/// The share of requests that wait for [`SLOW_MILLISECONDS`] before their response.
const SLOW_PERCENT: &str = "KUBEAPP_SLOW_PERCENT";
const SLOW_MILLISECONDS: &str = "KUBEAPP_SLOW_MILLISECONDS";
/// The time after which the process exits.
const CRASH_SECONDS: &str = "KUBEAPP_CRASH_SECONDS";
/// The path whose response has another body than it should.
const WRONG_PATH: &str = "KUBEAPP_WRONG_PATH";

/// The faults of this process. Probes are not affected: such a release passes them.
#[derive(Default)]
pub(crate) struct Faults {
    error_percent: f64,
    slow_percent: f64,
    slow: Duration,
    crash_after: Option<Duration>,
    wrong_path: Option<String>,
    random: Random,
}

/// What is wrong with one response.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Flaw {
    /// The status instead of 200.
    pub(crate) status: Option<StatusCode>,
    /// The time to wait before it.
    pub(crate) delay: Option<Duration>,
    /// Whether its body is wrong.
    pub(crate) wrong: bool,
}

impl Faults {
    /// Reads the variables.
    pub(crate) fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let number = |name: &str, max: f64| match variable(name).filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) => match text.parse() {
                Ok(number) if (0.0..=max).contains(&number) => Ok(Some(number)),
                _ => Err(format!("{name}={text} is not a number from 0 to {max}")),
            },
        };
        let percent = |name| number(name, 100.0).map(Option::unwrap_or_default);
        let slow = number(SLOW_MILLISECONDS, 60_000.0)?.unwrap_or_default();
        Ok(Self {
            error_percent: percent(ERROR_PERCENT)?,
            slow_percent: percent(SLOW_PERCENT)?,
            slow: Duration::from_secs_f64(slow / 1000.0),
            crash_after: number(CRASH_SECONDS, 86_400.0)?.map(Duration::from_secs_f64),
            wrong_path: variable(WRONG_PATH).filter(|path| !path.is_empty()),
            random: Random::default(),
        })
    }

    /// The time after which the process exits.
    pub(crate) fn crash_after(&self) -> Option<Duration> {
        self.crash_after
    }

    /// Draws what is wrong with the response to a request of that path.
    pub(crate) fn draw(&self, path: &str) -> Flaw {
        let draw = |percent: f64| percent > 0.0 && self.random.percent() < percent;
        Flaw {
            status: draw(self.error_percent).then_some(StatusCode::INTERNAL_SERVER_ERROR),
            delay: draw(self.slow_percent).then_some(self.slow),
            wrong: self.wrong_path.as_deref() == Some(path),
        }
    }
}

/// Random numbers from the random keys of the standard library's hash maps.
#[derive(Default)]
struct Random {
    keys: RandomState,
    drawn: AtomicU64,
}

impl Random {
    /// Returns a number from 0 up to and not including 100.
    fn percent(&self) -> f64 {
        let bits = self.keys.hash_one(self.drawn.fetch_add(1, Ordering::Relaxed));
        (bits >> 11) as f64 / (1_u64 << 53) as f64 * 100.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Faults, String> {
        Faults::read(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn app_without_variables_has_no_faults() {
        for variables in [&[][..], &[(ERROR_PERCENT, ""), (WRONG_PATH, ""), (CRASH_SECONDS, "")]] {
            let faults = read(variables).unwrap();
            assert_eq!(faults.draw("/"), Flaw::default());
            assert_eq!(faults.crash_after(), None);
        }
    }

    #[test]
    fn faults_have_the_shares_of_the_variables() {
        let variables = [
            (ERROR_PERCENT, "20"),
            (SLOW_PERCENT, "100"),
            (SLOW_MILLISECONDS, "1.5"),
            (CRASH_SECONDS, "0.5"),
            (WRONG_PATH, "/"),
        ];
        let faults = read(&variables).unwrap();
        assert_eq!(faults.crash_after(), Some(Duration::from_millis(500)));
        let drawn: Vec<Flaw> = (0..10_000).map(|_| faults.draw("/")).collect();
        let failed = drawn.iter().filter(|flaw| flaw.status.is_some()).count();
        // Eight standard deviations to either side.
        assert!((1680..=2320).contains(&failed), "{failed}");
        let slow = Some(Duration::from_micros(1500));
        assert!(drawn.iter().all(|flaw| flaw.delay == slow && flaw.wrong));
        assert!(!faults.draw("/version").wrong);
    }

    #[test]
    fn invalid_numbers_are_rejected() {
        for (name, text, max) in [
            (ERROR_PERCENT, "101", "100"),
            (ERROR_PERCENT, "-1", "100"),
            (SLOW_PERCENT, "NaN", "100"),
            (SLOW_MILLISECONDS, "1s", "60000"),
            (CRASH_SECONDS, "inf", "86400"),
        ] {
            let error = read(&[(name, text)]).err();
            let expected = format!("{name}={text} is not a number from 0 to {max}");
            assert_eq!(error, Some(expected));
        }
    }
}

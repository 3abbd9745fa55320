//! Faults on request: variables of the environment that make the app as bad as others are, for exercises. Without
//! them it has none.

use std::time::Duration;

/// The faults of this pod.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Faults {
    /// `START_DELAY`, in seconds: the time before the app listens.
    pub(crate) start_delay: Duration,
    /// `RESPONSE_DELAY`, in milliseconds: the time that the home page takes. `/version` stays quick to measure.
    pub(crate) response_delay: Duration,
    /// `FAIL_AFTER`: the number of pages after which all are errors. `/health` stays good.
    pub(crate) fail_after: Option<u64>,
    /// `LEAK`, in KiB: memory that each page takes and never frees.
    pub(crate) leak: usize,
    /// `DRAIN=off`: the app exits at SIGTERM at once, as a program does that handles no signals.
    pub(crate) drain: bool,
}

impl Default for Faults {
    fn default() -> Self {
        let none = Duration::ZERO;
        Self { start_delay: none, response_delay: none, fail_after: None, leak: 0, drain: true }
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
        })
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
        assert_eq!(read("DRAIN", "no"), Err("DRAIN=no is neither `on` nor `off`".into()));
        assert_eq!(read("LEAK", "much"), Err("LEAK=much is not a number".into()));
    }
}

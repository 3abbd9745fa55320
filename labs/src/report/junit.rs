//! `--junit FILE`: the format of JUnit that CI systems read. A phase is a test suite, a claim a test case;
//! an error of the environment is a test case of that name.

use super::reporter::{Output, Reporter};
use super::text::escape;
use crate::claim::{Outcome, Verdict};
use crate::event::{Event, Stamped};
use std::fmt::{self, Write as _};
use std::io::{self, Write};

/// Writes the report at the end of the run.
pub(super) struct Junit<W> {
    out: Output<W>,
    provider: String,
    suites: Vec<Suite>,
}

/// One lab.
struct Suite {
    name: String,
    /// Claims without a verdict yet.
    open: Vec<&'static str>,
    cases: Vec<Case>,
    seconds: f64,
    /// The time of the last verdict.
    since: f64,
    diagnosis: Option<String>,
    layer: Option<&'static str>,
}

struct Case {
    name: String,
    seconds: f64,
    result: Result,
    /// The evidence.
    output: String,
}

enum Result {
    Passed,
    Failed { layer: &'static str, message: String, details: String },
    Skipped(String),
    Error(String),
}

impl<W: Write> Junit<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out: Output::new(out), provider: String::new(), suites: Vec::new() }
    }

    fn add(&mut self, name: &str, open: Vec<&'static str>, at: f64) {
        self.suites.push(Suite {
            name: name.to_owned(),
            open,
            cases: Vec::new(),
            seconds: 0.0,
            since: at,
            diagnosis: None,
            layer: None,
        });
    }

    fn ended(&mut self, errors: &[String], seconds: f64) {
        for suite in &mut self.suites {
            for name in std::mem::take(&mut suite.open) {
                suite.case(name, 0.0, Result::Skipped("interrupted".to_owned()), "");
            }
        }
        // Those of a lab are in its suite already.
        let of_labs: Vec<String> =
            self.suites.iter().map(|suite| format!("{}: ", suite.name)).collect();
        let own = errors.iter().filter(|e| !of_labs.iter().any(|lab| e.starts_with(lab)));
        let own: Vec<&String> = own.collect();
        if !own.is_empty() {
            self.add("run", Vec::new(), 0.0);
            for (error, suite) in own.into_iter().zip(std::iter::repeat(self.suites.len() - 1)) {
                self.suites[suite].case("environment", 0.0, Result::Error(error.clone()), "");
            }
        }
        let mut text = String::new();
        // Writing to a string does not fail.
        _ = self.write(&mut text, seconds);
        self.out.write(text.as_bytes());
    }

    fn write(&self, text: &mut String, seconds: f64) -> fmt::Result {
        text.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        // Jenkins' schema has the number of skipped cases in suites only.
        let (counts, _) = counts(self.suites.iter().flat_map(|suite| &suite.cases));
        writeln!(text, "<testsuites name=\"canary-labs\" {counts} time=\"{seconds:.3}\">")?;
        for suite in &self.suites {
            let ((counts, skipped), name) = (self::counts(&suite.cases), escape(&suite.name));
            let counts = format!("{counts} skipped=\"{skipped}\"");
            writeln!(text, "  <testsuite name=\"{name}\" {counts} time=\"{:.3}\">", suite.seconds)?;
            let provider = escape(&self.provider);
            text.push_str("    <properties>\n");
            writeln!(text, "      <property name=\"provider\" value=\"{provider}\"/>")?;
            text.push_str("    </properties>\n");
            for case in &suite.cases {
                case.write(text, &suite.name)?;
            }
            text.push_str("  </testsuite>\n");
        }
        text.push_str("</testsuites>\n");
        Ok(())
    }
}

impl Suite {
    fn case(&mut self, name: &str, seconds: f64, result: Result, output: &str) {
        let (name, output) = (name.to_owned(), output.to_owned());
        self.cases.push(Case { name, seconds, result, output });
    }

    fn judged(&mut self, claim: &str, sentence: &str, verdict: &Verdict, at: f64) {
        self.open.retain(|open| *open != claim);
        let seconds = at - std::mem::replace(&mut self.since, at);
        let result = match verdict.outcome {
            Outcome::Holds => Result::Passed,
            Outcome::Skipped => Result::Skipped(verdict.evidence.clone()),
            Outcome::Fails => Result::Failed {
                layer: self.layer.unwrap_or("claim"),
                message: verdict.evidence.clone(),
                details: self.diagnosis.clone().unwrap_or_default(),
            },
        };
        self.case(claim, seconds, result, &format!("{sentence}\n{}", verdict.evidence));
    }
}

impl Case {
    fn write(&self, text: &mut String, suite: &str) -> fmt::Result {
        let Self { name, seconds, result, output } = self;
        let (suite, name) = (escape(suite), escape(name));
        writeln!(
            text,
            "    <testcase classname=\"{suite}\" name=\"{name}\" time=\"{seconds:.3}\">"
        )?;
        match result {
            Result::Passed => {}
            Result::Failed { layer, message, details } => {
                let (message, details) = (escape(message), escape(details));
                writeln!(
                    text,
                    "      <failure type=\"{layer}\" message=\"{message}\">{details}</failure>"
                )?;
            }
            Result::Skipped(why) => writeln!(text, "      <skipped message=\"{}\"/>", escape(why))?,
            Result::Error(why) => {
                writeln!(text, "      <error type=\"environment\" message=\"{}\"/>", escape(why))?;
            }
        }
        if !output.is_empty() {
            writeln!(text, "      <system-out>{}</system-out>", escape(output))?;
        }
        text.push_str("    </testcase>\n");
        Ok(())
    }
}

impl<W: Write> Reporter for Junit<W> {
    fn event(&mut self, stamped: &Stamped) {
        let suite = self.suites.last_mut();
        match (&stamped.event, suite) {
            (Event::RunStarted { provider, .. }, _) => self.provider.clone_from(provider),
            (Event::LabStarted { claims, .. }, _) => {
                self.add(stamped.lab.unwrap_or("?"), claims.clone(), stamped.at);
            }
            (Event::ClaimJudged { claim, sentence, verdict }, Some(suite)) => {
                suite.judged(claim, sentence, verdict, stamped.at);
            }
            (Event::Diagnosis { layer, reason, command, folder }, Some(suite)) => {
                let layer = layer.map(|layer| layer.word());
                let mut text = format!("at fault: {}: {reason}", layer.unwrap_or("unknown"));
                command.iter().for_each(|command| text += &format!("\nto see it: {command}"));
                folder.iter().for_each(|folder| text += &format!("\ngathered in {folder}"));
                (suite.layer, suite.diagnosis) = (layer, Some(text));
            }
            (Event::LabEnded { seconds, error }, Some(suite)) => {
                suite.seconds = *seconds;
                if let Some(error) = error {
                    suite.case("environment", 0.0, Result::Error(error.clone()), "");
                }
            }
            (Event::RunEnded { errors, seconds, .. }, _) => self.ended(errors, *seconds),
            _ => {}
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        self.out.result()
    }
}

/// Formats the counts of a suite as attributes; that of skipped cases is apart.
fn counts<'a>(cases: impl IntoIterator<Item = &'a Case>) -> (String, usize) {
    let (mut tests, mut failures, mut errors, mut skipped) = (0, 0, 0, 0);
    for case in cases {
        tests += 1;
        match case.result {
            Result::Passed => {}
            Result::Failed { .. } => failures += 1,
            Result::Error(_) => errors += 1,
            Result::Skipped(_) => skipped += 1,
        }
    }
    (format!("tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\""), skipped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn report(events: impl IntoIterator<Item = Event>) -> String {
        let mut junit = Junit::new(Vec::new());
        for (at, event) in events.into_iter().enumerate() {
            junit.event(&Stamped { at: at as f64, lab: Some("phase4"), event });
        }
        junit.finish().unwrap();
        String::from_utf8(junit.out.writer).unwrap()
    }

    #[test]
    fn run_is_reported_as_suites_and_cases() {
        insta::assert_snapshot!("junit_report", report(fixture::events()));
    }

    /// The shape that CI systems expect: elements, their parents, and their attributes.
    #[test]
    fn report_has_the_shape_of_junit() {
        let text = report(fixture::events());
        let mut open: Vec<&str> = Vec::new();
        for tag in text.split('<').skip(2).filter_map(|part| part.split_once('>').map(|(t, _)| t)) {
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "{text}");
                continue;
            }
            let name = tag.split([' ', '/']).next().unwrap();
            let (parent, attributes): (Option<&str>, &[&str]) = match name {
                "testsuites" => (None, &["name", "tests", "failures", "errors", "time"]),
                "testsuite" => (
                    Some("testsuites"),
                    &["name", "tests", "failures", "errors", "skipped", "time"],
                ),
                "properties" => (Some("testsuite"), &[]),
                "property" => (Some("properties"), &["name", "value"]),
                "testcase" => (Some("testsuite"), &["classname", "name", "time"]),
                "failure" | "error" => (Some("testcase"), &["type", "message"]),
                "skipped" => (Some("testcase"), &["message"]),
                "system-out" => (Some("testcase"), &[]),
                other => panic!("{other} is no element of JUnit"),
            };
            assert_eq!(open.last().copied(), parent, "{tag}");
            for attribute in attributes {
                assert!(tag.contains(&format!(" {attribute}=\"")), "{attribute} of {tag}");
            }
            assert_eq!(tag.matches("=\"").count(), attributes.len(), "{tag}");
            if !tag.ends_with('/') {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    #[test]
    fn claims_of_an_interrupted_run_are_skipped_and_its_errors_are_errors() {
        let events = fixture::events();
        let mut cut: Vec<Event> = events[..3].to_vec();
        cut.push(Event::RunEnded {
            claims: Default::default(),
            holds: 0,
            fails: 0,
            skipped: 0,
            errors: vec!["failed to clean up: <gone> & \"away\"\u{1b}".into()],
            exit_code: 130,
            seconds: 1.0,
        });
        let text = report(cut);
        assert_eq!(text.matches("<skipped message=\"interrupted\"/>").count(), 5, "{text}");
        let error = "message=\"failed to clean up: &lt;gone&gt; &amp; &quot;away&quot;\u{fffd}\"";
        assert!(text.contains(error) && text.contains("errors=\"1\""), "{text}");
    }
}

//! The findings about one provider, as a table or as JSON, and the preflight of a run.

use super::check::{Check, CheckContext, Depth, Finding, State};
use crate::{
    output::{self, COLUMNS, errln},
    project::Project,
};
use anyhow::{Result, ensure};
use serde::Serialize;
use std::fmt;

/// The findings about one provider.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) provider: &'static str,
    /// False if a check found a problem.
    pub(crate) ready: bool,
    checks: Vec<NamedFinding>,
}

#[derive(Debug, Serialize)]
struct NamedFinding {
    name: &'static str,
    #[serde(flatten)]
    finding: Finding,
}

impl Report {
    /// Runs the checks of a provider.
    pub(crate) fn new(provider: &'static str, checks: &[Check], context: &CheckContext) -> Self {
        let run = |check: &Check| NamedFinding { name: check.name, finding: (check.run)(context) };
        let checks: Vec<_> = checks.iter().map(run).collect();
        let ready = checks.iter().all(|check| check.finding.state != State::Bad);
        Self { provider, ready, checks }
    }
}

/// The columns before a finding.
const INDENT: usize = 20;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}{}", self.provider, if self.ready { "" } else { ": not ready" })?;
        for NamedFinding { name, finding } in &self.checks {
            let state = match finding.state {
                State::Ok => "ok  ",
                State::Note => "note",
                State::Bad => "BAD ",
            };
            let mut label = format!("  {state}  {name:<11} ");
            for line in output::wrap(&finding.text, COLUMNS - INDENT) {
                writeln!(f, "{label}{line}")?;
                label = " ".repeat(INDENT);
            }
            let mut arrow = "→ ";
            for line in finding.fix.iter().flat_map(|fix| output::wrap(fix, COLUMNS - INDENT - 2)) {
                writeln!(f, "{:INDENT$}{arrow}{line}", "")?;
                arrow = "  ";
            }
        }
        Ok(())
    }
}

/// Returns the first problem as an error, before anything is created with that node image; with `force`
/// it is only reported.
pub(crate) fn preflight(
    provider: &'static str,
    checks: &[Check],
    image: Option<&str>,
    force: bool,
) -> Result<()> {
    let context = CheckContext::new(Project::find()?, image.map(Into::into), Depth::Preflight);
    for check in checks {
        let finding = (check.run)(&context);
        if finding.state == State::Bad {
            let fix = finding.fix.map(|fix| format!("; {fix}")).unwrap_or_default();
            let problem = format!("{provider}: {}: {}{fix}", check.name, finding.text);
            ensure!(force, "{problem}");
            errln!("{problem}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::Engine;

    #[test]
    fn report_is_readable_by_people_and_machines() {
        const CHECKS: &[Check] = &[
            Check::new("kind", |_| Finding::bad("not installed").with_fix("apt-get install it")),
            Check::new("memory", |_| Finding::ok("8 GB")),
        ];
        let context = CheckContext::with_engine(Engine::Absent("/s".into()), None);
        let report = Report::new("kind", CHECKS, &context);
        assert_eq!(
            serde_json::to_value(&report).unwrap(),
            serde_json::json!({"provider": "kind", "ready": false, "checks": [
                {"name": "kind", "state": "bad", "text": "not installed", "mend": "apt-get install it"},
                {"name": "memory", "state": "ok", "text": "8 GB"}]})
        );
        assert_eq!(
            report.to_string(),
            "kind: not ready\n  BAD   kind        not installed\n                    → apt-get \
             install it\n  ok    memory      8 GB\n"
        );
    }
}

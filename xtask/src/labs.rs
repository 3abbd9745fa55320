//! `cargo xtask labs`: the phases and their claims, as the `labs` binary lists them.

use crate::{
    cargo::{self, Docker},
    failure::Failure,
    flags,
    nearest::nearest,
    project::Project,
};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::process::Command;

pub(crate) fn run(flags: &flags::Labs) -> Result<()> {
    let project = Project::find()?;
    cargo::binaries(&project, Docker::Without)?;
    let mut command = Command::new(project.binaries.join("labs"));
    command.arg("list").args(flags.json.then_some("--json"));
    let status = command.status().context("cannot run labs")?;
    ensure!(status.success(), "labs list ended with {status}");
    Ok(())
}

/// Wrong usage if a phase is not one that the `labs` binary knows.
pub(crate) fn check(project: &Project, phases: &[String]) -> Result<()> {
    let mut command = Command::new(project.binaries.join("labs"));
    let output = command.args(["list", "--json"]).output().context("cannot run labs")?;
    let known: Vec<Lab> = serde_json::from_slice(&output.stdout).context("labs list says")?;
    let mut known: Vec<&str> = known.iter().map(|lab| lab.name.as_str()).collect();
    known.push("all");
    unknown(phases, &known).map_or(Ok(()), |message| bail!(Failure::Usage(message)))
}

#[derive(Deserialize)]
struct Lab {
    name: String,
}

fn unknown(phases: &[String], known: &[&str]) -> Option<String> {
    let all = known.join(", ");
    if phases.is_empty() {
        return Some(format!("which phase? There are {all}"));
    }
    let wrong = phases.iter().find(|phase| !known.contains(&phase.as_str()))?;
    Some(match nearest(wrong, known.iter().copied()) {
        Some(name) => {
            format!("there is no phase `{wrong}`; did you mean `{name}`? There are {all}")
        }
        None => format!("there is no phase `{wrong}`; there are {all}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_phase_is_answered_with_the_nearest() {
        let known = ["phase0", "phase4", "all"];
        let says = |phases: &[&str]| {
            unknown(&phases.iter().map(|p| p.to_string()).collect::<Vec<_>>(), &known)
        };
        assert_eq!(says(&["phase0", "all"]), None);
        assert!(says(&["phase0", "fase4"]).unwrap().contains("did you mean `phase4`?"));
        assert!(says(&["ingress"]).unwrap().ends_with("there are phase0, phase4, all"));
        assert!(says(&[]).unwrap().starts_with("which phase?"));
    }
}

//! `cargo xtask labs`: the phases and their claims, as the `labs` binary lists them.

use crate::{build, cargo::DockerClient, failure::Failure, project::Project};
use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Deserialize;
use xshell::{Shell, cmd};

/// List the phases and the claims of each
#[derive(Args)]
pub(super) struct Labs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Labs) -> Result<()> {
    let project = Project::find()?;
    build::binaries(&project, DockerClient::Omitted)?;
    let (labs, json) = (project.program("labs"), args.json.then_some("--json"));
    let shell = Shell::new()?;
    Ok(cmd!(shell, "{labs} list {json...}").quiet().run()?)
}

/// Rejects phases that the `labs` binary does not know.
pub(super) fn check_phases(project: &Project, phases: &[String]) -> Result<()> {
    let (shell, labs) = (Shell::new()?, project.program("labs"));
    let list = cmd!(shell, "{labs} list --json").read().context("failed to run labs")?;
    let labs: Vec<Lab> = serde_json::from_str(&list).context("failed to parse the list of labs")?;
    let mut known: Vec<&str> = labs.iter().map(|lab| lab.name.as_str()).collect();
    known.push("all");
    usage_error(phases, &known).map_or(Ok(()), |message| bail!(Failure::Usage(message)))
}

#[derive(Deserialize)]
struct Lab {
    name: String,
}

fn usage_error(phases: &[String], known: &[&str]) -> Option<String> {
    let all = known.join(", ");
    if phases.is_empty() {
        return Some(format!("no phase given; the phases are {all}"));
    }
    let wrong = phases.iter().find(|phase| !known.contains(&phase.as_str()))?;
    let similarity = |name: &&&str| (strsim::jaro(wrong, name) * 1e6) as u64;
    // The measure and threshold that clap uses for flags and commands.
    let similar =
        known.iter().max_by_key(similarity).filter(|name| strsim::jaro(wrong, name) > 0.7);
    let tip = similar.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
    Some(format!("unknown phase `{wrong}`{tip} The phases are {all}").replace("` The", "`; the"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_phase_suggests_a_similar_one() {
        let known = ["phase0", "phase4", "all"];
        let error = |phases: &[&str]| {
            let phases: Vec<_> = phases.iter().map(|phase| (*phase).to_owned()).collect();
            usage_error(&phases, &known)
        };
        assert_eq!(error(&["phase0", "all"]), None);
        assert_eq!(
            error(&["phase0", "fase4"]).unwrap(),
            "unknown phase `fase4`; did you mean `phase4`? The phases are phase0, phase4, all"
        );
        assert_eq!(
            error(&["ingress"]).unwrap(),
            "unknown phase `ingress`; the phases are phase0, phase4, all"
        );
        assert!(error(&[]).unwrap().starts_with("no phase given"));
    }
}

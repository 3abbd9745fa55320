//! `cargo xtask labs`: the phases and their claims, as the `labs` binary lists them.

use crate::{build, cargo::DockerClient, failure::Failure, project::Project};
use anyhow::{Context, Result, bail};
use clap::Args;
use lab_environment::PHASES;
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

/// Returns the phases, and claims by path (`phase4/<claim>`), with abbreviations expanded (`4` is `phase4`).
/// Unknown phases are rejected, before anything is built.
pub(super) fn expand_phases(arguments: &[String]) -> Result<Vec<String>> {
    let known = PHASES.into_iter().chain(["all"]).collect::<Vec<_>>();
    let expand = |argument: &String| {
        let numbered = argument.starts_with(|c: char| c.is_ascii_digit());
        if numbered { format!("phase{argument}") } else { argument.clone() }
    };
    let phases: Vec<String> = arguments.iter().map(expand).collect();
    match usage_error(&phases, &known) {
        Some(message) => bail!(Failure::Usage(message)),
        None => Ok(phases),
    }
}

/// Rejects claims that the `labs` binary does not know, before a cluster starts.
pub(super) fn check_claims(project: &Project, phases: &[String]) -> Result<()> {
    let mut named = phases.iter().filter_map(|phase| phase.split_once('/')).peekable();
    if named.peek().is_none() {
        return Ok(());
    }
    let (shell, labs) = (Shell::new()?, project.program("labs"));
    let list = cmd!(shell, "{labs} list --json").quiet().read().context("failed to run labs")?;
    let labs: Vec<Lab> = serde_json::from_str(&list).context("failed to parse the list of labs")?;
    for (phase, claim) in named {
        let claims = labs.iter().filter(|lab| lab.name == phase).flat_map(|lab| &lab.claims);
        let claims: Vec<&str> = claims.map(|claim| claim.id.as_str()).collect();
        if !claims.contains(&claim) {
            let tip = similar(claim, &claims).map(|name| format!("; did you mean `{name}`?"));
            bail!(Failure::Usage(format!(
                "unknown claim `{claim}` of {phase}{}; `cargo xtask labs` lists them",
                tip.unwrap_or_default()
            )));
        }
    }
    Ok(())
}

#[derive(Deserialize)]
struct Lab {
    name: String,
    #[serde(default)]
    claims: Vec<Claim>,
}

#[derive(Deserialize)]
struct Claim {
    id: String,
}

/// Returns the most similar name, by the measure and threshold that clap uses for flags and commands.
fn similar<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    let similarity = |name: &&&str| (strsim::jaro(wrong, name) * 1e6) as u64;
    let best = known.iter().max_by_key(similarity)?;
    (strsim::jaro(wrong, best) > 0.7).then_some(*best)
}

fn usage_error(phases: &[String], known: &[&str]) -> Option<String> {
    let all = known.join(", ");
    if phases.is_empty() {
        return Some(format!("no phase given; the phases are {all}"));
    }
    let names = phases.iter().map(|phase| phase.split('/').next().unwrap_or(phase));
    let wrong = names.into_iter().find(|phase| !known.contains(phase))?;
    let tip = similar(wrong, known).map(|name| format!("; did you mean `{name}`?"));
    let tip = tip.unwrap_or_default();
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

    #[test]
    fn phases_are_abbreviated_by_their_number_and_may_name_claims() {
        let expand = |arguments: &[&str]| {
            let arguments: Vec<_> = arguments.iter().map(|word| (*word).to_owned()).collect();
            expand_phases(&arguments).map_err(|error| error.to_string())
        };
        assert_eq!(expand(&["4", "phase0", "all"]).unwrap(), ["phase4", "phase0", "all"]);
        assert_eq!(expand(&["4/bad-canary"]).unwrap(), ["phase4/bad-canary"]);
        assert!(expand(&["9"]).unwrap_err().starts_with("unknown phase `phase9`"));
        assert!(expand(&["pahse4/x"]).unwrap_err().contains("did you mean `phase4`?"));
    }
}

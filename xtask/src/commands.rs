//! The commands: one file and one line in [`Command`] each.

mod ci;
mod completions;
mod conformance;
mod copies;
mod doctor;
mod down;
mod env;
mod images;
mod kubectl;
mod lab;
mod labs;
mod man;
mod package;
mod prefetch;
mod provider_flag;
mod status;
mod ui;
mod up;
mod workshop;

use crate::{failure::Failure, output, project::Installation};
use anyhow::{Result, bail};
use clap::{
    CommandFactory, FromArgMatches, Parser, Subcommand,
    error::{ContextKind, ContextValue},
};
use std::ffi::OsString;

/// Kubernetes canary deployments, phase by phase, each claim proved with numbers
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
#[command(subcommand_required = true, arg_required_else_help = true, max_term_width = 80, after_help = ENVIRONMENT)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

const ENVIRONMENT: &str = "\
Environment variables:
  CANARY_HOME      Directory of clusters and diagnostics (`target/canary`)
  CANARY_PREBUILT  Set to use binaries and images as they are, without cargo
  DOCKER_HOST      Socket of the Docker engine";

/// Those of an installation.
const ENVIRONMENT_INSTALLED: &str = "\
Environment variables:
  CANARY_HOME  Directory of all that is written, instead of
               `~/.local/share/canary-labs` for images and manifests, and
               `~/.local/state/canary-labs` for clusters and diagnostics
  DOCKER_HOST  Socket of the Docker engine";

/// What a participant does not need, or cannot use without a checkout.
const OF_CHECKOUTS: [&str; 4] = ["ci", "conformance", "package", "prefetch"];

#[derive(Subcommand)]
enum Command {
    Lab(lab::Lab),
    Labs(labs::Labs),
    Explain(workshop::Explain),
    Check(workshop::Check),
    Watch(workshop::Watch),
    Broken(workshop::Broken),
    Up(up::Up),
    Down(down::Down),
    Status(status::Status),
    Ui(ui::Ui),
    Env(env::Env),
    Manifests(copies::Manifests),
    Book(copies::Book),
    Images(images::Images),
    Kubectl(kubectl::Kubectl),
    Doctor(doctor::Doctor),
    Ci(ci::Ci),
    Conformance(conformance::Conformance),
    Completions(completions::Completions),
    Man(man::Man),
    Package(package::Package),
    Prefetch(prefetch::Prefetch),
}

/// Returns the definition of the command line, which differs in an installation.
fn definition() -> clap::Command {
    let cli = Cli::command();
    let Some(installation) = Installation::selected() else { return cli };
    let cli = cli.after_help(ENVIRONMENT_INSTALLED).subcommands(installation.commands.clone());
    let cli = cli.mut_subcommand("completions", completions::of_installation);
    OF_CHECKOUTS.iter().fold(cli, |cli, name| cli.mut_subcommand(name, |of| of.hide(true)))
}

/// Parses the command line. Help and errors are printed here; they end the run with exit code 0 or 2.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli> {
    let parsed = definition().try_get_matches_from(arguments);
    let error = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => return Ok(cli),
        Err(error) => with_suggestion(error),
    };
    let text = error.render().to_string();
    if error.use_stderr() {
        output::report(format_args!("{}", text.trim_end()));
        bail!(Failure::Child(2));
    }
    output::print(&text)?;
    bail!(Failure::Child(0));
}

/// Suggests the nearest command for a misspelled one. For short words with swapped letters (`lba`) clap's
/// measure of similarity finds others, or none.
fn with_suggestion(mut error: clap::Error) -> clap::Error {
    let suggested = ContextKind::SuggestedSubcommand;
    if let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) {
        let command = definition();
        let names = command
            .get_subcommands()
            .filter(|command| !command.is_hide_set())
            .map(clap::Command::get_name);
        if let Some(name) = nearest(word, names) {
            let name = name.to_owned();
            error.insert(suggested, ContextValue::Strings(vec![name]));
        }
    }
    error
}

/// Returns the name with the fewest edits, if a third of its letters or fewer are wrong.
fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let edits = |name: &&str| strsim::osa_distance(word, name);
    let nearest = names.min_by_key(edits)?;
    (edits(&nearest) * 3 <= nearest.len().max(word.len())).then_some(nearest)
}

/// Runs a command.
pub(crate) fn run(cli: Cli) -> Result<()> {
    let needs_checkout =
        matches!(cli.command, Command::Ci(_) | Command::Package(_) | Command::Prefetch(_));
    if needs_checkout && Installation::selected().is_some() {
        bail!(Failure::Usage("this command needs a checkout of the repository".into()));
    }
    match cli.command {
        Command::Lab(args) => lab::run(&args),
        Command::Labs(args) => labs::run(&args),
        Command::Explain(args) => workshop::explain(&args),
        Command::Check(args) => workshop::check(&args),
        Command::Broken(args) => workshop::broken(&args),
        Command::Watch(args) => workshop::watch(&args),
        Command::Up(args) => up::run(args),
        Command::Down(args) => down::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Ui(args) => ui::run(&args),
        Command::Env(args) => env::run(&args),
        Command::Manifests(args) => copies::manifests(&args),
        Command::Book(args) => copies::book(&args),
        Command::Images(args) => images::run(&args),
        Command::Kubectl(args) => kubectl::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Ci(ci::Ci {}) => ci::run(),
        Command::Conformance(args) => conformance::run(&args),
        Command::Completions(args) => completions::run(&args, definition()),
        Command::Man(args) => man::run(&args, definition()),
        Command::Package(args) => package::run(&args),
        Command::Prefetch(args) => prefetch::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_definition_is_consistent() {
        Cli::command().debug_assert();
    }
}

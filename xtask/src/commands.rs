//! The commands: one file and one line in [`Command`] each.

mod ci;
mod completions;
mod doctor;
mod down;
mod images;
mod kubectl;
mod lab;
mod labs;
mod man;
mod provider_flag;
mod status;
mod up;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};

/// Kubernetes canary deployments, phase by phase, each claim proved with numbers
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
#[command(subcommand_required = true, arg_required_else_help = true, after_help = ENVIRONMENT)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

const ENVIRONMENT: &str = "\
Environment variables:
  CANARY_HOME      Directory for clusters and diagnostics (default `target/canary`)
  CANARY_PREBUILT  Set to use binaries and images as they are, without cargo
  DOCKER_HOST      Socket of the Docker engine";

#[derive(Subcommand)]
enum Command {
    Lab(lab::Lab),
    Labs(labs::Labs),
    Up(up::Up),
    Down(down::Down),
    Status(status::Status),
    Images(images::Images),
    Kubectl(kubectl::Kubectl),
    Doctor(doctor::Doctor),
    Ci(ci::Ci),
    Completions(completions::Completions),
    Man(man::Man),
}

/// Runs a command.
pub(crate) fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Lab(args) => lab::run(&args),
        Command::Labs(args) => labs::run(&args),
        Command::Up(args) => up::run(args),
        Command::Down(args) => down::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Images(args) => images::run(&args),
        Command::Kubectl(args) => kubectl::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Ci(ci::Ci {}) => ci::run(),
        Command::Completions(args) => completions::run(&args, Cli::command()),
        Command::Man(args) => man::run(&args, Cli::command()),
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

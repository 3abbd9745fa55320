//! `cargo xtask completions`: completion scripts for shells.

use crate::{output, project::Installation};
use anyhow::Result;
use clap::{Args, Command};
use clap_complete::Shell;

/// Print a completion script for a shell alias of `cargo xtask`
///
/// For example:
/// `alias xtask='cargo xtask'; source <(cargo xtask completions bash)`
#[derive(Args)]
pub(super) struct Completions {
    /// Shell to complete for
    shell: Shell,
    /// Name of the alias (default `xtask`)
    #[arg(long)]
    name: Option<String>,
}

/// Describes the command of an installation, whose program can be completed without an alias.
pub(super) fn of_installation(command: Command) -> Command {
    command
        .about("Print a completion script for a shell")
        .long_about("Print a completion script for a shell\n\nFor example: `source <(cargo xtask completions bash)`")
        .mut_arg("name", |name| name.help("Name of an alias to complete instead"))
}

pub(super) fn run(args: &Completions, mut cli: Command) -> Result<()> {
    let mut script = Vec::new();
    let program = Installation::selected().map_or("xtask", |installation| installation.program);
    let name = args.name.as_deref().unwrap_or(program);
    clap_complete::generate(args.shell, &mut cli, name, &mut script);
    output::print(&String::from_utf8_lossy(&script))
}

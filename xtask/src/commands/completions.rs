//! `cargo xtask completions`: completion scripts for shells.

use anyhow::Result;
use clap::{Args, Command};
use clap_complete::Shell;
use std::io;

/// Print a completion script for `cargo-xtask` or an alias of it
#[derive(Args)]
pub(super) struct Completions {
    shell: Shell,
    /// The name of the program that the script completes
    #[arg(long, default_value = "xtask")]
    name: String,
}

pub(super) fn run(args: &Completions, mut cli: Command) -> Result<()> {
    clap_complete::generate(args.shell, &mut cli, &args.name, &mut io::stdout());
    Ok(())
}

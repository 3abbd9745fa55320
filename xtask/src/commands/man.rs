//! `cargo xtask man`: man pages of all commands.

use crate::{output, project::Installation};
use anyhow::{Context, Result};
use clap::{Args, Command};
use std::{fs, path::PathBuf};

/// Write man pages of all commands to a directory
#[derive(Args)]
pub(super) struct Man {
    /// Directory to write to; it is created if necessary
    directory: PathBuf,
}

pub(super) fn run(args: &Man, cli: Command) -> Result<()> {
    let directory = &args.directory;
    let problem = || format!("failed to write man pages to {}", directory.display());
    fs::create_dir_all(directory).with_context(problem)?;
    // Man pages are named after the program, which has no blank in its name.
    let installed = Installation::selected();
    let name = installed.map_or("cargo-xtask", |installation| installation.program);
    let cli = cli.name(name).bin_name(name);
    clap_mangen::generate_to(cli, directory).with_context(problem)?;
    if installed.is_none() {
        return Ok(());
    }
    for page in fs::read_dir(directory).with_context(problem)? {
        let page = page.with_context(problem)?;
        if page.file_name().to_string_lossy().starts_with(name) {
            let text = fs::read_to_string(page.path()).with_context(problem)?;
            fs::write(page.path(), &*output::in_terms_of_program(&text)).with_context(problem)?;
        }
    }
    Ok(())
}

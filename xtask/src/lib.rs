//! The command line of this repository, `cargo xtask <command>`, and of `canary-labs`, which is the same without
//! a repository.

#![deny(unsafe_code)]
// They panic where the output is closed; `output` has macros that do not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod build;
mod cargo;
mod cluster;
mod commands;
mod docker;
mod doctor;
mod exec;
mod failure;
mod files;
mod images;
mod lock;
mod output;
mod project;
mod providers;
mod run_dir;

pub use project::Installation;

use std::{env, process::ExitCode};

/// Runs the command of this process's arguments on the checkout that this program was built from.
pub fn main() -> ExitCode {
    exec::inherited::restore_defaults_for_children();
    match commands::parse(env::args_os()).and_then(commands::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

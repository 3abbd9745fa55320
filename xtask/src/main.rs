//! The command line of this repository, `cargo xtask <command>`.

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

use std::{env, process::ExitCode};

fn main() -> ExitCode {
    exec::inherited::restore_defaults_for_children();
    match commands::parse(env::args_os()).and_then(commands::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

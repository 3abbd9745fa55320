//! The command line of this repository, `cargo xtask <command>`.

#![deny(unsafe_code)]

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
mod project;
mod providers;
mod run_dir;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match commands::run(commands::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

//! The commands of this repository, `cargo xtask <command>`: one file each, listed here.

#![allow(dead_code, reason = "the other commands follow")]

mod cargo;
mod flags;
mod images;
mod lock;
mod project;

use std::process::ExitCode;

fn main() -> ExitCode {
    let flags = flags::Xtask::from_env_or_exit();
    let done = match &flags.subcommand {
        flags::XtaskCmd::Images(flags) => images::run(flags),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(3)
        }
    }
}

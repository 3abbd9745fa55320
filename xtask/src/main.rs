//! The commands of this repository, `cargo xtask <command>`: one file each, listed here.

mod cargo;
mod ci;
mod cluster;
mod docker;
mod doctor;
mod down;
mod failure;
mod flags;
mod images;
mod kubectl;
mod lab;
mod labs;
mod lock;
mod nearest;
mod process;
mod project;
mod running;
mod scratch;
mod status;
mod tool;
mod up;

use flags::{Xtask, XtaskCmd};
use std::{env, process::ExitCode};

fn main() -> ExitCode {
    let done = match kubectl::arguments(env::args_os().skip(1)) {
        Some(arguments) => kubectl::run(arguments),
        None => match Xtask::from_env_or_exit().subcommand {
            XtaskCmd::Lab(flags) => lab::run(&flags),
            XtaskCmd::Labs(flags) => labs::run(&flags),
            XtaskCmd::Up(flags) => up::run(&flags),
            XtaskCmd::Down(flags) => down::run(&flags),
            XtaskCmd::Status(flags) => status::run(&flags),
            XtaskCmd::Images(flags) => images::run(&flags),
            // Never: its arguments are taken as they are, before ours are read.
            XtaskCmd::Kubectl(_) => Ok(()),
            XtaskCmd::Doctor(flags) => doctor::run(&flags),
            XtaskCmd::Ci(_) => ci::run(),
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

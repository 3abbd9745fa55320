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
            XtaskCmd::Down(_) => down::run(),
            XtaskCmd::Status(_) => status::run(),
            XtaskCmd::Images(flags) => images::run(&flags),
            XtaskCmd::Kubectl(flags) => kubectl::run(flags.args),
            XtaskCmd::Doctor(_) => doctor::run(),
            XtaskCmd::Ci(_) => ci::run(),
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

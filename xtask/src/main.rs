//! The commands of this repository, `cargo xtask <command>`: one file each, listed here.

mod cargo;
mod ci;
mod cluster;
mod daemon;
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

/// What was typed. `images build` is what `images` does anyway, and xflags wants no name for that.
fn xtask() -> Xtask {
    let mut words: Vec<_> = env::args_os().skip(1).collect();
    if words.first().is_some_and(|word| word == "images")
        && words.get(1).is_some_and(|word| word == "build")
    {
        words.remove(1);
    }
    Xtask::from_vec(words).unwrap_or_else(|wrong| wrong.exit())
}

fn main() -> ExitCode {
    let done = match kubectl::arguments(env::args_os().skip(1)) {
        Some(arguments) => kubectl::run(arguments),
        None => match xtask().subcommand {
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

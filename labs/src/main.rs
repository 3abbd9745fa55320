//! The binary `labs`. Everything it does is in the library, so that tests can do it too.

use std::process::ExitCode;

fn main() -> ExitCode {
    labs::command::main(std::env::args_os().skip(1))
}

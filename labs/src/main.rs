//! The binary `labs`. Everything it does is in the library, so that tests can do it too.

use std::process::ExitCode;

fn main() -> ExitCode {
    labs::cli::main(std::env::args_os())
}

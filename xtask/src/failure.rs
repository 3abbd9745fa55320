//! Failures with an exit code of their own. Every other error is a failure of the environment: 3.

use crate::output::errln;
use std::{error, fmt, process::ExitCode};

/// A failure that is not one of the environment.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Exit code 2: invalid command line.
    Usage(String),
    /// Exit code 130: Ctrl-C, after cleaning up.
    Interrupted,
    /// The exit code of a child that has already reported its error.
    Child(u8),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(message) => f.write_str(message),
            Failure::Interrupted => f.write_str("interrupted"),
            Failure::Child(code) => write!(f, "exited with {code}"),
        }
    }
}

impl error::Error for Failure {}

/// Prints the error and returns its exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let code = match error.downcast_ref() {
        Some(Failure::Child(code)) => return ExitCode::from(*code),
        Some(Failure::Usage(_)) => 2,
        Some(Failure::Interrupted) => 130,
        None => 3,
    };
    errln!("error: {error:#}");
    ExitCode::from(code)
}

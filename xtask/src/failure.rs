//! Failures that have an exit code of their own. Every other error is the environment's: 3.

use std::{error, fmt, process::ExitCode};

/// A failure that is not the environment's.
#[derive(Debug)]
pub(crate) enum Failure {
    /// 2: the command line is wrong, and how.
    Usage(String),
    /// 130: Ctrl-C, after cleaning up.
    Interrupted,
    /// Whatever a child ended with, which has said why.
    Child(u8),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(message) => f.write_str(message),
            Failure::Interrupted => f.write_str("interrupted"),
            Failure::Child(code) => write!(f, "ended with {code}"),
        }
    }
}

impl error::Error for Failure {}

/// Says what went wrong and answers the exit code for it.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let code = match error.downcast_ref() {
        Some(Failure::Child(code)) => return ExitCode::from(*code),
        Some(Failure::Usage(_)) => 2,
        Some(Failure::Interrupted) => 130,
        None => 3,
    };
    eprintln!("error: {error:#}");
    ExitCode::from(code)
}

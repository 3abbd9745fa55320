//! What the program writes to stdout.

use serde_json::{Value, json};
use std::{io::Write, process::ExitCode};

/// Writes to stdout. A closed pipe is not an error: the reader has seen enough.
pub(super) fn print(text: &[u8]) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

/// Prints the one line of JSON by which a parent process learns that this one is ready.
pub(super) fn print_ready(mut about: Value) {
    about["ready"] = json!(true);
    about["pid"] = json!(std::process::id());
    print(format!("{about}\n").as_bytes());
}

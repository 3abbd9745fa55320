//! What commands share.

use crate::names::in_terms_of_program;
use crate::run::Exit;
use crate::wrap::{columns, wrap_lines};
use anyhow::Context as _;
use lab_environment::Environment;
use std::future::Future;
use std::io::Write as _;
use std::path::Path;

/// Runs a command to its end.
pub(super) fn block_on(work: impl Future<Output = anyhow::Result<Exit>>) -> anyhow::Result<Exit> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.enable_all().build().context("failed to start the async runtime")?;
    runtime.block_on(work)
}

/// Reads the file that describes a cluster.
pub(super) fn read_environment(path: &Path) -> anyhow::Result<Environment> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("failed to read the environment {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| {
        format!("{} is not an environment file as `cargo xtask` writes it", path.display())
    })
}

/// Prints an error that is not part of a report, and returns the exit code.
pub(super) fn exit_of(exit: anyhow::Result<Exit>) -> Exit {
    exit.unwrap_or_else(|error| {
        let text = in_terms_of_program(&format!("error: {error:#}")).into_owned();
        _ = writeln!(std::io::stderr(), "{}", wrap_lines(&text, 2, columns()));
        Exit::Infrastructure
    })
}

/// Prints to standard output. A closed pipe, as with `head`, is no failure.
pub(super) fn print(text: &str) -> Exit {
    let mut out = std::io::stdout();
    match out.write_all(in_terms_of_program(text).as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            exit_of(Err(anyhow::anyhow!("failed to write to standard output: {error}")))
        }
        _ => Exit::Holds,
    }
}

//! Logs of the program: `tracing` events as text or JSON lines, to stderr or to a file.

use clap::{Args, ValueEnum};
use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt, path::PathBuf, sync::Mutex};
use tracing_subscriber::{EnvFilter, fmt};

/// Quiet on a terminal: only errors, and none of the client library, whose callers report them in context.
const STDERR_FILTER: &str = "error,kube_client=off";
/// A file is read later, by someone who looks for a cause.
const FILE_FILTER: &str = "info";

#[derive(Args, Clone, Debug, Default)]
pub(super) struct Options {
    /// Log filter such as `info` or `kube_embedded_kubelet=debug`; overrides RUST_LOG
    /// [default: error, or info with --log-file].
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Write the log to this file (mode 0600) instead of stderr, replacing what it holds.
    #[arg(long, value_name = "PATH")]
    log_file: Option<PathBuf>,
    /// Format of the log.
    #[arg(long, value_enum, default_value_t)]
    log_format: Format,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object each line.
    Json,
}

/// Installs the global subscriber.
///
/// # Errors
/// If the filter is malformed or the file cannot be written.
pub(super) fn init(options: &Options) -> Result<(), String> {
    let default = if options.log_file.is_some() { FILE_FILTER } else { STDERR_FILTER };
    let parse = |text: &str| {
        EnvFilter::try_new(text).map_err(|error| {
            format!("invalid log filter {text:?}: {error}; expected LEVEL or TARGET=LEVEL[,...]")
        })
    };
    // RUST_LOG may be meant for other programs, so an invalid one is no reason not to start.
    let variable = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let variable = variable.map(|text| parse(&text));
    let filter = match (options.log.as_deref().filter(|text| !text.is_empty()), variable) {
        (Some(text), _) => parse(text)?,
        (None, Some(Ok(filter))) => filter,
        (None, Some(Err(error))) => {
            let _ = writeln!(std::io::stderr(), "kube-embedded: RUST_LOG is ignored: {error}");
            parse(default)?
        }
        (None, None) => parse(default)?,
    };
    let builder = fmt().with_env_filter(filter);
    // Only this program installs a subscriber, and only here, so `init` does not fail.
    match (&options.log_file, options.log_format) {
        (None, Format::Text) => builder.with_writer(std::io::stderr).init(),
        (None, Format::Json) => builder.json().with_writer(std::io::stderr).init(),
        (Some(path), format) => {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(path)
                .map_err(|error| format!("failed to write the log {}: {error}", path.display()))?;
            let writer = Mutex::new(file);
            match format {
                Format::Text => builder.with_ansi(false).with_writer(writer).init(),
                Format::Json => builder.json().with_writer(writer).init(),
            }
        }
    }
    Ok(())
}

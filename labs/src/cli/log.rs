//! Logging: `tracing` to standard error, off unless `--log` or `RUST_LOG` selects something.

use anyhow::{Context as _, anyhow};
use clap::{Args, ValueEnum};
use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;

#[derive(Args, Debug)]
#[command(next_help_heading = "Logging")]
pub(super) struct LogFlags {
    /// Log to standard error, e.g. `info` or `labs=debug` [default: $RUST_LOG, or nothing]
    #[arg(long, value_name = "FILTER", global = true)]
    log: Option<String>,
    /// Format of the log
    #[arg(long, value_name = "FORMAT", value_enum, global = true, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object per line
    Json,
}

impl LogFlags {
    /// Installs the subscriber, if anything is to be logged.
    pub(super) fn init(&self) -> anyhow::Result<()> {
        let variable = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|text| !text.is_empty());
        let Some(filter) = self.log.clone().or(variable) else { return Ok(()) };
        let filter = EnvFilter::try_new(&filter)
            .with_context(|| format!("failed to parse the log filter `{filter}`"))?;
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal());
        let installed = match self.log_format {
            LogFormat::Text => builder.try_init(),
            LogFormat::Json => builder.json().try_init(),
        };
        installed.map_err(|error| anyhow!("failed to start logging: {error}"))
    }
}

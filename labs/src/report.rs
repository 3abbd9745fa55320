//! Reports: what people and machines read of a run, made of events alone. One file per report.

use crate::event::Stamped;
use reporter::Reporter;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;
use terminal::{Style, Terminal};

mod json;
mod junit;
mod reporter;
mod terminal;
mod text;

/// The reports of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// One event per line for machines, instead of lines for people.
    pub json: bool,
    /// Events of progress as well, among those for machines.
    pub progress: bool,
    /// A file for a JUnit report.
    pub junit: Option<PathBuf>,
}

/// The thread that writes the reports.
pub(crate) struct Reports(JoinHandle<io::Result<()>>);

impl Reports {
    /// Writes reports until every sender of events is dropped. On a thread of its own, so that they stay
    /// live whatever the labs do.
    ///
    /// # Errors
    /// If a file cannot be created.
    pub(crate) fn start(options: &Options, events: Receiver<Stamped>) -> anyhow::Result<Self> {
        let junit = options.junit.as_deref().map(create_junit).transpose()?;
        let Options { json, progress, .. } = *options;
        Ok(Self(std::thread::spawn(move || {
            let mut reporters: Vec<Box<dyn Reporter>> = Vec::new();
            reporters.push(if json {
                Box::new(json::Json::new(io::stdout(), progress))
            } else {
                Box::new(Terminal::new(io::stdout(), style()))
            });
            if let Some(junit) = junit {
                reporters.push(Box::new(junit));
            }
            loop {
                match events.recv_timeout(Duration::from_millis(100)) {
                    Ok(stamped) => reporters.iter_mut().for_each(|r| r.event(&stamped)),
                    Err(RecvTimeoutError::Timeout) => reporters.iter_mut().for_each(|r| r.tick()),
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            reporters.iter_mut().try_for_each(|reporter| reporter.finish())
        })))
    }

    /// Waits for the end of the reports.
    ///
    /// # Errors
    /// If one could not be written. A reader that has left is no error.
    pub(crate) fn join(self) -> anyhow::Result<()> {
        let written = self
            .0
            .join()
            .map_err(|_| anyhow::anyhow!("a bug in these labs: the report panicked"))?;
        written.map_err(|error| anyhow::anyhow!("failed to write the results: {error}"))
    }
}

fn create_junit(path: &Path) -> anyhow::Result<junit::Junit<std::fs::File>> {
    let file = std::fs::File::create(path).map_err(|error| {
        anyhow::anyhow!("failed to create the JUnit report {}: {error}", path.display())
    })?;
    Ok(junit::Junit::new(file))
}

/// Returns what standard output permits.
fn style() -> Style {
    let terminal = io::stdout().is_terminal();
    // A dumb terminal knows no escape sequences (terminfo(5)): vim's and emacs' shells, some CI consoles.
    let live = terminal && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
    // https://no-color.org: any value except an empty one.
    let color = live && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let width = || terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| width.0.into());
    Style { live, color, width: if terminal { width } else { || None } }
}

//! Reports: what people and machines read of a run, made of events alone. One file per report.

use crate::event::Stamped;
use reporter::Reporter;
use std::io::IsTerminal as _;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

mod json;
mod reporter;
mod terminal;

/// The format of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people; color and live lines depend on standard output.
    Terminal,
    /// For machines: one event per line.
    Json,
}

/// Writes a report to standard output until every sender of events is dropped. On a thread of its own,
/// so that it stays live whatever the labs do.
pub(crate) fn start(format: Format, events: Receiver<Stamped>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let out = std::io::stdout();
        let mut reporter: Box<dyn Reporter> = match format {
            Format::Json => Box::new(json::Json::new(out)),
            Format::Terminal => {
                let live = out.is_terminal();
                // https://no-color.org: any value except an empty one.
                let color = live && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
                Box::new(terminal::Terminal::new(out, live, color))
            }
        };
        loop {
            match events.recv_timeout(Duration::from_millis(100)) {
                Ok(stamped) => reporter.event(&stamped),
                Err(RecvTimeoutError::Timeout) => reporter.tick(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
    })
}

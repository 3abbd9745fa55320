//! Reports: what people and machines read of a run, made of events alone. One file a report.

use crate::event::Stamped;
use std::io::IsTerminal as _;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

mod json;
mod terminal;

/// Which report is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For people; standard output decides on colour and live lines.
    Terminal,
    /// For machines: one event a line.
    Json,
}

/// Something that turns events into a report.
trait Report {
    /// Takes one event.
    fn event(&mut self, stamped: &Stamped);

    /// Called about ten times a second while nothing happens.
    fn tick(&mut self) {}
}

/// Writes the report to standard output until every sender of events is gone. On a thread of its own,
/// so that it stays live whatever the labs do.
pub fn start(form: Form, events: Receiver<Stamped>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let out = std::io::stdout();
        let mut report: Box<dyn Report> = match form {
            Form::Json => Box::new(json::Json::new(out)),
            Form::Terminal => {
                let live = out.is_terminal();
                // https://no-color.org: any value but an empty one.
                let colour = live && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
                Box::new(terminal::Terminal::new(out, live, colour))
            }
        };
        loop {
            match events.recv_timeout(Duration::from_millis(100)) {
                Ok(stamped) => report.event(&stamped),
                Err(RecvTimeoutError::Timeout) => report.tick(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
    })
}

//! Reports: what people and machines read of a run, made of events alone. One file per report.

use crate::event::Stamped;
use crate::signature::SigningKey;
use crate::ui;
use crate::wrap::columns;
use anyhow::Context as _;
use reporter::Reporter;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;
use terminal::{Style, Terminal};

mod github;
mod html;
mod json;
mod junit;
mod page;
mod reporter;
mod room;
mod run_file;
mod terminal;
mod text;

pub(crate) use room::Address as RoomAddress;

/// The reports of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// One event per line for machines, instead of lines for people.
    pub json: bool,
    /// Events of progress as well, among those for machines.
    pub progress: bool,
    /// A file for a JUnit report.
    pub junit: Option<PathBuf>,
    /// A file for a page with plots.
    pub html: Option<PathBuf>,
    /// A job summary and annotations, as GitHub Actions reads them.
    pub github: bool,
    /// A file that a participant hands in.
    pub run_file: Option<PathBuf>,
    /// The file of the key that signs it.
    pub key: Option<PathBuf>,
    /// The name of the participant.
    pub name: Option<String>,
    /// The room of a teacher.
    pub room: Option<RoomAddress>,
    /// A live page, on this port of loopback if one is given.
    pub ui: Option<Option<u16>>,
}

impl Options {
    /// Returns true if a report shows what nodes and pods do.
    pub(crate) fn shows_cluster(&self) -> bool {
        self.progress || self.ui.is_some() || self.html.is_some()
    }
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
        let mut reporters = files(options)?;
        if let Some(port) = options.ui {
            let page = ui::Server::start(port)?;
            // Not on standard output, which may be JSON.
            _ = writeln!(io::stderr(), "page: {}", page.url());
            reporters.push(Box::new(page::Page(page)));
        }
        let Options { json, progress, .. } = *options;
        Ok(Self(std::thread::spawn(move || {
            reporters.insert(0, terminal_or_json(json, progress));
            loop {
                match events.recv_timeout(Duration::from_millis(100)) {
                    Ok(stamped) => reporters.iter_mut().for_each(|r| r.event(&stamped)),
                    Err(RecvTimeoutError::Timeout) => reporters.iter_mut().for_each(|r| r.tick()),
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            // Each of them, whatever becomes of the others.
            let finished: Vec<_> = reporters.iter_mut().map(|reporter| reporter.finish()).collect();
            finished.into_iter().collect()
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

type Reporters = Vec<Box<dyn Reporter + Send>>;

/// Creates the reports that are written to files.
fn files(options: &Options) -> anyhow::Result<Reporters> {
    let mut reporters = Reporters::new();
    if let Some(path) = &options.junit {
        reporters.push(Box::new(junit::Junit::new(create("JUnit report", path)?)));
    }
    if let Some(path) = &options.html {
        reporters.push(Box::new(html::Html::new(create("HTML report", path)?)));
    }
    if let Some(path) = &options.run_file {
        let key = options.key.as_deref().map(SigningKey::read).transpose()?;
        let file = create("run file", path)?;
        reporters.push(Box::new(run_file::RunFile::new(file, key, options.name.clone())));
    }
    if let Some(address) = &options.room {
        let name = options.name.clone().unwrap_or_default();
        reporters.push(Box::new(room::Room::start(address.clone(), name)?));
    }
    if options.github {
        let path = std::env::var_os("GITHUB_STEP_SUMMARY").filter(|path| !path.is_empty());
        let summary = path.map(|path| {
            let mut options = std::fs::OpenOptions::new();
            let file = options.append(true).create(true).open(&path);
            file.with_context(|| format!("failed to open the job summary {}", path.display()))
        });
        // The runner reads commands from both outputs, and standard output may be JSON.
        reporters.push(Box::new(github::Github::new(io::stderr(), summary.transpose()?)));
    }
    Ok(reporters)
}

fn terminal_or_json(json: bool, progress: bool) -> Box<dyn Reporter + Send> {
    if json {
        Box::new(json::Json::new(io::stdout(), progress))
    } else {
        Box::new(Terminal::new(io::stdout(), style()))
    }
}

fn create(what: &str, path: &Path) -> anyhow::Result<std::fs::File> {
    std::fs::File::create(path)
        .with_context(|| format!("failed to create the {what} {}", path.display()))
}

/// Returns what standard output permits.
fn style() -> Style {
    let terminal = io::stdout().is_terminal();
    // A dumb terminal knows no escape sequences (terminfo(5)): vim's and emacs' shells, some CI consoles.
    let live = terminal && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
    // https://no-color.org: any value except an empty one.
    let color = live && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    Style { live, color, width: columns }
}

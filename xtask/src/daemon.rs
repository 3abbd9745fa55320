//! Programs of ours that serve in the background: the embedded cluster, and the edge of others.
//!
//! One lives in a session of its own, so that a Ctrl-C of the terminal does not take it away from
//! under labs that are still cleaning up. One of a run ends when a pipe that we hold is closed, so that
//! even a `kill -9` of us leaves nothing behind; one that stays is on record before it serves.

use crate::{
    failure::Failure,
    process::{Place, Signals, Wake, signal, supervise},
};
use anyhow::{Context, Result, anyhow, bail};
use serde::de::DeserializeOwned;
use std::{
    fs::{self, File},
    io::Read,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

/// For it to clean up, after which it is killed.
const STOP: Duration = Duration::from_secs(15);

/// Starts the command. `what` it is, for errors.
pub(crate) fn start(what: &'static str, mut command: Command, log: &Path) -> Result<Daemon> {
    let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    command.stdout(Stdio::piped()).stderr(file);
    supervise(&mut command, Place::Session, None);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    Ok(Daemon { what, child: Some(child), stdin, stdout, log: log.to_owned() })
}

/// A running process of that kind, which ends when this is dropped.
pub(crate) struct Daemon {
    what: &'static str,
    child: Option<Child>,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    log: PathBuf,
}

impl Daemon {
    /// Waits for the line of JSON that it prints once it serves.
    pub(crate) fn ready<Ready: DeserializeOwned>(
        &mut self,
        patience: Duration,
        signals: &Signals,
    ) -> Result<Ready> {
        let what = self.what;
        let stdout = self.stdout.take();
        let mut stdout = stdout.with_context(|| format!("the {what} has no output"))?;
        let (until, mut line) = (Instant::now() + patience, Vec::new());
        while !line.contains(&b'\n') {
            match signals.wait(Some(stdout.as_fd()), until)? {
                Wake::Signal(libc::SIGCHLD) => {}
                Wake::Signal(_) => {
                    self.stop(signals);
                    bail!(Failure::Interrupted);
                }
                Wake::Late => {
                    self.kill();
                    bail!("the {what} did not answer within {patience:?}{}", self.last_words());
                }
                Wake::Readable => {
                    let mut buffer = [0; 4096];
                    let n = stdout
                        .read(&mut buffer)
                        .with_context(|| format!("cannot read what the {what} says"))?;
                    if n == 0 {
                        self.stop(signals);
                        bail!("the {what} did not start{}", self.last_words());
                    }
                    line.extend_from_slice(buffer.get(..n).unwrap_or_default());
                }
            }
        }
        serde_json::from_slice(&line).map_err(|error| {
            let said = String::from_utf8_lossy(&line);
            anyhow!("the {what} said {said:?}, which is no ready line: {error}")
        })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether it has ended by itself.
    pub(crate) fn ended(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)))
    }

    /// Lets it run on without us.
    pub(crate) fn release(mut self) {
        self.child = None;
    }

    /// Ends it and waits until it is gone. Signals that come meanwhile change nothing: this is
    /// the cleaning up.
    pub(crate) fn stop(&mut self, signals: &Signals) {
        self.stdin = None;
        let Some(child) = &mut self.child else { return };
        signal(child, libc::SIGTERM);
        if let Ok(Some(_)) = signals.wait_for(child, STOP, |_| {}) {
            self.child = None;
        }
        self.kill();
    }

    /// The end of its log, for an error.
    pub(crate) fn last_words(&self) -> String {
        last_words(&self.log)
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It leads a session: this reaches whatever it had started and not moved elsewhere.
            // SAFETY: a system call without memory, on a child that was not yet waited for.
            unsafe { libc::kill(-(child.id() as i32), libc::SIGKILL) };
            let _ = child.wait();
        }
    }
}

/// The end of a log, for the end of an error.
pub(crate) fn last_words(log: &Path) -> String {
    let log = fs::read(log).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log.lines().collect();
    match lines.get(lines.len().saturating_sub(12)..) {
        None | Some([]) => String::new(),
        Some(last) => format!(", and said:\n{}", last.join("\n")),
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

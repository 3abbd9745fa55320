//! Long-running children of this program: the embedded cluster, and the edge of external clusters.
//!
//! Each runs in a session of its own, so that Ctrl-C in the terminal does not end it while labs are
//! still cleaning up. One that belongs to a run exits when the pipe to its standard input is closed,
//! so even `kill -9` of this process leaves nothing behind. One that outlives the run holds a lock on
//! a file as its standard input, so that no crash, reboot or reused process id can fake it.

use super::process::{Isolation, PidFd, Signal, Signals, Wake, signal, signal_group, supervise};
use crate::{failure::Failure, files, lock::Lock};
use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, getsid};
use serde::de::DeserializeOwned;
use std::{
    fs,
    io::Read,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

/// Time to clean up after SIGTERM, before SIGKILL.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// A running child. It is killed when this is dropped, unless it was detached.
pub(crate) struct Daemon {
    what: &'static str,
    child: Option<Child>,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    log: PathBuf,
}

impl Daemon {
    /// Starts the command, with standard error in `log`. `what` is its name in messages.
    pub(crate) fn start(what: &'static str, mut command: Command, log: &Path) -> Result<Self> {
        let file = files::create_private(log)
            .with_context(|| format!("failed to write {}", log.display()))?;
        command.stdout(Stdio::piped()).stderr(file);
        supervise(&mut command, Isolation::Session, None);
        let mut child = command
            .spawn()
            .with_context(|| format!("failed to start {}", command.get_program().display()))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        Ok(Self { what, child: Some(child), stdin, stdout, log: log.to_owned() })
    }

    /// Waits for the line of JSON that the child prints once it serves.
    pub(crate) fn wait_ready<Ready: DeserializeOwned>(
        &mut self,
        timeout: Duration,
        signals: &Signals,
    ) -> Result<Ready> {
        let what = self.what;
        let stdout = self.stdout.take();
        let mut stdout = stdout.with_context(|| format!("the {what} has no standard output"))?;
        let (deadline, mut line) = (Instant::now() + timeout, Vec::new());
        while !line.contains(&b'\n') {
            match signals.wait(Some(stdout.as_fd()), deadline)? {
                Wake::Signal(Signal::CHILD) => {}
                Wake::Signal(_) => {
                    self.stop(signals);
                    bail!(Failure::Interrupted);
                }
                Wake::Timeout => {
                    self.kill();
                    bail!("the {what} was not ready within {timeout:?}{}", self.log_tail());
                }
                Wake::Readable => {
                    let mut buffer = [0; 4096];
                    let n = stdout
                        .read(&mut buffer)
                        .with_context(|| format!("failed to read the output of the {what}"))?;
                    if n == 0 {
                        self.stop(signals);
                        bail!("the {what} did not start{}", self.log_tail());
                    }
                    line.extend_from_slice(buffer.get(..n).unwrap_or_default());
                }
            }
        }
        serde_json::from_slice(&line).map_err(|error| {
            let line = String::from_utf8_lossy(&line);
            anyhow!("the {what} printed {line:?}, which is not a valid readiness line: {error}")
        })
    }

    /// Returns the process id.
    pub(crate) fn id(&self) -> Result<u32> {
        let child = self.child.as_ref().with_context(|| format!("the {} has exited", self.what))?;
        Ok(child.id())
    }

    /// Returns true if it exited by itself.
    pub(crate) fn has_exited(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)))
    }

    /// Lets it outlive this process.
    pub(crate) fn detach(mut self) {
        self.child = None;
    }

    /// Stops it and waits for its exit. Signals that arrive meanwhile are ignored: this is the cleanup.
    pub(crate) fn stop(&mut self, signals: &Signals) {
        self.stdin = None;
        let Some(child) = &mut self.child else { return };
        signal(child, Signal::TERM);
        if let Ok(Some(_)) = signals.wait_for(child, STOP_TIMEOUT, |_| {}) {
            self.child = None;
        }
        self.kill();
    }

    /// Returns the end of its log, for the end of an error message.
    pub(crate) fn log_tail(&self) -> String {
        log_tail(&self.log)
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It leads a session: this also reaches its children that did not leave it.
            signal_group(&child, Signal::KILL);
            let _ = child.wait();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns the end of a log, for the end of an error message.
pub(crate) fn log_tail(log: &Path) -> String {
    let log = fs::read(log).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log.lines().collect();
    match lines.get(lines.len().saturating_sub(12)..) {
        None | Some([]) => String::new(),
        Some(last) => format!("; the end of its log:\n{}", last.join("\n")),
    }
}

/// Returns the process that holds the lock on `file` as its standard input. It is found by that, not by a
/// record, which may be damaged, of another version, or lost.
pub(crate) fn lock_holder(file: &Path) -> Result<Option<PidFd>> {
    if !Lock::is_held(file)? {
        return Ok(None);
    }
    let lock = file.metadata().with_context(|| format!("failed to stat {}", file.display()))?;
    let is_stdin = |pid: u32| {
        let stdin = fs::metadata(format!("/proc/{pid}/fd/0"));
        stdin.is_ok_and(|stdin| (stdin.dev(), stdin.ino()) == (lock.dev(), lock.ino()))
    };
    let processes = fs::read_dir("/proc").context("failed to list processes")?;
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    for pid in pids.filter(|pid| is_stdin(*pid) && leads_session(*pid)) {
        // Looked at again, so it is the holder that was opened.
        if let Ok(process) = PidFd::open(pid)
            && is_stdin(pid)
        {
            return Ok(Some(process));
        }
    }
    if !Lock::is_held(file)? {
        return Ok(None);
    }
    let file = file.display();
    bail!(
        "{file} is locked by a process that this user cannot see; `sudo fuser -v {file}` shows it"
    )
}

/// Returns true for a daemon itself, and false for processes that it forked.
fn leads_session(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| getsid(Some(pid)) == Ok(pid))
}

//! Runs external programs: kind, docker, minikube, gcloud, kubectl, curl. Every run has a deadline and
//! ends with a signal; its output is logged and explains a failure in one line.

use super::{
    command_line::{CommandLine, Input, Sensitivity},
    install,
    process::{Isolation, PidFd, Signal, Signals, Wake, signal_group, supervise},
};
use crate::{
    failure::Failure,
    output::{errln, outln},
};
use anyhow::{Context, Result, anyhow, bail};
use std::{
    cell::Cell,
    fs::{File, OpenOptions, Permissions},
    io::{self, IsTerminal, Read, Write},
    os::{
        fd::AsFd,
        unix::fs::{OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Time for an interrupted program to exit by itself.
const GRACE_PERIOD: Duration = Duration::from_secs(10);
/// Time for a person to respond to a prompt.
const PROMPT_TIMEOUT: Duration = Duration::from_secs(600);

/// The output and exit code of a program.
#[derive(Debug)]
pub(crate) struct CommandOutput {
    /// `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    line: String,
    program: String,
    sensitivity: Sensitivity,
}

/// A failure that people meet: parts of a program's output that identify it, its cause and a hint.
pub(crate) struct KnownError {
    pub(crate) patterns: &'static [&'static str],
    pub(crate) cause: &'static str,
    pub(crate) hint: &'static str,
}

impl KnownError {
    /// Creates an entry for a `const` table.
    pub(crate) const fn new(
        patterns: &'static [&'static str],
        cause: &'static str,
        hint: &'static str,
    ) -> Self {
        Self { patterns, cause, hint }
    }
}

/// Failures that any of these programs may report.
const KNOWN_ERRORS: &[KnownError] = &[
    KnownError::new(
        &["permission denied while trying to connect to the"],
        "permission denied on the Docker socket",
        "`sudo usermod --append --groups docker $USER` and a new login give access",
    ),
    KnownError::new(
        &["Cannot connect to the Docker daemon"],
        "the Docker engine does not respond",
        "`sudo systemctl start docker` starts it",
    ),
    KnownError::new(
        &["no space left on device"],
        "the disk is full",
        "`docker system prune` frees some of it",
    ),
    KnownError::new(
        &["toomanyrequests"],
        "Docker Hub rate-limited the pull",
        "`docker login` raises the limit",
    ),
    KnownError::new(
        &[
            "You must be logged in to the server",
            "the server has asked for the client to provide credentials",
        ],
        "the cluster does not accept the credentials",
        "log in again with the tool that created the kubeconfig",
    ),
];

impl CommandOutput {
    fn new(line: &CommandLine, code: Option<i32>, stdout: String, stderr: String) -> Self {
        let (program, sensitivity) = (line.program().into(), line.sensitivity);
        Self { code, stdout, stderr, line: line.to_string(), program, sensitivity }
    }

    /// Returns true if the exit code is 0.
    pub(crate) fn is_success(&self) -> bool {
        self.code == Some(0)
    }

    /// Returns standard output, or the failure in one line.
    pub(crate) fn into_stdout(self, known: &[KnownError]) -> Result<String> {
        if self.is_success() { Ok(self.stdout) } else { Err(self.error(known)) }
    }

    /// Describes the failure in one line.
    pub(crate) fn error(&self, known: &[KnownError]) -> anyhow::Error {
        let show_stdout = match self.sensitivity {
            Sensitivity::Public => true,
            Sensitivity::Secret => false,
            // Credentials are printed as JSON, and truncated JSON is still half a secret.
            Sensitivity::SecretUnlessFailed => !self.stdout.contains('{'),
        };
        let output = format!("{}\n{}", self.stderr, if show_stdout { &*self.stdout } else { "" });
        let matches = |error: &&KnownError| error.patterns.iter().any(|part| output.contains(part));
        let known = known.iter().chain(KNOWN_ERRORS).find(matches);
        let (program, detail) = (&self.program, most_relevant_line(&output));
        match known {
            Some(KnownError { cause, hint, .. }) => {
                anyhow!("{program}: {cause}; {hint} ({detail})")
            }
            None => anyhow!("`{}` failed: {detail}", self.line),
        }
    }
}

/// Returns the last line that mentions an error, else the last line.
fn most_relevant_line(output: &str) -> String {
    let lines = output.lines().map(str::trim).filter(|line| !line.is_empty());
    let mentions_error = |line: &&str| {
        let line = line.to_lowercase();
        ["error", "failed", "denied", "refused", "unable", "cannot"]
            .iter()
            .any(|word| line.contains(word))
    };
    let line = lines.clone().rfind(mentions_error).or_else(|| lines.clone().next_back());
    let line = line.unwrap_or("(no output)");
    match line.char_indices().nth(400) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or(line)),
        None => line.into(),
    }
}

/// Runs command lines, or prints them in a dry run.
pub(crate) struct CommandRunner<'a> {
    signals: &'a Signals,
    log: Option<PathBuf>,
    dry_run: bool,
    /// Set during cleanup: signals are ignored.
    ignore_signals: Cell<bool>,
}

/// Controls whether a program's output is also shown while it runs.
#[derive(Clone, Copy, PartialEq)]
enum Echo {
    Stderr,
    Off,
}

impl<'a> CommandRunner<'a> {
    /// Creates a runner that appends all commands and their output to `log`.
    pub(crate) fn new(signals: &'a Signals, log: Option<PathBuf>) -> Self {
        Self { signals, log, dry_run: false, ignore_signals: Cell::new(false) }
    }

    /// Creates a runner that prints command lines and runs none.
    pub(crate) fn dry_run(signals: &'a Signals) -> Self {
        Self { signals, log: None, dry_run: true, ignore_signals: Cell::new(false) }
    }

    /// Returns true if command lines are only printed.
    pub(crate) fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// Returns the signals that end a run.
    pub(crate) fn signals(&self) -> &'a Signals {
        self.signals
    }

    /// Runs a program for its effect and shows its output.
    pub(crate) fn run(&self, line: &CommandLine, timeout: Duration) -> Result<CommandOutput> {
        self.execute(line, timeout, Echo::Stderr)
    }

    /// Runs a program for its output.
    pub(crate) fn query(&self, line: &CommandLine, timeout: Duration) -> Result<CommandOutput> {
        self.execute(line, timeout, Echo::Off)
    }

    /// Runs cleanup code that no signal interrupts.
    pub(crate) fn ignoring_signals<T>(&self, cleanup: impl FnOnce() -> T) -> T {
        let before = self.ignore_signals.replace(true);
        let done = cleanup();
        self.ignore_signals.set(before);
        done
    }

    /// Prompts for confirmation to do `action`. Without a terminal `--yes` is required.
    pub(crate) fn confirm(&self, yes: bool, action: &str) -> Result<()> {
        if yes {
            return Ok(());
        }
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            bail!(Failure::Usage(format!(
                "cannot prompt to {action}: stdin is not a terminal; pass `--yes`"
            )));
        }
        let _ = write!(io::stderr(), "{action}? [y/N] ");
        loop {
            match self.signals.wait(Some(stdin.as_fd()), Instant::now() + PROMPT_TIMEOUT)? {
                Wake::Signal(Signal::CHILD) => {}
                Wake::Signal(_) => {
                    errln!("");
                    bail!(Failure::Interrupted);
                }
                Wake::Timeout => bail!("no response within {} s", PROMPT_TIMEOUT.as_secs()),
                Wake::Readable => break,
            }
        }
        let mut response = String::new();
        stdin.read_line(&mut response).context("failed to read the response")?;
        match response.trim() {
            "y" | "Y" | "yes" => Ok(()),
            _ => bail!("aborted"),
        }
    }

    /// Sleeps between two attempts; a signal ends the run.
    pub(crate) fn sleep(&self, duration: Duration) -> Result<()> {
        let deadline = Instant::now() + duration;
        loop {
            match self.signals.wait(None, deadline)? {
                Wake::Timeout => return Ok(()),
                Wake::Signal(signal) if signal != Signal::CHILD && !self.ignore_signals.get() => {
                    bail!(Failure::Interrupted)
                }
                _ => {}
            }
        }
    }

    fn execute(&self, line: &CommandLine, timeout: Duration, echo: Echo) -> Result<CommandOutput> {
        if self.dry_run {
            outln!("{line}")?;
            return Ok(CommandOutput::new(line, Some(0), String::new(), String::new()));
        }
        let mut command = line.to_command()?;
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        supervise(&mut command, Isolation::Group, Some(Signal::KILL));
        let spawned = command.spawn();
        let mut child = spawned.map_err(|error| install::spawn_error(line.program(), error))?;
        if let (Input::Text(text), Some(mut stdin)) = (&line.input, child.stdin.take()) {
            // A program that does not read its input reports the reason itself.
            let _ = stdin.write_all(text.as_bytes());
        }
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (status, stdout, stderr) = thread::scope(|scope| {
            let stdout = scope.spawn(|| stdout.map(|pipe| read(pipe, echo)).unwrap_or_default());
            let stderr = scope.spawn(|| stderr.map(|pipe| read(pipe, echo)).unwrap_or_default());
            let status = self.wait(&mut child, line, timeout);
            if status.is_err() {
                signal_group(&child, Signal::KILL);
                let _ = child.wait();
            }
            (status, stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default())
        });
        self.log(line, &stdout, &stderr);
        Ok(CommandOutput::new(line, status?, stdout, stderr))
    }

    fn wait(
        &self,
        child: &mut Child,
        line: &CommandLine,
        timeout: Duration,
    ) -> Result<Option<i32>> {
        let (mut deadline, mut interrupted) = (Instant::now() + timeout, false);
        let pidfd = PidFd::of_child(child)?;
        loop {
            if let Some(status) = child.try_wait().context("failed to wait for a child process")? {
                if interrupted {
                    bail!(Failure::Interrupted);
                }
                return Ok(status.code());
            }
            match self.signals.wait(Some(pidfd.as_fd()), deadline)? {
                Wake::Readable | Wake::Signal(Signal::CHILD) => {}
                Wake::Signal(_) if self.ignore_signals.get() => {}
                Wake::Signal(_) => {
                    (interrupted, deadline) = (true, Instant::now() + GRACE_PERIOD);
                    signal_group(child, Signal::TERM);
                }
                Wake::Timeout if interrupted => bail!(Failure::Interrupted),
                Wake::Timeout => bail!("`{line}` did not exit within {} s", timeout.as_secs()),
            }
        }
    }

    fn log(&self, line: &CommandLine, stdout: &str, stderr: &str) {
        let Some(log) = &self.log else { return };
        let stdout = if line.sensitivity == Sensitivity::Public { stdout } else { "…\n" };
        // A run does not fail because its log cannot be written.
        let _ = open_log(log).and_then(|mut log| writeln!(log, "$ {line}\n{stdout}{stderr}"));
    }
}

/// Opens a log that only this user can read. A log that others can read was written by a version that
/// logged kubeconfigs and tokens, so it is truncated.
fn open_log(log: &Path) -> io::Result<File> {
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(log)?;
    if log.metadata()?.permissions().mode() & 0o077 != 0 {
        log.set_permissions(Permissions::from_mode(0o600))?;
        log.set_len(0)?;
    }
    Ok(log)
}

fn read(mut pipe: impl Read, echo: Echo) -> String {
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(n @ 1..) = pipe.read(&mut buffer) {
        let new = buffer.get(..n).unwrap_or_default();
        if echo == Echo::Stderr {
            // Standard output is ours alone: it is what scripts read.
            let _ = io::stderr().write_all(new);
        }
        all.extend_from_slice(new);
    }
    if echo == Echo::Stderr && all.last().is_some_and(|last| *last != b'\n') {
        let _ = io::stderr().write_all(b"\n");
    }
    String::from_utf8_lossy(&all).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn failed(line: CommandLine, stdout: &str, stderr: &str) -> CommandOutput {
        CommandOutput::new(&line, Some(1), stdout.into(), stderr.into())
    }

    #[test]
    fn failure_is_one_line_with_cause_and_hint() {
        let kind = |stderr: &str| failed(CommandLine::new("kind get clusters"), "", stderr);
        let known = &[KnownError::new(
            &["unable to pull", "failed to pull"],
            "the image cannot be pulled",
            "log in",
        )];
        let stderr = "x\nERROR: failed to pull image \"i\"\n\nhint\n";
        assert_eq!(
            kind(stderr).error(known).to_string(),
            "kind: the image cannot be pulled; log in (ERROR: failed to pull image \"i\")"
        );
        assert_eq!(
            kind("a\nb\n").error(&[]).to_string(),
            "`kind get clusters` failed: b",
            "an unknown failure shows the command and its last line"
        );
        let denied = "permission denied while trying to connect to the Docker daemon socket";
        assert!(kind(denied).error(&[]).to_string().contains("usermod"));
        assert_eq!(most_relevant_line(&"e".repeat(999)).chars().count(), 401);
        assert_eq!(kind("").error(&[]).to_string(), "`kind get clusters` failed: (no output)");
    }

    #[test]
    fn log_readable_by_others_is_truncated() {
        let signals = Signals::install().unwrap();
        let log = std::env::temp_dir().join(format!("canary-log-{}", std::process::id()));
        let append = |word: &str| {
            let runner = CommandRunner::new(&signals, Some(log.clone()));
            runner.log(&CommandLine::new(word), "", "");
            let mode = fs::metadata(&log).unwrap().permissions().mode() & 0o777;
            (fs::read_to_string(&log).unwrap(), mode)
        };
        fs::write(&log, "client-key-data: sesame-open\n").unwrap();
        fs::set_permissions(&log, Permissions::from_mode(0o644)).unwrap();
        assert_eq!(append("a"), ("$ a\n\n".into(), 0o600));
        assert_eq!(append("b"), ("$ a\n\n$ b\n\n".into(), 0o600), "a private log is kept");
        fs::remove_file(log).unwrap();
    }

    #[test]
    fn sensitive_output_is_in_no_error() {
        let error =
            |line, stdout: &str, stderr: &str| failed(line, stdout, stderr).error(&[]).to_string();
        let truncated = "{\"token\":\"sesame-open, unable to say more";
        let curl = || CommandLine::new("curl").sensitive_output();
        assert_eq!(
            error(curl(), truncated, "curl: (18) end of response"),
            "`curl` failed: curl: (18) end of response"
        );
        assert_eq!(error(curl(), truncated, ""), "`curl` failed: (no output)");
        let helper = || CommandLine::new("helper get").sensitive_output_except_errors();
        assert_eq!(error(helper(), "no \"gpg\"\n", ""), "`helper get` failed: no \"gpg\"");
        assert_eq!(error(helper(), truncated, ""), "`helper get` failed: (no output)");
    }
}

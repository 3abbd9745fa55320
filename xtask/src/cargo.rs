//! Runs cargo: quiet when there is nothing to do, with cargo's own progress when there is.

use crate::{
    exec::{
        process::{Isolation, Signal, signal_group, supervise},
        watchdog::Watchdog,
    },
    output::errln,
    project::{Installation, Project},
};
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use std::{
    env,
    ffi::{OsStr, OsString},
    io::{self, IsTerminal, Read, Write},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

/// Controls whether a build shows its progress: of two concurrent ones, one does, and the other reports
/// only that it has begun and ended.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Progress {
    Shown,
    Announced,
}

/// Returns true if binaries and images are used as they are (`CANARY_PREBUILT=1`): where this program
/// was copied to a machine without a compiler, or runs next to fakes in a test.
pub(crate) fn prebuilt() -> bool {
    Installation::selected().is_some() || env::var_os("CANARY_PREBUILT").is_some()
}

/// Controls whether the labs are built with a client for Docker. It is a quarter of all that there is
/// to compile, so it is included only where an engine responds and a lab uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DockerClient {
    Included,
    Omitted,
}

impl DockerClient {
    /// Returns the arguments for cargo.
    pub(crate) fn features(self) -> &'static [&'static str] {
        match self {
            Self::Included => &["--features", "labs/docker"],
            Self::Omitted => &[],
        }
    }
}

/// Returns a command for the cargo that runs this program, in the repository.
pub(crate) fn command(project: &Project) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(&project.root);
    for name in package_variables() {
        command.env_remove(name);
    }
    command
}

/// Returns the variables that cargo sets for this package alone. Every cargo that we run must be
/// without them: build scripts may ask to be rerun when they change, as ring's does, and with them
/// every build would recompile all that depends on ring, kube for one.
pub(crate) fn package_variables() -> impl Iterator<Item = OsString> {
    env::vars_os().map(|(name, _)| name).filter(|name| is_package_variable(name))
}

fn is_package_variable(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.starts_with(prefix))
}

/// Runs a build. `what` is for the error.
pub(crate) fn run(mut command: Command, progress: Progress, what: &str) -> Result<()> {
    let is_dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
    if io::stderr().is_terminal() && !is_dumb && progress == Progress::Shown {
        // Cargo writes to a pipe here, so it does not see the terminal.
        if env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) {
            command.env("CARGO_TERM_COLOR", "always");
        }
        command.env("CARGO_TERM_PROGRESS_WHEN", "always").env("CARGO_TERM_PROGRESS_WIDTH", "80");
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let (mut child, watchdog) = spawn(&mut command)?;
    let (status, mut output) = thread::scope(|scope| {
        let stderr = child.stderr.take();
        let output = scope.spawn(move || BuildOutput::read(stderr, progress));
        (wait(&mut child), output.join().unwrap_or_default())
    });
    drop(watchdog);
    if !status?.success() {
        output.show();
        if is_read_only(&output.text) {
            bail!(
                "failed to build {what}: the target directory is read-only; set \
                 CARGO_TARGET_DIR=<directory>"
            );
        }
        bail!("failed to build {what}");
    }
    Ok(())
}

/// Runs cargo on this terminal, for its output.
pub(crate) fn run_visibly(mut command: Command) -> Result<()> {
    command.stdin(Stdio::null());
    let (mut child, _watchdog) = spawn(&mut command)?;
    let status = wait(&mut child)?;
    ensure!(status.success(), "{} failed ({status})", command.get_program().display());
    Ok(())
}

/// Starts a program that ends with this process, and all that it starts.
fn spawn(command: &mut Command) -> Result<(Child, Watchdog)> {
    supervise(command, Isolation::Group, Some(Signal::KILL));
    let watchdog = Watchdog::start()?;
    watchdog.watch(command)?;
    let child = command.spawn().with_context(|| {
        format!("failed to run {}; is it on the PATH?", command.get_program().display())
    })?;
    Ok((child, watchdog))
}

/// Waits for the exit. Of a program that was killed nothing is left running.
fn wait(child: &mut Child) -> Result<ExitStatus> {
    let id = WaitId::Pid(Pid::from_child(child));
    loop {
        match waitid(id.clone(), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Err(rustix::io::Errno::INTR) => continue,
            // Not yet reaped, so that the group is still the child's own.
            Ok(Some(status)) if !status.exited() => signal_group(child, Signal::KILL),
            _ => {}
        }
        return child.wait().context("failed to wait for a child process");
    }
}

/// The output of cargo, held back until it turns out to be more than "Finished".
#[derive(Default)]
struct BuildOutput {
    text: Vec<u8>,
    /// The number of bytes shown so far.
    shown: usize,
}

impl BuildOutput {
    fn read(stderr: Option<impl Read>, progress: Progress) -> Self {
        let (mut output, mut buffer) = (Self::default(), [0; 4096]);
        let Some(mut stderr) = stderr else { return output };
        while let Ok(n @ 1..) = stderr.read(&mut buffer) {
            output.append(buffer.get(..n).unwrap_or_default(), progress);
        }
        output
    }

    fn append(&mut self, bytes: &[u8], progress: Progress) {
        self.text.extend_from_slice(bytes);
        if self.shown > 0 {
            self.show();
        } else if progress == Progress::Shown && is_work(&self.text) {
            announce(&self.text);
            self.show();
        }
    }

    fn show(&mut self) {
        let new = self.text.get(self.shown..).unwrap_or_default();
        let _ = io::stderr().write_all(new);
        self.shown = self.text.len();
    }
}

fn is_work(text: &[u8]) -> bool {
    contains(text, &["Compiling", "Downloading", "Updating", "Blocking", "warning", "error"])
}

fn is_read_only(text: &[u8]) -> bool {
    contains(text, &["Read-only file system", "Permission denied"])
        && contains(text, &[".cargo-lock"])
}

fn contains(text: &[u8], words: &[&str]) -> bool {
    let text = String::from_utf8_lossy(text);
    words.iter().any(|word| text.contains(word))
}

/// Announces a long build, once per run.
fn announce(text: &[u8]) {
    static ANNOUNCED: AtomicBool = AtomicBool::new(false);
    if !contains(text, &["error"]) && !ANNOUNCED.swap(true, Ordering::Relaxed) {
        errln!("building (the first run takes a few minutes)…");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cargo runs this test, so the variables are set.
    #[test]
    fn cargo_package_variables_are_not_inherited() {
        assert!(
            env::var_os("CARGO_PKG_NAME").is_some() && env::var_os("CARGO_MANIFEST_DIR").is_some()
        );
        let project = Project { root: "/".into(), binaries: "/b".into(), target: "/t".into() };
        let command = command(&project);
        for name in ["CARGO_PKG_NAME", "CARGO_PKG_VERSION_MAJOR", "CARGO_MANIFEST_DIR"] {
            let removed = (OsStr::new(name), None);
            assert!(command.get_envs().any(|change| change == removed), "{name}");
        }
    }

    #[test]
    fn build_with_nothing_to_do_is_not_shown() {
        let finished = b"    Finished `dev` profile [optimized + debuginfo] target(s) in 0.14s\n";
        assert!(!is_work(finished));
        assert!(is_work(b"\x1b[1m\x1b[32m   Compiling\x1b[0m kubeapp v0.1.0\n"));
        let locked =
            b"error: failed to open: /t/debug/.cargo-lock\n\nCaused by:\n  Read-only file system";
        assert!(is_read_only(locked) && !is_read_only(b"error: Permission denied"));
        assert!(is_work(b"    Blocking waiting for file lock on build directory\n"));
    }
}

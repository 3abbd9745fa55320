//! Building: quiet when there is nothing to do, cargo's own progress when there is.

use crate::{
    images::{self, Image},
    project::Project,
};
use anyhow::{Context, Result, anyhow, bail};
use std::{
    env,
    ffi::{OsStr, OsString},
    io::{self, IsTerminal, Read, Write},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

/// Whether a build may show itself: of two at a time, one.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Progress {
    Shown,
    Hidden,
}

/// Builds all that a lab needs: its binaries and the images, at the same time, as neither fills two
/// cores to its end. Answers the images.
pub(crate) fn everything(project: &Project, docker: Docker) -> Result<Vec<Image>> {
    thread::scope(|scope| {
        let images = scope.spawn(|| images::build(project, Progress::Hidden));
        let binaries = binaries(project, docker);
        let images = images.join().map_err(|_| anyhow!("building the images panicked"))?;
        binaries.and(images)
    })
}

/// Builds `labs` and `kube-embedded` in one go, and so with one set of features.
pub(crate) fn binaries(project: &Project, docker: Docker) -> Result<()> {
    if prebuilt() {
        return Ok(());
    }
    let mut command = command(project);
    command.args(["build", "--package", "labs", "--package", "kube-embedded"]);
    command.args(docker.features());
    run(command, Progress::Shown, "the workspace")
}

/// Whether binaries and images are to be taken as they are, `CANARY_PREBUILT=1`: where this program
/// was copied to a machine without a compiler, or stands among stand-ins in a test.
pub(crate) fn prebuilt() -> bool {
    env::var_os("CANARY_PREBUILT").is_some()
}

/// Whether the labs are to speak to a Docker engine. A client for it is a quarter of all that there
/// is to compile, so it is built only where an engine answers and something will ask it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Docker {
    With,
    Without,
}

impl Docker {
    /// Cargo's arguments.
    pub(crate) fn features(self) -> &'static [&'static str] {
        match self {
            Self::With => &["--features", "labs/docker"],
            Self::Without => &[],
        }
    }
}

/// Cargo, as it was called for us, in the repository.
pub(crate) fn command(project: &Project) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(&project.root);
    for name in own_variables() {
        command.env_remove(name);
    }
    command
}

/// What cargo says of this package is not for the next cargo: every one that we run has to be without
/// these variables. Build scripts may ask to run again when they change, as ring's does: after every
/// build without us all that stands on ring, kube for one, would be compiled anew.
pub(crate) fn own_variables() -> impl Iterator<Item = OsString> {
    env::vars_os().map(|(name, _)| name).filter(|name| is_of_a_package(name))
}

/// Whether cargo sets that variable for the one package that it runs.
fn is_of_a_package(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.starts_with(prefix))
}

/// Runs a build. `what` is for the error.
pub(crate) fn run(mut command: Command, progress: Progress, what: &str) -> Result<()> {
    let terminal = io::stderr().is_terminal() && progress == Progress::Shown;
    if terminal {
        // Cargo sees a pipe, so it has to be told.
        command.env("CARGO_TERM_COLOR", "always");
        command.env("CARGO_TERM_PROGRESS_WHEN", "always").env("CARGO_TERM_PROGRESS_WIDTH", "80");
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot run cargo; is it on the PATH?")?;
    let mut said = Said::default();
    if let Some(mut stderr) = child.stderr.take() {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = stderr.read(&mut buffer) {
            said.more(buffer.get(..n).unwrap_or_default(), progress);
        }
    }
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() {
        said.show();
        if is_read_only(&said.text) {
            bail!(
                "{what} does not build; CARGO_TARGET_DIR=<folder> builds in one that can be written"
            );
        }
        bail!("{what} does not build");
    }
    Ok(())
}

/// What cargo said. Held back until it turns out to be more than "Finished".
#[derive(Default)]
struct Said {
    text: Vec<u8>,
    /// Bytes that were shown.
    shown: usize,
}

impl Said {
    fn more(&mut self, bytes: &[u8], progress: Progress) {
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
    has(text, &["Compiling", "Downloading", "Updating", "Blocking", "warning", "error"])
}

fn is_read_only(text: &[u8]) -> bool {
    has(text, &["Read-only file system", "Permission denied"]) && has(text, &[".cargo-lock"])
}

fn has(text: &[u8], words: &[&str]) -> bool {
    let text = String::from_utf8_lossy(text);
    words.iter().any(|word| text.contains(word))
}

/// Said once a run, however many builds it takes.
fn announce(text: &[u8]) {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !has(text, &["error"]) && !SAID.swap(true, Ordering::Relaxed) {
        eprintln!("building (the first run takes a few minutes)…");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This test is run by cargo, which says of what package it is.
    #[test]
    fn a_build_does_not_know_who_asked_for_it() {
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
    fn a_build_with_nothing_to_do_is_not_shown() {
        let finished = b"    Finished `dev` profile [optimized + debuginfo] target(s) in 0.14s\n";
        assert!(!is_work(finished));
        assert!(is_work(b"\x1b[1m\x1b[32m   Compiling\x1b[0m kubeapp v0.1.0\n"));
        let locked =
            b"error: failed to open: /t/debug/.cargo-lock\n\nCaused by:\n  Read-only file system";
        assert!(is_read_only(locked) && !is_read_only(b"error: Permission denied"));
        assert!(is_work(b"    Blocking waiting for file lock on build directory\n"));
    }
}

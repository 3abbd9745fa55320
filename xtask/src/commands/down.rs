//! `cargo xtask down`: deletes the cluster that `up` created, and waits for it.

use super::provider_flag::ProviderFlag;
use crate::{
    cluster::{lifecycle, store::ClusterStore},
    exec::process::Signals,
    output::outln,
    project::Project,
};
use anyhow::Result;
use clap::Args;

/// Delete the cluster that `up` created
///
/// Asks before it ends a cluster that a lab is using.
#[derive(Args)]
pub(super) struct Down {
    #[command(flatten)]
    provider: ProviderFlag,
    /// Answer yes to all prompts; required when stdin is not a terminal
    #[arg(long, short)]
    yes: bool,
    /// Print every command and run none
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(args: &Down) -> Result<()> {
    let project = Project::find()?;
    let store = ClusterStore::open(&project, args.provider.provider())?;
    let death = store.provider.death(&store.folder);
    let signals = Signals::install()?;
    match (lifecycle::down(&store, &project, &signals, args.dry_run, args.yes)?, death) {
        (true, _) if args.dry_run => Ok(()),
        (true, _) => outln!("down"),
        (false, Some(death)) => outln!("no {} cluster is up: {death}", store.provider.name()),
        (false, None) => outln!("no {} cluster is up", store.provider.name()),
    }
}

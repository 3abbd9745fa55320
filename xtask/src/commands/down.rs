//! `cargo xtask down`: deletes the cluster that `up` created, and waits for it.

use super::provider_flag::ProviderFlag;
use crate::{
    cluster::{lifecycle, store::ClusterStore},
    exec::process::Signals,
    project::Project,
};
use anyhow::Result;
use clap::Args;

/// Delete the cluster that `up` created
#[derive(Args)]
pub(super) struct Down {
    #[command(flatten)]
    provider: ProviderFlag,
    /// Print every command and run none
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(args: &Down) -> Result<()> {
    let project = Project::find()?;
    let store = ClusterStore::open(&project, args.provider.provider())?;
    match lifecycle::down(&store, &project, &Signals::install()?, args.dry_run)? {
        true if args.dry_run => {}
        true => println!("down"),
        false => println!("no {} cluster is up", store.provider.name()),
    }
    Ok(())
}

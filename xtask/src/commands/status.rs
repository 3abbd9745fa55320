//! `cargo xtask status`: the clusters that `up` created. Exit code 3 if there is none.

use super::provider_flag::ProviderFlag;
use crate::{
    cluster::{published, store::ClusterStore},
    exec::process::Signals,
    output::outln,
    project::Project,
    providers,
};
use anyhow::Result;
use clap::Args;
use std::time::Duration;

/// Show the status of running clusters
#[derive(Args)]
pub(super) struct Status {
    #[command(flatten)]
    provider: ProviderFlag,
}

pub(super) fn run(args: &Status) -> Result<()> {
    let project = Project::find()?;
    if let Some(provider) = args.provider.selected() {
        let store = ClusterStore::open(&project, provider)?;
        if let Some(line) = store.status_line()? {
            outln!("{line}\n")?;
        }
        return outln!("{}", details(&store, &project)?);
    }
    let mut found = false;
    let others = providers::ALL.into_iter().filter(|provider| !providers::is_default(*provider));
    for provider in others {
        let store = ClusterStore::open_existing(&project, provider)?;
        if let Some(line) = store.map(|store| store.status_line()).transpose()?.flatten() {
            outln!("{line}")?;
            found = true;
        }
    }
    let store = ClusterStore::open(&project, providers::DEFAULT)?;
    if found && store.running()?.is_none() {
        return Ok(());
    }
    outln!("{}", details(&store, &project)?)
}

fn details(store: &ClusterStore, project: &Project) -> Result<String> {
    let record = store.expect_running()?;
    let signals = Signals::install()?;
    let runner = store.runner(&signals);
    let context = store.context(&record.spec, project, &runner, true);
    let details = store.provider.details(&context, &record)?;
    let published = match published::list(&context, Duration::ZERO) {
        Ok(published) => published::lines(&published).join("\n"),
        Err(error) => format!("load balancers and Ingresses are unknown: {error:#}"),
    };
    Ok(if published.is_empty() { details } else { format!("{details}\n\n{published}") })
}

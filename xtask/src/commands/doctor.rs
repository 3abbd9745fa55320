//! `cargo xtask doctor`: what this machine has and lacks for each cluster provider, and how to fix it.

use super::provider_flag::ProviderFlag;
use crate::{
    doctor::{
        check::{CheckContext, Depth},
        report::Report,
    },
    failure::Failure,
    output::{self, outln},
    project::Project,
    providers,
};
use anyhow::{Result, bail};
use clap::Args;

/// Check prerequisites for each cluster provider and suggest fixes
///
/// Exits with 3 if the selected provider, or without `--on` the default one, lacks something.
#[derive(Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    provider: ProviderFlag,
    /// Node image to check for, instead of the newest tested one
    #[arg(long)]
    image: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Doctor) -> Result<()> {
    let context = CheckContext::new(Project::find()?, args.image.clone(), Depth::Full);
    let selected = args.provider.selected();
    let providers = providers::ALL
        .into_iter()
        .filter(|provider| selected.is_none_or(|selected| selected.name() == provider.name()));
    let reports: Vec<Report> = providers
        .map(|provider| Report::new(provider.name(), provider.checks(), &context))
        .collect();
    if args.json {
        outln!("{}", serde_json::to_string_pretty(&reports)?)?;
    } else {
        let text: String = reports.iter().map(ToString::to_string).collect();
        output::print(&text)?;
    }
    // Without a choice it is the default provider that has to work.
    let required = args.provider.provider().name();
    match reports.iter().any(|report| report.provider == required && !report.ready) {
        true => bail!(Failure::Child(3)),
        false => Ok(()),
    }
}

//! `cargo xtask prefetch`: everything that later commands would download or compile.

use crate::{
    build,
    cargo::{self, DockerClient, Progress},
    output::outln,
    project::Project,
};
use anyhow::Result;
use clap::Args;

/// Download and build everything that a workshop needs, so that nothing needs a network afterwards
///
/// For a folder that is copied to machines without Rust, see `cargo xtask package`.
#[derive(Args)]
pub(super) struct Prefetch {
    /// Download the crates, and build nothing
    #[arg(long)]
    download_only: bool,
}

pub(super) fn run(args: &Prefetch) -> Result<()> {
    let project = Project::find()?;
    let mut fetch = cargo::command(&project);
    // Crates of all targets, and of tests: what `cargo build --offline` of any of them needs.
    fetch.args(["fetch", "--locked"]);
    cargo::run(fetch, Progress::Shown, "the list of crates")?;
    if args.download_only {
        return outln!("all crates are here");
    }
    let images = build::everything(&project, DockerClient::Omitted)?;
    for image in images {
        outln!("{}  {}", image.name, image.archive.display())?;
    }
    outln!(
        "ready: `cargo xtask up`, `lab`, `check`, `watch`, `broken` and `ui` need no network now"
    )
}

//! `cargo xtask images`: builds the app's two images, and loads or pushes them.

use super::provider_flag::ProviderFlag;
use crate::{
    build,
    cargo::{DockerClient, Progress},
    cluster::{
        flags::ClusterFlags,
        lifecycle::{self, ClusterRequest, Purpose},
        provider,
        store::ClusterStore,
    },
    exec::{process::Signals, runner::CommandRunner},
    images::{build::build as build_images, push},
    output::outln,
    project::Project,
};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use std::{fs, path::PathBuf};

/// Build the app's two images, without Docker; load or push them
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Images {
    #[command(subcommand)]
    command: Option<ImagesCommand>,
    #[command(flatten)]
    build: Build,
}

#[derive(Subcommand)]
enum ImagesCommand {
    Build(Build),
    Load(Load),
    Push(Push),
}

/// Build them as archives (the default)
#[derive(Args)]
struct Build {
    /// Also copy the archives to this directory
    #[arg(long, value_name = "DIRECTORY")]
    out: Option<PathBuf>,
}

/// Build them and load them into a running cluster
#[derive(Args)]
struct Load {
    #[command(flatten)]
    provider: ProviderFlag,
}

/// Build and push them to a registry, e.g. `push localhost:5000`
#[derive(Args)]
struct Push {
    /// `<host>[/<path>]`; the credentials are those of `docker login`
    registry: String,
}

pub(super) fn run(args: &Images) -> Result<()> {
    match &args.command {
        None => build(&args.build),
        Some(ImagesCommand::Build(args)) => build(args),
        Some(ImagesCommand::Load(args)) => load(args),
        Some(ImagesCommand::Push(args)) => push(args),
    }
}

fn build(args: &Build) -> Result<()> {
    let project = Project::find()?;
    let images = build_images(&project, Progress::Shown)?;
    for image in &images {
        outln!("{}  {}  {:.2} MB", image.name, image.digest, image.size as f64 / 1e6)?;
    }
    let Some(directory) = &args.out else {
        return outln!("in {}", project.images().display());
    };
    fs::create_dir_all(directory)
        .with_context(|| format!("failed to create {}", directory.display()))?;
    for image in &images {
        let to = directory.join(image.archive.file_name().unwrap_or_default());
        fs::copy(&image.archive, &to)
            .with_context(|| format!("failed to write {}", to.display()))?;
        outln!("{}", to.display())?;
    }
    Ok(())
}

fn load(args: &Load) -> Result<()> {
    let provider = args.provider.provider();
    let project = &Project::find()?;
    let images = &build_images(project, Progress::Shown)?;
    let store = ClusterStore::open(project, provider)?;
    let record = store.expect_running()?;
    // The edge may have to be started again.
    build::binaries(project, DockerClient::Omitted)?;
    let (flags, signals, purpose) =
        (&ClusterFlags::default(), &Signals::install()?, Purpose::Persistent);
    let runner = store.runner(signals);
    if let Some(outdated) =
        provider.outdated(&store.context(&record.spec, project, &runner, true))?
    {
        let (name, on) = (provider.name(), provider::on_flag(provider));
        bail!(
            "built, but the {name} cluster is {outdated}; `cargo xtask down{on} && cargo xtask up{on}` \
             starts it again"
        );
    }
    lifecycle::acquire(store, &ClusterRequest { flags, project, images, signals, purpose })
        .map(drop)
}

fn push(args: &Push) -> Result<()> {
    let registry = push::Registry::parse(&args.registry)?;
    let images = build_images(&Project::find()?, Progress::Shown)?;
    let signals = Signals::install()?;
    let runner = CommandRunner::new(&signals, None);
    images.iter().try_for_each(|image| push::push(&registry, image, &runner))
}

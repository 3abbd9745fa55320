//! `cargo xtask package`: one file with labs, cluster, images and page, for participants without Rust.

use crate::{
    cargo::{self, Progress},
    images,
    output::{errln, outln},
    project::Project,
};
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::{fs, path::PathBuf, process::Command};

/// Build `canary-labs`: one static file that needs no Rust and no network
///
/// It has the commands of `cargo xtask`: `canary-labs up`, `canary-labs lab phase4`. The first build takes several
/// minutes, since everything is optimized.
#[derive(Args)]
pub(super) struct Package {
    /// File to write
    #[arg(long, value_name = "FILE", default_value = "canary-labs")]
    out: PathBuf,
}

pub(super) fn run(args: &Package) -> Result<()> {
    let project = Project::find()?;
    images::build::build(&project, Progress::Shown)?;
    let host = images::build::host()?;
    // With a target, its flags do not apply to build scripts and macros, which cannot be static.
    let mut command = cargo::command(&project);
    command
        .args([
            "build",
            "--package",
            "canary-labs",
            "--profile",
            "dist",
            "--locked",
            "--target",
            &host,
        ])
        .arg("--target-dir")
        .arg(&project.target)
        .env("CARGO_ENCODED_RUSTFLAGS", images::build::static_flags(&project));
    cargo::run(command, Progress::Shown, "canary-labs")?;
    let program = project.target.join(host).join("dist/canary-labs");
    let out = std::path::absolute(&args.out).context("failed to find the current directory")?;
    let mut pack = Command::new(&program);
    pack.arg("pack").args([&project.root, &project.images(), &out]);
    let status = pack.status().with_context(|| format!("failed to run {}", program.display()))?;
    ensure!(status.success(), "failed to pack {} ({status})", out.display());
    let size = fs::metadata(&out).with_context(|| format!("failed to stat {}", out.display()))?;
    errln!("{:.1} MB", size.len() as f64 / 1e6);
    outln!("{}", out.display())
}

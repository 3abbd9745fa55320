//! `cargo xtask ci`: everything that must pass before a change is merged. `.ci/run` and the GitHub
//! workflow run this, so that nothing passes there and fails here.

use super::lab::{self, Lab};
use crate::{
    cargo::{self, DockerClient, Progress},
    docker,
    doctor::tools,
    images,
    output::errln,
    project::Project,
};
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::{env, fs::OpenOptions, io::Write, time::Instant};
use xshell::{Cmd, Shell, cmd};

/// Run all that must pass: formatting, lints, docs, tests, all labs
#[derive(Args)]
pub(super) struct Ci {}

pub(super) fn run() -> Result<()> {
    let project = Project::find()?;
    let shell = Shell::new()?;
    shell.change_dir(&project.root);
    // The features of the labs, or the tests would compile everything a second time.
    let docker = if docker::responds() { DockerClient::Included } else { DockerClient::Omitted };
    let features = docker.features();
    let began = Instant::now();
    let run = |command: Cmd| {
        errln!("$ {command}");
        let command = cargo::package_variables().fold(command, Cmd::env_remove);
        cargo::run_visibly(command.into())
    };
    step("formatting", || run(cmd!(shell, "cargo fmt --all --check")))?;
    step("spelling", || match tools::is_installed("typos") {
        true => run(cmd!(shell, "typos")),
        false => skip("spelling", "typos"),
    })?;
    step("lints", || {
        let clippy = cmd!(shell, "cargo clippy --workspace --all-targets --locked {features...}");
        run(clippy.args(["--", "--deny", "warnings"]))
    })?;
    step("docs", || {
        let doc = cmd!(shell, "cargo doc --workspace --no-deps --locked");
        run(doc.env("RUSTDOCFLAGS", "--deny warnings"))
    })?;
    step("the library without pods and traffic", || {
        run(cmd!(shell, "cargo check -p kube-embedded --no-default-features --locked"))
    })?;
    // A target directory of its own, or everything would be compiled again afterwards.
    let oldest = project.target.join("oldest-kubernetes");
    step("the library with the oldest types of Kubernetes", || {
        let features = ["--no-default-features", "--features", "kubelet,proxy"];
        let check = cmd!(shell, "cargo check -p kube-embedded --locked --target-dir {oldest}");
        run(check.args(features).env("K8S_OPENAPI_ENABLED_VERSION", "1.33"))
    })?;
    // The labs' tests run phases with them.
    step("images", || images::build::build(&project, Progress::Shown).map(drop))?;
    let _images = shell.push_env("CANARY_IMAGES", project.images());
    step("tests", || run(cmd!(shell, "cargo test --workspace --locked {features...}")))?;
    step("all labs on the embedded cluster", || lab::run(&Lab::all()))?;
    errln!("all passed in {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

fn step(name: &'static str, run: impl FnOnce() -> Result<()>) -> Result<()> {
    let began = Instant::now();
    errln!("==> {name}");
    run().context(name)?;
    errln!("==> {name}: {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// Skips a step whose program is missing, by the rules of the tests: in CI that is an error, unless
/// `CANARY_TESTS_WITHOUT` lists it; `CANARY_TESTS_SKIPPED_FILE` names the file that collects what was
/// skipped.
fn skip(step: &str, program: &str) -> Result<()> {
    let without = env::var("CANARY_TESTS_WITHOUT").unwrap_or_default();
    let excused = without.split(',').any(|listed| listed.trim() == program);
    ensure!(
        excused || env::var_os("CI").is_none(),
        "{program} is not installed; install it, or list it in CANARY_TESTS_WITHOUT"
    );
    let line = format!("skipped: {step} needs {program}");
    errln!("{line}");
    if let Some(file) = env::var_os("CANARY_TESTS_SKIPPED_FILE") {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&file)
            .and_then(|mut file| writeln!(file, "{line}"))
            .with_context(|| format!("failed to write {}", file.display()))?;
    }
    Ok(())
}

//! `cargo xtask ci`: everything that must be green before a change is merged. `.ci/run` and the
//! GitHub workflow run this, so that nothing can be green there and red here.

use crate::{
    cargo::{self, Docker, Progress},
    docker, flags, images, lab,
    project::Project,
};
use anyhow::{Context, Result};
use std::time::Instant;
use xshell::{Cmd, Shell, cmd};

pub(crate) fn run() -> Result<()> {
    let project = Project::find()?;
    let shell = Shell::new()?;
    shell.change_dir(&project.root);
    // The features of the labs, or the tests would compile everything a second time.
    let docker = if docker::answers() { Docker::With } else { Docker::Without };
    let features = docker.features();
    let began = Instant::now();
    let run = |command: Cmd| Ok(cargo::own_variables().fold(command, Cmd::env_remove).run()?);
    step("formatting", || run(cmd!(shell, "cargo fmt --all --check")))?;
    step("lints", || {
        let clippy = cmd!(shell, "cargo clippy --workspace --all-targets {features...}");
        run(clippy.args(["--", "--deny", "warnings"]))
    })?;
    // The labs' tests play phases with them.
    step("images", || images::build(&project, Progress::Shown).map(drop))?;
    let _images = shell.push_env("CANARY_IMAGES", images::folder(&project));
    step("tests", || run(cmd!(shell, "cargo test --workspace {features...}")))?;
    step("all labs on the embedded cluster", || lab::run(&all()))?;
    eprintln!("all green in {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

fn step(name: &'static str, run: impl FnOnce() -> Result<()>) -> Result<()> {
    let began = Instant::now();
    eprintln!("==> {name}");
    run().context(name)?;
    eprintln!("==> {name}: {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

fn all() -> flags::Lab {
    flags::Lab {
        phase: vec!["all".into()],
        on: None,
        image: None,
        context: None,
        edge: false,
        registry: None,
        pull_secret: None,
        ingress_class: None,
        yes: false,
        sandbox: None,
        keep: false,
        json: false,
    }
}

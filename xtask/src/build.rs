//! Builds everything that a lab needs, through cargo.

use crate::{
    cargo::{self, DockerClient, Progress},
    images::{self, Image},
    project::Project,
};
use anyhow::{Result, anyhow};
use std::thread;

/// Builds the binaries and the images concurrently, since neither keeps two cores busy to its end.
/// Returns the images.
pub(crate) fn everything(project: &Project, docker: DockerClient) -> Result<Vec<Image>> {
    thread::scope(|scope| {
        let images = scope.spawn(|| images::build::build(project, Progress::Announced));
        let binaries = binaries(project, docker);
        let images = images.join().map_err(|_| anyhow!("building the images panicked"))?;
        binaries.and(images)
    })
}

/// Builds `labs` and `kube-embedded` in one go, and so with one set of features.
pub(crate) fn binaries(project: &Project, docker: DockerClient) -> Result<()> {
    if cargo::prebuilt() {
        return Ok(());
    }
    let mut command = cargo::command(project);
    command.args(["build", "--package", "labs", "--package", "kube-embedded"]);
    command.args(docker.features());
    cargo::run(command, Progress::Shown, "the workspace")
}

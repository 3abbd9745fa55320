//! The cluster of this repository: `kube-embedded serve` as a child process.

use crate::{
    cluster::{Cluster, Differences, Request},
    daemon::{self, Daemon},
    images,
    process::Signals,
    project::Project,
};
use anyhow::Result;
use lab_environment::{Alternative, IngressClass, Timeouts};
use serde::Deserialize;
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// The name that `--on` takes.
pub(crate) const NAME: &str = "embedded";
/// For the API to answer: it takes milliseconds, unless the machine is very busy.
const START: Duration = Duration::from_secs(30);

/// Starts a cluster that ends with this run.
pub(crate) fn start(request: &Request) -> Result<Cluster> {
    let kubeconfig = request.folder.join("kubeconfig");
    let log = request.folder.join("cluster.log");
    let mut command = serve(request.project, request.folder, request.sandbox);
    command.arg("--exit-with-stdin").stdin(Stdio::piped());
    let (process, ready, seconds) = launch(command, &log, request.signals)?;
    ready.tell_of_sandbox(request.sandbox);
    Ok(cluster(kubeconfig, Some(seconds), Some(process)))
}

/// What the labs have to know of any embedded cluster.
pub(crate) fn cluster(
    kubeconfig: PathBuf,
    started_in: Option<f64>,
    process: Option<Daemon>,
) -> Cluster {
    Cluster {
        provider: NAME,
        kubeconfig,
        started_in,
        registry: None,
        own_images: false,
        pull_secret: None,
        ingress_class: IngressClass::Unnamed,
        differences: Differences {
            // Rollouts take some tenths of a second; the rest is for machines under load.
            patience: Timeouts { rollout: 60, address: 30, request: 10, propagation: 0 },
            nearest_wrong: Alternative::NearestReplica,
            absent: Vec::new(),
        },
        process,
    }
}

/// The program that is the cluster.
pub(crate) fn program(project: &Project) -> PathBuf {
    project.binaries.join("kube-embedded")
}

/// The command of a cluster that keeps its files in `folder`.
pub(crate) fn serve(project: &Project, folder: &Path, sandbox: Option<&str>) -> Command {
    let mut command = Command::new(program(project));
    command.arg("serve").arg("--kubeconfig").arg(folder.join("kubeconfig"));
    command.arg("--state").arg(folder.join("state"));
    command.arg("--images").arg(images::folder(project));
    if let Some(sandbox) = sandbox {
        command.arg("--sandbox").arg(sandbox);
    }
    command
}

/// The line that `kube-embedded serve` prints once its API answers.
#[derive(Debug, Deserialize)]
pub(crate) struct Ready {
    /// `https://127.1.0.1:6443`.
    pub(crate) server: String,
    /// `namespaced` or `plain`.
    pub(crate) sandbox: String,
    /// Why that one.
    #[serde(default, rename = "sandboxReason")]
    pub(crate) sandbox_reason: String,
}

impl Ready {
    /// Says so if pods are kept apart less than they could be, and nobody asked for that.
    pub(crate) fn tell_of_sandbox(&self, asked: Option<&str>) {
        if self.sandbox == "plain" && asked != Some("plain") {
            eprintln!("pods run as plain processes: {}", self.sandbox_reason);
        }
    }
}

/// Starts the command. Answers the seconds that took, too.
pub(crate) fn launch(
    command: Command,
    log: &Path,
    signals: &Signals,
) -> Result<(Daemon, Ready, f64)> {
    let begin = Instant::now();
    let mut process = daemon::start("cluster", command, log)?;
    let ready = process.ready(START, signals)?;
    Ok((process, ready, begin.elapsed().as_secs_f64()))
}

//! The cluster of this repository: `kube-embedded serve` as a child process.
//!
//! It lives in a session of its own, so that a Ctrl-C of the terminal does not take it away from
//! under labs that are still cleaning up, and it ends when a pipe that we hold is closed, so that
//! even a `kill -9` of us leaves nothing behind.

use crate::{
    cluster::{Cluster, Differences, Request},
    failure::Failure,
    images,
    process::{Place, Signals, Wake, signal, supervise},
    project::Project,
};
use anyhow::{Context, Result, anyhow, bail};
use lab_environment::{IngressClass, NearestWrong, Patience};
use serde::Deserialize;
use std::{
    fs::{self, File},
    io::Read,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

/// The name that `--on` takes.
pub(crate) const NAME: &str = "embedded";
/// For the API to answer: it takes milliseconds, unless the machine is very busy.
const START: Duration = Duration::from_secs(30);
/// For pods to end, after which they are killed.
const STOP: Duration = Duration::from_secs(15);

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
    process: Option<Process>,
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
            patience: Patience { rollout: 60, address: 30, request: 10, propagation: 0 },
            nearest_wrong: NearestWrong::NearestReplica,
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

/// Starts the command and waits for its line. Answers the seconds that took, too.
pub(crate) fn launch(
    mut command: Command,
    log: &Path,
    signals: &Signals,
) -> Result<(Process, Ready, f64)> {
    let begin = Instant::now();
    let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    command.stdout(Stdio::piped()).stderr(file);
    supervise(&mut command, Place::Session, None);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let mut process = Process { child: Some(child), stdin, log: log.to_owned() };
    let mut stdout = stdout.context("the cluster has no output")?;
    let (until, mut line) = (begin + START, Vec::new());
    while !line.contains(&b'\n') {
        match signals.wait(Some(stdout.as_fd()), until)? {
            Wake::Signal(libc::SIGCHLD) => {}
            Wake::Signal(_) => {
                process.stop(signals);
                bail!(Failure::Interrupted);
            }
            Wake::Late => {
                process.kill();
                bail!("the cluster did not answer within {START:?}{}", process.last_words());
            }
            Wake::Readable => {
                let mut buffer = [0; 4096];
                let n = stdout.read(&mut buffer).context("cannot read what the cluster says")?;
                if n == 0 {
                    process.stop(signals);
                    bail!("the cluster did not start{}", process.last_words());
                }
                line.extend_from_slice(buffer.get(..n).unwrap_or_default());
            }
        }
    }
    let ready = serde_json::from_slice(&line).map_err(|error| {
        anyhow!(
            "the cluster said {:?}, which is no ready line: {error}",
            String::from_utf8_lossy(&line)
        )
    })?;
    Ok((process, ready, begin.elapsed().as_secs_f64()))
}

/// A running cluster, which ends when this is dropped.
pub(crate) struct Process {
    child: Option<Child>,
    stdin: Option<ChildStdin>,
    log: PathBuf,
}

impl Process {
    /// Its process id.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether it has ended by itself.
    pub(crate) fn ended(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)))
    }

    /// Lets it run on without us.
    pub(crate) fn release(mut self) {
        self.child = None;
    }

    /// Ends it and waits until it is gone. Signals that come meanwhile change nothing: this is
    /// the cleaning up.
    pub(crate) fn stop(&mut self, signals: &Signals) {
        self.stdin = None;
        let Some(child) = &mut self.child else { return };
        signal(child, libc::SIGTERM);
        if let Ok(Some(_)) = signals.wait_for(child, STOP, |_| {}) {
            self.child = None;
        }
        self.kill();
    }

    /// The end of its log, for an error.
    pub(crate) fn last_words(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        match lines.get(lines.len().saturating_sub(12)..) {
            None | Some([]) => String::new(),
            Some(last) => format!(", and said:\n{}", last.join("\n")),
        }
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It leads a session: this reaches whatever it had started and not moved elsewhere.
            // SAFETY: a system call without memory, on a child that was not yet waited for.
            unsafe { libc::kill(-(child.id() as i32), libc::SIGKILL) };
            let _ = child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

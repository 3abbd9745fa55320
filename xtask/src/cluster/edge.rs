//! The edge of an external cluster: a `kube-embedded edge` process that gives load balancers and
//! Ingresses addresses on this host, where the cluster itself gives them none.
//!
//! It lives as long as the cluster is meant to: with a run, or until `down`. A persistent one holds the
//! lock on the file `edge.pid` as its standard input (see [`crate::exec::daemon`]).

use super::{profile::ClusterProfile, provider::PublishedPorts};
use crate::{
    exec::{
        daemon::{self, Daemon},
        process::{PidFd, Signals},
    },
    files,
    lock::Lock,
    output::errln,
    project::Project,
};
use anyhow::{Context, Result};
use lab_environment::UnsupportedClaim;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

/// Time for the API to respond, and for the lease of an edge that was killed to expire.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Time to release its addresses.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Seconds until kube-proxy has programmed an endpoint change, with a margin.
const PROPAGATION: u64 = 3;

/// The readiness line of `kube-embedded edge`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Ready {
    /// `127.A.0.0/16`.
    addresses: String,
    /// The route of traffic into the cluster: `node ports`, or the API.
    #[serde(rename = "way")]
    route: String,
    /// True if the addresses of the nodes are reachable.
    #[serde(rename = "nodesReachable")]
    nodes_reachable: bool,
}

/// The content of `edge.json`, written as soon as there is a process. One that is damaged or of another
/// version is as good as empty: another edge is started in its place.
#[derive(Default, Serialize, Deserialize)]
struct EdgeRecord {
    /// Identifies what it was started with: with other inputs another edge is needed.
    #[serde(rename = "of")]
    fingerprint: String,
    /// Set once it serves.
    ready: Option<Ready>,
}

/// The files of an edge, in the directory of its cluster.
pub(crate) struct EdgeFiles {
    lock: PathBuf,
    record: PathBuf,
    log: PathBuf,
}

impl EdgeFiles {
    /// Returns the files in the directory of a cluster.
    pub(crate) fn of(folder: &Path) -> Self {
        let file = |name| folder.join(name);
        Self { lock: file("edge.pid"), record: file("edge.json"), log: file("edge.log") }
    }

    /// Returns where a persistent edge serves, if one is running.
    pub(crate) fn status(&self) -> Result<Option<String>> {
        let ready = self.find()?.and_then(|(record, _)| record.ready);
        Ok(ready.map(|ready| format!("{} through {}", ready.addresses, ready.route)))
    }

    /// Stops a persistent edge.
    pub(crate) fn stop(&self) -> Result<()> {
        if let Some((_, process)) = self.find()? {
            process.terminate("edge", STOP_TIMEOUT)?;
        }
        let _ = fs::remove_file(&self.record);
        Ok(())
    }

    /// Returns a persistent edge, if one is running.
    fn find(&self) -> Result<Option<(EdgeRecord, PidFd)>> {
        let Some(process) = daemon::lock_holder(&self.lock)? else { return Ok(None) };
        let record =
            fs::read(&self.record).ok().and_then(|text| serde_json::from_slice(&text).ok());
        Ok(Some((record.unwrap_or_default(), process)))
    }

    fn save(&self, record: &EdgeRecord) -> Result<()> {
        files::write_json(&self.record, record)
    }
}

/// The cluster that an edge serves.
pub(crate) struct EdgeTarget<'a> {
    /// The state directory of the cluster.
    pub(crate) folder: &'a Path,
    pub(crate) kubeconfig: &'a Path,
    pub(crate) published: &'a PublishedPorts,
    /// The only namespace that it serves; `None` for all.
    pub(crate) namespace: Option<&'static str>,
}

/// The edge of a cluster that is in use.
pub(crate) struct Edge {
    files: EdgeFiles,
    ready: Ready,
    process: EdgeProcess,
}

enum EdgeProcess {
    /// Ends with this run.
    Ephemeral(Daemon),
    /// Runs until `down`; not our child.
    Persistent(PidFd),
}

impl Edge {
    /// Returns an edge that serves the cluster: the one that is running, or a new one.
    pub(crate) fn ensure(
        project: &Project,
        target: &EdgeTarget,
        persistent: bool,
        signals: &Signals,
    ) -> Result<Self> {
        let files = EdgeFiles::of(target.folder);
        let program = project.program("kube-embedded");
        let fingerprint = fingerprint(&program, target)?;
        if let Some((record, process)) = files.find()? {
            if let EdgeRecord { fingerprint: same, ready: Some(ready), .. } = record
                && same == fingerprint
            {
                return Ok(Self { files, ready, process: EdgeProcess::Persistent(process) });
            }
            files.stop()?;
        }
        let mut command = command(&program, target);
        if persistent {
            // No edge is running, but another process may just be checking the lock.
            let lock = Lock::wait(&files.lock)?;
            let _ = fs::remove_file(&files.record);
            command.stdin(lock.into_file());
        } else {
            command.arg("--exit-with-stdin").stdin(Stdio::piped());
        }
        let mut daemon = Daemon::start("edge", command, &files.log)?;
        let pid = daemon.id()?;
        let mut record = EdgeRecord { fingerprint, ready: None };
        if persistent {
            // Before it serves, so that it is found even if this process is killed now.
            files.save(&record)?;
        }
        let ready: Ready = daemon.wait_ready(START_TIMEOUT, signals)?;
        errln!("edge: load balancers at {} through {}", ready.addresses, ready.route);
        if !persistent {
            return Ok(Self { files, ready, process: EdgeProcess::Ephemeral(daemon) });
        }
        record.ready = Some(ready.clone());
        files.save(&record)?;
        let process = EdgeProcess::Persistent(PidFd::open(pid)?);
        daemon.detach();
        Ok(Self { files, ready, process })
    }

    /// Adjusts the lab environment for the way the edge reaches the cluster.
    pub(crate) fn adjust_profile(&self, profile: &mut ClusterProfile) {
        if self.ready.nodes_reachable {
            return;
        }
        let route = &self.ready.route;
        profile.unsupported.push(UnsupportedClaim {
            claim: "nodeport-in-range".into(),
            reason: format!("no node is reachable from this host: traffic enters by {route}"),
        });
        // A connection through the API is established before it reaches its pod and cannot be retried:
        // a terminating pod has to serve for as long as it may still be chosen.
        let timeouts = &mut profile.timeouts;
        timeouts.propagation = timeouts.propagation.max(PROPAGATION);
    }

    /// Returns a pidfd that becomes readable when the edge exits, unless it is our child, whose exit
    /// raises SIGCHLD.
    pub(crate) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        match &self.process {
            EdgeProcess::Ephemeral(_) => None,
            EdgeProcess::Persistent(process) => Some(process.as_fd()),
        }
    }

    /// Returns the end of its log if it has exited.
    pub(crate) fn exited(&mut self) -> Option<String> {
        let exited = match &mut self.process {
            EdgeProcess::Ephemeral(daemon) => daemon.has_exited(),
            EdgeProcess::Persistent(process) => process.has_exited(),
        };
        exited.then(|| daemon::log_tail(&self.files.log))
    }

    /// Stops it if it was started for this run alone.
    pub(crate) fn release(self, signals: &Signals) {
        if let EdgeProcess::Ephemeral(mut daemon) = self.process {
            daemon.stop(signals);
        }
    }
}

fn command(program: &Path, target: &EdgeTarget) -> Command {
    let mut command = Command::new(program);
    command.arg("edge").arg("--kubeconfig").arg(target.kubeconfig).current_dir("/");
    for (port, address) in target.published {
        command.arg("--published").arg(format!("{port}={address}"));
    }
    if let Some(namespace) = target.namespace {
        command.arg("--namespace").arg(namespace);
    }
    command
}

/// Identifies what an edge depends on: the program, how the cluster is reached, and the ports.
fn fingerprint(program: &Path, target: &EdgeTarget) -> Result<String> {
    let mut inputs = files::build_id(program)?;
    let text = fs::read_to_string(target.kubeconfig)
        .with_context(|| format!("failed to read {}", target.kubeconfig.display()))?;
    // Other lines, such as the time of the last update, may change each time the file is written.
    let relevant = ["server:", "certificate-authority", "client-", "token", "exec:"];
    for line in text.lines().map(str::trim) {
        if relevant.iter().any(|word| line.starts_with(word)) {
            inputs += line;
        }
    }
    inputs += &serde_json::to_string(&(target.published, target.namespace))?;
    Ok(oci_archive::Digest::of(inputs.as_bytes()).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprint_depends_on_program_endpoint_and_ports() {
        let folder = std::env::temp_dir().join(format!("canary-edge-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (program, kubeconfig) = (folder.join("program"), folder.join("kubeconfig"));
        fs::write(&program, "1").unwrap();
        let of = |text: &str, published: &[(u16, &str)]| {
            fs::write(&kubeconfig, text).unwrap();
            let published = published.iter().map(|(port, at)| (*port, (*at).into())).collect();
            let (kubeconfig, published, namespace) = (&*kubeconfig, &published, None);
            let folder = &*folder;
            fingerprint(&program, &EdgeTarget { folder, kubeconfig, published, namespace }).unwrap()
        };
        let first = of("  server: https://127.0.0.1:1\n  last-update: now", &[]);
        assert_eq!(of("  server: https://127.0.0.1:1\n  last-update: later", &[]), first);
        assert_ne!(of("  server: https://127.0.0.1:2\n", &[]), first);
        assert_ne!(of("  server: https://127.0.0.1:1\n", &[(30000, "127.0.0.1:1")]), first);
        fs::write(&program, "22").unwrap();
        assert_ne!(of("  server: https://127.0.0.1:1\n", &[]), first);
        fs::remove_dir_all(folder).unwrap();
    }
}

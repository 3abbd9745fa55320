//! The edge on the host of a cluster that gives load balancers and Ingresses no addresses itself:
//! `kube-embedded edge` as a process of ours.
//!
//! It lives as long as the cluster is meant to: with a run, or until `down`. One that stays holds the
//! lock on the file `edge.pid`, as its standard input, so that no crash or reboot can leave a record
//! of one that is gone.

use crate::{
    cluster::{Differences, embedded},
    daemon::{self, Daemon},
    lock::Lock,
    process::{Signals, Stranger},
    project::Project,
    running,
};
use anyhow::{Context, Result};
use lab_environment::UnsupportedClaim;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

/// For the API to answer, and for an edge that was killed to be believed gone.
const START: Duration = Duration::from_secs(60);
/// To take back its addresses.
const STOP: Duration = Duration::from_secs(20);

/// Seconds until a kube-proxy has learned of a change, with some to spare.
const PROPAGATION: u64 = 3;

/// Node ports and where they are published.
pub(crate) type Published = BTreeMap<u16, String>;

/// The line that `kube-embedded edge` prints.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Ready {
    /// `127.A.0.0/16`.
    addresses: String,
    /// How traffic gets in.
    way: String,
    /// Whether that is to the nodes' own addresses.
    #[serde(rename = "nodesReachable")]
    nodes_reachable: bool,
}

/// What `edge.json` says, from the moment that there is a process.
#[derive(Serialize, Deserialize)]
struct About {
    pid: u32,
    /// What it was started with: another one would be another edge.
    of: String,
    /// Once it serves.
    ready: Option<Ready>,
}

/// Where an edge's files are.
pub(crate) struct Files {
    lock: PathBuf,
    about: PathBuf,
    log: PathBuf,
}

impl Files {
    /// In the folder of its cluster.
    pub(crate) fn of(folder: &Path) -> Self {
        let file = |name| folder.join(name);
        Self { lock: file("edge.pid"), about: file("edge.json"), log: file("edge.log") }
    }

    /// Where it serves, if one that stays is running.
    pub(crate) fn tell(&self) -> Result<Option<String>> {
        let ready = self.find()?.and_then(|found| found.about.ready);
        Ok(ready.map(|ready| format!("{} through {}", ready.addresses, ready.way)))
    }

    /// Ends one that stays.
    pub(crate) fn end(&self) -> Result<()> {
        if let Some(Found { process, .. }) = self.find()? {
            process.finish("edge", STOP)?;
        }
        let _ = fs::remove_file(&self.about);
        Ok(())
    }

    /// One that stays, if it is running.
    fn find(&self) -> Result<Option<Found>> {
        if !Lock::is_held(&self.lock)? {
            return Ok(None);
        }
        let file = &self.about;
        let text = fs::read(file)
            .with_context(|| format!("an edge is running, but cannot read {}", file.display()))?;
        let about = read(&text).with_context(|| {
            format!("an edge is running, and {} does not tell which process", file.display())
        })?;
        let Ok(process) = Stranger::of(about.pid) else { return Ok(None) };
        // Still held, so the process id was its own when the descriptor was made.
        Ok(Lock::is_held(&self.lock)?.then_some(Found { about, process }))
    }

    /// What is on record while one is running.
    fn record(&self, about: &About) -> Result<()> {
        fs::write(&self.about, serde_json::to_vec_pretty(about)?)
            .with_context(|| format!("cannot write {}", self.about.display()))
    }
}

/// One that another run has started.
struct Found {
    about: About,
    process: Stranger,
}

/// What another version has written is of use for its process alone.
fn read(text: &[u8]) -> Option<About> {
    if let Ok(about) = serde_json::from_slice(text) {
        return Some(about);
    }
    let other: Value = serde_json::from_slice(text).ok()?;
    let pid = other.get("pid")?.as_u64()?.try_into().ok()?;
    Some(About { pid, of: String::new(), ready: None })
}

/// What an edge is given to see of its cluster.
pub(crate) struct Seen<'a> {
    /// Of this cluster alone.
    pub(crate) folder: &'a Path,
    pub(crate) kubeconfig: &'a Path,
    pub(crate) published: &'a Published,
    /// The one namespace that it serves; `None` for all.
    pub(crate) only: Option<&'static str>,
}

/// The edge of a cluster that is in use.
pub(crate) struct Edge {
    files: Files,
    ready: Ready,
    life: Life,
}

/// How long it lives.
enum Life {
    OfRun(Daemon),
    Stays(Stranger),
}

impl Edge {
    /// An edge that serves the cluster: the one that is there, or a new one, which `stays` or goes
    /// with this run.
    pub(crate) fn ensure(
        project: &Project,
        seen: &Seen,
        stays: bool,
        signals: &Signals,
    ) -> Result<Self> {
        let files = Files::of(seen.folder);
        let program = embedded::program(project);
        let of = fingerprint(&program, seen)?;
        if let Some(Found { about, process }) = files.find()? {
            if let About { of: same, ready: Some(ready), .. } = about
                && same == of
            {
                return Ok(Self { files, ready, life: Life::Stays(process) });
            }
            files.end()?;
        }
        let mut command = Command::new(program);
        command.arg("edge").arg("--kubeconfig").arg(seen.kubeconfig).current_dir("/");
        for (port, at) in seen.published {
            command.arg("--published").arg(format!("{port}={at}"));
        }
        if let Some(namespace) = seen.only {
            command.arg("--namespace").arg(namespace);
        }
        if stays {
            // Nobody runs; somebody may just be looking.
            let lock = Lock::wait(&files.lock)?;
            let _ = fs::remove_file(&files.about);
            command.stdin(lock.share());
        } else {
            command.arg("--exit-with-stdin").stdin(Stdio::piped());
        }
        let mut process = daemon::start("edge", command, &files.log)?;
        let pid = process.id().context("the edge has ended")?;
        let mut about = About { pid, of, ready: None };
        if stays {
            // Before it serves: were we killed now, it would be found.
            files.record(&about)?;
        }
        let ready: Ready = process.ready(START, signals)?;
        eprintln!("edge: load balancers at {} through {}", ready.addresses, ready.way);
        if !stays {
            return Ok(Self { files, ready, life: Life::OfRun(process) });
        }
        about.ready = Some(ready.clone());
        files.record(&about)?;
        let life = Life::Stays(Stranger::of(pid)?);
        // From here on it is on its own.
        process.release();
        Ok(Self { files, ready, life })
    }

    /// What labs have to know of how it enters the cluster.
    pub(crate) fn fit(&self, differences: &mut Differences) {
        if self.ready.nodes_reachable {
            return;
        }
        let way = &self.ready.way;
        let reason = format!("no node can be reached from here: traffic enters by {way}");
        let claim = "nodeport-in-range".to_owned();
        differences.absent.push(UnsupportedClaim { claim, reason });
        // A connection that way is made before it meets its pod, and cannot be tried again: a pod that
        // ends has to serve on for as long as it may be chosen.
        let patience = &mut differences.patience;
        patience.propagation = patience.propagation.max(PROPAGATION);
    }

    /// What becomes readable when one that stays has ended; that of one of this run is told by a signal.
    pub(crate) fn end_of_life(&self) -> Option<BorrowedFd<'_>> {
        match &self.life {
            Life::OfRun(_) => None,
            Life::Stays(process) => Some(process.as_fd()),
        }
    }

    /// What it said last, if it serves no longer.
    pub(crate) fn ended(&mut self) -> Option<String> {
        let ended = match &mut self.life {
            Life::OfRun(process) => process.ended(),
            Life::Stays(process) => process.ended(),
        };
        ended.then(|| daemon::last_words(&self.files.log))
    }

    /// Ends what was started for this run alone.
    pub(crate) fn release(self, signals: &Signals) {
        if let Life::OfRun(mut process) = self.life {
            process.stop(signals);
        }
    }
}

/// What an edge depends on: the program, how the cluster is reached, and what is published.
fn fingerprint(program: &Path, seen: &Seen) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(running::build(program)?);
    let text = fs::read_to_string(seen.kubeconfig);
    let text = text.with_context(|| format!("cannot read {}", seen.kubeconfig.display()))?;
    // The rest may be written anew each time, such as when that was.
    let counts = ["server:", "certificate-authority", "client-", "token", "exec:"];
    for line in text.lines().map(str::trim) {
        if counts.iter().any(|word| line.starts_with(word)) {
            hash.update(line);
        }
    }
    hash.update(serde_json::to_vec(&(seen.published, seen.only))?);
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_is_of_one_program_and_one_cluster() {
        let folder = std::env::temp_dir().join(format!("canary-edge-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (program, kubeconfig) = (folder.join("program"), folder.join("kubeconfig"));
        fs::write(&program, "1").unwrap();
        let of = |text: &str, published: &[(u16, &str)]| {
            fs::write(&kubeconfig, text).unwrap();
            let published = published.iter().map(|(port, at)| (*port, (*at).into())).collect();
            let (kubeconfig, published, only) = (&*kubeconfig, &published, None);
            fingerprint(&program, &Seen { folder: &folder, kubeconfig, published, only }).unwrap()
        };
        let first = of("  server: https://127.0.0.1:1\n  last-update: now", &[]);
        assert_eq!(of("  server: https://127.0.0.1:1\n  last-update: later", &[]), first);
        assert_ne!(of("  server: https://127.0.0.1:2\n", &[]), first);
        assert_ne!(of("  server: https://127.0.0.1:1\n", &[(30000, "127.0.0.1:1")]), first);
        fs::write(&program, "22").unwrap();
        assert_ne!(of("  server: https://127.0.0.1:1\n", &[]), first);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn of_another_versions_record_the_process_is_read() {
        let now = r#"{"pid":7,"of":"x","ready":null}"#;
        assert_eq!(read(now.as_bytes()).map(|about| (about.pid, about.of)), Some((7, "x".into())));
        let older = r#"{"pid":7,"addresses":"127.9.0.0/16","way":"node ports","build":"1"}"#;
        let about = read(older.as_bytes()).unwrap();
        assert_eq!((about.pid, &*about.of, about.ready.is_none()), (7, "", true));
        assert!(read(b"{}").is_none() && read(b"torn").is_none());
    }
}

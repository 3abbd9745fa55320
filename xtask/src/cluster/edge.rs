//! The edge on the host of a cluster that gives load balancers and Ingresses no addresses itself:
//! `kube-embedded edge` as a process of ours.
//!
//! It lives as long as the cluster is meant to: with a run, or until `down`. One that stays holds the
//! lock on the file `edge.pid`, as its standard input, so that no crash or reboot can leave a record
//! of one that is gone.

use crate::{
    cluster::embedded,
    daemon::{self, Daemon},
    lock::Lock,
    process::{Signals, Stranger},
    project::Project,
    running,
};
use anyhow::{Context, Result};
use lab_environment::Absent;
use serde::{Deserialize, Serialize};
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

/// Node ports and where they are published.
pub(crate) type Published = BTreeMap<u16, String>;

/// The line that `kube-embedded edge` prints.
#[derive(Debug, Serialize, Deserialize)]
struct Ready {
    pid: u32,
    /// `127.A.0.0/16`.
    addresses: String,
    /// How traffic gets in.
    way: String,
    /// Whether that is to the nodes' own addresses.
    #[serde(rename = "nodesReachable")]
    nodes_reachable: bool,
}

/// What `edge.json` says.
#[derive(Serialize, Deserialize)]
struct About {
    #[serde(flatten)]
    ready: Ready,
    /// Size and time of the program.
    build: String,
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
        let of = |About { ready, .. }| format!("{} through {}", ready.addresses, ready.way);
        Ok(self.find()?.map(|(about, _)| of(about)))
    }

    /// Ends one that stays.
    pub(crate) fn end(&self) -> Result<()> {
        if let Some((_, process)) = self.find()? {
            process.finish("edge", STOP)?;
        }
        let _ = fs::remove_file(&self.about);
        Ok(())
    }

    /// One that stays, if it is running.
    fn find(&self) -> Result<Option<(About, Stranger)>> {
        let running = || Lock::attempt(&self.lock).map(|free| free.is_none());
        if !running()? {
            return Ok(None);
        }
        let about = self.about()?;
        let Ok(process) = Stranger::of(about.ready.pid) else { return Ok(None) };
        // Still held, so the process id was its own when the descriptor was made.
        Ok(running()?.then_some((about, process)))
    }

    fn about(&self) -> Result<About> {
        let file = &self.about;
        let text = fs::read(file)
            .with_context(|| format!("an edge is running, but cannot read {}", file.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("{} is not as `up` wrote it", file.display()))
    }
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
        folder: &Path,
        kubeconfig: &Path,
        published: &Published,
        stays: bool,
        signals: &Signals,
    ) -> Result<Self> {
        let files = Files::of(folder);
        let program = embedded::program(project);
        let build = running::build(&program)?;
        if let Some((about, process)) = files.find()? {
            if about.build == build {
                return Ok(Self { files, ready: about.ready, life: Life::Stays(process) });
            }
            // An older build may be another edge.
            files.end()?;
        }
        let mut command = Command::new(program);
        command.arg("edge").arg("--kubeconfig").arg(kubeconfig).current_dir("/");
        for (port, at) in published {
            command.arg("--published").arg(format!("{port}={at}"));
        }
        if stays {
            let lock = Lock::attempt(&files.lock)?.context("an edge is just ending; try again")?;
            command.stdin(lock.share());
        } else {
            command.arg("--exit-with-stdin").stdin(Stdio::piped());
        }
        let started = daemon::launch::<Ready>("edge", command, &files.log, START, signals);
        let (process, ready, _) = started?;
        eprintln!("edge: load balancers at {} through {}", ready.addresses, ready.way);
        if !stays {
            return Ok(Self { files, ready, life: Life::OfRun(process) });
        }
        let about = About { ready, build };
        fs::write(&files.about, serde_json::to_vec_pretty(&about)?)
            .with_context(|| format!("cannot write {}", files.about.display()))?;
        let life = Life::Stays(Stranger::of(about.ready.pid)?);
        // From here on it is on its own.
        process.release();
        Ok(Self { files, ready: about.ready, life })
    }

    /// What cannot be checked from here.
    pub(crate) fn absent(&self) -> Option<Absent> {
        let reason =
            format!("no node can be reached from here: traffic enters by {}", self.ready.way);
        let claim = "nodeport-in-range".to_owned();
        (!self.ready.nodes_reachable).then_some(Absent { claim, reason })
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

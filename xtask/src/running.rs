//! The cluster that `up` started: what is known of it, and whether it is still there.
//!
//! The cluster itself holds the lock on the file `pid`, as its standard input, so "is it running?"
//! has an answer that no crash, reboot or reused process id can spoil.

use crate::{cluster::embedded, images::Image, lock::Lock, process::Stranger, project::Project};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// What `cluster.json` says.
#[derive(Serialize, Deserialize)]
pub(crate) struct About {
    /// Its process.
    pub(crate) pid: u32,
    /// `https://127.1.0.1:6443`.
    pub(crate) server: String,
    /// For kubectl.
    pub(crate) kubeconfig: PathBuf,
    /// `namespaced` or `plain`.
    pub(crate) sandbox: String,
    /// Seconds since 1970.
    pub(crate) since: u64,
    /// Seconds from the start until the API answered.
    pub(crate) started_in: f64,
    /// Name and digest of the images when it started.
    pub(crate) images: BTreeMap<String, String>,
    /// Size and time of the program: a newer build is another cluster.
    pub(crate) build: String,
}

impl About {
    /// Whether these are its images, and it runs what is built now.
    pub(crate) fn is_current(&self, project: &Project, images: &[Image]) -> bool {
        let built = build(&embedded::program(project));
        self.images == digests(images) && built.is_ok_and(|build| build == self.build)
    }

    /// For how long it has been running.
    pub(crate) fn age(&self) -> Duration {
        (UNIX_EPOCH + Duration::from_secs(self.since)).elapsed().unwrap_or_default()
    }
}

/// Image names and their digests.
pub(crate) fn digests(images: &[Image]) -> BTreeMap<String, String> {
    images.iter().map(|image| (image.name.clone(), image.digest.clone())).collect()
}

/// What tells one build of a program from the next.
pub(crate) fn build(program: &Path) -> Result<String> {
    let about =
        fs::metadata(program).with_context(|| format!("cannot look at {}", program.display()))?;
    Ok(format!("{} {:?}", about.len(), about.modified()?))
}

/// Now, in seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The folder's files.
pub(crate) struct Files {
    /// Held by the cluster.
    pub(crate) pid: PathBuf,
    /// [`About`].
    pub(crate) about: PathBuf,
    /// Its kubeconfig, rootfs and logs of pods.
    pub(crate) state: PathBuf,
    /// What it says.
    pub(crate) log: PathBuf,
    /// Held by whoever starts, stops or looks.
    pub(crate) lock: PathBuf,
}

impl Files {
    /// Below the home folder.
    pub(crate) fn of(home: &Path) -> Self {
        let file = |name| home.join(name);
        Self {
            pid: file("pid"),
            about: file("cluster.json"),
            state: file("cluster"),
            log: file("cluster.log"),
            lock: file("lock"),
        }
    }
}

/// A cluster that runs.
pub(crate) struct Running {
    /// What is known of it.
    pub(crate) about: About,
    /// Its process.
    pub(crate) process: Stranger,
}

impl Running {
    /// The cluster of this home, if it is running. Waits for an `up` or `down` that is under way.
    pub(crate) fn find(home: &Path) -> Result<Option<Self>> {
        let files = Files::of(home);
        let _lock = Lock::wait(&files.lock)?;
        Self::find_locked(&files)
    }

    /// The same for who already holds the lock.
    pub(crate) fn find_locked(files: &Files) -> Result<Option<Self>> {
        let held = || Lock::attempt(&files.pid).map(|free| free.is_none());
        if !held()? {
            return Ok(None);
        }
        let text = fs::read(&files.about).with_context(|| {
            format!("a cluster is running, but cannot read {}", files.about.display())
        })?;
        let about: About = serde_json::from_slice(&text)
            .with_context(|| format!("{} is not as `up` wrote it", files.about.display()))?;
        let Ok(process) = Stranger::of(about.pid) else { return Ok(None) };
        // Still held, so the process id was its own when the descriptor was made.
        Ok(held()?.then_some(Self { about, process }))
    }

    /// The running cluster of the project, or how to start one.
    pub(crate) fn expect(project: &Project) -> Result<Self> {
        let home = project.home()?;
        match Self::find(&home)? {
            Some(running) => Ok(running),
            None => bail!("no cluster is running; `cargo xtask up` starts one"),
        }
    }
}

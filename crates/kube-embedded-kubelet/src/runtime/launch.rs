//! A program to start, and where: what callers of the runtime fill in.

use super::{
    capabilities::Capabilities,
    ids::IdMapping,
    seccomp::Filters,
    stdio::Stdio,
    syscalls::{STEPS, Step},
};
use crate::host_path::open_below;
use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A program to start, and where.
pub(crate) struct Launch {
    /// Program and arguments; a program without a slash is looked up in the `PATH` of `env`.
    pub(crate) argv: Vec<String>,
    /// `NAME=value` each; nothing is inherited from the cluster process.
    pub(crate) env: Vec<String>,
    /// Working directory as the program sees it; created if it does not exist.
    pub(crate) cwd: String,
    pub(crate) target: LaunchTarget,
    pub(crate) stdio: Stdio,
    pub(crate) security: Arc<Security>,
    /// Resource limits (`RLIMIT_*`): resource, soft limit, hard limit.
    pub(crate) rlimits: Vec<(u32, u64, u64)>,
}

/// The rights of a program.
#[derive(Debug)]
pub(crate) struct Security {
    /// The ids of its pod.
    pub(crate) ids: IdMapping,
    /// User, group and supplementary groups, as the program sees them.
    pub(crate) user: u32,
    pub(crate) group: u32,
    pub(crate) groups: Vec<u32>,
    /// The capabilities of a program with user id 0, and the most that any other can get.
    pub(crate) capabilities: Capabilities,
    /// Set if no program can get more rights than it starts with.
    pub(crate) no_new_privileges: bool,
    pub(crate) seccomp: Filters,
    /// How readily the kernel kills the program when the machine runs out of memory (`oom_score_adj`).
    pub(crate) oom_score_adj: i32,
}

/// The place that a program is started in.
pub(crate) enum LaunchTarget {
    /// A process of the host (the plain sandbox); the program is looked up inside `rootfs`.
    Host { rootfs: PathBuf },
    /// The first process of a new container in a pod's namespaces.
    Container(Box<Container>),
    /// All namespaces of a running container, given by the pidfd of its first process.
    Exec(Arc<OwnedFd>),
}

/// A container to create in a pod's namespaces.
pub(crate) struct Container {
    /// The pidfd of the pause process whose namespaces are joined.
    pub(crate) pause: Arc<OwnedFd>,
    /// The pidfd of a process of the pod whose pid namespace is entered; without it, a new one is created.
    pub(crate) shares_processes_of: Option<Arc<OwnedFd>>,
    pub(crate) root: RootFs,
    pub(crate) read_only: bool,
    /// The most bytes that can be written to a root file system in memory.
    pub(crate) storage: u64,
    /// An empty directory of the host to mount on. The mount is private to the container.
    pub(crate) scratch: PathBuf,
    /// Small files to write, such as `/etc/hosts`: path and content.
    pub(crate) files: Vec<(String, String)>,
    pub(crate) mounts: Vec<Mount>,
}

/// The root file system of a container.
pub(crate) enum RootFs {
    /// An overlay over this shared directory. Writes go to memory and end with the container.
    Overlay(PathBuf),
    /// This directory itself, which belongs to the container alone.
    Directory(PathBuf),
    /// An empty tmpfs, to find out whether containers work on this machine.
    Empty,
}

/// A bind mount into a container.
#[derive(Clone)]
pub(crate) struct Mount {
    /// Directory or file of the host.
    pub(crate) source: PathBuf,
    /// The path below `source` to mount. A container may be changing it: the child resolves it without
    /// leaving `source`.
    pub(crate) below: Option<PathBuf>,
    /// Absolute path in the container.
    pub(crate) target: String,
    pub(crate) read_only: bool,
}

impl Mount {
    /// Returns true if the source is not a directory. Should a container replace it meanwhile, mounting
    /// it fails.
    pub(super) fn is_file(&self) -> bool {
        let below = self.below.as_deref().unwrap_or(Path::new(""));
        open_below(&self.source, below)
            .and_then(|fd| File::from(fd).metadata())
            .is_ok_and(|m| !m.is_dir())
    }
}

/// The reason why a process or a pod's namespaces could not be created: the step that failed, and
/// the error of the kernel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    #[error("exec: {0:?}: executable file not found in $PATH")]
    NotInPath(String),
    #[error("exec: {0:?}: {1}")]
    Exec(String, io::Error),
    #[error("the process that forks pods was killed")]
    ZygoteDied,
    #[error("failed to {0}: {1}")]
    Step(&'static str, io::Error),
}

impl LaunchError {
    /// The error of a step that a child process reported by its number.
    pub(super) fn from_report(step: u32, errno: i32, otherwise: &'static str) -> Self {
        let step = STEPS.get(step as usize).copied().unwrap_or(otherwise);
        Self::Step(step, io::Error::from_raw_os_error(errno))
    }

    /// Returns true if mounting the overlay failed, for which copying the image is the fallback.
    pub(crate) fn is_overlay(&self) -> bool {
        matches!(self, Self::Step(step, _) if STEPS.get(Step::Overlay as usize) == Some(step))
    }
}

//! Where a pod's processes run. Two ways behind one interface: namespaces of their own, as an
//! ordinary user and without any helper program, or plain child processes of the host.
//!
//! Every process is a child of one dedicated thread ([`spawner::Spawner`]): the kernel ties
//! "die with your parent" to the thread that forked, so that thread must live as long as they. None
//! of them starts as a copy of the cluster process, which grows with what it holds: programs are
//! started in its memory ([`child`]), and pause processes from a small fork of it ([`stem`]).

mod child;
mod detect;
mod pause;
mod prepared;
mod process;
mod rights;
mod sockets;
mod spawner;
mod stdio;
mod stem;
mod sys;

pub(crate) use detect::detect;
pub(crate) use pause::{Pause, PauseConfig};
pub(crate) use process::{Exit, Process};
pub(crate) use sockets::Sockets;
pub(crate) use spawner::Spawner;
pub(crate) use stdio::{Stdio, Streams, Terminal};

use std::{os::fd::OwnedFd, path::PathBuf, sync::Arc};

/// A program to start, and where.
pub(crate) struct Launch {
    /// Program and arguments; a program without a slash is looked up in the `PATH` of `env`.
    pub(crate) argv: Vec<String>,
    /// `NAME=value` each; nothing is inherited.
    pub(crate) env: Vec<String>,
    /// Working directory as the program sees it; made if it is not there.
    pub(crate) cwd: String,
    pub(crate) place: Place,
    pub(crate) stdio: Stdio,
}

pub(crate) enum Place {
    /// A process of the host; the program is looked up inside `rootfs`.
    Host { rootfs: PathBuf },
    /// The first process of a new container in a pod's namespaces.
    Container(Box<Container>),
    /// Beside the first process of a running container.
    Beside(Arc<OwnedFd>),
}

pub(crate) struct Container {
    pub(crate) pause: Arc<OwnedFd>,
    pub(crate) root: Root,
    pub(crate) read_only: bool,
    /// An empty folder of the host to mount on; seen by nobody else.
    pub(crate) scratch: PathBuf,
    /// Small files to write, such as `/etc/hosts`.
    pub(crate) files: Vec<(String, String)>,
    pub(crate) mounts: Vec<Mount>,
}

pub(crate) enum Root {
    /// This folder, shared; what is written goes to memory and is gone with the container.
    Overlay(PathBuf),
    /// This folder itself, which belongs to the container alone.
    Folder(PathBuf),
    /// Nothing: to try whether containers work here.
    Empty,
}

pub(crate) struct Mount {
    /// Folder or file of the host.
    pub(crate) source: PathBuf,
    /// Absolute path in the container.
    pub(crate) target: String,
    pub(crate) read_only: bool,
}

/// Why a process or a pod's namespaces could not be made: the step, and the error of the kernel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    #[error("exec: {0:?}: executable file not found in $PATH")]
    NotInPath(String),
    #[error("exec: {0:?}: {1}")]
    Exec(String, std::io::Error),
    #[error("cannot {0}: {1}")]
    Step(&'static str, std::io::Error),
}

/// Whether what failed is the overlay, for which there is another way.
pub(crate) fn is_overlay(step: &str) -> bool {
    sys::STEPS.get(sys::Step::Overlay as usize) == Some(&step)
}

#[cfg(test)]
mod tests;

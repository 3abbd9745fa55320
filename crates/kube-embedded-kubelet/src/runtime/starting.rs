//! A program that is being started, until it runs or has failed to.

use super::{
    fd::{pidfd_open, reap},
    launch::{Launch, LaunchError},
    process::{KillScope, Process, ThreadGuard},
    reports::Reports,
    stdio::ParentEnds,
    syscalls,
};
use std::io;

/// A program that is being started.
pub(super) struct StartingProcess {
    pub(super) reports: Reports,
    /// The pid, in the plain sandbox. In namespaces, the children report theirs.
    pub(super) on_host: Option<libc::pid_t>,
    pub(super) streams: ParentEnds,
    /// Set if the program was looked up in `PATH`, which decides the wording of a failure.
    pub(super) searched: bool,
    pub(super) scope: KillScope,
    pub(super) guard: ThreadGuard,
}

/// The children that are not reaped yet. They are killed and reaped when this is dropped.
struct Children {
    first: Option<libc::pid_t>,
    second: Option<libc::pid_t>,
}

impl Drop for Children {
    fn drop(&mut self) {
        for pid in [self.first, self.second].into_iter().flatten() {
            // SAFETY: kill takes plain values; the process is not reaped before the next line.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            reap(pid);
        }
    }
}

impl StartingProcess {
    /// Waits until the program runs: the reports end when it is executed, or when all children have
    /// exited. Blocks.
    pub(super) fn wait(self, launch: &Launch) -> Result<Process, LaunchError> {
        let Self { mut reports, on_host, streams, searched, scope, guard } = self;
        let in_namespaces = on_host.is_none();
        let (mut children, mut error) = (Children { first: None, second: on_host }, None);
        loop {
            let report = reports.next();
            match report.map_err(|e| LaunchError::Step("start the process", e))? {
                Some((syscalls::PID, pid)) if children.first.is_none() && in_namespaces => {
                    children.first = Some(pid);
                }
                Some((syscalls::PID, pid)) => children.second = Some(pid),
                Some((syscalls::READY, _)) => {}
                Some(failed) => error = Some(failed),
                None => break,
            }
        }
        if in_namespaces && children.first.is_none() && error.is_none() {
            return Err(LaunchError::ZygoteDied);
        }
        // It has started the second child and exited.
        children.first.take().inspect(|first| reap(*first));
        match (children.second, error) {
            (Some(pid), None) => {
                let pidfd = pidfd_open(pid).map_err(|e| LaunchError::Step("open a pidfd", e))?;
                children.second = None;
                Ok(Process::new(pid, pidfd, scope, Some(streams), guard))
            }
            (_, error) => Err(explain(launch, searched, error)),
        }
    }
}

fn explain(launch: &Launch, searched: bool, error: Option<(u32, i32)>) -> LaunchError {
    let program = launch.argv.first().cloned().unwrap_or_default();
    match error {
        Some((0, libc::ENOENT)) if searched => LaunchError::NotInPath(program),
        Some((0, errno)) => LaunchError::Exec(program, io::Error::from_raw_os_error(errno)),
        Some((step, errno)) => LaunchError::from_report(step, errno, "start the process"),
        None => {
            LaunchError::Step("start the process", io::Error::other("it died before it reported"))
        }
    }
}

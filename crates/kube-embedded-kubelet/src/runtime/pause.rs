//! A pod's namespaces, held by its pause process, as the cluster sees them.

use super::{
    fd::{pidfd_open, socket_pair},
    fork_request::ForkRequest,
    launch::LaunchError,
    process::{KillScope, Process, ThreadGuard},
    syscalls,
    zygote::{self, Zygote},
};
use std::{
    cell::RefCell,
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
};

/// The settings of a pod's namespaces.
pub(crate) struct PauseConfig {
    pub(crate) hostname: String,
    pub(crate) address: Ipv4Addr,
    /// The user id that the programs see; outside the pod it is always that of the cluster.
    pub(crate) user: u32,
    pub(crate) group: u32,
}

/// A pod's namespaces. Dropping this kills the pause process, and with it the namespaces.
pub(crate) struct Pause {
    pub(crate) process: Process,
    /// Requests for sockets are sent here ([`super::pod_sockets`]).
    pub(super) socket: Arc<OwnedFd>,
}

/// Starts a pause process and waits until its namespaces are set up. To be called on the forking
/// thread, which owns `zygote`; `parent` is a pidfd of the cluster process.
pub(super) fn start(
    zygote: &RefCell<Option<Zygote>>,
    parent: &OwnedFd,
    config: &PauseConfig,
    guard: ThreadGuard,
) -> Result<Pause, LaunchError> {
    let failed = |e: io::Error| LaunchError::Step("prepare the pod", e);
    let request = ForkRequest::new(&config.hostname, config.address, config.user, config.group);
    let request = request.map_err(failed)?;
    // Retry once with a fresh zygote in case the old one was killed. Its socket is not reused: a
    // pause process that the old one forked in its last moment could still write to it.
    let (pid, ours) = fork(zygote, parent, &request)
        .or_else(|error| {
            tracing::warn!(%error, "zygote failed to fork; starting another");
            fork(zygote, parent, &request)
        })
        .map_err(|e| LaunchError::Step("fork", e))?;
    let pidfd = pidfd_open(pid).map_err(failed)?;
    // Owned from here on, so that every early return ends it.
    let process = Process::new(pid, pidfd, KillScope::Process, None, guard);
    let mut message = [0; 8];
    // SAFETY: pointer and length are of `message`; `ours` is open.
    let read =
        unsafe { libc::recv(ours.as_raw_fd(), message.as_mut_ptr().cast(), message.len(), 0) };
    match syscalls::parse(message) {
        (syscalls::READY, _) if read == 8 => {}
        (step, errno) if read == 8 => {
            return Err(LaunchError::from_report(step, errno, "prepare the pod"));
        }
        _ => return Err(failed(io::Error::other("the pause process died"))),
    }
    // SAFETY: `ours` is open. Only this end becomes non-blocking: the other end is another file.
    unsafe { libc::fcntl(ours.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    tracing::debug!(pid, hostname = config.hostname, address = %config.address, "pause process started");
    Ok(Pause { process, socket: Arc::new(ours) })
}

/// Returns the pid of the pause process and the cluster's end of its socket.
fn fork(
    zygote: &RefCell<Option<Zygote>>,
    parent: &OwnedFd,
    request: &ForkRequest,
) -> io::Result<(libc::pid_t, OwnedFd)> {
    let (ours, theirs) = socket_pair()?;
    let pid = zygote::fork(zygote, parent, request, &theirs)?;
    Ok((pid, ours))
}

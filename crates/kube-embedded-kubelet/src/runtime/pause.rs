//! A pod's namespaces, held by its pause process, as the cluster sees them.

use super::{
    fd::{pidfd_open, socket_pair},
    ids::IdMapping,
    launch::LaunchError,
    pause_process::PauseRequest,
    process::{KillScope, Process, ThreadGuard},
    reports::Reports,
    syscalls,
};
use std::{
    ffi::CString,
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
};

/// The settings of a pod's namespaces.
pub(crate) struct PauseConfig {
    pub(crate) hostname: String,
    pub(crate) address: Ipv4Addr,
    /// The user id that the programs see, if the pod can have one only.
    pub(crate) user: u32,
    pub(crate) group: u32,
}

/// A pod's namespaces. Dropping this kills the pause process, and with it the namespaces.
pub(crate) struct Pause {
    pub(crate) process: Process,
    /// The ids of the pod.
    pub(crate) ids: IdMapping,
    /// Requests for sockets are sent here ([`super::pod_sockets`]).
    pub(super) socket: Arc<OwnedFd>,
}

/// A pause process that was asked for.
pub(super) struct StartingPause {
    reports: Reports,
    ids: IdMapping,
    guard: ThreadGuard,
}

/// Asks for a pause process. `fork` sends the request to a zygote.
pub(super) fn start(
    config: &PauseConfig,
    guard: ThreadGuard,
    fork: impl FnOnce(&PauseRequest, &OwnedFd) -> io::Result<Arc<super::zygote::Zygote>>,
) -> Result<StartingPause, LaunchError> {
    let failed = |e: io::Error| LaunchError::Step("prepare the pod", e);
    let ids = IdMapping::new(config.user, config.group);
    let request = PauseRequest {
        hostname: CString::new(config.hostname.as_str()).map_err(|e| failed(e.into()))?,
        address: config.address.into(),
        has_range: matches!(ids, IdMapping::Range { .. }),
    };
    let (ours, theirs) = socket_pair().map_err(failed)?;
    let zygote = fork(&request, &theirs).map_err(|e| LaunchError::Step("fork", e))?;
    Ok(StartingPause { reports: Reports::new(ours, Some(zygote)), ids, guard })
}

impl StartingPause {
    /// Waits until the namespaces are set up. Blocks.
    pub(super) fn wait(self) -> Result<Pause, LaunchError> {
        let failed = |e: io::Error| LaunchError::Step("prepare the pod", e);
        let Self { mut reports, ids, guard } = self;
        let pid = match reports.next().map_err(failed)? {
            Some((syscalls::PID, pid)) => pid,
            Some((step, errno)) => return Err(LaunchError::from_report(step, errno, "fork")),
            None => return Err(LaunchError::ZygoteDied),
        };
        let pidfd = pidfd_open(pid).map_err(failed)?;
        // Owned from here on, so that every early return ends it.
        let process = Process::new(pid, pidfd, KillScope::Process, None, guard);
        loop {
            match reports.next().map_err(failed)? {
                Some((syscalls::MAP, _)) => {
                    ids.write(pid)
                        .map_err(|e| LaunchError::Step("map the users into the namespace", e))?;
                    syscalls::report(reports.fd.as_raw_fd(), syscalls::READY, 0);
                }
                Some((syscalls::READY, _)) => break,
                Some((step, errno)) => {
                    return Err(LaunchError::from_report(step, errno, "prepare the pod"));
                }
                None => return Err(failed(io::Error::other("the pause process died"))),
            }
        }
        let socket = reports.fd;
        // SAFETY: the socket is open. Only this end becomes non-blocking: the other end is another
        // file.
        unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
        tracing::debug!(pid, ?ids, "pause process started");
        Ok(Pause { process, ids, socket: Arc::new(socket) })
    }
}

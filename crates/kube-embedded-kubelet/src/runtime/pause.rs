//! Namespaces that a process holds, as the cluster sees them: those of a pod, held by its pause process,
//! and the network between pods, held by the router.

use super::{
    fd::{pidfd_open, socket_pair},
    ids::{self, IdMapping},
    launch::LaunchError,
    pause_process::PauseRequest,
    process::{KillScope, Process, ThreadGuard},
    reports::Reports,
    router_process::RouterRequest,
    syscalls,
    zygote::Zygote,
};
use kube_embedded_core::network::Addresses;
use std::{
    ffi::CString,
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    sync::Arc,
};

/// The settings of a pod's namespaces.
pub(crate) struct PauseConfig {
    pub(crate) hostname: String,
    pub(crate) address: Ipv4Addr,
    /// Set if the pod will be linked to the network of its cluster.
    pub(crate) link: Option<Link>,
    /// The user id that the programs see, if the pod can have one only.
    pub(crate) user: u32,
    pub(crate) group: u32,
    /// Files below `/proc/sys`, and what is written to them.
    pub(crate) sysctls: Vec<(CString, CString)>,
}

/// What it takes that a pod can be linked to the network of its cluster.
#[derive(Clone)]
pub(crate) struct Link {
    /// The user namespace of which that of the pod has to be a child; `None` for the cluster's own.
    pub(super) user_namespace: Option<Arc<OwnedFd>>,
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

/// The prefix length of the network on `lo` of a pod without a link: all pods and Services are local.
const LOOPBACK_PREFIX: u8 = 8;

/// Asks for a pause process. `fork` sends the request to a zygote, with the parent of the pod's user
/// namespace if that is not the cluster's.
pub(super) fn start(
    config: &PauseConfig,
    guard: ThreadGuard,
    fork: impl FnOnce(&PauseRequest, &[RawFd]) -> io::Result<Arc<Zygote>>,
) -> Result<StartingPause, LaunchError> {
    let failed = |e: io::Error| LaunchError::Step("prepare the pod", e);
    let ids = IdMapping::new(config.user, config.group);
    let request = PauseRequest {
        hostname: CString::new(config.hostname.as_str()).map_err(|e| failed(e.into()))?,
        loopback: config.link.is_none().then(|| (config.address.into(), LOOPBACK_PREFIX)),
        only_ids: match ids {
            IdMapping::One { user, group } => Some((user, group)),
            _ => None,
        },
        sysctls: config.sysctls.clone(),
    };
    let (ours, theirs) = socket_pair().map_err(failed)?;
    let parent = config.link.as_ref().and_then(|link| link.user_namespace.as_ref());
    let parent = parent.map(AsRawFd::as_raw_fd);
    let fds: Vec<RawFd> = [theirs.as_raw_fd()].into_iter().chain(parent).collect();
    let zygote = fork(&request, &fds).map_err(|e| LaunchError::Step("fork", e))?;
    Ok(StartingPause { reports: Reports::new(ours, Some(zygote)), ids, guard })
}

/// Asks for the router of a cluster, which tries whether it can link pods if wanted. `fork` sends the request to a zygote.
pub(super) fn start_router(
    addresses: &Addresses,
    tries_link: bool,
    guard: ThreadGuard,
    fork: impl FnOnce(&RouterRequest, &[RawFd]) -> io::Result<Arc<Zygote>>,
) -> Result<StartingPause, LaunchError> {
    let prefix = |(first, length): (Ipv4Addr, u8)| (first.into(), length);
    let request = RouterRequest {
        own_user_namespace: !ids::ranges_are_possible(),
        services: prefix(addresses.services()),
        pods: prefix(addresses.pod_network()),
        tries_link,
    };
    let pair = socket_pair();
    let (ours, theirs) = pair.map_err(|e| LaunchError::Step("create the network", e))?;
    let zygote = fork(&request, &[theirs.as_raw_fd()]);
    let zygote = zygote.map_err(|e| LaunchError::Step("fork", e))?;
    Ok(StartingPause { reports: Reports::new(ours, Some(zygote)), ids: IdMapping::Host, guard })
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
        set_nonblocking(&socket);
        tracing::debug!(pid, ?ids, "pause process started");
        Ok(Pause { process, ids, socket: Arc::new(socket) })
    }
}

/// Only this end of the socket becomes non-blocking: the other end is another file.
fn set_nonblocking(socket: &OwnedFd) {
    // SAFETY: the socket is open, and fcntl takes plain values.
    unsafe { libc::fcntl(socket.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
}

//! The limit on open files. A load balancer of a few pods quickly comes near the usual 1024.

use kube_embedded_core::descriptors::OPEN_FILES;
use std::mem;

/// Returns the current limit of this process.
pub(crate) fn open_files() -> libc::rlimit {
    // SAFETY: an all-zero rlimit is a valid value, which getrlimit fills through a reference; if it
    // fails, which it does not for this resource, the zeros stay.
    unsafe {
        let mut limit: libc::rlimit = mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit
    }
}

/// Raises the soft limit as far as an ordinary user may, and returns the limit from before. That is
/// what containers get: some programs loop over all possible descriptors.
pub(crate) fn raise_open_files() -> libc::rlimit {
    let before = open_files();
    let mut raised = before;
    raised.rlim_cur = raised.rlim_max.min(OPEN_FILES).max(raised.rlim_cur);
    // SAFETY: setrlimit reads the value through a reference. If it fails, the old limit stays.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) };
    before
}

//! The limit on open files. A load balancer of a few pods comes near the usual 1024 quickly.

use std::mem;

/// The limit of this process now.
pub(crate) fn open_files() -> libc::rlimit {
    // SAFETY: getrlimit fills the structure; zero is a valid value if it fails.
    unsafe {
        let mut limit: libc::rlimit = mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit
    }
}

/// Raises the soft limit as far as it goes without rights, and returns what it was before, which
/// is what containers get: some programs walk through all possible descriptors.
pub(crate) fn raise_open_files() -> libc::rlimit {
    let before = open_files();
    let mut raised = before;
    raised.rlim_cur = raised.rlim_max.min(65_536).max(raised.rlim_cur);
    // SAFETY: plain call on a value; if it fails, the old limit stays.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) };
    before
}

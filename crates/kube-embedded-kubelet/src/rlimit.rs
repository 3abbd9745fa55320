//! The limit on open files. A load balancer of a few pods quickly comes near the usual 1024.

use kube_embedded_core::descriptors::OPEN_FILES;
use std::{mem, sync::OnceLock};

/// The limit before this process raised it.
static ORIGINAL: OnceLock<libc::rlimit> = OnceLock::new();

/// Returns the limit of this process as it was before a cluster raised it. That is what containers get: some programs
/// loop over all possible descriptors.
pub(crate) fn open_files() -> libc::rlimit {
    ORIGINAL.get().copied().unwrap_or_else(current)
}

/// Raises the soft limit as far as an ordinary user may.
pub(crate) fn raise_open_files() {
    let mut raised = *ORIGINAL.get_or_init(current);
    raised.rlim_cur = raised.rlim_max.min(OPEN_FILES).max(raised.rlim_cur);
    // SAFETY: setrlimit reads the value through a reference. If it fails, the old limit stays.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) };
}

fn current() -> libc::rlimit {
    // SAFETY: an all-zero rlimit is a valid value, which getrlimit fills through a reference; if it
    // fails, which it does not for this resource, the zeros stay.
    unsafe {
        let mut limit: libc::rlimit = mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_of_later_clusters_get_the_limit_from_before_the_first() {
        let before = open_files();
        raise_open_files();
        raise_open_files();
        assert_eq!(open_files().rlim_cur, before.rlim_cur);
        assert!(current().rlim_cur >= before.rlim_cur);
    }
}

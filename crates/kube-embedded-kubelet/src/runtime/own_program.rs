//! This program, as the zygote executes it: through a mount of its own that is read-only.
//!
//! A container can execute `/proc/self/exe`, which is then this program, and open `/proc/PID/exe` of that
//! process for writing (CVE-2019-5736). That it is refused while the program runs is not enough: Linux
//! 6.11 did not refuse it, and a descriptor may outlive the cluster. No descriptor and no name leads from
//! a read-only mount to another one of the same file.

use super::{
    clone::{ChildMain, Stack, clone_vfork},
    fd::{owned, reap},
    mounts::{self, RDONLY},
    syscalls,
};
use libc::c_int;
use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{ffi::OsStringExt, fs::MetadataExt},
    },
    sync::atomic::{AtomicI32, Ordering},
};

const LINK: &str = "/proc/self/exe";

/// Opens this program through a read-only mount. To be called on the forking thread.
///
/// # Errors
/// When this machine has no such mounts, or the program has been replaced since it was started.
pub(super) fn open(stack: &Stack) -> io::Result<OwnedFd> {
    let path = CString::new(fs::read_link(LINK)?.into_os_string().into_vec())?;
    let opener = Opener { path, result: AtomicI32::new(0) };
    // An ordinary user may mount only in a user namespace of its own. Root does without: in one it would lose
    // its access to the files of others.
    let mut result = opener.mount();
    if result == -libc::EPERM {
        let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_FILES;
        // SAFETY: `Opener::run` makes system calls on prepared memory only; the forking thread has blocked
        // all signals, and it alone uses the stack, for one child at a time.
        let pid = unsafe { clone_vfork(stack, flags, &opener) } as libc::pid_t;
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        reap(pid);
        result = opener.result.load(Ordering::Relaxed);
    }
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    let program = owned(result)?;
    let [opened, own] = [format!("/proc/self/fd/{}", program.as_raw_fd()), LINK.to_owned()]
        .map(|path| fs::metadata(path).map(|file| (file.dev(), file.ino())));
    if opened? != own? {
        return Err(io::Error::other("the program was replaced since it was started"));
    }
    Ok(program)
}

/// A child that shares the descriptors of this process, and so opens the program for it.
struct Opener {
    path: CString,
    /// The descriptor, or the `errno` as a negative number.
    result: AtomicI32,
}

impl Opener {
    fn mount(&self) -> c_int {
        let tree = mounts::open_tree(&self.path);
        if tree < 0 {
            return -syscalls::errno();
        }
        if mounts::set_mount_attributes(tree, RDONLY) < 0 {
            let error = syscalls::errno();
            // SAFETY: opened above, and used no more.
            unsafe { libc::close(tree) };
            return -error;
        }
        tree
    }
}

impl ChildMain for Opener {
    fn run(&self) -> ! {
        self.result.store(self.mount(), Ordering::Relaxed);
        syscalls::exit_now(0)
    }
}

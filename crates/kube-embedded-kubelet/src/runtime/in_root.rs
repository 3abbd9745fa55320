//! Files of a container by their path in it. The process has changed its root already, so no link leads
//! out of it; but `/proc` has magic links, which are no paths, to whatever this process has open.

use super::syscalls::{self, Step, check};
use libc::c_int;
use std::{
    ffi::{CStr, CString, OsStr},
    os::unix::ffi::OsStrExt,
    path::Path,
};

type Opened = Result<c_int, (Step, c_int)>;

/// Opens a path. The current directory has to be the root.
pub(super) fn open(path: &CStr, flags: c_int, step: Step) -> Opened {
    check(syscalls::open_in_root(path, flags), step)
}

/// Creates a directory and its parents where they do not exist, and opens it.
pub(super) fn create_directories(path: &CStr, step: Step) -> Opened {
    let mut parent = open(c"/", libc::O_PATH | libc::O_DIRECTORY, step)?;
    let path = Path::new(OsStr::from_bytes(path.to_bytes()));
    let mut all: Vec<&Path> = path.ancestors().filter(|p| p.file_name().is_some()).collect();
    all.reverse();
    for directory in all {
        let (path, name) = (text(directory.as_os_str(), step)?, directory.file_name());
        let name = text(name.unwrap_or_default(), step)?;
        // SAFETY: the string is NUL-terminated. A directory that exists is as good as a new one, and
        // any other problem fails the next step.
        unsafe { libc::mkdirat(parent, name.as_ptr(), 0o755) };
        // By its path from the root, since an existing one may be a link.
        let next = open(&path, libc::O_PATH | libc::O_DIRECTORY, step)?;
        // SAFETY: opened above.
        unsafe { libc::close(parent) };
        parent = next;
    }
    Ok(parent)
}

/// Creates or truncates a file, along with its parents, and opens it for writing.
pub(super) fn create_file(path: &CStr, step: Step) -> Opened {
    create_parent(path, step)?;
    // O_NONBLOCK: an image may have a FIFO in this place, which nobody would ever read.
    open(path, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_NONBLOCK, step)
}

/// Opens a file, which is created with its parents if it does not exist, as a place to mount on.
pub(super) fn existing_or_new_file(path: &CStr, step: Step) -> Opened {
    open(path, libc::O_PATH, step).or_else(|_| {
        create_parent(path, step)?;
        let file = open(path, libc::O_WRONLY | libc::O_CREAT | libc::O_NONBLOCK, step)?;
        // SAFETY: opened above.
        unsafe { libc::close(file) };
        open(path, libc::O_PATH, step)
    })
}

fn create_parent(path: &CStr, step: Step) -> Result<(), (Step, c_int)> {
    let parent = Path::new(OsStr::from_bytes(path.to_bytes())).parent().unwrap_or(Path::new("/"));
    let parent = create_directories(&text(parent.as_os_str(), step)?, step)?;
    // SAFETY: just opened.
    unsafe { libc::close(parent) };
    Ok(())
}

fn text(name: &OsStr, step: Step) -> Result<CString, (Step, c_int)> {
    CString::new(name.as_bytes()).map_err(|_| (step, libc::EINVAL))
}

//! Owned descriptors and child processes: pipes, socket pairs, pidfds, `waitpid`.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

/// Takes ownership of a descriptor that a system call has just returned, or its error.
pub(super) fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is open, because the kernel has just returned it, and callers pass it on to
    // nothing else, so this is its only owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Returns the reading and the writing end of a pipe, both close-on-exec. The writing end is never
/// 0, 1 or 2: a child replaces those one after another, and would overwrite it.
pub(super) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors that pipe2 writes.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let [read, write] = ends;
    let (read, write) = (owned(read)?, owned(write)?);
    Ok((read, above_stdio(write)?))
}

/// Moves a descriptor above 0, 1 and 2, if it is one of them.
pub(super) fn above_stdio(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    // SAFETY: `fd` is borrowed from an OwnedFd and therefore open; fcntl returns a new descriptor.
    owned(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) })
}

/// Returns a connected pair of sockets that keep message boundaries, both close-on-exec.
pub(super) fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: `ends` has room for the two descriptors that socketpair writes.
    if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let [a, b] = ends;
    Ok((owned(a)?, owned(b)?))
}

/// Creates a file in memory with this content.
pub(super) fn memory_file(content: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: the name is NUL-terminated.
    let fd = owned(unsafe { libc::memfd_create(c"request".as_ptr(), libc::MFD_CLOEXEC) })?;
    let mut file = File::from(fd);
    file.write_all(content)?;
    Ok(file.into())
}

/// Opens a namespace (`user`, `net`) of a process that has not been reaped.
pub(super) fn namespace(process: &OwnedFd, kind: &str) -> io::Result<OwnedFd> {
    let pid = pid_of(process).ok_or(io::ErrorKind::NotFound)?;
    let namespace = File::open(format!("/proc/{pid}/ns/{kind}"))?;
    // Its number is used by no other process as long as it exists.
    pid_of(process).ok_or(io::ErrorKind::NotFound)?;
    Ok(namespace.into())
}

/// Opens a pidfd, which names this very process even after its number is in use again. `pid` has to
/// be the caller itself or a child that is not reaped yet.
pub(super) fn pidfd_open(pid: libc::pid_t) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes plain values and touches no memory of this process.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as RawFd)
}

/// Returns the pid of the process that a pidfd names, while it runs.
pub(super) fn pid_of(pidfd: &OwnedFd) -> Option<libc::pid_t> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(path).ok()?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    pid.trim().parse().ok().filter(|pid| *pid > 0)
}

/// Waits for a child that has exited or is about to, so that it does not stay a zombie.
pub(super) fn reap(pid: libc::pid_t) {
    // SAFETY: waitpid accepts a null status; `pid` is a child of this process, which callers reap
    // once, so its number cannot belong to another process yet.
    while unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) } < 0
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
}

//! The zygote: the small process that the pause processes of all pods are forked from. It is a fork
//! of the cluster process that has unmapped the memory it inherited.
//!
//! Forking the cluster process itself for each pod would copy the page tables of everything it has
//! mapped, and afterwards every page that it writes to.

use super::{
    clone::clone,
    fd::{reap, socket_pair},
    fork_request::ForkRequest,
    pause_process::{self, PARENT, SOCKET, keep_only},
    scm_rights,
    syscalls::{self, Step},
};
use libc::c_int;
use std::{
    cell::RefCell,
    io,
    os::fd::{AsRawFd, OwnedFd},
};

/// The cluster's handle of the zygote process, which is killed when this is dropped.
pub(super) struct Zygote {
    pid: libc::pid_t,
    socket: OwnedFd,
}

/// Has the zygote fork a pause process, which becomes a child of the cluster process
/// (`CLONE_PARENT`) and gets `socket`. Starts the zygote if none runs; one that does not respond is
/// killed, and the next call starts another.
pub(super) fn fork(
    slot: &RefCell<Option<Zygote>>,
    parent: &OwnedFd,
    request: &ForkRequest,
    socket: &OwnedFd,
) -> io::Result<libc::pid_t> {
    let mut slot = slot.borrow_mut();
    let zygote = match slot.take() {
        Some(zygote) => zygote,
        None => Zygote::start(parent)?,
    };
    zygote.send(request, socket)?;
    let response = zygote.receive()?;
    *slot = Some(zygote);
    match response {
        (syscalls::PID, pid) => Ok(pid),
        (_, errno) => Err(io::Error::from_raw_os_error(errno)),
    }
}

impl Zygote {
    fn start(parent: &OwnedFd) -> io::Result<Self> {
        let (ours, theirs) = socket_pair()?;
        let unneeded = unneeded_memory();
        // SAFETY: the child runs `run` only, which neither allocates nor locks, and never returns.
        let pid = unsafe { clone(0) } as libc::pid_t;
        if pid == 0 {
            run(&unneeded, theirs.as_raw_fd(), parent.as_raw_fd());
        }
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        tracing::debug!(pid, "zygote started");
        Ok(Self { pid, socket: ours })
    }

    #[cfg(test)]
    pub(super) fn pid(&self) -> libc::pid_t {
        self.pid
    }

    fn send(&self, request: &ForkRequest, socket: &OwnedFd) -> io::Result<()> {
        let fds = [socket.as_raw_fd()];
        let sent = scm_rights::send(self.socket.as_raw_fd(), request.bytes(), &fds);
        sent.map(drop).map_err(io::Error::from_raw_os_error)
    }

    fn receive(&self) -> io::Result<(u32, c_int)> {
        let mut message = [0; 8];
        match scm_rights::receive(self.socket.as_raw_fd(), &mut message, &mut []) {
            Ok((8, _)) => Ok(syscalls::parse(message)),
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(errno) => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        // SAFETY: kill takes plain values. `pid` is a child that only the next line reaps, so the
        // number cannot have been given to another process.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        reap(self.pid);
        tracing::debug!(pid = self.pid, "zygote ended");
    }
}

/// The zygote process itself: forks until the cluster closes its end of the socket.
fn run(unneeded: &[(usize, usize)], socket: c_int, parent: c_int) -> ! {
    keep_only(socket, parent);
    syscalls::die_with_parent(PARENT);
    unmap(unneeded.as_ptr(), unneeded.len());
    loop {
        let (mut request, mut socket) = (ForkRequest::EMPTY, [-1]);
        match scm_rights::receive(SOCKET, request.bytes_mut(), &mut socket) {
            Ok((size, 1)) if size == size_of::<ForkRequest>() => {}
            Err(libc::EINTR) => continue,
            _ => syscalls::exit_now(0),
        }
        let [socket] = socket;
        // SAFETY: the child runs `pause_process::run` only, which neither allocates nor locks, and
        // never returns.
        let pid = unsafe { clone(libc::CLONE_PARENT) } as c_int;
        if pid == 0 {
            pause_process::run(&request, socket);
        }
        match pid {
            1.. => syscalls::report(SOCKET, syscalls::PID, pid),
            _ => syscalls::report(SOCKET, Step::Namespaces as u32, syscalls::errno()),
        }
        // SAFETY: `socket` came with the message and belongs to this process; the child has a copy.
        unsafe { libc::close(socket) };
    }
}

/// Unmaps these ranges. The list itself may lie in one of them, so it is copied to the stack first:
/// reading on after its page is unmapped would fault.
fn unmap(list: *const (usize, usize), length: usize) {
    let mut copy = [(0, 0); 128];
    let length = length.min(copy.len());
    for (n, slot) in copy.iter_mut().enumerate().take(length) {
        // SAFETY: the list has at least `length` elements, and nothing is unmapped yet.
        *slot = unsafe { *list.add(n) };
    }
    for (start, size) in copy.iter().take(length) {
        // SAFETY: the ranges hold the heap and the stacks of threads that do not exist in this
        // process; code, static data and the current stack, all that is used from here on, are
        // elsewhere.
        unsafe { libc::munmap(*start as *mut libc::c_void, *size) };
    }
}

/// Finds the heap and the stacks of other threads: private, writable memory of no file that is not
/// one of the small pieces that belong to loaded libraries. The stack of the calling thread, which
/// holds its thread-local data too, is left out.
fn unneeded_memory() -> Vec<(usize, usize)> {
    let here = 0u8;
    let stack = (&raw const here).addr();
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return Vec::new() };
    let mut ranges = unneeded_ranges(&maps, stack);
    // The largest first, because the child has room for a limited number.
    ranges.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    ranges
}

/// Parses `/proc/self/maps`.
fn unneeded_ranges(maps: &str, stack: usize) -> Vec<(usize, usize)> {
    const LARGE: usize = 1 << 20;
    let mut found = Vec::new();
    let mut after_file = false;
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (range, mode) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let name = words.nth(3).unwrap_or_default();
        let follows_file = std::mem::replace(&mut after_file, name.starts_with('/'));
        let Some((start, end)) = range.split_once('-') else { continue };
        let (Ok(start), Ok(end)) =
            (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16))
        else {
            continue;
        };
        let size = end.saturating_sub(start);
        let anonymous = name == "[heap]" || (name.is_empty() && !follows_file && size >= LARGE);
        if mode == "rw-p" && anonymous && !(start..end).contains(&stack) {
            found.push((start, size));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_heap_and_stacks_of_other_threads_are_unmapped() {
        let maps = "\
55d0c0000000-55d0c0100000 r-xp 00000000 08:01 1 /bin/x
55d0c0100000-55d0c0400000 rw-p 00000000 00:00 0
55d0c1000000-55d0c1021000 rw-p 00000000 00:00 0 [heap]
7f0000000000-7f0000400000 rw-p 00000000 00:00 0
7f0000400000-7f0004000000 ---p 00000000 00:00 0
7f1000000000-7f1000200000 rw-p 00000000 00:00 0
7f2000000000-7f2000010000 rw-p 00000000 00:00 0
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0 [stack]
";
        let found = unneeded_ranges(maps, 0x7f1000100000);
        assert_eq!(found, [(0x55d0c1000000, 0x21000), (0x7f0000000000, 0x400000)]);
    }
}

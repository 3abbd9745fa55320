//! The process that the pause processes of pods are forked from: a fork of the cluster process that
//! has given back the memory it inherited. To fork the cluster process itself for each pod would
//! copy the page tables of all it holds, and afterwards each page that it writes to.

use super::{
    pause, rights,
    spawner::{reap, socket_pair},
    sys::{self, Step},
};
use libc::c_int;
use std::{
    cell::RefCell,
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
    slice,
};

/// Where the one socket of these processes is, and the pidfd of the cluster process.
pub(super) const SOCKET: c_int = 3;
pub(super) const PARENT: c_int = 4;

/// The pod whose pause process is asked for. Plain bytes without gaps: it is sent as it is.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub(super) hostname: Text<256>,
    pub(super) uid_map: Text<32>,
    pub(super) gid_map: Text<32>,
    address: [u8; 4],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Text<const MOST: usize> {
    length: u32,
    bytes: [u8; MOST],
}

impl<const MOST: usize> Text<MOST> {
    const EMPTY: Self = Self { length: 0, bytes: [0; MOST] };

    fn new(text: &str) -> io::Result<Self> {
        let mut bytes = [0; MOST];
        let start = bytes.get_mut(..text.len()).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{text:?} is too long"))
        })?;
        start.copy_from_slice(text.as_bytes());
        Ok(Self { length: text.len() as u32, bytes })
    }

    pub(super) fn get(&self) -> &[u8] {
        self.bytes.get(..self.length as usize).unwrap_or_default()
    }
}

impl Wanted {
    const EMPTY: Self =
        Self { hostname: Text::EMPTY, uid_map: Text::EMPTY, gid_map: Text::EMPTY, address: [0; 4] };

    /// `user` and `group` are what the pod's programs see; outside it is this process's own.
    pub(super) fn new(
        hostname: &str,
        address: Ipv4Addr,
        user: u32,
        group: u32,
    ) -> io::Result<Self> {
        // SAFETY: these calls cannot fail.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        Ok(Self {
            hostname: Text::new(hostname)?,
            uid_map: Text::new(&format!("{user} {uid} 1\n"))?,
            gid_map: Text::new(&format!("{group} {gid} 1\n"))?,
            address: address.octets(),
        })
    }

    pub(super) fn address(&self) -> Ipv4Addr {
        self.address.into()
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: no gaps, so each byte is initialised.
        unsafe { slice::from_raw_parts((&raw const *self).cast(), size_of::<Self>()) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the same, and any bytes make a value.
        unsafe { slice::from_raw_parts_mut((&raw mut *self).cast(), size_of::<Self>()) }
    }
}

/// Ends the process when dropped.
pub(super) struct Stem {
    pid: libc::pid_t,
    socket: OwnedFd,
}

/// Forks a process that holds a pod's namespaces, which is a child of the cluster process and has
/// the socket. The stem is made when there is none (any more); one that does not answer ends.
pub(super) fn fork(
    slot: &RefCell<Option<Stem>>,
    parent: &OwnedFd,
    wanted: &Wanted,
    socket: &OwnedFd,
) -> io::Result<libc::pid_t> {
    let mut slot = slot.borrow_mut();
    let stem = match slot.take() {
        Some(stem) => stem,
        None => Stem::start(parent)?,
    };
    stem.ask(wanted, socket)?;
    let answer = stem.answer()?;
    *slot = Some(stem);
    match answer {
        (sys::PID, pid) => Ok(pid),
        (_, error) => Err(io::Error::from_raw_os_error(error)),
    }
}

impl Stem {
    fn start(parent: &OwnedFd) -> io::Result<Self> {
        let (ours, theirs) = socket_pair()?;
        let unneeded = unneeded_memory();
        // SAFETY: the child only runs code of this module and of `pause`, which is safe after fork.
        let pid = unsafe { sys::clone(0) } as libc::pid_t;
        if pid == 0 {
            run(&unneeded, theirs.as_raw_fd(), parent.as_raw_fd());
        }
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { pid, socket: ours })
    }

    #[cfg(test)]
    pub(super) fn pid(&self) -> libc::pid_t {
        self.pid
    }

    fn ask(&self, wanted: &Wanted, socket: &OwnedFd) -> io::Result<()> {
        let sent = rights::send(self.socket.as_raw_fd(), wanted.bytes(), &[socket.as_raw_fd()]);
        sent.map(drop).map_err(io::Error::from_raw_os_error)
    }

    fn answer(&self) -> io::Result<(u32, c_int)> {
        let mut message = [0; 8];
        match rights::receive(self.socket.as_raw_fd(), &mut message, &mut []) {
            Ok((8, _)) => Ok(sys::parse(message)),
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

impl Drop for Stem {
    fn drop(&mut self) {
        // SAFETY: plain call on values; the number is the process's until it is waited for.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        reap(self.pid);
    }
}

/// The stem itself: forks until the cluster closes its end.
fn run(unneeded: &[(usize, usize)], socket: c_int, parent: c_int) -> ! {
    keep_only(socket, parent);
    sys::die_with_parent(PARENT);
    forget_memory(unneeded.as_ptr(), unneeded.len());
    loop {
        let (mut wanted, mut socket) = (Wanted::EMPTY, [-1]);
        match rights::receive(SOCKET, wanted.bytes_mut(), &mut socket) {
            Ok((size, 1)) if size == size_of::<Wanted>() => {}
            Err(libc::EINTR) => continue,
            // SAFETY: ends this process without running anything of the parent's.
            _ => unsafe { libc::_exit(0) },
        }
        let [socket] = socket;
        // SAFETY: the child only runs code of `pause`, as this one does of what is safe after fork.
        let pid = unsafe { sys::clone(libc::CLONE_PARENT) } as c_int;
        if pid == 0 {
            pause::run(&wanted, socket);
        }
        match pid {
            1.. => sys::tell(SOCKET, sys::PID, pid),
            _ => sys::tell(SOCKET, Step::Namespaces as u32, sys::errno()),
        }
        // SAFETY: the child has its own.
        unsafe { libc::close(socket) };
    }
}

/// Makes a fork forget signals, session and files of its parent, but for these.
pub(super) fn keep_only(socket: c_int, parent: c_int) {
    sys::default_signals();
    // SAFETY: plain calls on values; what is closed belongs to the parent, and nothing here uses it.
    unsafe {
        libc::setsid();
        // Above both targets first, because either may already be one of them.
        let high = libc::fcntl(socket, libc::F_DUPFD, 10);
        let high_parent = libc::fcntl(parent, libc::F_DUPFD, 10);
        libc::dup2(high, SOCKET);
        libc::dup2(high_parent, PARENT);
        for fd in 0..3 {
            libc::close(fd);
        }
    }
    sys::close_range(PARENT + 1, libc::c_uint::MAX, 0);
}

/// Unmaps what the parent had. The list is part of that, so it is read before its page goes.
fn forget_memory(list: *const (usize, usize), length: usize) {
    // One after another in place would fault after the page of the list is gone.
    let mut copy = [(0, 0); 128];
    let length = length.min(copy.len());
    for (n, slot) in copy.iter_mut().enumerate().take(length) {
        // SAFETY: the list has at least `length` elements and is still mapped.
        *slot = unsafe { *list.add(n) };
    }
    for (start, size) in copy.iter().take(length) {
        // SAFETY: the ranges hold heap and other threads' stacks, none of which this process uses.
        unsafe { libc::munmap(*start as *mut libc::c_void, *size) };
    }
}

/// Heap and stacks of other threads: private, writable, of no file, and not the small pieces that
/// belong to loaded libraries. The stack of the calling thread, which holds its thread-local
/// data too, stays.
fn unneeded_memory() -> Vec<(usize, usize)> {
    let here = 0u8;
    let stack = (&raw const here).addr();
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return Vec::new() };
    let mut ranges = unneeded(&maps, stack);
    // The largest first: the child has room for so many.
    ranges.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    ranges
}

fn unneeded(maps: &str, stack: usize) -> Vec<(usize, usize)> {
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
    fn only_heap_and_other_stacks_are_given_back() {
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
        let found = unneeded(maps, 0x7f1000100000);
        assert_eq!(found, [(0x55d0c1000000, 0x21000), (0x7f0000000000, 0x400000)]);
    }
}

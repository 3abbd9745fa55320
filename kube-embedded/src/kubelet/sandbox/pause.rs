//! The process that holds a pod's namespaces and makes sockets in them, like the pause container
//! of other runtimes. It is a fork that never executes anything, and gives back the memory it
//! inherited.

use super::{
    LaunchError, Process, Spawner,
    process::Reach,
    spawner::{Thread, owned, pidfd_open},
    sys::{self, Done, Step, check},
};
use libc::c_int;
use std::{
    ffi::CString,
    io, mem,
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
    ptr,
    sync::Arc,
};

/// Most descriptors that fit into one message (SCM_MAX_FD of Linux).
pub(super) const BATCH: usize = 253;
pub(super) const CONNECTING: u8 = 1;
pub(super) const LISTENING: u8 = 2;

/// What a pod's namespaces look like.
pub(crate) struct PauseConfig {
    pub(crate) hostname: String,
    pub(crate) address: Ipv4Addr,
    /// The user id that the programs see; outside it is always the cluster's own.
    pub(crate) user: u32,
    pub(crate) group: u32,
}

/// A pod's namespaces. They end with this.
pub(crate) struct Pause {
    pub(crate) process: Process,
    /// Where sockets are asked for; taken by [`super::sockets`].
    pub(super) socket: Arc<OwnedFd>,
}

/// Sent to the pause process: what to make, how many, and for listeners where.
#[derive(Clone, Copy)]
pub(super) struct Request {
    pub(super) what: u8,
    pub(super) count: u8,
    pub(super) port: u16,
    pub(super) address: Ipv4Addr,
}

impl Request {
    pub(super) fn bytes(self) -> [u8; 8] {
        let ([p, q], [a, b, c, d]) = (self.port.to_be_bytes(), self.address.octets());
        [self.what, self.count, p, q, a, b, c, d]
    }

    fn parse([what, count, p, q, a, b, c, d]: [u8; 8]) -> Self {
        Self { what, count, port: u16::from_be_bytes([p, q]), address: Ipv4Addr::new(a, b, c, d) }
    }
}

struct Prepared {
    hostname: CString,
    uid_map: Vec<u8>,
    gid_map: Vec<u8>,
    address: Ipv4Addr,
    /// Memory of the parent that the child can do without: start and length.
    unneeded: Vec<(usize, usize)>,
}

pub(super) fn start(
    thread: &Thread,
    config: &PauseConfig,
    keep: Arc<Spawner>,
) -> Result<Pause, LaunchError> {
    let failed = |e: io::Error| LaunchError::Step("prepare the pod", e);
    let (ours, theirs) = socket_pair().map_err(failed)?;
    // SAFETY: these calls cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let prepared = Prepared {
        hostname: CString::new(config.hostname.as_bytes()).map_err(|e| failed(e.into()))?,
        uid_map: format!("{} {uid} 1\n", config.user).into_bytes(),
        gid_map: format!("{} {gid} 1\n", config.group).into_bytes(),
        address: config.address,
        unneeded: unneeded_memory(),
    };
    let parent = thread.parent.as_raw_fd();
    // SAFETY: the child only runs code of this module, which is safe after fork.
    let pid = unsafe { sys::clone(0) } as libc::pid_t;
    if pid == 0 {
        run(&prepared, theirs.as_raw_fd(), parent);
    }
    if pid < 0 {
        return Err(LaunchError::Step("fork", io::Error::last_os_error()));
    }
    drop(theirs);
    let pidfd = pidfd_open(pid).map_err(failed)?;
    // Owned from here on, so that every way out ends it.
    let process = Process::new(pid, pidfd, Reach::Alone, None, keep);
    let mut message = [0; 8];
    // SAFETY: the buffer lives through the call.
    let read =
        unsafe { libc::recv(ours.as_raw_fd(), message.as_mut_ptr().cast(), message.len(), 0) };
    match sys::parse(message) {
        (sys::READY, _) if read == 8 => {}
        (step, code) if read == 8 => {
            let step = sys::STEPS.get(step as usize).copied().unwrap_or("prepare the pod");
            return Err(LaunchError::Step(step, io::Error::from_raw_os_error(code)));
        }
        _ => return Err(failed(io::Error::other("the process that holds its namespaces died"))),
    }
    // SAFETY: plain call on a descriptor we own. The other end stays blocking: it is another file.
    unsafe { libc::fcntl(ours.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    Ok(Pause { process, socket: Arc::new(ours) })
}

fn run(prepared: &Prepared, socket: c_int, parent: c_int) -> ! {
    sys::default_signals();
    const SOCKET: c_int = 3;
    const PARENT: c_int = 4;
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
    if let Err((step, error)) = enter(prepared) {
        sys::tell(SOCKET, step as u32, error);
        // SAFETY: ends this process without running anything of the parent's.
        unsafe { libc::_exit(1) };
    }
    sys::die_with_parent(PARENT);
    let unneeded = (prepared.unneeded.as_ptr(), prepared.unneeded.len());
    forget_memory(unneeded);
    sys::tell(SOCKET, sys::READY, 0);
    serve(SOCKET)
}

fn enter(prepared: &Prepared) -> Done {
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
    // SAFETY: plain call on values.
    check(unsafe { libc::unshare(flags) }.into(), Step::Namespaces)?;
    // An ordinary user may map a group only after giving up setgroups.
    sys::write_file(c"/proc/self/setgroups", 0, b"deny");
    for (path, map) in
        [(c"/proc/self/uid_map", &prepared.uid_map), (c"/proc/self/gid_map", &prepared.gid_map)]
    {
        match sys::write_file(path, 0, map) {
            0 => {}
            error => return Err((Step::MapUser, error)),
        }
    }
    // SAFETY: the string and its length belong together. A pod with the host's name still works.
    unsafe { libc::sethostname(prepared.hostname.as_ptr(), prepared.hostname.as_bytes().len()) };
    loopback(prepared.address)?;
    // Any port may be bound, as in other container runtimes; and a port of a closed connection may
    // be used again, because all connections of the pod come from one address. Neither is vital.
    sys::write_file(c"/proc/sys/net/ipv4/ip_unprivileged_port_start", 0, b"0");
    sys::write_file(c"/proc/sys/net/ipv4/tcp_tw_reuse", 0, b"1");
    Ok(())
}

/// Brings `lo` up and gives it the address, with a prefix so short that all pods and Services are
/// local as well: a listener can stand in for any of them, and nothing is ever sent elsewhere.
fn loopback(address: Ipv4Addr) -> Done {
    // SAFETY: requests are initialised in full, and the union fields used belong to the calls.
    unsafe {
        let fd = check(
            libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0).into(),
            Step::LoopbackUp,
        )?;
        let mut request: libc::ifreq = mem::zeroed();
        name(&mut request, b"lo");
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        check(libc::ioctl(fd, libc::SIOCSIFFLAGS as _, &request).into(), Step::LoopbackUp)?;
        for (call, value) in
            [(libc::SIOCSIFADDR, address), (libc::SIOCSIFNETMASK, Ipv4Addr::new(255, 0, 0, 0))]
        {
            let mut request: libc::ifreq = mem::zeroed();
            name(&mut request, b"lo:1");
            let to = socket_address(value, 0);
            ptr::copy_nonoverlapping(
                (&raw const to).cast::<u8>(),
                (&raw mut request.ifr_ifru).cast::<u8>(),
                size_of_val(&to),
            );
            check(libc::ioctl(fd, call as _, &request).into(), Step::Address)?;
        }
        libc::close(fd);
    }
    Ok(())
}

fn name(request: &mut libc::ifreq, name: &[u8]) {
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
}

fn socket_address(address: Ipv4Addr, port: u16) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(address).to_be() },
        sin_zero: [0; 8],
    }
}

/// Unmaps what the parent had. The list is part of that, so it is read before its page goes.
fn forget_memory((list, length): (*const (usize, usize), usize)) {
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

/// Hands out sockets until the parent closes its end.
fn serve(socket: c_int) -> ! {
    loop {
        let mut request = [0u8; 8];
        // SAFETY: the buffer lives through the call.
        let read = unsafe { libc::recv(socket, request.as_mut_ptr().cast(), request.len(), 0) };
        if read < 0 && sys::errno() == libc::EINTR {
            continue;
        }
        if read != 8 {
            // SAFETY: ends this process without running anything of the parent's.
            unsafe { libc::_exit(0) };
        }
        let request = Request::parse(request);
        let mut made = [0; BATCH];
        let wanted =
            if request.what == LISTENING { 1 } else { (request.count as usize).clamp(1, BATCH) };
        let mut count = 0;
        let mut error = 0;
        for slot in made.iter_mut().take(wanted) {
            match make(request) {
                Ok(fd) => *slot = fd,
                Err(e) => {
                    error = e;
                    break;
                }
            }
            count += 1;
        }
        let made = made.get(..count).unwrap_or_default();
        hand_over(socket, error, made);
        for fd in made {
            // SAFETY: the copies in the message are the parent's now.
            unsafe { libc::close(*fd) };
        }
    }
}

fn make(request: Request) -> Result<c_int, c_int> {
    let flags = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: plain calls; pointers are to values that live through them.
    unsafe {
        let fd = libc::socket(libc::AF_INET, flags, 0);
        if fd < 0 {
            return Err(sys::errno());
        }
        if request.what == LISTENING {
            let on: c_int = 1;
            libc::setsockopt(
                fd,
                libc::SOL_SOCKET,
                libc::SO_REUSEADDR,
                (&raw const on).cast(),
                size_of_val(&on) as _,
            );
            let at = socket_address(request.address, request.port);
            if libc::bind(fd, (&raw const at).cast(), size_of_val(&at) as _) < 0
                || libc::listen(fd, 1024) < 0
            {
                let error = sys::errno();
                libc::close(fd);
                return Err(error);
            }
        }
        Ok(fd)
    }
}

fn hand_over(socket: c_int, error: c_int, fds: &[c_int]) {
    let text = sys::message(if fds.is_empty() { 1 } else { 0 }, error);
    let mut control = Control([0; CONTROL]);
    // SAFETY: header, buffers and their sizes belong together, and live through the call.
    unsafe {
        let mut part =
            libc::iovec { iov_base: text.as_ptr().cast_mut().cast(), iov_len: text.len() };
        let mut header: libc::msghdr = mem::zeroed();
        header.msg_iov = &mut part;
        header.msg_iovlen = 1;
        if !fds.is_empty() {
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = libc::CMSG_SPACE(size_of_val(fds) as u32) as _;
            let first = libc::CMSG_FIRSTHDR(&header);
            if !first.is_null() {
                (*first).cmsg_level = libc::SOL_SOCKET;
                (*first).cmsg_type = libc::SCM_RIGHTS;
                (*first).cmsg_len = libc::CMSG_LEN(size_of_val(fds) as u32) as _;
                ptr::copy_nonoverlapping(
                    fds.as_ptr().cast::<u8>(),
                    libc::CMSG_DATA(first),
                    size_of_val(fds),
                );
            }
        }
        libc::sendmsg(socket, &header, libc::MSG_NOSIGNAL);
    }
}

/// Room for the control message of a full batch.
pub(super) const CONTROL: usize = 64 + BATCH * 4;

/// Aligned as `cmsghdr` wants it.
#[repr(align(8))]
pub(super) struct Control(pub(super) [u8; CONTROL]);

fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: the array has room for two.
    if unsafe {
        libc::socketpair(
            libc::AF_UNIX,
            libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC,
            0,
            ends.as_mut_ptr(),
        )
    } < 0
    {
        return Err(io::Error::last_os_error());
    }
    let [a, b] = ends;
    Ok((owned(a)?, owned(b)?))
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

    #[test]
    fn requests_keep_their_content() {
        let request =
            Request { what: LISTENING, count: 7, port: 443, address: Ipv4Addr::new(10, 96, 0, 1) };
        let parsed = Request::parse(request.bytes());
        assert_eq!(
            (parsed.what, parsed.count, parsed.port, parsed.address),
            (LISTENING, 7, 443, Ipv4Addr::new(10, 96, 0, 1))
        );
    }
}

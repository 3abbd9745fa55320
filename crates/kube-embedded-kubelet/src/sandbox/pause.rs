//! The process that holds a pod's namespaces and makes sockets in them, like the pause container
//! of other runtimes. It is a fork that never executes anything, and gives back the memory it
//! inherited.

use super::{
    LaunchError, Process, Spawner,
    process::Reach,
    rights::{self, BATCH},
    spawner::{Thread, pidfd_open, socket_pair},
    stem::{self, PARENT, SOCKET, Wanted},
    sys::{self, Done, Step, check},
};
use libc::c_int;
use std::{
    io, mem,
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
    ptr,
    sync::Arc,
};

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

pub(super) fn start(
    thread: &Thread,
    config: &PauseConfig,
    keep: Arc<Spawner>,
) -> Result<Pause, LaunchError> {
    let failed = |e: io::Error| LaunchError::Step("prepare the pod", e);
    let wanted = Wanted::new(&config.hostname, config.address, config.user, config.group);
    let wanted = wanted.map_err(failed)?;
    // Whoever killed the process that forks shall not end a pod as well. Sockets are not used twice:
    // what it may have forked at the last moment must not be taken for the next one.
    let (pid, ours) = fork(thread, &wanted)
        .or_else(|_| fork(thread, &wanted))
        .map_err(|e| LaunchError::Step("fork", e))?;
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

/// The process, and our end of its socket.
fn fork(thread: &Thread, wanted: &Wanted) -> io::Result<(libc::pid_t, OwnedFd)> {
    let (ours, theirs) = socket_pair()?;
    let pid = stem::fork(&thread.stem, &thread.parent, wanted, &theirs)?;
    Ok((pid, ours))
}

/// The process itself, forked from the stem.
pub(super) fn run(wanted: &Wanted, socket: c_int) -> ! {
    stem::keep_only(socket, PARENT);
    if let Err((step, error)) = enter(wanted) {
        sys::tell(SOCKET, step as u32, error);
        // SAFETY: ends this process without running anything of the parent's.
        unsafe { libc::_exit(1) };
    }
    sys::die_with_parent(PARENT);
    sys::tell(SOCKET, sys::READY, 0);
    serve(SOCKET)
}

fn enter(wanted: &Wanted) -> Done {
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
    // SAFETY: plain call on values.
    check(unsafe { libc::unshare(flags) }.into(), Step::Namespaces)?;
    // An ordinary user may map a group only after giving up setgroups.
    sys::write_file(c"/proc/self/setgroups", 0, b"deny");
    for (path, map) in [
        (c"/proc/self/uid_map", wanted.uid_map.get()),
        (c"/proc/self/gid_map", wanted.gid_map.get()),
    ] {
        match sys::write_file(path, 0, map) {
            0 => {}
            error => return Err((Step::MapUser, error)),
        }
    }
    let hostname = wanted.hostname.get();
    // SAFETY: the string and its length belong together. A pod with the host's name still works.
    unsafe { libc::sethostname(hostname.as_ptr().cast(), hostname.len()) };
    loopback(wanted.address())?;
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
        let text = sys::message(if made.is_empty() { 1 } else { 0 }, error);
        // If it cannot be told, the parent is gone, and so is this process soon.
        let _ = rights::send(socket, &text, made);
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

#[cfg(test)]
mod tests {
    use super::*;

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

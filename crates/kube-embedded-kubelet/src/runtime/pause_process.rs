//! The pause process itself: it holds a pod's namespaces and creates sockets in them. It is forked
//! from the zygote, and never executes a program.

use super::{
    privileges,
    scm_rights::{self, MAX_FDS},
    socket_request::{SocketKind, SocketRequest},
    syscalls::{self, Done, Step, check},
    wire::wire,
};
use libc::c_int;
use std::{ffi::CString, mem, net::Ipv4Addr, ptr};

/// The descriptor of the socket to the cluster, in the zygote and in pause processes.
pub(super) const SOCKET: c_int = 3;
/// The descriptor of the cluster process's pidfd, in the zygote and in pause processes.
pub(super) const PARENT: c_int = 4;

/// A pod whose pause process is wanted.
pub(super) struct PauseRequest {
    pub(super) hostname: CString,
    pub(super) address: u32,
    /// Set if the pod has more ids than that of the cluster.
    pub(super) has_range: bool,
}
wire!(PauseRequest { hostname, address, has_range });

/// Runs in a fork of the zygote, which has `socket` open besides its own.
pub(super) fn run(request: &PauseRequest, socket: c_int) -> ! {
    // SAFETY: the descriptor table is a copy of the zygote's that this process alone uses.
    unsafe {
        libc::dup2(socket, SOCKET);
        for fd in 0..3 {
            libc::close(fd);
        }
    }
    syscalls::close_range(PARENT + 1, libc::c_uint::MAX, 0);
    if let Err((step, error)) = enter_namespaces(request) {
        syscalls::report(SOCKET, step as u32, error);
        syscalls::exit_now(1);
    }
    syscalls::die_with_parent(PARENT);
    syscalls::report(SOCKET, syscalls::READY, 0);
    serve(SOCKET)
}

/// Moves this process into new namespaces and sets them up. The pid and mount namespaces are not
/// among them: each container of the pod has its own.
fn enter_namespaces(request: &PauseRequest) -> Done {
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
    // SAFETY: unshare takes a plain value; this process has one thread, as CLONE_NEWUSER requires.
    check(unsafe { libc::unshare(flags) }.into(), Step::Namespaces)?;
    // An ordinary user may neither map the ids of a process that is not dumpable nor enter its
    // namespaces. There is nothing to read in this one, and no container sees it.
    privileges::set_dumpable(true);
    syscalls::report(SOCKET, syscalls::MAP, 0);
    let mut message = [0; 8];
    // SAFETY: pointer and length are of `message`; the socket is open.
    let read = unsafe { libc::recv(SOCKET, message.as_mut_ptr().cast(), message.len(), 0) };
    if read != 8 {
        syscalls::exit_now(1); // The cluster has reported why, or has died.
    }
    if request.has_range {
        privileges::become_user(0, 0, Some(&[]))?;
        privileges::set_dumpable(true);
    }
    let hostname = request.hostname.as_bytes();
    // SAFETY: pointer and length are of `hostname`. Failure is ignored: a pod with the name of the
    // host still works.
    unsafe { libc::sethostname(hostname.as_ptr().cast(), hostname.len()) };
    set_up_loopback(request.address.into())?;
    // Any port may be bound, as in other container runtimes; and a port of a closed connection may
    // be reused at once, because all connections of the pod come from one address. Neither is vital.
    syscalls::write_file(c"/proc/sys/net/ipv4/ip_unprivileged_port_start", 0, b"0");
    syscalls::write_file(c"/proc/sys/net/ipv4/tcp_tw_reuse", 0, b"1");
    privileges::set_capabilities(0)
}
/// Brings `lo` up and assigns the pod's address to it, with a prefix so short that all pods and
/// Services are local as well: a listener in this namespace can stand in for any of them, and
/// nothing is ever sent elsewhere.
fn set_up_loopback(address: Ipv4Addr) -> Done {
    // SAFETY: `fd` is a socket opened here and closed here. An all-zero ifreq is valid; of its
    // union, each call reads the member that is set before it, and `sockaddr_in` fits into the union
    // because it has the size of `sockaddr`, which is a member.
    unsafe {
        let fd = check(
            libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0).into(),
            Step::LoopbackUp,
        )?;
        let mut request: libc::ifreq = mem::zeroed();
        set_name(&mut request, b"lo");
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        check(libc::ioctl(fd, libc::SIOCSIFFLAGS as _, &request).into(), Step::LoopbackUp)?;
        for (call, value) in
            [(libc::SIOCSIFADDR, address), (libc::SIOCSIFNETMASK, Ipv4Addr::new(255, 0, 0, 0))]
        {
            let mut request: libc::ifreq = mem::zeroed();
            set_name(&mut request, b"lo:1");
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

fn set_name(request: &mut libc::ifreq, name: &[u8]) {
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

/// Serves requests for sockets until the cluster closes its end.
fn serve(socket: c_int) -> ! {
    loop {
        let mut request = [0u8; 8];
        // SAFETY: pointer and length are of `request`; `socket` stays open for the life of this
        // process.
        let read = unsafe { libc::recv(socket, request.as_mut_ptr().cast(), request.len(), 0) };
        if read < 0 && syscalls::errno() == libc::EINTR {
            continue;
        }
        if read != 8 {
            syscalls::exit_now(0);
        }
        let request = SocketRequest::parse(request);
        let mut sockets = [0; MAX_FDS];
        let wanted = match request.kind {
            SocketKind::Listener | SocketKind::Datagram => 1,
            SocketKind::Stream => (request.count as usize).clamp(1, MAX_FDS),
        };
        let (mut count, mut error) = (0, 0);
        for slot in sockets.iter_mut().take(wanted) {
            match create_socket(request) {
                Ok(fd) => *slot = fd,
                Err(errno) => {
                    error = errno;
                    break;
                }
            }
            count += 1;
        }
        let sockets = sockets.get(..count).unwrap_or_default();
        let text = syscalls::message(if sockets.is_empty() { 1 } else { 0 }, error);
        // A failure means that the cluster has died, and the kernel is about to kill this process.
        let _ = scm_rights::send(socket, &text, sockets);
        for fd in sockets {
            // SAFETY: `fd` was opened above; the message holds a reference of its own to the socket.
            unsafe { libc::close(*fd) };
        }
    }
}

fn create_socket(request: SocketRequest) -> Result<c_int, c_int> {
    let kind = match request.kind {
        SocketKind::Stream | SocketKind::Listener => libc::SOCK_STREAM,
        SocketKind::Datagram => libc::SOCK_DGRAM,
    };
    let flags = kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: `fd` is opened here, and either returned or closed; each pointer is passed with the
    // size of the local value that it points to.
    unsafe {
        let fd = libc::socket(libc::AF_INET, flags, 0);
        if fd < 0 {
            return Err(syscalls::errno());
        }
        if request.kind == SocketKind::Stream {
            return Ok(fd);
        }
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
            || request.kind == SocketKind::Listener && libc::listen(fd, 1024) < 0
        {
            let error = syscalls::errno();
            libc::close(fd);
            return Err(error);
        }
        Ok(fd)
    }
}

//! Serves the cluster's requests for sockets, in a process that is in another network namespace.

use super::{
    scm_rights::{self, MAX_FDS},
    socket_request::{SocketKind, SocketRequest},
    syscalls::{self, Done},
};
use libc::c_int;
use std::net::Ipv4Addr;

/// Serves requests for sockets until the cluster closes its end. Requests to link another network
/// namespace, whose descriptor comes along, are served by `link`.
pub(super) fn serve(socket: c_int, mut link: impl FnMut(SocketRequest, c_int) -> Done) -> ! {
    loop {
        let (mut request, mut received) = ([0u8; 8], [-1; 1]);
        let count = match scm_rights::receive(socket, &mut request, &mut received) {
            Ok((8, count)) => count,
            Err(libc::EINTR) => continue,
            _ => syscalls::exit_now(0),
        };
        let request = SocketRequest::parse(request);
        if let ([namespace], 1) = (received, count) {
            let (tag, error) = match link(request, namespace) {
                Ok(()) => (syscalls::READY, 0),
                Err((step, error)) => (step as u32, error),
            };
            // SAFETY: it came with the message and belongs to this process.
            unsafe { libc::close(namespace) };
            syscalls::report(socket, tag, error);
            continue;
        }
        let mut sockets = [0; MAX_FDS];
        let wanted = match request.kind {
            SocketKind::Link => 0,
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
        SocketKind::Datagram | SocketKind::Link => libc::SOCK_DGRAM,
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

fn socket_address(address: Ipv4Addr, port: u16) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(address).to_be() },
        sin_zero: [0; 8],
    }
}

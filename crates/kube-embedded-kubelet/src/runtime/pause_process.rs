//! The pause process itself: it holds a pod's namespaces and creates sockets in them. It is forked
//! from the zygote, and never executes a program.

use super::{
    netlink::{LOOPBACK, Netlink},
    privileges, socket_server,
    syscalls::{self, Done, Step, check},
    wire::wire,
};
use libc::c_int;
use std::ffi::CString;

/// The descriptor of the socket to the cluster, in the zygote and in pause processes.
pub(super) const SOCKET: c_int = 3;
/// The descriptor of the cluster process's pidfd, in the zygote and in pause processes.
pub(super) const PARENT: c_int = 4;

/// A pod whose pause process is wanted.
pub(super) struct PauseRequest {
    pub(super) hostname: CString,
    /// The network that is assigned to `lo`, if the pod is not connected to others by a link.
    pub(super) loopback: Option<(u32, u8)>,
    /// User and group, as the pod's programs see them, if it has no other ids.
    pub(super) only_ids: Option<(u32, u32)>,
    /// Files below `/proc/sys`, and what is written to them.
    pub(super) sysctls: Vec<(CString, CString)>,
}
wire!(PauseRequest { hostname, loopback, only_ids, sysctls });

/// Runs in a fork of the zygote, which has `socket` open besides its own. The pod's user namespace
/// becomes a child of `parent_namespace`, if one is given.
pub(super) fn run(request: &PauseRequest, socket: c_int, parent_namespace: Option<c_int>) -> ! {
    let entered = parent_namespace.map_or(Ok(()), |namespace| {
        // SAFETY: setns takes plain values; this process has one thread, as CLONE_NEWUSER requires.
        check(unsafe { libc::setns(namespace, libc::CLONE_NEWUSER) }.into(), Step::Enter).map(drop)
    });
    keep_only(socket);
    if let Err((step, error)) = entered.and_then(|()| enter_namespaces(request)) {
        syscalls::report(SOCKET, step as u32, error);
        syscalls::exit_now(1);
    }
    syscalls::die_with_parent(PARENT);
    syscalls::report(SOCKET, syscalls::READY, 0);
    socket_server::serve(SOCKET, |_, _| Err((Step::Request, libc::EINVAL)))
}

/// Leaves this process two descriptors: `socket`, as [`SOCKET`], and [`PARENT`].
pub(super) fn keep_only(socket: c_int) {
    // SAFETY: the descriptor table is a copy of the zygote's that this process alone uses.
    unsafe {
        libc::dup2(socket, SOCKET);
        for fd in 0..3 {
            libc::close(fd);
        }
    }
    syscalls::close_range(PARENT + 1, libc::c_uint::MAX, 0);
}

/// Moves this process into new namespaces and sets them up. The pid and mount namespaces are not
/// among them: each container of the pod has its own.
fn enter_namespaces(request: &PauseRequest) -> Done {
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
    match request.only_ids {
        Some(ids) => unshare_as(ids, flags)?,
        None => {
            unshare(flags)?;
            wait_for_map();
            privileges::become_user(0, 0, Some(&[]))?;
            privileges::set_dumpable(true);
        }
    }
    let hostname = request.hostname.as_bytes();
    // SAFETY: pointer and length are of `hostname`. Failure is ignored: a pod with the name of the
    // host still works.
    unsafe { libc::sethostname(hostname.as_ptr().cast(), hostname.len()) };
    set_up_loopback(request.loopback)?;
    // Any port may be bound, as in other container runtimes; and a port of a closed connection may
    // be reused at once, because all connections of the pod come from one address. Neither is vital.
    syscalls::write_file(c"/proc/sys/net/ipv4/ip_unprivileged_port_start", 0, b"0");
    syscalls::write_file(c"/proc/sys/net/ipv4/tcp_tw_reuse", 0, b"1");
    for (path, value) in &request.sysctls {
        match syscalls::write_file(path, 0, value.as_bytes()) {
            0 => {}
            error => return Err((Step::Sysctl, error)),
        }
    }
    privileges::set_capabilities(0)
}

/// Creates namespaces, among them a user namespace.
fn unshare(flags: c_int) -> Done {
    // SAFETY: unshare takes a plain value; this process has one thread, as CLONE_NEWUSER requires.
    check(unsafe { libc::unshare(flags) }.into(), Step::Namespaces)?;
    // An ordinary user may neither map the ids of a process that is not dumpable nor enter its
    // namespaces. There is nothing to read in this one, and no container sees it.
    privileges::set_dumpable(true);
    Ok(())
}

/// Creates namespaces, among them a user namespace in which the ids of this process are these two, and
/// no others exist.
pub(super) fn unshare_as((user, group): (u32, u32), flags: c_int) -> Done {
    // SAFETY: both take no arguments and cannot fail.
    let (own_user, own_group) = unsafe { (libc::geteuid(), libc::getegid()) };
    unshare(flags)?;
    let maps = [
        // An ordinary user may map a group only after giving up setgroups.
        (c"/proc/self/setgroups", "deny".to_owned()),
        (c"/proc/self/uid_map", format!("{user} {own_user} 1\n")),
        (c"/proc/self/gid_map", format!("{group} {own_group} 1\n")),
    ];
    for (path, text) in maps {
        match syscalls::write_file(path, 0, text.as_bytes()) {
            0 => {}
            error => return Err((Step::Map, error)),
        }
    }
    Ok(())
}

/// Waits until the cluster, which has the rights to do so, has mapped the ids of this process.
fn wait_for_map() {
    syscalls::report(SOCKET, syscalls::MAP, 0);
    let mut message = [0; 8];
    // SAFETY: pointer and length are of `message`; the socket is open.
    let read = unsafe { libc::recv(SOCKET, message.as_mut_ptr().cast(), message.len(), 0) };
    if read != 8 {
        syscalls::exit_now(1); // The cluster has reported why, or has died.
    }
}

/// Brings `lo` up and assigns a network to it, if one is given: with a prefix so short that all pods
/// and Services are local as well, a listener in this namespace can stand in for any of them, and
/// nothing is ever sent elsewhere.
fn set_up_loopback(network: Option<(u32, u8)>) -> Done {
    let netlink = Netlink::open(Step::LoopbackUp)?;
    netlink.bring_up(LOOPBACK).map_err(|error| (Step::LoopbackUp, error))?;
    if let Some((address, prefix)) = network {
        let network = (address.into(), prefix);
        netlink.add_address(LOOPBACK, network).map_err(|error| (Step::Address, error))?;
    }
    Ok(())
}

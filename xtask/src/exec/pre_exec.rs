//! Code that runs in a child between `fork` and `exec`: the only unsafe code of this program. Only
//! async-signal-safe calls are allowed there, so these functions make system calls and nothing else.
#![expect(unsafe_code, reason = "`CommandExt::pre_exec` has no safe counterpart")]

use rustix::{
    io::{FdFlags, Result, fcntl_setfd, write},
    mount::{MountPropagationFlags, mount_change},
    process::{Signal, getpid, getppid, set_parent_process_death_signal, setsid},
    thread::{UnshareFlags, unshare_unsafe},
};
use std::{
    io::{self, Write as _},
    os::{
        fd::{BorrowedFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    process::Command,
};

/// Starts the child in a session of its own, without a controlling terminal.
pub(super) fn new_session(command: &mut Command) {
    // SAFETY: `setsid` is a single system call.
    unsafe { command.pre_exec(|| Ok(setsid().map(drop)?)) };
}

/// Has the child write its process id and a newline.
pub(super) fn announce(command: &mut Command, to: OwnedFd) {
    let set_up = move || {
        let mut line = [0; 16];
        let mut rest = &mut line[..];
        writeln!(rest, "{}", getpid().as_raw_pid())?;
        let left = rest.len();
        let end = line.len() - left;
        write(&to, line.get(..end).unwrap_or_default())?;
        Ok(())
    };
    // SAFETY: `set_up` formats a number into memory of its own and makes two system calls; it allocates nothing.
    unsafe { command.pre_exec(set_up) };
}

/// Keeps the child from inheriting these descriptors.
pub(super) fn close_on_exec(command: &mut Command, descriptors: Vec<RawFd>) {
    let set_up = move || {
        for fd in &descriptors {
            // SAFETY: one that is no longer open yields an error, which does not matter.
            let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
            let _ = fcntl_setfd(fd, FdFlags::CLOEXEC);
        }
        Ok(())
    };
    // SAFETY: `set_up` makes system calls and reads memory that is shared until exec; it allocates nothing.
    unsafe { command.pre_exec(set_up) };
}

/// Sends the child `signal` when the thread that spawns it ends. If this process is already dead by
/// the time the kernel records that, the child is not executed at all.
pub(super) fn signal_on_parent_exit(command: &mut Command, signal: Signal) {
    let parent = rustix::process::getpid();
    let set_up = move || {
        set_parent_process_death_signal(Some(signal))?;
        match getppid() == Some(parent) {
            true => Ok(()),
            false => Err(io::ErrorKind::Interrupted.into()),
        }
    };
    // SAFETY: `set_up` makes two system calls; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(set_up) };
}

/// Starts the child in the namespaces that a pod's sandbox needs. Where a security module withholds
/// the rights of the new user namespace, only the mount fails, so it is part of the attempt.
pub(crate) fn enter_pod_namespaces(command: &mut Command) {
    // SAFETY: `enter` makes two system calls; the string is a literal.
    unsafe { command.pre_exec(|| Ok(enter()?)) };
}

fn enter() -> Result<()> {
    let flags = UnshareFlags::NEWUSER
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWNET;
    // SAFETY: the flags do not include `FILES`, which is what makes this call unsafe.
    unsafe { unshare_unsafe(flags) }?;
    mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
}

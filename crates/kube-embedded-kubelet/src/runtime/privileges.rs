//! The rights of a process: ids, capabilities, filters, keyrings. System calls only; see
//! [`super::syscalls`] for the rules. Never libc's functions for ids: they change all threads of the
//! process whose memory they run in.

use super::syscalls::{self, Done, Step, check};
use libc::{c_int, c_ulong, c_void};
use std::ffi::CStr;

/// The highest capability that may exist.
const LAST_CAPABILITY: c_ulong = 63;

/// Changes user, group and, if given, supplementary groups. Capabilities are kept.
pub(super) fn become_user(user: u32, group: u32, groups: Option<&[u32]>) -> Done {
    // SAFETY: pointer and length are of `groups`; the other arguments are plain values.
    unsafe {
        if let Some(groups) = groups {
            let set = libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr());
            check(set, Step::User)?;
        }
        check(libc::syscall(libc::SYS_setresgid, group, group, group), Step::User)?;
        check(libc::syscall(libc::SYS_setresuid, user, user, user), Step::User).map(drop)
    }
}

/// Removes all other capabilities from the bounding set, for good.
pub(super) fn bound_capabilities(kept: u64) -> Done {
    for capability in (0..=LAST_CAPABILITY).filter(|n| kept >> n & 1 == 0) {
        // SAFETY: prctl takes plain values. 0 is a capability that is not in the set, and -1 one that
        // does not exist.
        unsafe {
            if libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) == 1 {
                let dropped = libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
                check(dropped.into(), Step::Capabilities)?;
            }
        }
    }
    Ok(())
}

/// Gives up all other capabilities, and has none inherited.
pub(super) fn set_capabilities(kept: u64) -> Done {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: c_int,
    }
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header { version: VERSION_3, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: header and data have the layout of version 3 of capget(2), and outlive the calls.
    unsafe {
        let read = libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr());
        check(read, Step::Capabilities)?;
        for (data, kept) in data.iter_mut().zip([kept as u32, (kept >> 32) as u32]) {
            data.permitted &= kept;
            data.effective = data.permitted;
            data.inheritable = 0;
        }
        let set = libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr());
        check(set, Step::Capabilities).map(drop)
    }
}

/// Installs a seccomp filter for this thread.
pub(super) fn install_filter(filter: &[libc::sock_filter]) -> Done {
    let program = libc::sock_fprog {
        len: filter.len() as libc::c_ushort,
        filter: filter.as_ptr().cast_mut(),
    };
    let program = (&raw const program).cast::<c_void>();
    // SAFETY: pointer and length are of `filter`, which the kernel copies and does not write to.
    let installed =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, program) };
    check(installed, Step::Seccomp).map(drop)
}

/// Replaces the session keyring by an empty one, so that the keys of the user are not in reach. Fails
/// where the user has too many keyrings (`kernel.keys.maxkeys`), or the kernel has none: the process
/// then keeps what the zygote has, which is a fresh one too.
pub(super) fn join_session_keyring() {
    const JOIN_SESSION_KEYRING: c_int = 1;
    let anonymous = std::ptr::null::<c_void>();
    // SAFETY: keyctl takes a plain value and a null name.
    unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, anonymous) };
}

/// Allows or forbids other processes of the same user to trace this one, to read its memory and to
/// enter its namespaces. A change of ids forbids it too.
pub(super) fn set_dumpable(dumpable: bool) {
    // SAFETY: prctl takes plain values, and cannot fail with these.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, c_ulong::from(dumpable), 0, 0, 0) };
}

/// Has the kernel prefer this process when it has to kill one for its memory. Fails only where it would be
/// spared instead.
pub(super) fn set_oom_score_adj(value: &CStr) {
    // The files of a process that is not dumpable belong to root.
    set_dumpable(true);
    syscalls::write_file(c"/proc/self/oom_score_adj", 0, value.to_bytes());
    set_dumpable(false);
}

/// Returns true if this process runs as root of its user namespace.
pub(super) fn is_root() -> bool {
    // SAFETY: geteuid takes no arguments and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

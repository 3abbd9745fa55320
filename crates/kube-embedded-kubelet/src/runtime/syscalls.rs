//! System calls for code between `fork` and `exec`: no allocation, no locks, no panics.
//!
//! A forked child of a threaded process has a copy of every lock in whatever state it was, so even
//! `malloc` may hang there; and a child started by [`super::clone::clone_vfork`] has no memory of its
//! own at all. Everything here works on memory that was prepared before, and writes to the stack only.

use libc::{c_char, c_int, c_void};
use std::{ffi::CStr, io, mem, ptr};

/// The steps of a child that may fail, as in "failed to ...". A child sends the index.
pub(super) const STEPS: &[&str] = &[
    "execute the program",
    "create user, network, uts and ipc namespaces",
    "map the user into the namespace",
    "bring up the loopback interface of the pod",
    "assign the address of the pod",
    "enter the namespaces of the pod",
    "create mount and pid namespaces",
    "make the mounts private",
    "mount a tmpfs",
    "mount the root file system (overlay)",
    "mount the root file system",
    "change the root",
    "mount /proc",
    "prepare /dev",
    "mount a volume",
    "write a file into the container",
    "change to the working directory",
    "set up the process",
    "make the root file system read-only",
];

/// Index into [`STEPS`].
#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum Step {
    Exec,
    Namespaces,
    MapUser,
    LoopbackUp,
    Address,
    Enter,
    MountNamespace,
    Private,
    Tmpfs,
    Overlay,
    Root,
    Pivot,
    Proc,
    Dev,
    Volume,
    File,
    WorkingDirectory,
    Process,
    ReadOnly,
}

/// Tags of messages that are not failed steps.
pub(super) const READY: u32 = 1000;
pub(super) const PID: u32 = 1001;

/// The outcome of a step in a child: on failure, the step and its `errno`.
pub(super) type Done = Result<(), (Step, c_int)>;

pub(super) fn errno() -> c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

pub(super) fn check(result: libc::c_long, step: Step) -> Result<c_int, (Step, c_int)> {
    if result < 0 { Err((step, errno())) } else { Ok(result as c_int) }
}

/// Encodes a message of eight bytes, which pipes and sockets deliver in one piece.
pub(super) fn message(tag: u32, value: c_int) -> [u8; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (tag.to_ne_bytes(), value.to_ne_bytes());
    [a, b, c, d, e, f, g, h]
}

/// Decodes a message of [`message`].
pub(super) fn parse(message: [u8; 8]) -> (u32, c_int) {
    let [a, b, c, d, e, f, g, h] = message;
    (u32::from_ne_bytes([a, b, c, d]), c_int::from_ne_bytes([e, f, g, h]))
}

/// Sends a message to the cluster. If that fails, the cluster process has died, and this one is
/// about to.
pub(super) fn report(fd: c_int, tag: u32, value: c_int) {
    let bytes = message(tag, value);
    // SAFETY: pointer and length are of `bytes`, which outlives the call.
    unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
}

/// Resets what the Rust runtime and the program set: handlers, which must not run in a child, and
/// the ignored SIGPIPE, which `exec` would pass on to the container.
pub(super) fn default_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL is a valid disposition of every signal, and dispositions are this
        // process's own, because the child was cloned without CLONE_SIGHAND. SIGKILL and SIGSTOP
        // fail with EINVAL, which is fine.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Blocks or unblocks all signals for this thread.
pub(super) fn block_signals(block: bool) {
    // SAFETY: an all-zero sigset_t is a valid value, which sigfillset or sigemptyset initializes
    // before it is used; a null old set is allowed.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        if block {
            libc::sigfillset(&mut set)
        } else {
            libc::sigemptyset(&mut set)
        };
        libc::pthread_sigmask(libc::SIG_SETMASK, &set, ptr::null_mut());
    }
}

/// Has the kernel kill this process when the thread that forked it exits, so that nothing outlives a
/// cluster that was killed. A change of credentials clears the setting, so this comes last; and the
/// parent may have died before the call, which its pidfd shows.
pub(super) fn die_with_parent(parent: c_int) {
    // SAFETY: prctl and _exit take plain values; `poll` outlives the call that is given its address.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        let mut poll = libc::pollfd { fd: parent, events: libc::POLLIN, revents: 0 };
        if libc::poll(&mut poll, 1, 0) == 1 {
            exit_now(1);
        }
    }
}

/// Closes all descriptors from `first` to `last`, or marks them close-on-exec.
pub(super) fn close_range(first: c_int, last: libc::c_uint, flags: libc::c_uint) {
    // SAFETY: only forked children call this, whose descriptor table is a copy of their own, and
    // they use none of the descriptors that are closed.
    unsafe { libc::syscall(libc::SYS_close_range, first as libc::c_uint, last, flags) };
}

/// Ends this process without running destructors or exit handlers, which belong to the parent.
pub(super) fn exit_now(code: c_int) -> ! {
    // SAFETY: _exit takes a plain value and does not return.
    unsafe { libc::_exit(code) }
}

/// Writes a file in one call, as files in `/proc` require, and returns 0 or the `errno`.
pub(super) fn write_file(path: &CStr, flags: c_int, content: &[u8]) -> c_int {
    // SAFETY: `path` is NUL-terminated; pointer and length are of `content`; `fd` was opened here
    // and is closed here.
    unsafe {
        let fd = libc::open(path.as_ptr(), flags | libc::O_WRONLY | libc::O_CLOEXEC, 0o644);
        if fd < 0 {
            return errno();
        }
        let written = libc::write(fd, content.as_ptr().cast(), content.len());
        let error = if written == content.len() as isize { 0 } else { errno() };
        libc::close(fd);
        error
    }
}

/// Creates a directory. Errors are ignored: it may exist, and any other problem fails the step that
/// uses it.
pub(super) fn mkdir(path: &CStr) {
    // SAFETY: `path` is NUL-terminated.
    unsafe { libc::mkdir(path.as_ptr(), 0o755) };
}

pub(super) fn mount(
    source: &CStr,
    target: &CStr,
    kind: Option<&CStr>,
    flags: libc::c_ulong,
    data: Option<&CStr>,
    step: Step,
) -> Done {
    let data = data.map_or(ptr::null(), |d| d.as_ptr().cast::<c_void>());
    let kind = kind.map_or(ptr::null::<c_char>(), CStr::as_ptr);
    // SAFETY: every string is NUL-terminated, or null where mount(2) allows null.
    let result = unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind, flags, data) };
    check(result.into(), step).map(drop)
}

/// Opens a detached copy of the mounts at `path`, or returns -1.
pub(super) fn open_tree(path: &CStr) -> c_int {
    const OPEN_TREE_CLONE: libc::c_uint = 1;
    let flags =
        OPEN_TREE_CLONE | libc::O_CLOEXEC as libc::c_uint | libc::AT_RECURSIVE as libc::c_uint;
    // SAFETY: `path` is NUL-terminated; the other arguments are plain values.
    unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) as c_int }
}

/// Opens a detached copy of the mounts at a path below `root`, or returns -1. Links on the path are
/// followed as long as they stay below `root`, atomically: a container may be exchanging them.
pub(super) fn open_tree_below(root: &CStr, below: &CStr) -> c_int {
    const OPEN_TREE_CLONE: libc::c_uint = 1;
    const ATTEMPTS: u32 = 32;
    // SAFETY: every string is NUL-terminated; `how` is a local value, an all-zero one of which is
    // valid, and its size is passed along; the descriptors are opened and closed here.
    unsafe {
        let root = libc::open(root.as_ptr(), libc::O_PATH | libc::O_CLOEXEC);
        let mut how: libc::open_how = mem::zeroed();
        how.flags = (libc::O_PATH | libc::O_CLOEXEC) as u64;
        how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS;
        let mut path = -1;
        for _ in 0..ATTEMPTS {
            let (how, size) = (&raw const how, size_of::<libc::open_how>());
            path = libc::syscall(libc::SYS_openat2, root, below.as_ptr(), how, size) as c_int;
            // A folder was renamed while `..` in a link was resolved.
            if path >= 0 || errno() != libc::EAGAIN {
                break;
            }
        }
        let flags = OPEN_TREE_CLONE
            | (libc::O_CLOEXEC | libc::AT_RECURSIVE | libc::AT_EMPTY_PATH) as libc::c_uint;
        let tree = if path < 0 {
            -1
        } else {
            libc::syscall(libc::SYS_open_tree, path, c"".as_ptr(), flags) as c_int
        };
        let error = errno();
        libc::close(path);
        libc::close(root);
        *libc::__errno_location() = error;
        tree
    }
}

/// Attaches a detached mount at `target`.
pub(super) fn move_mount(tree: c_int, target: &CStr) -> libc::c_long {
    const FROM_EMPTY_PATH: libc::c_uint = 4;
    // SAFETY: both strings are NUL-terminated; `tree` is a descriptor, which the kernel checks.
    unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree,
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            FROM_EMPTY_PATH,
        )
    }
}

/// Makes a detached mount read-only and keeps its other flags, which a remount would have to repeat
/// exactly.
pub(super) fn set_read_only(tree: c_int) -> libc::c_long {
    #[repr(C)]
    struct MountAttributes {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    const READ_ONLY: u64 = 1;
    let attributes =
        MountAttributes { set: READ_ONLY, clear: 0, propagation: 0, user_namespace: 0 };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: `attributes` has the layout of `struct mount_attr`, its size is passed along, and it
    // outlives the call; the path is NUL-terminated.
    unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree,
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_has_a_description() {
        assert_eq!(STEPS.len(), Step::ReadOnly as usize + 1);
        assert_eq!(parse(message(PID, -5)), (PID, -5));
    }
}

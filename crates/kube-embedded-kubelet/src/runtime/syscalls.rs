//! System calls for code between `fork` and `exec`: no allocation, no locks, no panics.
//!
//! A child started by [`super::clone::clone_vfork`] has no memory of its own, and the locks of its
//! parent in whatever state they were, so even `malloc` may hang there. Everything here works on memory
//! that was prepared before, and writes to the stack only. (A fork of the zygote, which has one thread,
//! may allocate.)

use libc::{c_char, c_int, c_void};
use std::{ffi::CStr, io, mem, ptr};

/// The steps of a child that may fail, as in "failed to ...". A child sends the index.
pub(super) const STEPS: &[&str] = &[
    "execute the program",
    "create user, network, uts and ipc namespaces",
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
    "read the request",
    "hide parts of /proc",
    "set the resource limits",
    "set the user and the groups",
    "drop capabilities",
    "install the seccomp profile",
    "map the user into the namespace",
    "create the network of the cluster",
    "connect the pod to the network of the cluster",
    "set a kernel parameter (securityContext.sysctls)",
];

/// Index into [`STEPS`].
#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum Step {
    Exec,
    Namespaces,
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
    Request,
    Mask,
    Limits,
    User,
    Capabilities,
    Seccomp,
    Map,
    Router,
    Link,
    Sysctl,
}

/// Tags of messages that are not failed steps.
pub(super) const READY: u32 = 1000;
pub(super) const PID: u32 = 1001;
/// A user namespace was created, whose ids have to be mapped.
pub(super) const MAP: u32 = 1002;

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
    // `struct sigaction` of the kernel, whose zeros are SIG_DFL. libc keeps two signals for itself, which a
    // caller of the cluster may have ignored all the same.
    let default = [0_u64; 4];
    for signal in 1..=64 {
        // SAFETY: SIG_DFL is a valid disposition of every signal, and dispositions are this
        // process's own, because the child was cloned without CLONE_SIGHAND. SIGKILL and SIGSTOP
        // fail with EINVAL, which is fine. `default` outlives the call, and a null old action is allowed.
        unsafe {
            let (action, old) = (default.as_ptr(), ptr::null_mut::<c_void>());
            libc::syscall(libc::SYS_rt_sigaction, signal, action, old, size_of::<u64>());
        };
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

/// Writes all of `content` in one call, as for small files, and returns a negative number on failure.
pub(super) fn write_all(fd: c_int, content: &[u8]) -> libc::c_long {
    // SAFETY: pointer and length are of `content`; closing a descriptor takes a plain value.
    unsafe {
        let written = libc::write(fd, content.as_ptr().cast(), content.len());
        libc::close(fd);
        if written == content.len() as isize { 0 } else { -1 }
    }
}

/// Opens `path` as if the current directory were the root, and fails at a magic link.
pub(super) fn open_in_root(path: &CStr, flags: c_int) -> libc::c_long {
    open_at_root(libc::AT_FDCWD, path, flags)
}

/// Opens `path` as if this directory were the root, and fails at a magic link.
pub(super) fn open_at_root(root: c_int, path: &CStr, flags: c_int) -> libc::c_long {
    #[repr(C)]
    struct OpenHow {
        flags: u64,
        mode: u64,
        resolve: u64,
    }
    const RESOLVE_NO_MAGICLINKS: u64 = 2;
    const RESOLVE_IN_ROOT: u64 = 0x10;
    let how = OpenHow {
        flags: (flags | libc::O_CLOEXEC) as u64,
        mode: if flags & libc::O_CREAT != 0 { 0o644 } else { 0 },
        resolve: RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
    };
    loop {
        // SAFETY: `path` is NUL-terminated; `how` has the layout of `struct open_how`, its size is
        // passed along, and it outlives the call.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                root,
                path.as_ptr(),
                &raw const how,
                size_of::<OpenHow>(),
            )
        };
        // Something was mounted or renamed on the machine, so that `..` might have led elsewhere.
        if fd >= 0 || errno() != libc::EAGAIN {
            return fd;
        }
    }
}

pub(super) fn is_directory(fd: c_int) -> bool {
    // SAFETY: an all-zero stat is a valid value, which fstat fills.
    unsafe {
        let mut stat: libc::stat = mem::zeroed();
        libc::fstat(fd, &mut stat) == 0 && stat.st_mode & libc::S_IFMT == libc::S_IFDIR
    }
}

/// Returns true if the current directory can be reached from the root, as that of a container must.
pub(super) fn is_inside_root() -> bool {
    let mut path = [0_u8; libc::PATH_MAX as usize];
    // SAFETY: pointer and length are of `path`. The system call itself, because libc would look for
    // the directory in other ways.
    let read = unsafe { libc::syscall(libc::SYS_getcwd, path.as_mut_ptr(), path.len()) };
    read > 0 && path.first() == Some(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_has_a_description() {
        assert_eq!(STEPS.len(), Step::Sysctl as usize + 1);
        assert_eq!(parse(message(PID, -5)), (PID, -5));
    }
}

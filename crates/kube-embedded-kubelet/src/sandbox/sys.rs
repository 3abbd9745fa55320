//! System calls for code between `fork` and `exec`: no allocation, no locks, no panics.
//!
//! A forked child of a threaded process owns a copy of every lock in whatever state it was, so
//! even `malloc` may hang there; and a child on a [`Stack`] has no memory of its own at all. All
//! that follows works on memory that was prepared before, and writes to the stack only.

use libc::{c_char, c_int, c_void};
use std::{ffi::CStr, io, mem, ptr};

/// The steps that may fail in a child, in words for people. Sent by index over a pipe.
pub(super) const STEPS: &[&str] = &[
    "execute the program",
    "make user, network, uts and ipc namespaces",
    "map the user into the namespace",
    "bring up the loopback interface of the pod",
    "give the pod its address",
    "enter the namespaces of the pod",
    "make mount and pid namespaces",
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
    "protect the root file system",
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

/// Tags of messages besides steps.
pub(super) const READY: u32 = 1000;
pub(super) const PID: u32 = 1001;

pub(super) type Done = Result<(), (Step, c_int)>;

pub(super) fn errno() -> c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

pub(super) fn check(result: libc::c_long, step: Step) -> Result<c_int, (Step, c_int)> {
    if result < 0 { Err((step, errno())) } else { Ok(result as c_int) }
}

/// A message is one write of eight bytes, which pipes and sockets keep whole.
pub(super) fn message(tag: u32, value: c_int) -> [u8; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (tag.to_ne_bytes(), value.to_ne_bytes());
    [a, b, c, d, e, f, g, h]
}

pub(super) fn parse(message: [u8; 8]) -> (u32, c_int) {
    let [a, b, c, d, e, f, g, h] = message;
    (u32::from_ne_bytes([a, b, c, d]), c_int::from_ne_bytes([e, f, g, h]))
}

pub(super) fn tell(fd: c_int, tag: u32, value: c_int) {
    let bytes = message(tag, value);
    // SAFETY: the buffer lives through the call.
    unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
}

/// Undoes what the Rust runtime and the program set: handlers, and the ignored SIGPIPE, which would
/// be inherited through `exec`.
pub(super) fn default_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL is valid for each signal; the two that may not be changed answer EINVAL.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

pub(super) fn mask_signals(block: bool) {
    // SAFETY: the set is initialised by sigfillset or sigemptyset before it is used.
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

/// Asks the kernel to kill this process with the thread that forked it. Credential changes undo it,
/// so it comes last; the parent may have died before, which its pidfd tells.
pub(super) fn die_with_parent(parent: c_int) {
    // SAFETY: plain calls on values; the pollfd lives through the call.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        let mut poll = libc::pollfd { fd: parent, events: libc::POLLIN, revents: 0 };
        if libc::poll(&mut poll, 1, 0) == 1 {
            libc::_exit(1);
        }
    }
}

pub(super) fn close_range(first: c_int, last: libc::c_uint, flags: libc::c_uint) {
    // SAFETY: closes descriptors nobody in this process will use.
    unsafe { libc::syscall(libc::SYS_close_range, first as libc::c_uint, last, flags) };
}

/// `fork` with namespace flags. Not libc's, which knows no flags.
///
/// # Safety
/// The child may only do what is safe after `fork` in a threaded process.
pub(super) unsafe fn clone(flags: c_int) -> libc::c_long {
    let flags = (flags | libc::SIGCHLD) as libc::c_long;
    // SAFETY: without CLONE_VM a null stack means a copy of the caller's, as for fork. All other
    // arguments are unused, so their order, which differs by architecture, does not matter.
    unsafe {
        libc::syscall(
            libc::SYS_clone,
            flags,
            0 as c_int as libc::c_long,
            0 as libc::c_long,
            0 as libc::c_long,
            0 as libc::c_long,
        )
    }
}

/// Where children run that share the memory of their parent.
pub(super) struct Stack(*mut c_void);

// SAFETY: the memory belongs to the stack alone, whichever thread holds it.
unsafe impl Send for Stack {}

impl Stack {
    /// Of which most is never touched.
    const SIZE: usize = 256 << 10;
    /// Below it, so that running over the end is a fault. The largest page there is.
    const GUARD: usize = 64 << 10;

    pub(super) fn new() -> io::Result<Self> {
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: new memory, where the kernel likes; the guard is a part of it.
        unsafe {
            let start = libc::mmap(ptr::null_mut(), Self::SIZE, access, kind, -1, 0);
            if start == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let stack = Self(start);
            if libc::mprotect(start, Self::GUARD, libc::PROT_NONE) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(stack)
        }
    }

    /// Where it begins: stacks grow downwards on everything this runs on.
    fn top(&self) -> *mut c_void {
        self.0.wrapping_byte_add(Self::SIZE)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and no child runs there: whoever starts one waits for it.
        unsafe { libc::munmap(self.0, Self::SIZE) };
    }
}

/// What a child does that shares the memory of its parent.
pub(super) trait Work {
    fn run(&self) -> !;
}

/// `vfork` with namespace flags, onto another stack: nothing of the parent is copied, however large
/// it is. The calling thread waits until the child has executed a program or has ended.
///
/// # Safety
/// The child may only do what is safe after `vfork`: it writes to its stack and nowhere else, and
/// no other child may run there at the same time. Signals must be blocked, or a handler of the
/// parent might run in the child, in the parent's memory.
pub(super) unsafe fn clone_in_place<W: Work>(
    stack: &Stack,
    flags: c_int,
    work: &W,
) -> libc::c_long {
    extern "C" fn begin<W: Work>(work: *mut c_void) -> c_int {
        // SAFETY: made of a reference below, which lives as long as its thread waits.
        unsafe { &*work.cast_const().cast::<W>() }.run()
    }
    let flags = flags | libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the stack is mapped, large enough and aligned to pages; see above for the rest.
    unsafe { libc::clone(begin::<W>, stack.top(), flags, ptr::from_ref(work).cast_mut().cast()) }
        .into()
}

pub(super) fn write_file(path: &CStr, flags: c_int, content: &[u8]) -> c_int {
    // SAFETY: path ends in NUL, the buffer lives through the call, the descriptor is our own.
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

pub(super) fn mkdir(path: &CStr) {
    // SAFETY: path ends in NUL. That it exists is fine, and what else is wrong shows when it is used.
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
    // SAFETY: each string ends in NUL or is null where null is allowed.
    let result = unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind, flags, data) };
    check(result.into(), step).map(drop)
}

/// A detached copy of a mount or a part of one.
pub(super) fn open_tree(path: &CStr) -> c_int {
    const OPEN_TREE_CLONE: libc::c_uint = 1;
    let flags =
        OPEN_TREE_CLONE | libc::O_CLOEXEC as libc::c_uint | libc::AT_RECURSIVE as libc::c_uint;
    // SAFETY: path ends in NUL.
    unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) as c_int }
}

pub(super) fn move_mount(tree: c_int, target: &CStr) -> libc::c_long {
    const FROM_EMPTY_PATH: libc::c_uint = 4;
    // SAFETY: both strings end in NUL.
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

/// Makes a detached mount read-only, whatever else is set on it.
pub(super) fn set_read_only(tree: c_int, path: &CStr) -> libc::c_long {
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
    // SAFETY: the structure has the layout of `struct mount_attr` and lives through the call.
    unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree,
            path.as_ptr(),
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
    fn every_step_has_words() {
        assert_eq!(STEPS.len(), Step::ReadOnly as usize + 1);
        assert_eq!(parse(message(PID, -5)), (PID, -5));
    }
}

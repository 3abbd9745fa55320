//! Mounts that are not attached anywhere yet: the newer interface of the kernel, by which nothing has to
//! be found by a path twice.

use super::syscalls::{Step, check, errno};
use libc::{c_int, c_long, c_uint, c_ulong, c_void};
use std::{ffi::CStr, mem, ptr};

/// Attributes of a mount (`MOUNT_ATTR_*`).
pub(super) const RDONLY: u64 = 1;
pub(super) const NOSUID: u64 = 2;
pub(super) const NODEV: u64 = 4;
pub(super) const NOEXEC: u64 = 8;
const IDMAP: u64 = 0x10_0000;

/// `struct mount_attr`.
#[repr(C)]
#[derive(Default)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Opens a detached copy of the mounts at `path`, or returns -1.
pub(super) fn open_tree(path: &CStr) -> c_int {
    open_tree_from(libc::AT_FDCWD, path, 0)
}

/// Opens a detached copy of the mounts at a path below `root`, or returns -1. Links on the path are
/// followed as long as they stay below `root`, atomically: a container may be exchanging them.
pub(super) fn open_tree_below(root: &CStr, below: &CStr) -> c_int {
    const ATTEMPTS: u32 = 32;
    // SAFETY: both strings are NUL-terminated; an all-zero open_how is valid, and its size is passed
    // along; the descriptors are opened here and closed here.
    unsafe {
        let root = libc::open(root.as_ptr(), libc::O_PATH | libc::O_CLOEXEC);
        let mut how: libc::open_how = mem::zeroed();
        how.flags = (libc::O_PATH | libc::O_CLOEXEC) as u64;
        how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS;
        let (how, size) = (&raw const how, size_of::<libc::open_how>());
        let mut place = -1;
        for _ in 0..ATTEMPTS {
            place = libc::syscall(libc::SYS_openat2, root, below.as_ptr(), how, size) as c_int;
            // A folder was renamed while `..` in a link was resolved.
            if place >= 0 || errno() != libc::EAGAIN {
                break;
            }
        }
        let tree = if place < 0 { -1 } else { open_tree_at(place) };
        let error = errno();
        libc::close(place);
        libc::close(root);
        *libc::__errno_location() = error;
        tree
    }
}

/// Opens a detached copy of the mounts at the place that `fd` is, or returns -1.
pub(super) fn open_tree_at(fd: c_int) -> c_int {
    open_tree_from(fd, c"", libc::AT_EMPTY_PATH)
}

fn open_tree_from(fd: c_int, path: &CStr, flags: c_int) -> c_int {
    const OPEN_TREE_CLONE: c_int = 1;
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC | libc::AT_RECURSIVE | flags;
    // SAFETY: `path` is NUL-terminated; the other arguments are plain values.
    unsafe { libc::syscall(libc::SYS_open_tree, fd, path.as_ptr(), flags as c_uint) as c_int }
}

/// Creates a detached mount of a new file system.
pub(super) fn new_mount(
    kind: &CStr,
    options: &[(&CStr, &CStr)],
    attributes: u64,
    step: Step,
) -> Result<c_int, (Step, c_int)> {
    const CLOSE_ON_EXEC: c_ulong = 1;
    const SET_STRING: c_ulong = 1;
    const CREATE: c_ulong = 6;
    let none = ptr::null::<c_void>();
    // SAFETY: all strings are NUL-terminated, and the others null where fsconfig(2) wants it; `context`
    // is opened here and closed here.
    unsafe {
        let context = check(libc::syscall(libc::SYS_fsopen, kind.as_ptr(), CLOSE_ON_EXEC), step)?;
        let configure = |command: c_ulong, name: *const c_void, value: *const c_void| {
            check(libc::syscall(libc::SYS_fsconfig, context, command, name, value, 0), step)
        };
        for (name, value) in options {
            configure(SET_STRING, name.as_ptr().cast(), value.as_ptr().cast())?;
        }
        configure(CREATE, none, none)?;
        let mount = libc::syscall(libc::SYS_fsmount, context, CLOSE_ON_EXEC, attributes);
        let mount = check(mount, step);
        libc::close(context);
        mount
    }
}

/// Attaches a detached mount at the place that `target` is.
pub(super) fn move_mount(tree: c_int, target: c_int) -> c_long {
    const FROM_AND_TO_EMPTY_PATH: c_uint = 0x44;
    // SAFETY: both strings are NUL-terminated; both descriptors are checked by the kernel.
    unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree,
            c"".as_ptr(),
            target,
            c"".as_ptr(),
            FROM_AND_TO_EMPTY_PATH,
        )
    }
}

/// Adds attributes to detached mounts and keeps the others, which a remount would have to repeat
/// exactly; and separates them from their originals, so that no mount propagates.
pub(super) fn set_mount_attributes(tree: c_int, set: u64) -> c_long {
    let propagation = libc::MS_PRIVATE;
    change(tree, libc::AT_RECURSIVE, MountAttributes { set, propagation, ..Default::default() })
}

/// Makes one mount read-only, and not those below it.
pub(super) fn set_one_mount_read_only(mount: c_int) -> c_long {
    change(mount, 0, MountAttributes { set: RDONLY, ..Default::default() })
}

/// Maps the ids of the files of detached mounts as a user namespace does. Returns a negative number if
/// a file system does not support it.
pub(super) fn map_ids(tree: c_int, user_namespace: c_int) -> c_long {
    let user_namespace = user_namespace as u64;
    let attributes = MountAttributes { set: IDMAP, user_namespace, ..Default::default() };
    change(tree, libc::AT_RECURSIVE, attributes)
}

fn change(mount: c_int, flags: c_int, attributes: MountAttributes) -> c_long {
    // SAFETY: `attributes` has the layout of `struct mount_attr`, its size is passed along, and it
    // outlives the call; the path is NUL-terminated.
    unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount,
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    }
}

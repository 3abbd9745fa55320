//! Builds the root of a container in a new mount namespace and leaves the host's behind. Runs in a
//! child process: only system calls on prepared memory, see [`super::syscalls`].

use super::{
    exec_plan::ContainerPlan,
    syscalls::{self, Done, Step, check},
};
use libc::c_int;
use std::ffi::CStr;

const SAFE: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV;
/// The most volumes that a container can mount. A fixed size, because nothing can be allocated here.
const MAX_VOLUMES: usize = 64;
const MAX_DEVICES: usize = 8;

/// Builds the file system of a container. Afterwards `/` is the container's root, and nothing of the
/// host is mounted except what the plan names.
pub(super) fn build(container: &ContainerPlan) -> Done {
    // Before anything else, or every mount of the container would propagate to the host.
    syscalls::mount(c"none", c"/", None, libc::MS_REC | libc::MS_PRIVATE, None, Step::Private)?;
    // Detached copies are taken while the paths of the host can still be seen; -1 where none is.
    let mut devices = [-1; MAX_DEVICES];
    for (slot, (source, _)) in devices.iter_mut().zip(&container.devices) {
        *slot = syscalls::open_tree(source);
    }
    let mut volumes = [-1; MAX_VOLUMES];
    open_volumes(container, &mut volumes)?;
    mount_root(container)?;
    // Stacks the old root over the new one: "/" is the new one from here on, and the old one stays
    // mounted, because the kernel lets an ordinary user mount /proc only while another /proc is
    // visible.
    // SAFETY: both strings are NUL-terminated.
    let pivoted = unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) };
    check(pivoted, Step::Pivot)?;
    syscalls::mkdir(c"/proc");
    syscalls::mount(c"proc", c"/proc", Some(c"proc"), SAFE | libc::MS_NOEXEC, None, Step::Proc)?;
    create_dev(container, &devices)?;
    write_files(container)?;
    attach_volumes(container, &volumes)?;
    // SAFETY: the string is NUL-terminated. "." is still the old root, which this detaches.
    check(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) }.into(), Step::Pivot)?;
    change_directory(c"/", Step::Pivot)?;
    // A cluster that runs as root may change kernel settings, also from within a namespace.
    for path in [c"/proc/sys", c"/proc/sysrq-trigger"] {
        let tree = syscalls::open_tree(path);
        if tree >= 0 && syscalls::set_read_only(tree) == 0 {
            syscalls::move_mount(tree, path);
        }
    }
    if container.read_only {
        let flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | SAFE;
        syscalls::mount(c"none", c"/", None, flags, None, Step::ReadOnly)?;
    }
    Ok(())
}

fn open_volumes(container: &ContainerPlan, volumes: &mut [c_int; MAX_VOLUMES]) -> Done {
    if container.mounts.len() > MAX_VOLUMES {
        return Err((Step::Volume, libc::E2BIG));
    }
    for (slot, mount) in volumes.iter_mut().zip(&container.mounts) {
        *slot = match &mount.below {
            None => syscalls::open_tree(&mount.source),
            Some(below) => syscalls::open_tree_below(&mount.source, below),
        };
        check((*slot).into(), Step::Volume)?;
        if mount.read_only {
            check(syscalls::set_read_only(*slot), Step::Volume)?;
        }
    }
    Ok(())
}

/// Mounts the root file system below the scratch directory and changes to it.
fn mount_root(container: &ContainerPlan) -> Done {
    syscalls::mount(
        c"tmpfs",
        &container.scratch,
        Some(c"tmpfs"),
        SAFE,
        Some(c"mode=0755"),
        Step::Tmpfs,
    )?;
    change_directory(&container.scratch, Step::Tmpfs)?;
    for directory in [c"upper", c"work", c"root"] {
        syscalls::mkdir(directory);
    }
    if let Some(options) = &container.overlay {
        syscalls::mount(c"overlay", c"root", Some(c"overlay"), SAFE, Some(options), Step::Overlay)?;
    } else if let Some(directory) = &container.directory {
        syscalls::mount(directory, c"root", None, libc::MS_BIND, None, Step::Root)?;
    } else {
        syscalls::mount(c"tmpfs", c"root", Some(c"tmpfs"), SAFE, Some(c"mode=0755"), Step::Tmpfs)?;
    }
    change_directory(c"root", Step::Root)
}

fn write_files(container: &ContainerPlan) -> Done {
    for (path, content) in &container.files {
        let Some((file, parents)) = path.split_last() else { continue };
        parents.iter().for_each(|directory| syscalls::mkdir(directory));
        match syscalls::write_file(file, libc::O_CREAT | libc::O_TRUNC, content) {
            0 => {}
            error => return Err((Step::File, error)),
        }
    }
    Ok(())
}

fn attach_volumes(container: &ContainerPlan, volumes: &[c_int; MAX_VOLUMES]) -> Done {
    for (tree, mount) in volumes.iter().zip(&container.mounts) {
        let Some((target, parents)) = mount.target.split_last() else { continue };
        parents.iter().for_each(|directory| syscalls::mkdir(directory));
        if mount.is_file {
            syscalls::write_file(target, libc::O_CREAT, b"");
        } else {
            syscalls::mkdir(target);
        }
        check(syscalls::move_mount(*tree, target), Step::Volume)?;
    }
    Ok(())
}

fn create_dev(container: &ContainerPlan, devices: &[c_int]) -> Done {
    syscalls::mkdir(c"/dev");
    syscalls::mount(
        c"tmpfs",
        c"/dev",
        Some(c"tmpfs"),
        libc::MS_NOSUID,
        Some(c"mode=0755"),
        Step::Dev,
    )?;
    for (tree, (_, target)) in devices.iter().zip(&container.devices) {
        if *tree >= 0 && syscalls::write_file(target, libc::O_CREAT, b"") == 0 {
            check(syscalls::move_mount(*tree, target), Step::Dev)?;
        }
    }
    let links = [
        (c"/proc/self/fd", c"/dev/fd"),
        (c"/proc/self/fd/0", c"/dev/stdin"),
        (c"/proc/self/fd/1", c"/dev/stdout"),
        (c"/proc/self/fd/2", c"/dev/stderr"),
    ];
    for (to, link) in links {
        // SAFETY: both strings are NUL-terminated. A missing link is not worth failing for.
        unsafe { libc::symlink(to.as_ptr(), link.as_ptr()) };
    }
    // An instance of devpts for the container, so that programs find their terminal by name. Without
    // it, they still have one.
    syscalls::mkdir(c"/dev/pts");
    let options = c"newinstance,ptmxmode=0666,mode=0620";
    let flags = libc::MS_NOSUID | libc::MS_NOEXEC;
    let mounted =
        syscalls::mount(c"devpts", c"/dev/pts", Some(c"devpts"), flags, Some(options), Step::Dev);
    if mounted.is_ok() {
        // SAFETY: both strings are NUL-terminated.
        unsafe { libc::symlink(c"pts/ptmx".as_ptr(), c"/dev/ptmx".as_ptr()) };
    }
    syscalls::mkdir(c"/dev/shm");
    syscalls::mount(
        c"shm",
        c"/dev/shm",
        Some(c"tmpfs"),
        libc::MS_NOSUID | libc::MS_NODEV,
        Some(c"mode=1777"),
        Step::Dev,
    )
}

fn change_directory(directory: &CStr, step: Step) -> Done {
    // SAFETY: the string is NUL-terminated.
    check(unsafe { libc::chdir(directory.as_ptr()) }.into(), step).map(drop)
}

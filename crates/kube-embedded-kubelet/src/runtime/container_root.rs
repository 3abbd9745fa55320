//! Builds the root of a container in a new mount namespace and leaves the host's behind. Runs in a
//! fork of the zygote.
//!
//! Whatever the image or a volume contains may be a trap: every path inside the container is resolved
//! within its root and without following magic links, of which `/proc` is full.

use super::{
    exec_plan::{ContainerPlan, MountPlan},
    in_root,
    mounts::{self, NODEV, NOEXEC, NOSUID, RDONLY},
    syscalls::{self, Done, Step, check},
};
use libc::c_int;
use std::ffi::CStr;

const SAFE: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV;
const DEVICES: [(&CStr, &CStr); 6] = [
    (c"/dev/null", c"null"),
    (c"/dev/zero", c"zero"),
    (c"/dev/full", c"full"),
    (c"/dev/random", c"random"),
    (c"/dev/urandom", c"urandom"),
    (c"/dev/tty", c"tty"),
];
/// The size of `/dev`, which is in memory.
const DEV_SIZE: &CStr = c"67108864";
const DEV_INODES: &CStr = c"16384";
/// What runc does not let containers change (`readonlyPaths`).
const READ_ONLY: [&CStr; 5] =
    [c"/proc/bus", c"/proc/fs", c"/proc/irq", c"/proc/sys", c"/proc/sysrq-trigger"];
/// What runc does not let containers see (`maskedPaths`).
const MASKED: [&CStr; 11] = [
    c"/proc/acpi",
    c"/proc/asound",
    c"/proc/interrupts",
    c"/proc/kcore",
    c"/proc/keys",
    c"/proc/key-users",
    c"/proc/latency_stats",
    c"/proc/sched_debug",
    c"/proc/scsi",
    c"/proc/timer_list",
    c"/proc/timer_stats",
];

/// Detached mounts of what a container gets from the host.
pub(super) struct Trees {
    image: Option<c_int>,
    volumes: Vec<c_int>,
    devices: Vec<(c_int, &'static CStr)>,
}

impl Trees {
    /// Opens everything by the paths of the host. With a user namespace, files appear to belong to the
    /// ids there that they have on the host, where the file system supports that; elsewhere they
    /// belong to nobody.
    pub(super) fn open(
        container: &ContainerPlan,
        user_namespace: Option<c_int>,
    ) -> Result<Self, (Step, c_int)> {
        let prepare = |tree: c_int, attributes: u64, step| {
            check(tree.into(), step)?;
            check(mounts::set_mount_attributes(tree, attributes), step)?;
            if let Some(namespace) = user_namespace {
                mounts::map_ids(tree, namespace);
            }
            Ok(tree)
        };
        let root = container.overlay.as_ref().or(container.directory.as_ref());
        // Only copies are written to.
        let read_only = if container.overlay.is_some() { RDONLY } else { 0 };
        let image =
            root.map(|path| prepare(mounts::open_tree(path), NODEV | read_only, Step::Root));
        let image = image.transpose()?;
        let volumes = container.mounts.iter().map(|mount| {
            let read_only = if mount.read_only { RDONLY } else { 0 };
            let tree = match &mount.below {
                None => mounts::open_tree(&mount.source),
                Some(below) => mounts::open_tree_below(&mount.source, below),
            };
            prepare(tree, read_only | NOSUID | NODEV, Step::Volume)
        });
        let volumes = volumes.collect::<Result<_, _>>()?;
        // A device that the host does not have is missing in the container too.
        let devices = DEVICES.iter().filter_map(|(path, name)| {
            let tree = mounts::open_tree(path);
            (tree >= 0).then_some((tree, *name))
        });
        Ok(Self { image, volumes, devices: devices.collect() })
    }
}

/// Changes to the directory that the root file system is mounted on. The process stays there when it
/// enters namespaces, in which it may not be able to reach it by its path.
pub(super) fn enter_scratch(container: &ContainerPlan) -> Done {
    // SAFETY: the string is NUL-terminated.
    check(unsafe { libc::chdir(container.scratch.as_ptr()) }.into(), Step::Tmpfs).map(drop)
}

/// Builds the file system of a container. Afterwards `/` is the container's root, and nothing of the
/// host is mounted except what the plan names.
pub(super) fn build(container: &ContainerPlan, trees: Option<Trees>) -> Done {
    // Before anything else, or every mount of the container would propagate to the host.
    syscalls::mount(c"none", c"/", None, libc::MS_REC | libc::MS_PRIVATE, None, Step::Private)?;
    // Taken while the paths of the host can still be seen.
    let trees = trees.map_or_else(|| Trees::open(container, None), Ok)?;
    mount_root(container, &trees)?;
    // Stacks the old root over the new one: "/" is the new one from here on, and the old one stays
    // mounted, because the kernel lets an ordinary user mount /proc only while another /proc is
    // visible.
    // SAFETY: both strings are NUL-terminated.
    let pivoted = unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) };
    check(pivoted, Step::Pivot)?;
    let proc = mounts::new_mount(c"proc", &[], SAFE_ATTRIBUTES | NOEXEC, Step::Proc)?;
    // SAFETY: the string is NUL-terminated. "." is still the old root, which this detaches, before
    // any path of the container is used that could lead there.
    check(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) }.into(), Step::Pivot)?;
    change_directory(c"/", Step::Pivot)?;
    attach(proc, c"/proc", Step::Proc)?;
    create_dev(container, &trees)?;
    for (path, content) in &container.files {
        let file = in_root::create_file(path, Step::File)?;
        check(syscalls::write_all(file, content), Step::File)?;
    }
    for (tree, mount) in trees.volumes.iter().zip(&container.mounts) {
        attach_volume(*tree, mount)?;
    }
    hide_proc()?;
    if container.read_only {
        let root = in_root::open(c"/", libc::O_PATH, Step::ReadOnly)?;
        check(mounts::set_one_mount_read_only(root), Step::ReadOnly)?;
    }
    Ok(())
}

const SAFE_ATTRIBUTES: u64 = NOSUID | NODEV;

/// Mounts the root file system over the scratch directory, in which this process is, and changes to it.
fn mount_root(container: &ContainerPlan, trees: &Trees) -> Done {
    let options: [(&CStr, &CStr); 3] =
        [(c"mode", c"0755"), (c"size", &container.size), (c"nr_inodes", &container.inodes)];
    let tmpfs = mounts::new_mount(c"tmpfs", &options, SAFE_ATTRIBUTES, Step::Tmpfs)?;
    check(mounts::move_mount(tmpfs, libc::AT_FDCWD), Step::Tmpfs)?;
    enter(tmpfs, Step::Tmpfs)?;
    for directory in [c"upper", c"work", c"lower", c"root"] {
        syscalls::mkdir(directory);
    }
    let root = match (&container.overlay, trees.image) {
        (Some(_), Some(image)) => {
            attach_at(image, c"lower", Step::Root)?;
            // `userxattr` is what allows an ordinary user to mount one.
            let options = c"userxattr,upperdir=upper,workdir=work,lowerdir=lower";
            let kind = Some(c"overlay");
            syscalls::mount(
                c"overlay",
                c"root",
                kind,
                libc::MS_NODEV,
                Some(options),
                Step::Overlay,
            )?;
            return change_directory(c"root", Step::Root);
        }
        (None, Some(directory)) => directory,
        _ => mounts::new_mount(c"tmpfs", &options, SAFE_ATTRIBUTES, Step::Tmpfs)?,
    };
    attach_at(root, c"root", Step::Root)?;
    enter(root, Step::Root)
}

/// Attaches a volume, at a directory or file that is created if it does not exist.
fn attach_volume(tree: c_int, mount: &MountPlan) -> Done {
    let target = if mount.is_file {
        in_root::existing_or_new_file(&mount.target, Step::Volume)?
    } else {
        in_root::create_directories(&mount.target, Step::Volume)?
    };
    check(mounts::move_mount(tree, target), Step::Volume).map(drop)
}

fn create_dev(container: &ContainerPlan, trees: &Trees) -> Done {
    // As containerd.
    let options = [(c"mode", c"0755"), (c"size", DEV_SIZE), (c"nr_inodes", DEV_INODES)];
    let dev = mounts::new_mount(c"tmpfs", &options, NOSUID, Step::Dev)?;
    attach(dev, c"/dev", Step::Dev)?;
    // The container has not run yet, so this directory contains what is created here and nothing else.
    enter(dev, Step::Dev)?;
    for (tree, name) in &trees.devices {
        if syscalls::write_file(name, libc::O_CREAT, b"") == 0 {
            attach_at(*tree, name, Step::Dev)?;
        }
    }
    let links = [
        (c"/proc/self/fd", c"fd"),
        (c"/proc/self/fd/0", c"stdin"),
        (c"/proc/self/fd/1", c"stdout"),
        (c"/proc/self/fd/2", c"stderr"),
    ];
    for (to, link) in links {
        // SAFETY: both strings are NUL-terminated. A missing link is not worth failing for.
        unsafe { libc::symlink(to.as_ptr(), link.as_ptr()) };
    }
    // An instance of devpts for the container, so that programs find their terminal by name. Without
    // it, they still have one.
    syscalls::mkdir(c"pts");
    let flags = libc::MS_NOSUID | libc::MS_NOEXEC;
    let options = Some(container.terminals.as_c_str());
    if syscalls::mount(c"devpts", c"pts", Some(c"devpts"), flags, options, Step::Dev).is_ok() {
        // SAFETY: both strings are NUL-terminated.
        unsafe { libc::symlink(c"pts/ptmx".as_ptr(), c"ptmx".as_ptr()) };
    }
    syscalls::mkdir(c"shm");
    let options = Some(c"mode=1777,size=67108864,nr_inodes=16384");
    syscalls::mount(c"shm", c"shm", Some(c"tmpfs"), SAFE | libc::MS_NOEXEC, options, Step::Dev)?;
    change_directory(c"/", Step::Dev)
}

/// Makes parts of `/proc` read-only or invisible. A container cannot undo it: that would take
/// CAP_SYS_ADMIN, which none has, or a user namespace of its own, in which mounts are locked.
fn hide_proc() -> Done {
    for path in READ_ONLY {
        let Some(place) = open_if_exists(path)? else { continue };
        let tree = check(mounts::open_tree_at(place).into(), Step::Mask)?;
        check(mounts::set_mount_attributes(tree, RDONLY), Step::Mask)?;
        check(mounts::move_mount(tree, place), Step::Mask)?;
    }
    for path in MASKED {
        let Some(place) = open_if_exists(path)? else { continue };
        let cover = if syscalls::is_directory(place) {
            let attributes = SAFE_ATTRIBUTES | RDONLY;
            mounts::new_mount(c"tmpfs", &[(c"mode", c"0555")], attributes, Step::Mask)?
        } else {
            check(mounts::open_tree(c"/dev/null").into(), Step::Mask)?
        };
        check(mounts::move_mount(cover, place), Step::Mask)?;
    }
    Ok(())
}

fn open_if_exists(path: &CStr) -> Result<Option<c_int>, (Step, c_int)> {
    match in_root::open(path, libc::O_PATH, Step::Mask) {
        Ok(place) => Ok(Some(place)),
        Err((_, libc::ENOENT | libc::ENOTDIR)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Attaches a detached mount at a directory of the container, which must not be a link: those that
/// `/proc` and `/dev` are mounted on decide what all other paths mean.
fn attach(tree: c_int, directory: &CStr, step: Step) -> Done {
    syscalls::mkdir(directory);
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let place = in_root::open(directory, flags, step)?;
    check(mounts::move_mount(tree, place), step).map(drop)
}

/// Attaches a detached mount at a name in the current directory.
fn attach_at(tree: c_int, name: &CStr, step: Step) -> Done {
    // SAFETY: the string is NUL-terminated.
    let place =
        unsafe { libc::open(name.as_ptr(), libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC) };
    check(place.into(), step)?;
    check(mounts::move_mount(tree, place), step).map(drop)
}

fn enter(directory: c_int, step: Step) -> Done {
    // SAFETY: fchdir takes a plain value.
    check(unsafe { libc::fchdir(directory) }.into(), step).map(drop)
}

fn change_directory(directory: &CStr, step: Step) -> Done {
    // SAFETY: the string is NUL-terminated.
    check(unsafe { libc::chdir(directory.as_ptr()) }.into(), step).map(drop)
}

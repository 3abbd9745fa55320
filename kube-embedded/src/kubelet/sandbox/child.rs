//! What happens between `fork` and `exec`. Only system calls on prepared memory, see [`super::sys`].

use super::{
    prepared::{Prepared, PreparedContainer},
    sys::{self, Done, Step, check},
};
use libc::c_int;
use std::ffi::CStr;

/// Descriptors a child works with; all are at least 3.
#[derive(Clone, Copy)]
pub(super) struct Descriptors {
    pub(super) report: c_int,
    pub(super) stdin: c_int,
    pub(super) stdout: c_int,
    pub(super) stderr: c_int,
    /// Whether these are a terminal, which the program's session shall own.
    pub(super) terminal: bool,
    /// Pidfd of the cluster process.
    pub(super) parent: c_int,
    /// Pidfd of the process whose namespaces are entered.
    pub(super) join: c_int,
}

/// The first child. Becomes the program itself, or starts it inside namespaces as a sibling.
pub(super) fn run(prepared: &Prepared, fds: Descriptors, limit: libc::rlimit) -> ! {
    sys::default_signals();
    let result = match (fds.join, &prepared.container) {
        (-1, _) => become_program(prepared, fds, limit),
        (_, Some(_)) => {
            let joined =
                libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
            inside(prepared, fds, limit, joined, libc::CLONE_NEWNS | libc::CLONE_NEWPID)
        }
        (_, None) => {
            let joined =
                libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
            inside(prepared, fds, limit, joined | libc::CLONE_NEWNS | libc::CLONE_NEWPID, 0)
        }
    };
    if let Err((step, error)) = result {
        sys::tell(fds.report, step as u32, error);
    }
    // SAFETY: ends this process without running anything of the parent's.
    unsafe { libc::_exit(127) }
}

/// Entering a pid namespace takes effect for children only, hence the second fork; CLONE_PARENT
/// makes the child one of the cluster process, so that nothing has to wait in between.
fn inside(
    prepared: &Prepared,
    fds: Descriptors,
    limit: libc::rlimit,
    enter: c_int,
    make: c_int,
) -> Done {
    // SAFETY: plain calls; the child below only runs code of this module.
    unsafe {
        check(libc::setns(fds.join, enter).into(), Step::Enter)?;
        let pid = check(sys::clone(make | libc::CLONE_PARENT), Step::MountNamespace)?;
        if pid != 0 {
            sys::tell(fds.report, sys::PID, pid);
            libc::_exit(0);
        }
    }
    if let Some(container) = &prepared.container {
        file_system(container)?;
    }
    become_program(prepared, fds, limit)
}

fn become_program(prepared: &Prepared, fds: Descriptors, limit: libc::rlimit) -> Done {
    // SAFETY: plain calls on values and prepared memory.
    unsafe {
        libc::setsid();
        libc::umask(0o022);
        for (from, to) in [(fds.stdin, 0), (fds.stdout, 1), (fds.stderr, 2)] {
            check(libc::dup2(from, to).into(), Step::Process)?;
        }
        if fds.terminal {
            libc::ioctl(0, libc::TIOCSCTTY, 0);
        }
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        if prepared.container.is_some() {
            prepared.cwd.iter().for_each(|folder| sys::mkdir(folder));
        }
        if let Some(cwd) = prepared.cwd.last() {
            check(libc::chdir(cwd.as_ptr()).into(), Step::WorkingDirectory)?;
        }
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into(), Step::Process)?;
        sys::mask_signals(false);
        sys::die_with_parent(fds.parent);
        if prepared.programs.is_empty() {
            sys::tell(fds.report, sys::READY, 0);
            libc::_exit(0);
        }
        // Whatever was opened without CLOEXEC elsewhere in the process is no business of a container.
        sys::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
        let mut worst = libc::ENOENT;
        for program in &prepared.programs {
            libc::execve(program.as_ptr(), prepared.argv.as_ptr(), prepared.envp.as_ptr());
            let error = sys::errno();
            if error != libc::ENOENT && error != libc::ENOTDIR {
                worst = error;
            }
        }
        Err((Step::Exec, worst))
    }
}

/// Builds the container's root and leaves the host's behind.
fn file_system(container: &PreparedContainer) -> Done {
    const SAFE: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV;
    sys::mount(c"none", c"/", None, libc::MS_REC | libc::MS_PRIVATE, None, Step::Private)?;
    // Detached copies are taken while the host's paths can still be seen; -1 where there is none.
    let mut devices = [-1; 8];
    for (slot, (source, _)) in devices.iter_mut().zip(&container.devices) {
        *slot = sys::open_tree(source);
    }
    // A fixed size, because nothing can be allocated here.
    let mut volumes = [-1; 64];
    if container.mounts.len() > volumes.len() {
        return Err((Step::Volume, libc::E2BIG));
    }
    for (slot, mount) in volumes.iter_mut().zip(&container.mounts) {
        *slot = sys::open_tree(&mount.source);
        check((*slot).into(), Step::Volume)?;
        if mount.read_only {
            check(sys::set_read_only(*slot, c""), Step::Volume)?;
        }
    }
    sys::mount(
        c"tmpfs",
        &container.scratch,
        Some(c"tmpfs"),
        SAFE,
        Some(c"mode=0755"),
        Step::Tmpfs,
    )?;
    change_to(&container.scratch, Step::Tmpfs)?;
    for folder in [c"upper", c"work", c"root"] {
        sys::mkdir(folder);
    }
    if let Some(options) = &container.overlay {
        sys::mount(c"overlay", c"root", Some(c"overlay"), SAFE, Some(options), Step::Overlay)?;
    } else if let Some(folder) = &container.folder {
        sys::mount(folder, c"root", None, libc::MS_BIND, None, Step::Root)?;
    } else {
        sys::mount(c"tmpfs", c"root", Some(c"tmpfs"), SAFE, Some(c"mode=0755"), Step::Tmpfs)?;
    }
    change_to(c"root", Step::Root)?;
    // Stacks the old root over the new one: "/" is the new one from here on, and the old one stays
    // mounted, which the kernel wants to see before it lets an ordinary user mount /proc.
    // SAFETY: both strings end in NUL.
    check(
        unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) },
        Step::Pivot,
    )?;
    sys::mkdir(c"/proc");
    sys::mount(c"proc", c"/proc", Some(c"proc"), SAFE | libc::MS_NOEXEC, None, Step::Proc)?;
    device_folder(container, &devices)?;
    for (chain, content) in &container.files {
        let Some((file, above)) = chain.split_last() else { continue };
        above.iter().for_each(|folder| sys::mkdir(folder));
        match sys::write_file(file, libc::O_CREAT | libc::O_TRUNC, content) {
            0 => {}
            error => return Err((Step::File, error)),
        }
    }
    for (tree, mount) in volumes.iter().zip(&container.mounts) {
        let Some((target, above)) = mount.target.split_last() else { continue };
        above.iter().for_each(|folder| sys::mkdir(folder));
        if mount.is_file {
            sys::write_file(target, libc::O_CREAT, b"");
        } else {
            sys::mkdir(target);
        }
        check(sys::move_mount(*tree, target), Step::Volume)?;
    }
    // SAFETY: the string ends in NUL.
    check(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) }.into(), Step::Pivot)?;
    change_to(c"/", Step::Pivot)?;
    // A cluster that runs as root has root's rights on kernel settings, also in a namespace.
    for path in [c"/proc/sys", c"/proc/sysrq-trigger"] {
        let tree = sys::open_tree(path);
        if tree >= 0 && sys::set_read_only(tree, c"") == 0 {
            sys::move_mount(tree, path);
        }
    }
    if container.read_only {
        let flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | SAFE;
        sys::mount(c"none", c"/", None, flags, None, Step::ReadOnly)?;
    }
    Ok(())
}

fn device_folder(container: &PreparedContainer, devices: &[c_int]) -> Done {
    sys::mkdir(c"/dev");
    sys::mount(c"tmpfs", c"/dev", Some(c"tmpfs"), libc::MS_NOSUID, Some(c"mode=0755"), Step::Dev)?;
    for (tree, (_, target)) in devices.iter().zip(&container.devices) {
        if *tree >= 0 && sys::write_file(target, libc::O_CREAT, b"") == 0 {
            check(sys::move_mount(*tree, target), Step::Dev)?;
        }
    }
    let links = [
        (c"/proc/self/fd", c"/dev/fd"),
        (c"/proc/self/fd/0", c"/dev/stdin"),
        (c"/proc/self/fd/1", c"/dev/stdout"),
        (c"/proc/self/fd/2", c"/dev/stderr"),
    ];
    for (to, link) in links {
        // SAFETY: both strings end in NUL; a missing link is not worth failing for.
        unsafe { libc::symlink(to.as_ptr(), link.as_ptr()) };
    }
    // Terminals of its own, so that programs find theirs by name. Without, they still have one.
    sys::mkdir(c"/dev/pts");
    let options = c"newinstance,ptmxmode=0666,mode=0620";
    let flags = libc::MS_NOSUID | libc::MS_NOEXEC;
    if sys::mount(c"devpts", c"/dev/pts", Some(c"devpts"), flags, Some(options), Step::Dev).is_ok()
    {
        // SAFETY: both strings end in NUL.
        unsafe { libc::symlink(c"pts/ptmx".as_ptr(), c"/dev/ptmx".as_ptr()) };
    }
    sys::mkdir(c"/dev/shm");
    sys::mount(
        c"shm",
        c"/dev/shm",
        Some(c"tmpfs"),
        libc::MS_NOSUID | libc::MS_NODEV,
        Some(c"mode=1777"),
        Step::Dev,
    )
}

fn change_to(folder: &CStr, step: Step) -> Done {
    // SAFETY: the string ends in NUL.
    check(unsafe { libc::chdir(folder.as_ptr()) }.into(), step).map(drop)
}

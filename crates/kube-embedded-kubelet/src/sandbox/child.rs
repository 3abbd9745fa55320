//! What happens between `fork` and `exec`. Only system calls on prepared memory, see [`super::sys`].
//!
//! The memory is that of the cluster process itself: copying the page tables of a large process, and
//! then each page that it writes to, took longer than all the rest of starting a program.

use super::{
    prepared::{Prepared, PreparedContainer},
    sys::{self, Done, Stack, Step, Work, check},
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
pub(super) struct First<'a> {
    pub(super) second: Second<'a>,
    /// For the second child, while the first one waits on its own.
    pub(super) stack: &'a Stack,
}

/// The process that becomes the program.
#[derive(Clone, Copy)]
pub(super) struct Second<'a> {
    pub(super) prepared: &'a Prepared,
    pub(super) fds: Descriptors,
    pub(super) limit: libc::rlimit,
}

impl Work for First<'_> {
    fn run(&self) -> ! {
        sys::default_signals();
        let Second { prepared, fds, .. } = self.second;
        let joined =
            libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
        let result = match (fds.join, &prepared.container) {
            (-1, _) => self.second.become_program(),
            (_, Some(_)) => self.inside(joined, libc::CLONE_NEWNS | libc::CLONE_NEWPID),
            (_, None) => self.inside(joined | libc::CLONE_NEWNS | libc::CLONE_NEWPID, 0),
        };
        end(fds, result)
    }
}

impl First<'_> {
    /// Entering a pid namespace takes effect for children only, hence the second child; CLONE_PARENT
    /// makes it one of the cluster process, so that nothing has to wait in between.
    fn inside(&self, enter: c_int, make: c_int) -> Done {
        let fds = self.second.fds;
        let flags = make | libc::CLONE_PARENT;
        // SAFETY: plain calls; the second child only runs code of this module.
        let pid = unsafe {
            check(libc::setns(fds.join, enter).into(), Step::Enter)?;
            match self.second.prepared.container {
                Some(_) => sys::clone_in_place(self.stack, flags, &self.second),
                // Those who run in the container already see this one, and might write to memory
                // that it shared with the cluster. So it gets a copy.
                None => match sys::clone(flags) {
                    0 => self.second.run(),
                    pid => pid,
                },
            }
        };
        sys::tell(fds.report, sys::PID, check(pid, Step::MountNamespace)?);
        // SAFETY: ends this process without running anything of the parent's.
        unsafe { libc::_exit(0) }
    }
}

impl Work for Second<'_> {
    fn run(&self) -> ! {
        let built = self.prepared.container.as_ref().map_or(Ok(()), file_system);
        end(self.fds, built.and_then(|()| self.become_program()))
    }
}

/// Tells what went wrong.
fn end(fds: Descriptors, result: Done) -> ! {
    if let Err((step, error)) = result {
        sys::tell(fds.report, step as u32, error);
    }
    // SAFETY: ends this process without running anything of the parent's.
    unsafe { libc::_exit(127) }
}

impl Second<'_> {
    fn become_program(&self) -> Done {
        let Self { prepared, fds, limit } = self;
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
            libc::setrlimit(libc::RLIMIT_NOFILE, limit);
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

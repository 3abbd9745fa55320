//! The child process between `clone` and `exec`. Only system calls on memory that was prepared
//! before ([`super::exec_plan`]); see [`super::syscalls`] for the rules.
//!
//! The memory is that of the cluster process itself ([`clone_vfork`]).

use super::{
    clone::{ChildMain, Stack, clone, clone_vfork},
    container_root,
    exec_plan::ExecPlan,
    syscalls::{self, Done, Step, check},
};
use libc::c_int;

/// The descriptors that a child works with. All are at least 3, so that installing 0, 1 and 2 does
/// not overwrite one of them.
#[derive(Clone, Copy)]
pub(super) struct Descriptors {
    /// The pipe to report failures and pids on. It closes on exec, which reports success.
    pub(super) report: c_int,
    pub(super) stdin: c_int,
    pub(super) stdout: c_int,
    pub(super) stderr: c_int,
    /// Set if the three are a terminal, which becomes the controlling terminal of the session.
    pub(super) terminal: bool,
    /// A pidfd of the cluster process.
    pub(super) parent: c_int,
    /// A pidfd of the process whose namespaces are entered, or -1.
    pub(super) join: c_int,
}

/// The first child: becomes the program itself, or enters namespaces and starts the second child as
/// its sibling.
pub(super) struct FirstChild<'a> {
    pub(super) second: SecondChild<'a>,
    /// The stack of the second child, while the first is suspended on its own.
    pub(super) stack: &'a Stack,
}

/// The process that becomes the program.
#[derive(Clone, Copy)]
pub(super) struct SecondChild<'a> {
    pub(super) plan: &'a ExecPlan,
    pub(super) fds: Descriptors,
    /// The limit on open files, as it was before the cluster raised its own.
    pub(super) limit: libc::rlimit,
}

impl ChildMain for FirstChild<'_> {
    fn run(&self) -> ! {
        syscalls::default_signals();
        let SecondChild { plan, fds, .. } = self.second;
        // The user namespace is entered along with the others, in one call: only its rights allow
        // entering the rest.
        let of_pod =
            libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
        let of_container = libc::CLONE_NEWNS | libc::CLONE_NEWPID;
        let result = match (fds.join, &plan.container) {
            (-1, _) => self.second.become_program(),
            (_, Some(_)) => self.enter(of_pod, of_container),
            (_, None) => self.enter(of_pod | of_container, 0),
        };
        report_and_exit(fds, result)
    }
}

impl FirstChild<'_> {
    /// Enters the namespaces of `join` and starts the second child there, in new namespaces as
    /// `create` says. Entering a pid namespace takes effect for children only, hence the second
    /// child; `CLONE_PARENT` makes it a child of the cluster process, so that nothing has to stay in
    /// between to wait for it.
    fn enter(&self, join: c_int, create: c_int) -> Done {
        let fds = self.second.fds;
        let flags = create | libc::CLONE_PARENT;
        // SAFETY: `fds.join` is a pidfd that the forking thread holds open while this child runs. `self.stack` has no child on it: the one forking thread starts one at a time. This
        // child has all signals blocked, as its parent had. The second child runs `SecondChild::run`
        // only, which keeps to system calls, and this one is suspended until it is done or, without
        // CLONE_VM, works on a copy.
        let pid = unsafe {
            check(libc::setns(fds.join, join).into(), Step::Enter)?;
            match self.second.plan.container {
                Some(_) => clone_vfork(self.stack, flags, &self.second),
                // Processes of the running container can see this child at once, trace it, and write
                // to its memory, which must not be the cluster's. So it gets a copy.
                None => match clone(flags) {
                    0 => self.second.run(),
                    pid => pid,
                },
            }
        };
        syscalls::report(fds.report, syscalls::PID, check(pid, Step::MountNamespace)?);
        syscalls::exit_now(0)
    }
}

impl ChildMain for SecondChild<'_> {
    fn run(&self) -> ! {
        let built = self.plan.container.as_ref().map_or(Ok(()), container_root::build);
        report_and_exit(self.fds, built.and_then(|()| self.become_program()))
    }
}

fn report_and_exit(fds: Descriptors, result: Done) -> ! {
    if let Err((step, errno)) = result {
        syscalls::report(fds.report, step as u32, errno);
    }
    syscalls::exit_now(127)
}

impl SecondChild<'_> {
    /// Sets up the process and executes the program. Returns only if that failed.
    fn become_program(&self) -> Done {
        let Self { plan, fds, limit } = self;
        // SAFETY: the descriptors are open in this process's own table, a copy of the parent's from
        // while the forking thread held them. All strings are NUL-terminated and owned by `plan`;
        // `argv` and `envp` are arrays of such strings that end with null; `limit` is a reference.
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
            if plan.container.is_some() {
                plan.cwd.iter().for_each(|directory| syscalls::mkdir(directory));
            }
            if let Some(cwd) = plan.cwd.last() {
                check(libc::chdir(cwd.as_ptr()).into(), Step::WorkingDirectory)?;
            }
            check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into(), Step::Process)?;
        }
        syscalls::block_signals(false);
        syscalls::die_with_parent(fds.parent);
        if plan.programs.is_empty() {
            syscalls::report(fds.report, syscalls::READY, 0);
            syscalls::exit_now(0);
        }
        // Other code in the cluster process may have opened files without O_CLOEXEC. Containers get
        // none of them.
        syscalls::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
        let mut worst = libc::ENOENT;
        for program in &plan.programs {
            // SAFETY: as above.
            unsafe { libc::execve(program.as_ptr(), plan.argv.as_ptr(), plan.envp.as_ptr()) };
            let error = syscalls::errno();
            // As execvp: a file that exists and cannot be executed is the more useful error.
            if error != libc::ENOENT && error != libc::ENOTDIR {
                worst = error;
            }
        }
        Err((Step::Exec, worst))
    }
}

//! The child process between `clone` and `exec`.
//!
//! A program of the plain sandbox starts in the memory of the cluster process ([`HostChild`]). Anything
//! that enters namespaces is forked from the zygote ([`run`]), in two steps: the first child enters the
//! pod's namespaces, the second is process 1 of a new container or joins a running one.
//!
//! Code that both use makes only system calls on memory that was prepared before; see
//! [`super::syscalls`] for the rules.

use super::{
    clone::{ChildMain, clone},
    container_root::{self, Trees},
    exec_plan::{ExecPlan, PrivilegePlan},
    pause_process::PARENT,
    privileges,
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
    /// A pidfd of the cluster process.
    pub(super) parent: c_int,
}

/// A program of the plain sandbox, as a child in the memory of the cluster process.
pub(super) struct HostChild<'a> {
    pub(super) plan: &'a ExecPlan,
    pub(super) fds: Descriptors,
}

impl ChildMain for HostChild<'_> {
    fn run(&self) -> ! {
        syscalls::default_signals();
        execute(self.plan, self.fds, Ok(()))
    }
}

/// The namespaces to enter.
struct Joined {
    /// A pidfd of the process whose namespaces are entered.
    pod: c_int,
    /// A pidfd of a process whose pid namespace a new container gets, instead of one of its own.
    processes: Option<c_int>,
    /// The user namespace of the pod.
    user_namespace: Option<c_int>,
}

/// The first child of a program in namespaces: a fork of the zygote that got these descriptors.
pub(super) fn run(plan: &ExecPlan, report: c_int, fds: &[c_int]) -> ! {
    let [stdin, stdout, stderr, join, rest @ ..] = fds else { syscalls::exit_now(1) };
    let fds =
        Descriptors { report, stdin: *stdin, stdout: *stdout, stderr: *stderr, parent: PARENT };
    let shares = plan.container.as_ref().is_some_and(|container| container.shares_processes);
    let (processes, rest) = rest.split_at(usize::from(shares).min(rest.len()));
    let join = Joined {
        pod: *join,
        processes: processes.first().copied(),
        user_namespace: rest.first().copied(),
    };
    report_and_exit(fds, enter(plan, fds, join))
}

/// Enters the namespaces and starts the second child there, in new namespaces if it is to be
/// a container. Entering a pid namespace takes effect for children only, hence the second child;
/// `CLONE_PARENT` makes it a child of the cluster process, so that nothing has to stay in between to
/// wait for it.
fn enter(plan: &ExecPlan, fds: Descriptors, join: Joined) -> Done {
    let Joined { pod, processes, user_namespace } = join;
    let of_pod = libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
    let of_container = libc::CLONE_NEWNS | libc::CLONE_NEWPID;
    // While no container sees this process. What CAP_SYS_RESOURCE has set, a container cannot lower.
    privileges::set_oom_score_adj(&plan.privileges.oom_score_adj);
    // What only the user of the cluster may open is opened before that user is left behind.
    let (mut trees, flags) = match (&plan.container, processes) {
        (None, _) => (None, 0),
        (Some(_), None) => (None, of_container),
        (Some(_), Some(_)) => (None, libc::CLONE_NEWNS),
    };
    if let Some(container) = &plan.container {
        container_root::enter_scratch(container)?;
        if let Some(namespace) = user_namespace {
            trees = Some(Trees::open(container, Some(namespace))?);
        }
    }
    // The user namespace is entered along with the others, in one call: only its rights allow
    // entering the rest.
    let joined = if plan.container.is_some() { of_pod } else { of_pod | of_container };
    // SAFETY: setns takes plain values. This process has one thread, so its child may do anything.
    let pid = unsafe {
        check(libc::setns(pod, joined).into(), Step::Enter)?;
        if let Some(processes) = processes {
            check(libc::setns(processes, libc::CLONE_NEWPID).into(), Step::Enter)?;
        }
        if user_namespace.is_some() {
            privileges::become_user(0, 0, Some(&[]))?;
        }
        check(clone(flags | libc::CLONE_PARENT), Step::MountNamespace)?
    };
    if pid == 0 {
        let built = plan.container.as_ref().map_or(Ok(()), |c| container_root::build(c, trees));
        execute(plan, fds, built);
    }
    syscalls::report(fds.report, syscalls::PID, pid);
    syscalls::exit_now(0)
}

fn report_and_exit(fds: Descriptors, result: Done) -> ! {
    if let Err((step, errno)) = result {
        syscalls::report(fds.report, step as u32, errno);
    }
    syscalls::exit_now(127)
}

/// Executes the program if everything before was `done`, and reports what failed otherwise.
fn execute(plan: &ExecPlan, fds: Descriptors, done: Done) -> ! {
    match done.and_then(|()| install_streams(plan, fds)) {
        Ok(fds) => report_and_exit(fds, become_program(plan, fds)),
        Err(error) => report_and_exit(fds, Err(error)),
    }
}

/// Installs the streams as 0, 1 and 2 of a new session.
fn install_streams(plan: &ExecPlan, fds: Descriptors) -> Result<Descriptors, (Step, c_int)> {
    // SAFETY: the descriptors are open in this process's own table, a copy of the parent's from while
    // it held them.
    unsafe {
        libc::setsid();
        libc::umask(0o022);
        for (from, to) in [(fds.stdin, 0), (fds.stdout, 1), (fds.stderr, 2)] {
            check(libc::dup2(from, to).into(), Step::Process)?;
        }
        if plan.terminal {
            libc::ioctl(0, libc::TIOCSCTTY, 0);
        }
    }
    if plan.isolated { keep_only(fds) } else { Ok(fds) }
}

/// Sets up the process and executes the program. Returns only if that failed.
fn become_program(plan: &ExecPlan, fds: Descriptors) -> Done {
    enter_working_directory(plan)?;
    privileges::join_session_keyring();
    drop_privileges(&plan.privileges)?;
    syscalls::block_signals(false);
    // A change of credentials clears this, so it comes after them.
    syscalls::die_with_parent(fds.parent);
    if plan.programs.is_empty() {
        syscalls::report(fds.report, syscalls::READY, 0);
        syscalls::exit_now(0);
    }
    // Other code in the cluster process may have opened files without O_CLOEXEC. Containers get
    // none of them.
    syscalls::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    if plan.privileges.no_new_privileges {
        install_seccomp(&plan.privileges)?;
    }
    let mut worst = libc::ENOENT;
    for program in &plan.programs {
        // SAFETY: all strings are NUL-terminated and owned by `plan`; both arrays end with null.
        unsafe {
            libc::execve(program.as_ptr(), plan.argv.as_ptr(), plan.envp.as_ptr());
        }
        let error = syscalls::errno();
        // As execvp: a file that exists and cannot be executed is the more useful error.
        if error != libc::ENOENT && error != libc::ENOTDIR {
            worst = error;
        }
    }
    Err((Step::Exec, worst))
}

/// Closes everything but the streams, the report and the pidfd. Others are directories of the host:
/// a working directory or a program such as `/proc/self/fd/7` would lead there (CVE-2024-21626).
fn keep_only(fds: Descriptors) -> Result<Descriptors, (Step, c_int)> {
    const REPORT: c_int = 3;
    // SAFETY: both are open; what is overwritten is not needed any more.
    unsafe {
        let report = check(libc::fcntl(fds.report, libc::F_DUPFD, 10).into(), Step::Process)?;
        let parent = check(libc::fcntl(fds.parent, libc::F_DUPFD, 10).into(), Step::Process)?;
        check(libc::dup3(report, REPORT, libc::O_CLOEXEC).into(), Step::Process)?;
        check(libc::dup3(parent, PARENT, libc::O_CLOEXEC).into(), Step::Process)?;
    }
    syscalls::close_range(PARENT + 1, libc::c_uint::MAX, 0);
    Ok(Descriptors { report: REPORT, parent: PARENT, ..fds })
}

fn enter_working_directory(plan: &ExecPlan) -> Done {
    if plan.container.is_some() {
        plan.cwd.iter().for_each(|directory| syscalls::mkdir(directory));
    }
    let Some(cwd) = plan.cwd.last() else { return Ok(()) };
    // SAFETY: the string is NUL-terminated.
    check(unsafe { libc::chdir(cwd.as_ptr()) }.into(), Step::WorkingDirectory)?;
    if plan.isolated && !syscalls::is_inside_root() {
        return Err((Step::WorkingDirectory, libc::EACCES));
    }
    Ok(())
}

/// Reduces the rights of this process to those of the plan, which no program that it executes can
/// exceed. As runc, a filter is installed before, if that takes a capability.
fn drop_privileges(plan: &PrivilegePlan) -> Done {
    for (resource, (soft, hard)) in &plan.limits {
        let limit = libc::rlimit { rlim_cur: *soft, rlim_max: *hard };
        // SAFETY: `limit` outlives the call.
        let set = unsafe { libc::setrlimit(*resource as _, &limit) };
        // An ordinary user may not raise what was lowered; a lower limit than wanted is safe.
        if set < 0 && syscalls::errno() != libc::EPERM {
            return Err((Step::Limits, syscalls::errno()));
        }
    }
    let bounded = privileges::bound_capabilities(plan.capabilities);
    // An ordinary user of the host may not change the set, and gets nothing out of it.
    if plan.user.is_some() || privileges::is_root() {
        bounded?;
    }
    if plan.no_new_privileges {
        // SAFETY: prctl takes plain values.
        let set = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        check(set.into(), Step::Process)?;
    } else {
        install_seccomp(plan)?;
    }
    if let Some((user, group)) = plan.user {
        privileges::become_user(user, group, plan.groups.as_deref())?;
    }
    let root = plan.user.is_none_or(|(user, _)| user == 0);
    privileges::set_capabilities(if root { plan.capabilities } else { 0 })
}

fn install_seccomp(plan: &PrivilegePlan) -> Done {
    plan.seccomp.iter().try_for_each(|filter| privileges::install_filter(filter))
}

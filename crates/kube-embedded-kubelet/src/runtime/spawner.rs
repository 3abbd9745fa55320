//! The one thread that forks, and the handle through which others ask it to.

use super::{
    child::{Descriptors, FirstChild, SecondChild},
    clone::{Stack, clone_vfork},
    exec_plan::ExecPlan,
    fd::{pid_of, pidfd_open, pipe, reap},
    launch::{Launch, LaunchError, LaunchTarget},
    pause::{self, Pause, PauseConfig},
    process::{KillScope, Process, ThreadGuard},
    stdio::StdioPair,
    syscalls,
    zygote::Zygote,
};
use kube_embedded_core::task::catch_blocking;
use std::{
    cell::RefCell,
    fs::File,
    io::{self, Read},
    os::fd::{AsRawFd, OwnedFd},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// The time to retry a program that is open for writing (`ETXTBSY`).
const TEXT_BUSY_TIMEOUT: Duration = Duration::from_secs(2);

type Job = Box<dyn FnOnce(&ForkThread) + Send>;

/// Starts processes. The thread ends when the last handle and the last process are dropped; the
/// kernel then kills whatever it forked.
pub(crate) struct Spawner {
    /// The thread ends when the last sender is dropped.
    jobs: Arc<mpsc::Sender<Job>>,
}

/// The state of the forking thread.
pub(super) struct ForkThread {
    /// A pidfd of this process, by which children find out that it has died.
    parent: OwnedFd,
    /// The limit on open files as it was before this process raised its own.
    limit: libc::rlimit,
    null: File,
    /// For the two children that starting a program takes; the thread starts one program at a time.
    stacks: [Stack; 2],
    /// The zygote, once the first pod was started.
    pub(super) zygote: RefCell<Option<Zygote>>,
}

impl Spawner {
    /// Starts the thread. `limit` is the limit on open files that containers get.
    pub(crate) fn new(limit: libc::rlimit) -> io::Result<Arc<Self>> {
        let parent = pidfd_open(std::process::id() as libc::pid_t)?;
        let null = File::open("/dev/null")?;
        let stacks = [Stack::new()?, Stack::new()?];
        let (jobs, inbox) = mpsc::channel::<Job>();
        thread::Builder::new().name("pod-spawner".to_owned()).stack_size(256 << 10).spawn(
            move || {
                // A handler of the parent must not run in a child, in the parent's memory.
                syscalls::block_signals(true);
                let thread = ForkThread { parent, limit, null, stacks, zygote: RefCell::default() };
                for job in inbox {
                    // The end of this thread kills every pod, so a panic, which is logged, must not
                    // end it. The caller finds its response channel closed.
                    let _ = catch_blocking("pod-spawner", || job(&thread));
                }
            },
        )?;
        Ok(Arc::new(Self { jobs: Arc::new(jobs) }))
    }

    /// Starts a program. Returns when it runs, or the reason why it does not.
    pub(crate) async fn launch(&self, launch: Launch) -> Result<Process, LaunchError> {
        let launch = Arc::new(launch);
        let begin = Instant::now();
        loop {
            let (guard, launch) = (self.guard(), launch.clone());
            let launched = self.on_thread(move |thread| thread.launch(&launch, guard)).await;
            match launched {
                // A program that was just unpacked may still be open for writing in a child that
                // another thread has forked and that has not called exec yet.
                Err(LaunchError::Exec(_, e))
                    if e.raw_os_error() == Some(libc::ETXTBSY)
                        && begin.elapsed() < TEXT_BUSY_TIMEOUT => {}
                other => return other,
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Creates the namespaces of a pod and the process that holds them.
    pub(crate) async fn pause(&self, config: PauseConfig) -> Result<Pause, LaunchError> {
        let guard = self.guard();
        self.on_thread(move |thread| thread.pause(&config, guard)).await
    }

    /// Returns the guard that a process has to hold so that the thread outlives it.
    pub(super) fn guard(&self) -> ThreadGuard {
        ThreadGuard::new(self.jobs.clone())
    }

    /// Runs a job on the thread, for callers that may block.
    pub(super) fn blocking<T: Send + 'static>(
        &self,
        job: impl FnOnce(&ForkThread) -> Result<T, LaunchError> + Send + 'static,
    ) -> Result<T, LaunchError> {
        let (respond, response) = mpsc::channel();
        self.send(move |thread| {
            let _ = respond.send(job(thread));
        })?;
        response.recv().map_err(|_| thread_ended())?
    }

    async fn on_thread<T: Send + 'static>(
        &self,
        job: impl FnOnce(&ForkThread) -> Result<T, LaunchError> + Send + 'static,
    ) -> Result<T, LaunchError> {
        let (respond, response) = oneshot::channel();
        self.send(move |thread| {
            // If the caller was cancelled, the process is dropped here, which kills it.
            let _ = respond.send(job(thread));
        })?;
        response.await.map_err(|_| thread_ended())?
    }

    fn send(&self, job: impl FnOnce(&ForkThread) + Send + 'static) -> Result<(), LaunchError> {
        self.jobs.send(Box::new(job)).map_err(|_| thread_ended())
    }
}

fn thread_ended() -> LaunchError {
    LaunchError::Step(
        "reach the thread that starts processes",
        io::Error::from(io::ErrorKind::BrokenPipe),
    )
}

impl ForkThread {
    pub(super) fn pause(
        &self,
        config: &PauseConfig,
        guard: ThreadGuard,
    ) -> Result<Pause, LaunchError> {
        pause::start(&self.zygote, &self.parent, config, guard)
    }

    pub(super) fn launch(
        &self,
        launch: &Launch,
        guard: ThreadGuard,
    ) -> Result<Process, LaunchError> {
        let failed = |e: io::Error| LaunchError::Step("prepare the process", e);
        let plan = ExecPlan::new(launch).map_err(failed)?;
        let (report, report_end) = pipe().map_err(failed)?;
        let (join, in_container, scope) = match &launch.target {
            LaunchTarget::Host { .. } => (None, None, KillScope::GroupAndSurvivors),
            LaunchTarget::Container(container) => {
                (Some(&container.pause), None, KillScope::Process)
            }
            LaunchTarget::Exec(process) => (Some(process), pid_of(process), KillScope::Group),
        };
        let stdio = StdioPair::create(launch.stdio, in_container).map_err(failed)?;
        let [stdin, stdout, stderr] = stdio.child_fds(self.null.as_raw_fd());
        let fds = Descriptors {
            report: report_end.as_raw_fd(),
            stdin,
            stdout,
            stderr,
            terminal: stdio.is_terminal(),
            parent: self.parent.as_raw_fd(),
            join: join.map_or(-1, AsRawFd::as_raw_fd),
        };
        let first = self.fork(&plan, fds)?;
        drop(report_end);
        let ours = stdio.into_parent_ends();
        let (reported, error) = read_report(report);
        let pid = if join.is_some() {
            // The first child has started the second and exited.
            reap(first);
            reported
        } else {
            Some(first)
        };
        match (pid, error) {
            (Some(pid), None) => {
                let pidfd = pidfd_open(pid).map_err(|e| LaunchError::Step("open a pidfd", e))?;
                Ok(Process::new(pid, pidfd, scope, Some(ours), guard))
            }
            (pid, error) => {
                pid.into_iter().for_each(reap);
                Err(explain(launch, &plan, error))
            }
        }
    }

    /// Starts the first child, and returns once it has left the memory of this process.
    fn fork(&self, plan: &ExecPlan, fds: Descriptors) -> Result<libc::pid_t, LaunchError> {
        let [first, second] = &self.stacks;
        let main =
            FirstChild { second: SecondChild { plan, fds, limit: self.limit }, stack: second };
        // SAFETY: `FirstChild::run` makes system calls on prepared memory only; this thread has
        // blocked all signals, and it alone uses the stacks, for one child at a time.
        let pid = unsafe { clone_vfork(first, 0, &main) } as libc::pid_t;
        if pid < 0 {
            return Err(LaunchError::Step("fork", io::Error::last_os_error()));
        }
        Ok(pid)
    }
}

/// Reads what the children report, until the pipe closes: when the program is executed, or when both
/// have exited. Returns the pid of the second child, and the failed step with its errno.
fn read_report(report: OwnedFd) -> (Option<libc::pid_t>, Option<(u32, i32)>) {
    let (mut pid, mut error) = (None, None);
    let mut report = File::from(report);
    let mut message = [0; 8];
    while report.read_exact(&mut message).is_ok() {
        match syscalls::parse(message) {
            (syscalls::PID, started) => pid = Some(started),
            (syscalls::READY, _) => {}
            failed => error = Some(failed),
        }
    }
    (pid, error)
}

fn explain(launch: &Launch, plan: &ExecPlan, error: Option<(u32, i32)>) -> LaunchError {
    let program = launch.argv.first().cloned().unwrap_or_default();
    match error {
        Some((0, libc::ENOENT)) if plan.searched => LaunchError::NotInPath(program),
        Some((0, errno)) => LaunchError::Exec(program, io::Error::from_raw_os_error(errno)),
        Some((step, errno)) => LaunchError::from_report(step, errno, "start the process"),
        None => {
            LaunchError::Step("start the process", io::Error::other("it died before it reported"))
        }
    }
}

//! The one thread that forks, and the handle through which others ask it to.

use super::{
    child::{Descriptors, HostChild},
    clone::{Stack, clone_vfork},
    exec_plan::ExecPlan,
    fd::{namespace, pid_of, pidfd_open, pipe},
    launch::{Launch, LaunchError, LaunchTarget, Security},
    pause::{self, Pause, PauseConfig, StartingPause},
    privileges,
    process::{KillScope, Process, ThreadGuard},
    reports::{Reports, Starter},
    starting::StartingProcess,
    stdio::StdioPair,
    syscalls,
    wire::Wire,
    zygote::{self, Slot, Zygote},
    zygote_process,
};
use kube_embedded_core::{network::Addresses, task::catch_blocking};
use std::{
    cell::RefCell,
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// The time to retry a program that is open for writing (`ETXTBSY`).
const TEXT_BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// The time to try again with another zygote.
const ZYGOTE_TIMEOUT: Duration = Duration::from_secs(10);

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
    /// For a child in the memory of this process, of which there is one at a time.
    stack: Stack,
    pub(super) zygote: RefCell<Slot>,
}

impl Spawner {
    /// Starts the thread. `limit` is the limit on open files that containers get.
    pub(crate) fn new(limit: libc::rlimit) -> io::Result<Arc<Self>> {
        let parent = pidfd_open(std::process::id() as libc::pid_t)?;
        let null = File::open("/dev/null")?;
        let stack = Stack::new()?;
        let (jobs, inbox) = mpsc::channel::<Job>();
        thread::Builder::new().name("pod-spawner".to_owned()).stack_size(256 << 10).spawn(
            move || {
                // A handler of the parent must not run in a child, in the parent's memory.
                syscalls::block_signals(true);
                let thread = ForkThread { parent, limit, null, stack, zygote: RefCell::default() };
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
            let (guard, sent) = (self.guard(), launch.clone());
            let starting = self.on_thread(move |thread| thread.launch(&sent, guard)).await?;
            let sent = launch.clone();
            match wait(move || starting.wait(&sent)).await {
                // A program that was just unpacked may still be open for writing in a child that
                // another thread has forked and that has not called exec yet.
                Err(LaunchError::Exec(_, e))
                    if e.raw_os_error() == Some(libc::ETXTBSY)
                        && begin.elapsed() < TEXT_BUSY_TIMEOUT => {}
                Err(LaunchError::ZygoteDied) if begin.elapsed() < ZYGOTE_TIMEOUT => {}
                other => return other,
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Creates the namespaces of a pod and the process that holds them.
    pub(crate) async fn pause(&self, config: PauseConfig) -> Result<Pause, LaunchError> {
        let config = Arc::new(config);
        let begin = Instant::now();
        loop {
            let (guard, sent) = (self.guard(), config.clone());
            let starting = self.on_thread(move |thread| thread.pause(&sent, guard)).await?;
            match wait(move || starting.wait()).await {
                Err(LaunchError::ZygoteDied) if begin.elapsed() < ZYGOTE_TIMEOUT => {}
                other => return other,
            }
        }
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
        self.request(job).recv().map_err(|_| thread_ended())?
    }

    /// Has a job run on the thread, whose result is received later. Nothing is received if the thread has ended.
    pub(super) fn request<T: Send + 'static>(
        &self,
        job: impl FnOnce(&ForkThread) -> Result<T, LaunchError> + Send + 'static,
    ) -> mpsc::Receiver<Result<T, LaunchError>> {
        let (respond, response) = mpsc::channel();
        // If that fails, `respond` is dropped.
        let _ = self.send(move |thread| {
            let _ = respond.send(job(thread));
        });
        response
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

/// Waits for a process that is being started, on a thread that may block: a container can stop what
/// joins it, and must not stop the start of others by that.
async fn wait<T: Send + 'static>(
    blocking: impl FnOnce() -> Result<T, LaunchError> + Send + 'static,
) -> Result<T, LaunchError> {
    let waited = tokio::task::spawn_blocking(blocking).await;
    waited.map_err(|e| LaunchError::Step("wait for the process", io::Error::other(e)))?
}

pub(super) fn thread_ended() -> LaunchError {
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
    ) -> Result<StartingPause, LaunchError> {
        pause::start(config, guard, |request, fds| self.fork(request, zygote_process::PAUSE, fds))
    }

    pub(super) fn router(
        &self,
        addresses: &Addresses,
        tries_link: bool,
        guard: ThreadGuard,
    ) -> Result<StartingPause, LaunchError> {
        pause::start_router(addresses, tries_link, guard, |request, fds| {
            self.fork(request, zygote_process::ROUTER, fds)
        })
    }

    pub(super) fn launch(
        &self,
        launch: &Launch,
        guard: ThreadGuard,
    ) -> Result<StartingProcess, LaunchError> {
        let failed = |e: io::Error| LaunchError::Step("prepare the process", e);
        let plan = ExecPlan::new(launch, self.limit).map_err(failed)?;
        let (report, report_end) = pipe().map_err(failed)?;
        let (join, in_container, scope) = match &launch.target {
            LaunchTarget::Host { .. } => (None, None, KillScope::GroupAndSurvivors),
            LaunchTarget::Container(container) => {
                // Others are in its pid namespace if it is another container's.
                let shares = container.shares_processes_of.is_some();
                let scope = if shares { KillScope::Group } else { KillScope::Process };
                (Some(&container.pause), None, scope)
            }
            LaunchTarget::Exec(process) => (Some(process), pid_of(process), KillScope::Group),
        };
        let Security { ids, user, group, .. } = *launch.security;
        let owner = ids.owner(user, group);
        let stdio = StdioPair::create(launch.stdio, in_container, owner).map_err(failed)?;
        let streams = stdio.child_fds(self.null.as_raw_fd());
        let (first, zygote) = match join {
            None => (Some(self.start_on_host(&plan, report_end.as_raw_fd(), streams)?), None),
            Some(join) => {
                let user_namespace =
                    owner.map(|_| namespace(join, "user")).transpose().map_err(failed)?;
                let mut fds = vec![report_end.as_raw_fd()];
                fds.extend(streams);
                fds.push(join.as_raw_fd());
                if let LaunchTarget::Container(container) = &launch.target {
                    fds.extend(container.shares_processes_of.iter().map(|fd| fd.as_raw_fd()));
                }
                fds.extend(user_namespace.iter().map(AsRawFd::as_raw_fd));
                let zygote = self.fork(&plan, zygote_process::PROGRAM, &fds);
                let zygote: Arc<dyn Starter> = zygote.map_err(|e| LaunchError::Step("fork", e))?;
                (None, Some(zygote))
            }
        };
        Ok(StartingProcess {
            reports: Reports::new(report, zygote),
            on_host: first,
            streams: stdio.into_parent_ends(),
            searched: plan.searched,
            scope,
            guard,
        })
    }

    /// Has the zygote fork a process.
    fn fork(&self, request: &impl Wire, kind: u8, fds: &[RawFd]) -> io::Result<Arc<Zygote>> {
        let start = || Zygote::start(&self.stack, &self.parent, self.null.as_raw_fd());
        zygote::fork(&mut self.zygote.borrow_mut(), start, request, kind, fds)
    }

    /// Starts a program of the plain sandbox, and returns once it has left the memory of this process.
    fn start_on_host(
        &self,
        plan: &ExecPlan,
        report: RawFd,
        [stdin, stdout, stderr]: [RawFd; 3],
    ) -> Result<libc::pid_t, LaunchError> {
        // No user namespace keeps the program from reading the memory of this process, of the same user.
        privileges::set_dumpable(false);
        let parent = self.parent.as_raw_fd();
        let main = HostChild { plan, fds: Descriptors { report, stdin, stdout, stderr, parent } };
        // SAFETY: `HostChild::run` makes system calls on prepared memory only; this thread has
        // blocked all signals, and it alone uses the stack, for one child at a time.
        let pid = unsafe { clone_vfork(&self.stack, 0, &main) } as libc::pid_t;
        if pid < 0 {
            return Err(LaunchError::Step("fork", io::Error::last_os_error()));
        }
        Ok(pid)
    }
}

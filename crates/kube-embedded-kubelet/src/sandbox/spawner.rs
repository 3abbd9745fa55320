//! The one thread that forks.

use super::{
    Launch, LaunchError, Pause, PauseConfig, Place, Process,
    child::{Descriptors, First, Second},
    pause,
    prepared::Prepared,
    process::Reach,
    stdio::{Ends, pipe},
    stem::Stem,
    sys::{self, Stack},
};
use std::{
    cell::RefCell,
    fs::File,
    io::{self, Read},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// How long a program that is being written may stay so.
const BUSY: Duration = Duration::from_secs(2);

type Job = Box<dyn FnOnce(&Thread) + Send>;

/// Starts processes. When the last handle is dropped, the kernel kills all of them.
pub(crate) struct Spawner {
    jobs: mpsc::Sender<Job>,
}

/// What belongs to the forking thread.
pub(super) struct Thread {
    /// Pidfd of this process, for children to see whether it is still there.
    pub(super) parent: OwnedFd,
    /// The limit on open files as it was before this process raised its own.
    limit: libc::rlimit,
    null: File,
    /// One for each of the two children that a program in a container takes.
    stacks: [Stack; 2],
    /// What pods are forked from, once there was one.
    pub(super) stem: RefCell<Option<Stem>>,
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
                // A handler of the parent must not run in a child before it has reset them.
                sys::mask_signals(true);
                let thread = Thread { parent, limit, null, stacks, stem: RefCell::default() };
                for job in inbox {
                    job(&thread);
                }
            },
        )?;
        Ok(Arc::new(Self { jobs }))
    }

    /// Starts a program. Returns once it runs, or with what kept it from running.
    pub(crate) async fn launch(self: &Arc<Self>, launch: Launch) -> Result<Process, LaunchError> {
        let launch = Arc::new(launch);
        let begin = Instant::now();
        loop {
            let (keep, launch) = (self.clone(), launch.clone());
            let launched = self.on_thread(move |thread| thread.launch(&launch, keep)).await;
            match launched {
                // A program that was unpacked a moment ago may still be open for writing in a child
                // that another thread has forked and that has not executed anything yet.
                Err(LaunchError::Exec(_, e))
                    if e.raw_os_error() == Some(libc::ETXTBSY) && begin.elapsed() < BUSY => {}
                other => return other,
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Makes the namespaces of a pod and the process that holds them.
    pub(crate) async fn pause(self: &Arc<Self>, config: PauseConfig) -> Result<Pause, LaunchError> {
        let keep = self.clone();
        self.on_thread(move |thread| pause::start(thread, &config, keep)).await
    }

    /// The same from a thread that may block.
    pub(super) fn blocking<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Thread) -> Result<T, LaunchError> + Send + 'static,
    ) -> Result<T, LaunchError> {
        let (tell, told) = mpsc::channel();
        let sent = self.jobs.send(Box::new(move |thread| {
            let _ = tell.send(job(thread));
        }));
        sent.map_err(|_| gone())?;
        told.recv().map_err(|_| gone())?
    }

    async fn on_thread<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Thread) -> Result<T, LaunchError> + Send + 'static,
    ) -> Result<T, LaunchError> {
        let (tell, told) = oneshot::channel();
        let sent = self.jobs.send(Box::new(move |thread| {
            let _ = tell.send(job(thread));
        }));
        sent.map_err(|_| gone())?;
        told.await.map_err(|_| gone())?
    }
}

fn gone() -> LaunchError {
    LaunchError::Step(
        "reach the thread that starts processes",
        io::Error::from(io::ErrorKind::BrokenPipe),
    )
}

impl Thread {
    pub(super) fn launch(
        &self,
        launch: &Launch,
        keep: Arc<Spawner>,
    ) -> Result<Process, LaunchError> {
        let program = launch.argv.first().cloned().unwrap_or_default();
        let failed = |e: io::Error| LaunchError::Step("prepare the process", e);
        let prepared = Prepared::new(launch).map_err(failed)?;
        let (report, report_end) = pipe().map_err(failed)?;
        let beside = match &launch.place {
            Place::Beside(process) => pid_of(process),
            _ => None,
        };
        let ends = Ends::make(launch.stdio, beside).map_err(failed)?;
        let [stdin, stdout, stderr] = ends.theirs(self.null.as_raw_fd());
        let join: Option<&OwnedFd> = match &launch.place {
            Place::Host { .. } => None,
            Place::Container(container) => Some(&container.pause),
            Place::Beside(process) => Some(process),
        };
        let fds = Descriptors {
            report: report_end.as_raw_fd(),
            stdin,
            stdout,
            stderr,
            terminal: ends.is_terminal(),
            parent: self.parent.as_raw_fd(),
            join: join.map_or(-1, AsRawFd::as_raw_fd),
        };
        let [stack, second] = &self.stacks;
        let work =
            First { second: Second { prepared: &prepared, fds, limit: self.limit }, stack: second };
        // SAFETY: the child only runs code of `child`, which is safe after vfork; this thread has
        // blocked all signals, and only it uses the stacks.
        let first = unsafe { sys::clone_in_place(stack, 0, &work) } as libc::pid_t;
        if first < 0 {
            return Err(LaunchError::Step("fork", io::Error::last_os_error()));
        }
        drop(report_end);
        let ours = ends.keep_ours();
        let mut pid = join.is_none().then_some(first);
        let mut error = None;
        let mut report = File::from(report);
        let mut message = [0; 8];
        // The pipe closes when the program is executed.
        while report.read_exact(&mut message).is_ok() {
            match sys::parse(message) {
                (sys::PID, started) => pid = Some(started),
                (sys::READY, _) => {}
                (step, code) => error = Some((step, io::Error::from_raw_os_error(code))),
            }
        }
        if join.is_some() {
            reap(first);
        }
        match (pid, error) {
            (Some(pid), None) => {
                let pidfd =
                    pidfd_open(pid).map_err(|e| LaunchError::Step("watch the process", e))?;
                let reach = match launch.place {
                    Place::Host { .. } => Reach::GroupToTheLast,
                    Place::Container(_) => Reach::Alone,
                    Place::Beside(_) => Reach::Group,
                };
                Ok(Process::new(pid, pidfd, reach, Some(ours), keep))
            }
            (pid, error) => {
                pid.into_iter().for_each(reap);
                Err(match error {
                    Some((0, e)) if prepared.searched && e.raw_os_error() == Some(libc::ENOENT) => {
                        LaunchError::NotInPath(program)
                    }
                    Some((0, e)) => LaunchError::Exec(program, e),
                    Some((step, e)) => LaunchError::Step(
                        sys::STEPS.get(step as usize).copied().unwrap_or("start the process"),
                        e,
                    ),
                    None => {
                        LaunchError::Step("start the process", io::Error::other("it died at once"))
                    }
                })
            }
        }
    }
}

/// Waits for a child that has ended or is about to.
pub(super) fn reap(pid: libc::pid_t) {
    // SAFETY: a null status is allowed.
    while unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) } < 0
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
}

pub(super) fn pidfd_open(pid: libc::pid_t) -> io::Result<OwnedFd> {
    // SAFETY: plain call on values.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as RawFd)
}

/// The process that a descriptor stands for, as long as it runs.
fn pid_of(pidfd: &OwnedFd) -> Option<libc::pid_t> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(path).ok()?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    pid.trim().parse().ok().filter(|pid| *pid > 0)
}

pub(super) fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just handed it out and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// For messages, which come whole or not at all.
pub(super) fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: the array has room for two.
    if unsafe {
        libc::socketpair(
            libc::AF_UNIX,
            libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC,
            0,
            ends.as_mut_ptr(),
        )
    } < 0
    {
        return Err(io::Error::last_os_error());
    }
    let [a, b] = ends;
    Ok((owned(a)?, owned(b)?))
}

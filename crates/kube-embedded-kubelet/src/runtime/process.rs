//! A started program: its exit, signals to it, and its end when the handle is dropped.

use super::{
    fd::reap,
    stdio::{ParentEnds, Streams},
};
use std::{
    any::Any,
    io, mem,
    os::fd::{AsRawFd, OwnedFd},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::io::{Interest, unix::AsyncFd};

/// The exit of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    /// The code that Kubernetes reports: the exit code, or 128 plus the number of the signal.
    pub(crate) code: i32,
    pub(crate) signal: Option<i32>,
}

/// Which processes a signal to a program reaches, and which are killed when it exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KillScope {
    /// The process alone: it is the init process of a pid namespace, or has no children. The kernel
    /// kills everything else in the namespace when it exits.
    Process,
    /// Its process group. Processes that it left behind when it exited stay in the container.
    Group,
    /// Its process group, of which none may remain after it: there is no container that ends later.
    GroupAndSurvivors,
}

/// Keeps the forking thread alive. When that thread exits, the kernel kills the processes that it
/// forked (`PR_SET_PDEATHSIG`), so each of them holds one of these.
#[derive(Clone)]
pub(super) struct ThreadGuard(
    #[allow(dead_code, reason = "held, never read")] Arc<dyn Any + Send + Sync>,
);

impl ThreadGuard {
    /// `alive` is a value whose existence keeps the thread running.
    pub(super) fn new(alive: Arc<dyn Any + Send + Sync>) -> Self {
        Self(alive)
    }
}

/// How long a dropped program may take to end before another thread waits for it.
const PROMPT_END: Duration = Duration::from_millis(200);

/// A running program. Dropped before it has exited, it is killed and reaped.
pub(crate) struct Process {
    pub(crate) pid: libc::pid_t,
    child: Arc<Child>,
    streams: Mutex<Option<ParentEnds>>,
}

/// A child of this process, to be reaped once.
struct Child {
    pid: libc::pid_t,
    pidfd: Arc<OwnedFd>,
    scope: KillScope,
    /// Set when the process is reaped. The lock is held while reaping and while signaling, so that
    /// no signal goes to a pid or a group whose number may already belong to another process.
    exit: Mutex<Option<Exit>>,
    _thread: ThreadGuard,
}

impl Process {
    pub(super) fn new(
        pid: libc::pid_t,
        pidfd: OwnedFd,
        scope: KillScope,
        streams: Option<ParentEnds>,
        thread: ThreadGuard,
    ) -> Self {
        let (pidfd, exit) = (Arc::new(pidfd), Mutex::new(None));
        let child = Child { pid, pidfd, scope, exit, _thread: thread };
        Self { pid, child: Arc::new(child), streams: Mutex::new(streams) }
    }

    /// Returns the pidfd, for starting other programs in the same namespaces.
    pub(crate) fn pidfd(&self) -> Arc<OwnedFd> {
        self.child.pidfd.clone()
    }

    /// Takes the streams of the program.
    ///
    /// # Errors
    /// When they were taken before.
    pub(crate) fn streams(&self) -> io::Result<Streams> {
        let taken = self.streams.lock().unwrap_or_else(|e| e.into_inner()).take();
        taken.ok_or_else(|| io::Error::other("the streams are already taken"))?.streams()
    }

    /// Waits for the exit. May be called concurrently and repeatedly.
    pub(crate) async fn wait(&self) -> io::Result<Exit> {
        // SAFETY: `AsyncFd` holds a clone of the Arc, so the descriptor stays open, and is the same
        // one, for as long as it is registered.
        let exited = unsafe { AsyncFd::register_with_interest(self.pidfd(), Interest::READABLE)? };
        loop {
            if let Some(exit) = self.child.reap(libc::WNOHANG)? {
                return Ok(exit);
            }
            exited.readable().await?.clear_ready();
        }
    }

    /// Sends a signal. Does nothing if the program has exited.
    pub(crate) fn signal(&self, signal: i32) {
        self.child.signal(signal);
    }
}

impl Child {
    fn signal(&self, signal: i32) {
        let exit = self.exit.lock().unwrap_or_else(|e| e.into_inner());
        if exit.is_some() {
            return;
        }
        // SAFETY: both calls take plain values and a null siginfo. The pidfd is open, because `self`
        // owns it; the group number is still this program's, because its leader is not reaped, which
        // the lock on `exit` prevents.
        unsafe {
            if self.scope != KillScope::Process {
                libc::kill(-self.pid, signal);
            } else {
                libc::syscall(
                    libc::SYS_pidfd_send_signal,
                    self.pidfd.as_raw_fd(),
                    signal,
                    std::ptr::null::<libc::siginfo_t>(),
                    0,
                );
            }
        }
    }

    /// Returns the exit if the program has exited; without `WNOHANG` among the flags, waits for it.
    fn reap(&self, flags: i32) -> io::Result<Option<Exit>> {
        let mut exit = self.exit.lock().unwrap_or_else(|e| e.into_inner());
        if exit.is_some() {
            return Ok(*exit);
        }
        loop {
            // SAFETY: an all-zero siginfo_t is a valid value, which waitid fills; the pidfd is open,
            // because `self` owns it.
            let (result, info) = unsafe {
                let mut info: libc::siginfo_t = mem::zeroed();
                let fd = self.pidfd.as_raw_fd() as libc::id_t;
                // WNOWAIT: the process stays a zombie, and its number its own, until the survivors
                // of its group are killed below.
                let flags = libc::WEXITED | libc::WNOWAIT | flags;
                (libc::waitid(libc::P_PIDFD, fd, &mut info, flags), info)
            };
            if result < 0 {
                match io::Error::last_os_error() {
                    e if e.kind() == io::ErrorKind::Interrupted => continue,
                    e => return Err(e),
                }
            }
            // SAFETY: waitid has set the fields of SIGCHLD, or left all of them zero.
            let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
            if pid == 0 {
                return Ok(None);
            }
            if self.scope == KillScope::GroupAndSurvivors {
                // SAFETY: kill takes plain values; the leader is not reaped yet, so the number is
                // still that of its group.
                unsafe { libc::kill(-self.pid, libc::SIGKILL) };
            }
            reap(self.pid);
            *exit = Some(if info.si_code == libc::CLD_EXITED {
                Exit { code: status, signal: None }
            } else {
                Exit { code: 128 + status, signal: Some(status) }
            });
            return Ok(*exit);
        }
    }
}

impl Child {
    /// Returns whether the program exits in time.
    fn exits_within(&self, timeout: Duration) -> bool {
        let mut fd = libc::pollfd { fd: self.pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: `fd` is one pollfd, which outlives the call.
        unsafe { libc::poll(&mut fd, 1, timeout.as_millis() as libc::c_int) == 1 }
    }

    fn reap_in_the_end(&self) {
        if let Err(error) = self.reap(0) {
            tracing::warn!(pid = self.pid, %error, "failed to reap a process");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(libc::SIGKILL);
        if self.child.exits_within(PROMPT_END) {
            return self.child.reap_in_the_end();
        }
        // The first process of a pid namespace ends once all others in it are reaped: those of `kubectl exec`
        // and of probes, when their handles are dropped, perhaps by this very thread after this one.
        let child = self.child.clone();
        let reaper = std::thread::Builder::new().name("reaper".into());
        if let Err(error) = reaper.spawn(move || child.reap_in_the_end()) {
            tracing::warn!(pid = self.pid, %error, "a process that was killed is not reaped");
        }
    }
}

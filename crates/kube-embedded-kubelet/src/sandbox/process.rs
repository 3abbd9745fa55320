//! A started program: its exit, signals to it, and its end when nobody holds it any more.

use super::{
    Spawner,
    stdio::{Ours, Streams},
};
use std::{
    io, mem,
    os::fd::{AsRawFd, OwnedFd},
    sync::{Arc, Mutex},
};
use tokio::io::unix::AsyncFd;

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    /// As Kubernetes tells it: the exit code, or 128 and the signal.
    pub(crate) code: i32,
    pub(crate) signal: Option<i32>,
}

/// Whom signals to a program reach, and what its end takes along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// The process: what it starts lives in a pid namespace that ends with it.
    Alone,
    /// All of its group; but what it left behind when it ended by itself stays in the container.
    Group,
    /// The same, and nothing stays: there is no container around it.
    GroupToTheLast,
}

/// A running program. Dropped before it ended, it is killed and waited for.
pub(crate) struct Process {
    pub(crate) pid: libc::pid_t,
    pidfd: Arc<OwnedFd>,
    reach: Reach,
    streams: Mutex<Option<Ours>>,
    exit: Mutex<Option<Exit>>,
    _spawner: Arc<Spawner>,
}

impl Process {
    pub(super) fn new(
        pid: libc::pid_t,
        pidfd: OwnedFd,
        reach: Reach,
        streams: Option<Ours>,
        spawner: Arc<Spawner>,
    ) -> Self {
        Self {
            pid,
            pidfd: Arc::new(pidfd),
            reach,
            streams: Mutex::new(streams),
            exit: Mutex::new(None),
            _spawner: spawner,
        }
    }

    /// For starting others beside it.
    pub(crate) fn pidfd(&self) -> Arc<OwnedFd> {
        self.pidfd.clone()
    }

    /// What it reads and writes; once.
    pub(crate) fn streams(&self) -> io::Result<Streams> {
        let taken = self.streams.lock().unwrap_or_else(|e| e.into_inner()).take();
        taken.ok_or_else(|| io::Error::other("the output is read already"))?.streams()
    }

    /// Waits for the end. May be called by several and repeatedly.
    pub(crate) async fn wait(&self) -> io::Result<Exit> {
        let watch =
            // SAFETY: the descriptor stays open and the same as long as the Arc is held.
            unsafe { AsyncFd::register_with_interest(self.pidfd.clone(), tokio::io::Interest::READABLE)? };
        loop {
            if let Some(exit) = self.reap(libc::WNOHANG)? {
                return Ok(exit);
            }
            watch.readable().await?.clear_ready();
        }
    }

    /// Sends a signal; nothing happens if it has ended.
    pub(crate) fn signal(&self, signal: i32) {
        let exit = self.exit.lock().unwrap_or_else(|e| e.into_inner());
        if exit.is_some() {
            return;
        }
        // SAFETY: plain calls on values. The group exists as long as its leader is not reaped, which
        // the lock prevents.
        unsafe {
            if self.reach != Reach::Alone {
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

    fn reap(&self, flags: i32) -> io::Result<Option<Exit>> {
        let mut exit = self.exit.lock().unwrap_or_else(|e| e.into_inner());
        if exit.is_some() {
            return Ok(*exit);
        }
        loop {
            // SAFETY: an all-zero siginfo_t is valid, and waitid fills it.
            let (result, info) = unsafe {
                let mut info: libc::siginfo_t = mem::zeroed();
                let fd = self.pidfd.as_raw_fd() as libc::id_t;
                (
                    libc::waitid(
                        libc::P_PIDFD,
                        fd,
                        &mut info,
                        libc::WEXITED | libc::WNOWAIT | flags,
                    ),
                    info,
                )
            };
            if result < 0 {
                match io::Error::last_os_error() {
                    e if e.kind() == io::ErrorKind::Interrupted => continue,
                    e => return Err(e),
                }
            }
            // SAFETY: waitid filled the fields of a child's end, or left all zero.
            let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
            if pid == 0 {
                return Ok(None);
            }
            if self.reach == Reach::GroupToTheLast {
                // What the program left running, while its group still bears its number.
                // SAFETY: plain call on values.
                unsafe { libc::kill(-self.pid, libc::SIGKILL) };
            }
            super::spawner::reap(self.pid);
            *exit = Some(if info.si_code == libc::CLD_EXITED {
                Exit { code: status, signal: None }
            } else {
                Exit { code: 128 + status, signal: Some(status) }
            });
            return Ok(*exit);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(libc::SIGKILL);
        let _ = self.reap(0);
    }
}

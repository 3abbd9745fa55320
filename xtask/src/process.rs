//! Children that never outlive us, and the signals that end a run, as things to wait for.
//!
//! Signals are blocked and read from a descriptor: a run is one loop that waits for signals, for
//! children and for what they say, with a deadline, and nothing happens between two lines.

use anyhow::{Context, Result, ensure};
use std::{
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command, ExitStatus},
    ptr,
    time::{Duration, Instant},
};

/// What ended a wait.
#[derive(Debug, PartialEq)]
pub(crate) enum Wake {
    /// SIGINT, SIGTERM, SIGHUP, or SIGCHLD when a child may have ended.
    Signal(i32),
    /// The other descriptor can be read.
    Readable,
    /// The deadline has passed.
    Late,
}

/// The signals of this process from now on: they no longer end it.
pub(crate) struct Signals {
    fd: OwnedFd,
}

impl Signals {
    /// Blocks the signals. Children have to be started with [`supervise`], which unblocks them.
    pub(crate) fn block() -> Result<Self> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset fills the set; the descriptor is new and owned by nobody else.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGCHLD] {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut());
            let fd = libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error()).context("cannot wait for signals");
            }
            Ok(Self { fd: OwnedFd::from_raw_fd(fd) })
        }
    }

    /// Waits for a signal, for `other` to be readable, or for the deadline.
    pub(crate) fn wait(&self, other: Option<BorrowedFd>, until: Instant) -> Result<Wake> {
        loop {
            let poll = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            let mut polls =
                [poll(self.fd.as_raw_fd()), poll(other.map_or(-1, |fd| fd.as_raw_fd()))];
            let left = until.saturating_duration_since(Instant::now());
            let milliseconds = left.as_millis().min(1_000_000) as i32 + i32::from(!left.is_zero());
            // SAFETY: two initialised entries, as told.
            let ready = unsafe { libc::poll(polls.as_mut_ptr(), 2, milliseconds) };
            match ready {
                0 if left.is_zero() => return Ok(Wake::Late),
                0 => {}
                1.. => {
                    if let Some(signal) = self.take() {
                        return Ok(Wake::Signal(signal));
                    }
                    if polls[1].revents != 0 {
                        return Ok(Wake::Readable);
                    }
                }
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error).context("cannot wait");
                    }
                }
            }
        }
    }

    /// Waits for a child to end; `None` when it did not in time. Signals that come meanwhile are
    /// handed to `on`.
    pub(crate) fn wait_for(
        &self,
        child: &mut Child,
        patience: Duration,
        mut on: impl FnMut(i32),
    ) -> Result<Option<ExitStatus>> {
        let until = Instant::now() + patience;
        let pidfd = pidfd(child.id())?;
        loop {
            if let Some(status) = child.try_wait().context("cannot wait for a child")? {
                return Ok(Some(status));
            }
            match self.wait(Some(pidfd.as_fd()), until)? {
                Wake::Late => return Ok(None),
                Wake::Signal(libc::SIGCHLD) | Wake::Readable => {}
                Wake::Signal(signal) => on(signal),
            }
        }
    }

    fn take(&self) -> Option<i32> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the kernel writes one whole struct or nothing.
        let n = unsafe { libc::read(self.fd.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        // SAFETY: it wrote the struct.
        (n == size as isize).then(|| unsafe { info.assume_init() }.ssi_signo as i32)
    }
}

/// A descriptor that can be read once the process has ended.
pub(crate) fn pidfd(pid: u32) -> Result<OwnedFd> {
    // SAFETY: a system call without memory; the descriptor is new and owned by nobody else.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error()).with_context(|| format!("no process {pid}"));
        }
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// A process that is no child of ours, for as long as it lives: its id may be another's later.
pub(crate) struct Stranger(OwnedFd);

impl Stranger {
    /// The process of that id.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        pidfd(pid).map(Self)
    }

    /// Sends a signal and waits for the end; false when it did not end in time.
    pub(crate) fn end(&self, signal: i32, patience: Duration) -> Result<bool> {
        let none = ptr::null::<libc::siginfo_t>();
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: the descriptor is ours, one initialised entry as told.
        unsafe {
            if libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal, none, 0) < 0 {
                let error = io::Error::last_os_error();
                if error.raw_os_error() != Some(libc::ESRCH) {
                    return Err(error).context("cannot signal the process");
                }
            }
            Ok(libc::poll(&mut poll, 1, patience.as_millis() as i32) > 0)
        }
    }

    /// Whether it has ended.
    pub(crate) fn ended(&self) -> bool {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one initialised entry, as told.
        unsafe { libc::poll(&mut poll, 1, 0) > 0 }
    }

    /// Asks it to end, and kills it when it does not.
    pub(crate) fn finish(&self, what: &str, patience: Duration) -> Result<()> {
        if !self.end(libc::SIGTERM, patience)? {
            eprintln!("the {what} did not end within {patience:?}: killing it");
            ensure!(self.end(libc::SIGKILL, patience)?, "the {what} does not end");
        }
        Ok(())
    }
}

impl AsFd for Stranger {
    /// Readable once it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Where a child lives.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// In a process group of its own: a Ctrl-C of the terminal reaches it only through us, once.
    Group,
    /// In a session of its own, without a terminal.
    Session,
}

/// Puts the child in its place with no signal blocked, and sends it `on_our_death` should we end
/// without having ended it.
pub(crate) fn supervise(command: &mut Command, place: Place, on_our_death: Option<i32>) {
    let parent = std::process::id();
    let set_up = move || {
        let mut none = MaybeUninit::uninit();
        // SAFETY: system calls alone, as must be between fork and exec.
        unsafe {
            libc::sigemptyset(none.as_mut_ptr());
            libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
            match place {
                Place::Group => libc::setpgid(0, 0),
                Place::Session => libc::setsid(),
            };
            if let Some(signal) = on_our_death {
                libc::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong, 0, 0, 0);
                // We may have ended before that call.
                if libc::getppid() as u32 != parent {
                    return Err(io::ErrorKind::Interrupted.into());
                }
            }
        }
        Ok(())
    };
    // SAFETY: `set_up` allocates nothing and takes no lock.
    unsafe { command.pre_exec(set_up) };
}

/// Sends a signal to a child that has not been waited for, so that its id is surely its own.
pub(crate) fn signal(child: &Child, signal: i32) {
    // SAFETY: a system call without memory.
    unsafe { libc::kill(child.id() as i32, signal) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    // One test: the signal mask belongs to the thread, and children come from any.
    #[test]
    fn signals_children_and_deadlines_end_a_wait() {
        let signals = Signals::block().unwrap();
        assert_eq!(signals.wait(None, Instant::now()).unwrap(), Wake::Late);

        let (reader, writer) = io::pipe().unwrap();
        drop(writer);
        let far = Instant::now() + Duration::from_secs(60);
        assert_eq!(signals.wait(Some(reader.as_fd()), far).unwrap(), Wake::Readable);

        // SAFETY: sends this thread, where it is blocked, a signal.
        unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGINT) };
        assert_eq!(signals.wait(Some(reader.as_fd()), far).unwrap(), Wake::Signal(libc::SIGINT));

        let mut command = Command::new("sleep");
        command.arg("600");
        supervise(&mut command, Place::Group, Some(libc::SIGKILL));
        let mut child = command.spawn().unwrap();
        assert_eq!(signals.wait_for(&mut child, Duration::ZERO, |_| {}).unwrap(), None);
        signal(&child, libc::SIGTERM);
        let status = signals.wait_for(&mut child, Duration::from_secs(60), |_| {}).unwrap();
        assert_eq!(status.unwrap().signal(), Some(libc::SIGTERM), "it is not blocked in the child");
    }
}

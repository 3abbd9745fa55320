//! Signals, pidfds and the supervision of child processes.
//!
//! A run is one loop that waits, with a deadline, for signals, exiting children and readable
//! descriptors. Signal handlers set a flag and write to a pipe (the self-pipe trick), so a signal
//! that arrives between two statements is never lost.

use super::{inherited, pre_exec};
use crate::output::errln;
use anyhow::{Context, Result, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, kill_process, kill_process_group, pidfd_open, pidfd_send_signal},
};
use signal_hook::{SigId, flag, low_level};
use std::{
    io::Read,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    process::{Child, Command, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

pub(crate) use rustix::process::Signal;

/// Signals that end a run, and the one that reports a child's exit.
const HANDLED: [Signal; 4] = [Signal::INT, Signal::TERM, Signal::HUP, Signal::CHILD];

/// The event that ended a wait.
#[derive(Debug, PartialEq)]
pub(crate) enum Wake {
    /// SIGINT, SIGTERM, SIGHUP, or SIGCHLD when a child may have exited.
    Signal(Signal),
    /// The other descriptor is readable.
    Readable,
    /// The deadline has passed.
    Timeout,
}

/// The signals of this process while this exists: they no longer end it. A SIGHUP that the caller ignores
/// stays ignored.
pub(crate) struct Signals {
    received: [Arc<AtomicBool>; HANDLED.len()],
    /// Readable after a signal was received.
    pipe: UnixStream,
    handlers: Vec<SigId>,
}

impl Signals {
    /// Installs the handlers.
    pub(crate) fn install() -> Result<Self> {
        let (pipe, writer) = UnixStream::pair().context("failed to create a pipe")?;
        pipe.set_nonblocking(true).context("failed to make a pipe non-blocking")?;
        let mut signals = Self { received: Default::default(), pipe, handlers: Vec::new() };
        for (signal, received) in HANDLED.iter().zip(&signals.received) {
            if *signal == Signal::HUP && inherited::is_hangup_ignored() {
                continue;
            }
            let problem = || format!("failed to handle {signal:?}");
            // Handlers run in the order of their registration: the flag is set before the pipe
            // becomes readable.
            let flag = flag::register(signal.as_raw(), received.clone()).with_context(problem)?;
            signals.handlers.push(flag);
            let writer = writer.try_clone().context("failed to duplicate a pipe")?;
            let wake = low_level::pipe::register(signal.as_raw(), writer);
            signals.handlers.push(wake.with_context(problem)?);
        }
        Ok(signals)
    }

    /// Waits for a signal, for `other` to become readable, or for the deadline.
    pub(crate) fn wait(&self, other: Option<BorrowedFd>, deadline: Instant) -> Result<Wake> {
        loop {
            if let Some(signal) = self.take() {
                return Ok(Wake::Signal(signal));
            }
            let mut fds = vec![PollFd::new(&self.pipe, PollFlags::IN)];
            fds.extend(other.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
            let left = deadline.saturating_duration_since(Instant::now());
            match poll(&mut fds, Some(&timespec(left))) {
                Ok(0) if left.is_zero() => return Ok(Wake::Timeout),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("failed to wait for an event"),
            }
            let ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
            if ready(0) {
                self.drain();
            } else if ready(1) {
                return Ok(Wake::Readable);
            }
        }
    }

    /// Waits for a child to exit; `None` when it did not in time. Signals that arrive meanwhile are
    /// passed to `on_signal`.
    pub(crate) fn wait_for(
        &self,
        child: &mut Child,
        timeout: Duration,
        mut on_signal: impl FnMut(Signal),
    ) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + timeout;
        let pidfd = PidFd::of_child(child)?;
        loop {
            if let Some(status) = child.try_wait().context("failed to wait for a child process")? {
                return Ok(Some(status));
            }
            match self.wait(Some(pidfd.as_fd()), deadline)? {
                Wake::Timeout => return Ok(None),
                Wake::Signal(Signal::CHILD) | Wake::Readable => {}
                Wake::Signal(signal) => on_signal(signal),
            }
        }
    }

    fn take(&self) -> Option<Signal> {
        let mut all = HANDLED.iter().zip(&self.received);
        all.find(|(_, received)| received.swap(false, Ordering::SeqCst)).map(|(signal, _)| *signal)
    }

    fn drain(&self) {
        let mut buffer = [0; 64];
        while let Ok(1..) = (&self.pipe).read(&mut buffer) {}
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            low_level::unregister(handler);
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    // A wait of days wakes up once more; no deadline here is that far away.
    let seconds = duration.as_secs().min(1_000_000);
    Timespec { tv_sec: seconds as i64, tv_nsec: duration.subsec_nanos().into() }
}

/// Handle to a process by pidfd: unlike a process id it never refers to another process later. It
/// becomes readable when the process exits.
pub(crate) struct PidFd(OwnedFd);

impl PidFd {
    /// Opens the process of that id.
    pub(crate) fn open(pid: u32) -> Result<Self> {
        let problem = || format!("failed to open process {pid}");
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).with_context(problem)?;
        pidfd_open(raw, PidfdFlags::empty()).map(Self).with_context(problem)
    }

    /// Opens a child that was not yet waited for.
    pub(crate) fn of_child(child: &Child) -> Result<Self> {
        Self::open(child.id())
    }

    /// Returns true once the process has exited.
    pub(crate) fn has_exited(&self) -> bool {
        self.wait(Duration::ZERO)
    }

    /// Sends SIGTERM, then SIGKILL if the process does not exit in time. `what` is for messages.
    pub(crate) fn terminate(&self, what: &str, timeout: Duration) -> Result<()> {
        self.send(Signal::TERM)?;
        if !self.wait(timeout) {
            errln!("the {what} did not exit within {timeout:?}; killing it");
            self.send(Signal::KILL)?;
            ensure!(self.wait(timeout), "the {what} does not exit");
        }
        Ok(())
    }

    /// Sends a signal; a process that has exited is no error.
    pub(crate) fn send(&self, signal: Signal) -> Result<()> {
        match pidfd_send_signal(&self.0, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error).context("failed to signal the process"),
        }
    }

    fn wait(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
            match poll(&mut fds, Some(&timespec(left))) {
                Ok(1..) => return true,
                Err(Errno::INTR) => {}
                _ if left.is_zero() => return false,
                _ => {}
            }
        }
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Where a child runs.
#[derive(Clone, Copy)]
pub(crate) enum Isolation {
    /// In a process group of its own: Ctrl-C in the terminal reaches it only through us, once.
    Group,
    /// In a session of its own, without a terminal.
    Session,
}

/// Isolates the child from the terminal and from what is not meant for it, and sends it `on_parent_exit` should this process exit
/// without having ended it.
pub(crate) fn supervise(
    command: &mut Command,
    isolation: Isolation,
    on_parent_exit: Option<Signal>,
) {
    inherited::clean_environment(command);
    match isolation {
        Isolation::Group => drop(command.process_group(0)),
        Isolation::Session => {
            pre_exec::new_session(command);
            // It may outlive this run, and would keep the caller's pipes and locks open.
            pre_exec::close_on_exec(command, inherited::open_descriptors());
        }
    }
    if let Some(signal) = on_parent_exit {
        pre_exec::signal_on_parent_exit(command, signal);
    }
}

/// Signals a child that was not yet waited for, so that its process id is still its own.
pub(crate) fn signal(child: &Child, signal: Signal) {
    let _ = kill_process(Pid::from_child(child), signal);
}

/// Signals the process group or session that such a child leads.
pub(crate) fn signal_group(child: &Child, signal: Signal) {
    let _ = kill_process_group(Pid::from_child(child), signal);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io, os::unix::process::ExitStatusExt};

    #[test]
    fn wait_ends_with_signals_readable_descriptors_child_exits_and_deadlines() {
        let signals = Signals::install().unwrap();
        assert_eq!(signals.wait(None, Instant::now()).unwrap(), Wake::Timeout);

        let (reader, writer) = io::pipe().unwrap();
        drop(writer);
        let far = Instant::now() + Duration::from_secs(60);
        let wait = || loop {
            // Children of other tests exit, too.
            match signals.wait(Some(reader.as_fd()), far).unwrap() {
                Wake::Signal(Signal::CHILD) => {}
                wake => return wake,
            }
        };
        assert_eq!(wait(), Wake::Readable);
        low_level::raise(Signal::INT.as_raw()).unwrap();
        assert_eq!(wait(), Wake::Signal(Signal::INT));

        let mut command = Command::new("sleep");
        command.arg("600");
        supervise(&mut command, Isolation::Group, Some(Signal::KILL));
        let mut child = command.spawn().unwrap();
        assert_eq!(signals.wait_for(&mut child, Duration::ZERO, |_| {}).unwrap(), None);
        signal(&child, Signal::TERM);
        let status = signals.wait_for(&mut child, Duration::from_secs(60), |_| {}).unwrap();
        assert_eq!(status.unwrap().signal(), Some(Signal::TERM.as_raw()), "not ignored there");
    }

    #[test]
    fn pidfd_reports_the_exit_of_its_process() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let pidfd = PidFd::of_child(&child).unwrap();
        assert!(!pidfd.has_exited());
        pidfd.terminate("sleep", Duration::from_secs(60)).unwrap();
        assert!(pidfd.has_exited());
        child.wait().unwrap();
        assert!(PidFd::open(child.id()).is_err(), "nothing has that id any more");
    }
}

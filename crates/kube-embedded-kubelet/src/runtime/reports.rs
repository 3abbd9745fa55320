//! The reports of a process that is being started, on a pipe or a socket.

use super::syscalls;
use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

/// Nothing takes nearly as long, also on a busy machine. A process that was stopped reports nothing.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The time between two looks at a zygote from which nothing has come yet.
const PATIENCE: Duration = Duration::from_millis(250);

/// The process that was asked to start another one.
pub(super) trait Starter: Send + Sync {
    /// Returns true if the process does nothing any more: it is stopped, or has exited.
    fn is_stopped(&self) -> bool;
    fn kill(&self);
}

/// The reading end of the reports.
pub(super) struct Reports {
    pub(super) fd: OwnedFd,
    /// The zygote, until it has started the process.
    zygote: Option<Arc<dyn Starter>>,
    deadline: Instant,
}

impl Reports {
    pub(super) fn new(fd: OwnedFd, zygote: Option<Arc<dyn Starter>>) -> Self {
        Self { fd, zygote, deadline: Instant::now() + TIMEOUT }
    }

    /// Waits for the next report, and returns `None` when there will be no more. A zygote that is
    /// stopped, or does not get anything done, is killed, which ends the reports too.
    pub(super) fn next(&mut self) -> io::Result<Option<(u32, i32)>> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.zygote.take().inspect(|zygote| zygote.kill());
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no response within {} s", TIMEOUT.as_secs()),
                ));
            }
            let wait = if self.zygote.is_some() { left.min(PATIENCE) } else { left };
            let mut poll =
                libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: `poll` outlives the call that is given its address.
            match unsafe { libc::poll(&mut poll, 1, wait.as_millis() as i32 + 1) } {
                0 => {
                    self.zygote.iter().filter(|zygote| zygote.is_stopped()).for_each(|z| z.kill());
                }
                1 => return self.read(),
                _ if syscalls::errno() == libc::EINTR => {}
                _ => return Err(io::Error::last_os_error()),
            }
        }
    }

    fn read(&mut self) -> io::Result<Option<(u32, i32)>> {
        let mut message = [0; 8];
        // SAFETY: pointer and length are of `message`; the descriptor is open, because `self` owns it.
        let read =
            unsafe { libc::read(self.fd.as_raw_fd(), message.as_mut_ptr().cast(), message.len()) };
        match read {
            8 => {
                self.zygote = None;
                Ok(Some(syscalls::parse(message)))
            }
            0 => Ok(None),
            _ => match io::Error::last_os_error() {
                // The other end of a socket was closed with a request unread.
                e if e.raw_os_error() == Some(libc::ECONNRESET) => Ok(None),
                e => Err(e),
            },
        }
    }
}

//! What a program reads and writes: pipes, or a terminal whose other end we hold.

use super::spawner::owned;
use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    sync::Arc,
};
use tokio::net::unix::pipe;

/// What a program is connected to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stdio {
    /// Nothing to read; output and errors apart.
    #[default]
    Output,
    /// The same, and a pipe to write into.
    Piped,
    /// A terminal for all three.
    Terminal,
}

/// The ends that are ours.
pub(crate) struct Streams {
    pub(crate) stdin: Option<pipe::Sender>,
    pub(crate) stdout: pipe::Receiver,
    /// Not there where a terminal mixes both.
    pub(crate) stderr: Option<pipe::Receiver>,
    pub(crate) terminal: Option<Terminal>,
}

/// A program's terminal. Hangs up when all that hold its ends are gone.
#[derive(Clone)]
pub(crate) struct Terminal(Arc<OwnedFd>);

impl Terminal {
    /// Tells the program how large its window is.
    pub(crate) fn resize(&self, columns: u16, rows: u16) {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the structure lives through the call. What fails is only how things look.
        unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    }
}

/// Our ends and the program's, before either is used.
pub(super) struct Ends {
    ours: Ours,
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: Option<OwnedFd>,
}

pub(super) struct Ours {
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: Option<OwnedFd>,
    terminal: bool,
}

impl Ends {
    /// A terminal is one of the container that the process `beside` is in, if there is one.
    pub(super) fn make(stdio: Stdio, beside: Option<libc::pid_t>) -> io::Result<Self> {
        if stdio == Stdio::Terminal {
            let own = beside.map(|pid| terminal(Some(&format!("/proc/{pid}/root/dev/ptmx"))));
            let (master, slave) = match own {
                Some(Ok(own)) => own,
                _ => terminal(None)?,
            };
            let ours = Ours { stdin: None, stdout: master, stderr: None, terminal: true };
            return Ok(Self { ours, stdin: None, stdout: slave, stderr: None });
        }
        let (out, out_end) = pipe()?;
        let (err, err_end) = pipe()?;
        let (mut stdin, mut stdin_end) = (None, None);
        if stdio == Stdio::Piped {
            let (end, ours) = pipe()?;
            (stdin, stdin_end) = (Some(ours), Some(above_standard(end)?));
        }
        let ours = Ours { stdin, stdout: out, stderr: Some(err), terminal: false };
        Ok(Self { ours, stdin: stdin_end, stdout: out_end, stderr: Some(err_end) })
    }

    /// The program's input, output and errors. `null` is what it reads where there is nothing.
    pub(super) fn theirs(&self, null: RawFd) -> [RawFd; 3] {
        let out = self.stdout.as_raw_fd();
        let terminal = self.ours.terminal;
        [
            self.stdin.as_ref().map_or(if terminal { out } else { null }, AsRawFd::as_raw_fd),
            out,
            self.stderr.as_ref().map_or(out, AsRawFd::as_raw_fd),
        ]
    }

    pub(super) fn is_terminal(&self) -> bool {
        self.ours.terminal
    }

    /// Closes the program's ends on this side.
    pub(super) fn keep_ours(self) -> Ours {
        self.ours
    }
}

impl Ours {
    /// Must be called within a tokio runtime.
    pub(super) fn streams(self) -> io::Result<Streams> {
        if !self.terminal {
            return Ok(Streams {
                stdin: self.stdin.map(pipe::Sender::from_owned_fd).transpose()?,
                stdout: pipe::Receiver::from_owned_fd(self.stdout)?,
                stderr: self.stderr.map(pipe::Receiver::from_owned_fd).transpose()?,
                terminal: None,
            });
        }
        // SAFETY: plain call on a descriptor we own.
        unsafe { libc::fcntl(self.stdout.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
        // A terminal is no pipe, but is read and written like one.
        Ok(Streams {
            stdin: Some(pipe::Sender::from_owned_fd_unchecked(self.stdout.try_clone()?)?),
            terminal: Some(Terminal(Arc::new(self.stdout.try_clone()?))),
            stdout: pipe::Receiver::from_owned_fd_unchecked(self.stdout)?,
            stderr: None,
        })
    }
}

/// A terminal: our end, and the program's. Made where `path` leads, or among the host's.
fn terminal(path: Option<&str>) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    let path = CString::new(path.unwrap_or("/dev/ptmx"))?;
    // SAFETY: the path ends in NUL; else plain calls on values and on descriptors that are open.
    unsafe {
        let master = owned(libc::open(path.as_ptr(), flags))?;
        let unlocked: libc::c_int = 0;
        if libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) < 0 {
            return Err(io::Error::last_os_error());
        }
        let slave = owned(libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags))?;
        Ok((master, above_standard(slave)?))
    }
}

/// Reading and writing end. The writing end is never one of the standard descriptors, which a
/// child replaces one after another.
pub(super) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: the array has room for two.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let [read, write] = ends;
    let (read, write) = (owned(read)?, owned(write)?);
    Ok((read, above_standard(write)?))
}

fn above_standard(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    // SAFETY: duplicates a descriptor that is open.
    owned(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) })
}

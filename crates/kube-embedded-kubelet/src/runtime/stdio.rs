//! The standard streams of a program: pipes, or a terminal whose other end the cluster holds.

use super::{
    fd::{above_stdio, owned, pipe},
    syscalls,
};
use std::{
    ffi::CString,
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::fs::{FileTypeExt, MetadataExt, fchown},
    },
    sync::Arc,
};
use tokio::net::unix::pipe;

/// The kind of standard streams that a program gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stdio {
    /// Standard input is empty; output and errors are separate pipes.
    #[default]
    Output,
    /// Three pipes: as `Output`, with one for standard input.
    Piped,
    /// One terminal for all three.
    Terminal,
}

/// The cluster's ends of a program's streams.
pub(crate) struct Streams {
    pub(crate) stdin: Option<pipe::Sender>,
    pub(crate) stdout: pipe::Receiver,
    /// `None` for a terminal, which mixes both.
    pub(crate) stderr: Option<pipe::Receiver>,
    pub(crate) terminal: Option<Terminal>,
}

/// The master end of a program's terminal. The program gets SIGHUP when the last copy is closed.
#[derive(Clone)]
pub(crate) struct Terminal(Arc<OwnedFd>);

impl Terminal {
    /// Sets the window size, which sends SIGWINCH to the program.
    pub(crate) fn resize(&self, columns: u16, rows: u16) {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the descriptor is open while the Arc is held; `size` is the `struct winsize` that
        // TIOCSWINSZ reads, and outlives the call. A failure affects only how output looks.
        unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    }
}

/// Both ends of a program's streams, before the program is started.
pub(super) struct StdioPair {
    ours: ParentEnds,
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: Option<OwnedFd>,
}

/// The cluster's ends, before they are registered with a Tokio runtime.
pub(super) struct ParentEnds {
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: Option<OwnedFd>,
    terminal: bool,
}

impl StdioPair {
    /// Creates the streams. A terminal is allocated in the container that the process `container`
    /// runs in, so that its name exists there; without one, or if that fails, on the host.
    /// Pipes belong to `owner` on the host, if that is not the user of the cluster: programs open
    /// them by name (`/dev/stdout`).
    pub(super) fn create(
        stdio: Stdio,
        container: Option<libc::pid_t>,
        owner: Option<(u32, u32)>,
    ) -> io::Result<Self> {
        if stdio == Stdio::Terminal {
            let (master, slave) = match container.map(open_terminal_in) {
                Some(Ok(own)) => own,
                _ => open_terminal("/dev/ptmx")?,
            };
            let ours = ParentEnds { stdin: None, stdout: master, stderr: None, terminal: true };
            return Ok(Self { ours, stdin: None, stdout: slave, stderr: None });
        }
        let (out, out_end) = pipe()?;
        let (err, err_end) = pipe()?;
        let (mut stdin, mut stdin_end) = (None, None);
        if stdio == Stdio::Piped {
            let (end, ours) = pipe()?;
            (stdin, stdin_end) = (Some(ours), Some(above_stdio(end)?));
        }
        for end in stdin_end.iter().chain([&out_end, &err_end]) {
            if let Some((user, group)) = owner {
                fchown(end, Some(user), Some(group))?;
            }
        }
        let ours = ParentEnds { stdin, stdout: out, stderr: Some(err), terminal: false };
        Ok(Self { ours, stdin: stdin_end, stdout: out_end, stderr: Some(err_end) })
    }

    /// Returns the descriptors for the program's 0, 1 and 2. `null` is the input of a program that
    /// has none.
    pub(super) fn child_fds(&self, null: RawFd) -> [RawFd; 3] {
        let out = self.stdout.as_raw_fd();
        let terminal = self.ours.terminal;
        [
            self.stdin.as_ref().map_or(if terminal { out } else { null }, AsRawFd::as_raw_fd),
            out,
            self.stderr.as_ref().map_or(out, AsRawFd::as_raw_fd),
        ]
    }

    /// Closes the program's ends in this process, or the end of the output would never be seen.
    pub(super) fn into_parent_ends(self) -> ParentEnds {
        self.ours
    }
}

impl ParentEnds {
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
        // SAFETY: the descriptor is open, because `self` owns it.
        unsafe { libc::fcntl(self.stdout.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
        // A terminal is not a pipe, but can be polled, read and written like one.
        Ok(Streams {
            stdin: Some(pipe::Sender::from_owned_fd_unchecked(self.stdout.try_clone()?)?),
            terminal: Some(Terminal(Arc::new(self.stdout.try_clone()?))),
            stdout: pipe::Receiver::from_owned_fd_unchecked(self.stdout)?,
            stderr: None,
        })
    }
}

/// Opens a terminal of the container that the process `pid` runs in. Whatever the container has put in
/// its place leads nowhere else.
fn open_terminal_in(pid: libc::pid_t) -> io::Result<(OwnedFd, OwnedFd)> {
    let root = File::open(format!("/proc/{pid}/root"))?;
    let place = syscalls::open_at_root(root.as_raw_fd(), c"dev/ptmx", libc::O_PATH);
    let place = File::from(owned(place as RawFd)?);
    let kind = place.metadata()?;
    // The device number of ptmx is the same for every instance of devpts.
    if !kind.file_type().is_char_device() || kind.rdev() != libc::makedev(5, 2) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    open_terminal(&format!("/proc/self/fd/{}", place.as_raw_fd()))
}

/// Opens a terminal and returns its master and slave ends. `path` is the `ptmx` of the devpts
/// instance to use.
fn open_terminal(path: &str) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    let path = CString::new(path)?;
    // SAFETY: `path` is NUL-terminated; `master` is open while its OwnedFd exists; TIOCSPTLCK reads
    // an int through its pointer, TIOCGPTPEER takes plain flags and returns a new descriptor.
    unsafe {
        let master = owned(libc::open(path.as_ptr(), flags))?;
        let unlocked: libc::c_int = 0;
        if libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) < 0 {
            return Err(io::Error::last_os_error());
        }
        let slave = owned(libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags))?;
        Ok((master, above_stdio(slave)?))
    }
}

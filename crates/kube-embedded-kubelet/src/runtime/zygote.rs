//! The zygote: the small process from which everything is forked that enters the namespaces of a pod.
//!
//! It is this very program, executed again: it has none of the memory of the cluster and none of its
//! descriptors, so what a container could take from a process that is about to enter it is worth
//! nothing ([`super::zygote_process`]).

use super::{
    clone::{ChildMain, Stack, clone_vfork},
    fd::{memory_file, reap, socket_pair},
    own_program,
    pause_process::{PARENT, SOCKET},
    reports::{Reports, Starter},
    scm_rights,
    syscalls::{self, Step},
    wire::Wire,
    zygote_process,
};
use libc::{c_char, c_int};
use std::{
    ffi::CString,
    fs,
    io::{self, ErrorKind},
    os::fd::{AsRawFd, OwnedFd, RawFd},
    ptr,
    sync::Arc,
};

/// The handle of the zygote process, which is killed when the last copy is dropped.
pub(super) struct Zygote {
    pid: libc::pid_t,
    socket: OwnedFd,
}

/// The descriptor of the program to execute.
const PROGRAM: c_int = PARENT + 1;

/// The zygote of the forking thread, once one was needed.
pub(super) type Slot = Option<Arc<Zygote>>;

/// Has the zygote fork a process for this request, which gets these descriptors and reports on the
/// first of them. Starts the zygote if none runs. Returns it: the caller notices when it dies before
/// it has forked by the end of the reports.
pub(super) fn fork(
    slot: &mut Slot,
    start: impl Fn() -> io::Result<Arc<Zygote>>,
    request: &impl Wire,
    kind: u8,
    fds: &[RawFd],
) -> io::Result<Arc<Zygote>> {
    let mut bytes = Vec::new();
    request.put(&mut bytes);
    let payload = memory_file(&bytes)?;
    let mut all = vec![payload.as_raw_fd()];
    all.extend(fds);
    let send = |zygote: Arc<Zygote>| {
        let sent = scm_rights::send(zygote.socket.as_raw_fd(), &[kind], &all);
        sent.map(|_| zygote).map_err(io::Error::from_raw_os_error)
    };
    if let Some(zygote) = slot.take().filter(|zygote| !zygote.is_stopped()) {
        match send(zygote) {
            Ok(zygote) => return Ok(slot.insert(zygote).clone()),
            Err(error) => tracing::warn!(%error, "the zygote has died; starting another"),
        }
    }
    Ok(slot.insert(send(start()?)?).clone())
}

impl Zygote {
    /// Executes this program again as a zygote. To be called on the forking thread; `parent` is a pidfd
    /// of the cluster process.
    pub(super) fn start(stack: &Stack, parent: &OwnedFd, null: RawFd) -> io::Result<Arc<Self>> {
        zygote_process::check_hook()?;
        let program = own_program::open(stack);
        match &program {
            // By cargo, for example. What containers could write to is not what will be executed next.
            Err(error) if [ErrorKind::NotFound, ErrorKind::Other].contains(&error.kind()) => {
                tracing::warn!(%error, "containers see the cluster's program, which was replaced, through a writable mount");
            }
            // Where that is not possible, no container is, either.
            Err(error) => tracing::debug!(%error, "no read-only mount of the program"),
            Ok(_) => {}
        }
        let (ours, theirs) = socket_pair()?;
        // Libraries of the program are found in the same places.
        let libraries = std::env::var("LD_LIBRARY_PATH").ok();
        let libraries = libraries.map(|path| CString::new(format!("LD_LIBRARY_PATH={path}")));
        let libraries = libraries.transpose()?;
        let main = Main {
            argv: [zygote_process::NAME.as_ptr(), ptr::null()],
            envp: [
                zygote_process::VARIABLE.as_ptr(),
                libraries.as_ref().map_or(ptr::null(), |l| l.as_ptr()),
                ptr::null(),
            ],
            null,
            socket: theirs.as_raw_fd(),
            parent: parent.as_raw_fd(),
            program: program.as_ref().map(AsRawFd::as_raw_fd).ok(),
        };
        // SAFETY: `Main::run` makes system calls on prepared memory only; the forking thread has
        // blocked all signals, and it alone uses the stack, for one child at a time.
        let pid = unsafe { clone_vfork(stack, 0, &main) } as libc::pid_t;
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        drop(theirs);
        limit_waits(&ours);
        let mut reports = Reports::new(ours, None);
        let ready = reports.next();
        let zygote = Arc::new(Self { pid, socket: reports.fd });
        match ready? {
            Some((syscalls::READY, _)) => {
                tracing::debug!(pid, "zygote started");
                Ok(zygote)
            }
            Some((_, errno)) => Err(io::Error::from_raw_os_error(errno)),
            None => Err(io::Error::other("the zygote died at its start")),
        }
    }

    #[cfg(test)]
    pub(super) fn pid(&self) -> libc::pid_t {
        self.pid
    }
}

impl Starter for Zygote {
    fn kill(&self) {
        // SAFETY: kill takes plain values. `pid` is a child that only `drop` reaps, so the number
        // cannot have been given to another process.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
    }

    fn is_stopped(&self) -> bool {
        let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", self.pid)) else { return false };
        // The name before the state may contain anything.
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        matches!(state, Some('T' | 't' | 'Z' | 'X'))
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        self.kill();
        reap(self.pid);
        tracing::debug!(pid = self.pid, "zygote ended");
    }
}

/// Limits how long a request can block the forking thread, if the zygote reads none.
fn limit_waits(socket: &OwnedFd) {
    let limit = libc::timeval { tv_sec: 2, tv_usec: 0 };
    // SAFETY: the option is a timeval, whose address and size are passed; the descriptor is open.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_SNDTIMEO,
            (&raw const limit).cast(),
            size_of_val(&limit) as _,
        );
    }
}

/// The child that becomes the zygote.
struct Main {
    argv: [*const c_char; 2],
    envp: [*const c_char; 3],
    null: c_int,
    socket: c_int,
    parent: c_int,
    program: Option<c_int>,
}

impl ChildMain for Main {
    fn run(&self) -> ! {
        syscalls::default_signals();
        // SAFETY: the descriptor table is a copy of the parent's that this process alone uses; the
        // three are open in it. Both arrays hold NUL-terminated strings and end with null.
        unsafe {
            // A session of its own: Ctrl-C in the terminal of the cluster signals only the cluster,
            // which then stops its pods in order.
            libc::setsid();
            // Copied above all targets first, because each may be one of them.
            let [null, socket, parent] =
                [self.null, self.socket, self.parent].map(|fd| libc::fcntl(fd, libc::F_DUPFD, 10));
            let program = self.program.map(|fd| libc::fcntl(fd, libc::F_DUPFD, 10));
            for (from, to) in [(null, 0), (null, 1), (null, 2), (socket, SOCKET), (parent, PARENT)]
            {
                libc::dup2(from, to);
            }
            if let Some(program) = program {
                libc::dup3(program, PROGRAM, libc::O_CLOEXEC);
            }
            syscalls::close_range(PROGRAM + 1, libc::c_uint::MAX, 0);
            let (argv, envp) = (self.argv.as_ptr(), self.envp.as_ptr());
            if program.is_some() {
                let flags = libc::AT_EMPTY_PATH;
                libc::syscall(libc::SYS_execveat, PROGRAM, c"".as_ptr(), argv, envp, flags);
            } else {
                syscalls::close_range(PROGRAM, PROGRAM as libc::c_uint, 0);
                libc::execve(c"/proc/self/exe".as_ptr(), argv, envp);
            }
        }
        syscalls::report(SOCKET, Step::Exec as u32, syscalls::errno());
        syscalls::exit_now(127)
    }
}

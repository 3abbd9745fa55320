//! The zygote process itself: forks until the cluster closes its end of the socket.
//!
//! A library has no program of its own that it could execute, so it executes the one that it is part
//! of, and a constructor takes over before `main` ([`HOOK`]), as runc does. The process has one thread,
//! and so have its children: unlike in the cluster process, code after fork may allocate.

use super::{
    child,
    clone::clone,
    exec_plan::ExecPlan,
    pause_process::{self, PARENT, PauseRequest, SOCKET},
    privileges,
    router_process::{self, RouterRequest},
    scm_rights,
    syscalls::{self, Step},
    wire::Wire,
};
use libc::c_int;
use std::{
    ffi::CStr,
    fs::{self, File},
    io,
    os::fd::FromRawFd,
    os::unix::fs::FileExt,
    sync::atomic::{AtomicBool, Ordering},
};

/// The environment of a zygote has this variable.
pub(super) const VARIABLE: &CStr = c"KUBE_EMBEDDED_ZYGOTE=1";
/// The name of the process.
pub(super) const NAME: &CStr = c"kube-embedded-zygote";

/// The kinds of requests.
pub(super) const PAUSE: u8 = b'p';
pub(super) const ROUTER: u8 = b'r';
pub(super) const PROGRAM: u8 = b'x';

/// The most descriptors that come with a request: what it says, and those of [`child::Descriptors`].
const MAX_FDS: usize = 8;

/// Runs before `main`, in every program that contains this library.
#[used]
#[unsafe(link_section = ".init_array")]
static HOOK: extern "C" fn() = hook;

/// Set if the program ran [`HOOK`].
static HOOKED: AtomicBool = AtomicBool::new(false);

extern "C" fn hook() {
    HOOKED.store(true, Ordering::Relaxed);
    // SAFETY: the string is NUL-terminated, and no other thread changes the environment: there is none
    // before `main`.
    let variable = unsafe { libc::getenv(c"KUBE_EMBEDDED_ZYGOTE".as_ptr()) };
    if !variable.is_null() && is_socket(SOCKET) {
        run();
    }
}

/// Checks that this program, executed again, would become a zygote and nothing else. If the library was
/// loaded into a foreign program, that program would run a second time.
pub(super) fn check_hook() -> io::Result<()> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let program = fs::read_link("/proc/self/exe")?;
    let program = program.to_str().unwrap_or_default();
    if HOOKED.load(Ordering::Relaxed) && is_mapped_from(&maps, hook as *const () as usize, program)
    {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "the library has to be linked into the program, and {program} only loaded it"
    )))
}

/// Judges `/proc/self/maps`: returns true if `address` is in a mapping of `file`.
fn is_mapped_from(maps: &str, address: usize, file: &str) -> bool {
    maps.lines().any(|line| {
        let Some((range, rest)) = line.split_once(' ') else { return false };
        let number = |text| usize::from_str_radix(text, 16).unwrap_or(0);
        let inside = range
            .split_once('-')
            .is_some_and(|(start, end)| (number(start)..number(end)).contains(&address));
        // Mode, offset, device and inode come before the name.
        inside && rest.splitn(5, ' ').last().map(str::trim_start) == Some(file)
    })
}

fn is_socket(fd: c_int) -> bool {
    let (mut kind, mut size) = (0 as c_int, size_of::<c_int>() as libc::socklen_t);
    // SAFETY: the option is an int, whose address and size are passed.
    let result = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_TYPE, (&raw mut kind).cast(), &mut size)
    };
    result == 0 && kind == libc::SOCK_SEQPACKET
}

fn run() -> ! {
    // SAFETY: the string is NUL-terminated. Executed by a descriptor, it has the number of that as its name.
    unsafe { libc::prctl(libc::PR_SET_NAME, NAME.as_ptr()) };
    // No process of a container may trace this one or its children, whatever its user id.
    privileges::set_dumpable(false);
    // Where each container cannot have a keyring of its own, it is not that of the user at least.
    privileges::join_session_keyring();
    syscalls::die_with_parent(PARENT);
    syscalls::report(SOCKET, syscalls::READY, 0);
    loop {
        let (mut kind, mut fds) = ([0], [-1; MAX_FDS]);
        let count = match scm_rights::receive(SOCKET, &mut kind, &mut fds) {
            Ok((1, count @ 2..)) => count,
            Err(libc::EINTR) => continue,
            _ => syscalls::exit_now(0),
        };
        let received = fds.get(..count).unwrap_or_default();
        let [kind] = kind;
        // SAFETY: this process has one thread, so the child may do anything; it never returns.
        let pid = unsafe { clone(libc::CLONE_PARENT) };
        if pid == 0 {
            start(kind, received);
        }
        if let (true, [_, report, ..]) = (pid < 0, received) {
            syscalls::report(*report, Step::Namespaces as u32, syscalls::errno());
        }
        for fd in received {
            // SAFETY: it came with the message and belongs to this process; the child has a copy.
            unsafe { libc::close(*fd) };
        }
    }
}

/// Runs in the child.
fn start(kind: u8, fds: &[c_int]) -> ! {
    let [payload, report, rest @ ..] = fds else { syscalls::exit_now(1) };
    // SAFETY: getpid takes no arguments; `payload` came with the message and has no other owner.
    let (pid, payload) = unsafe { (libc::getpid(), File::from_raw_fd(*payload)) };
    // The cluster learns the pid from the process itself, not from the zygote, which may die before it
    // can report it.
    syscalls::report(*report, syscalls::PID, pid);
    let bytes = read(payload);
    let mut bytes = bytes.as_slice();
    match kind {
        PAUSE => {
            if let Some(request) = PauseRequest::get(&mut bytes) {
                pause_process::run(&request, *report, rest.first().copied());
            }
        }
        ROUTER => {
            if let Some(request) = RouterRequest::get(&mut bytes) {
                router_process::run(&request, *report);
            }
        }
        _ => {
            if let Some(plan) = ExecPlan::get(&mut bytes) {
                child::run(&plan, *report, rest);
            }
        }
    }
    syscalls::report(*report, Step::Request as u32, libc::EBADMSG);
    syscalls::exit_now(1)
}

fn read(file: File) -> Vec<u8> {
    let length = file.metadata().map_or(0, |m| m.len());
    let mut bytes = vec![0; length as usize];
    if file.read_exact_at(&mut bytes, 0).is_err() {
        bytes.clear();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hook_is_only_trusted_in_the_program_itself() {
        let maps = "\
55d0c0000000-55d0c0100000 r-xp 00000000 08:01 1                          /bin/a program
7f0000000000-7f0000400000 r-xp 00000000 08:01 2    /lib/libplugin.so
7f1000000000-7f1000200000 rw-p 00000000 00:00 0 
";
        let table = [
            (0x55d0c0000010, "/bin/a program", true),
            (0x55d0c0100000, "/bin/a program", false),
            (0x7f0000000010, "/bin/a program", false),
            (0x7f1000000010, "/bin/a program", false),
        ];
        for (address, file, expected) in table {
            assert_eq!(is_mapped_from(maps, address, file), expected, "{address:x}");
        }
        check_hook().unwrap();
    }
}

//! What the embedded cluster stands on: the kernel, this user's rights and limits, the disk.

use super::{Finding, bad, good, note};
use crate::{project::Project, running::Running};
use std::{
    ffi::CString,
    fs, io,
    mem::MaybeUninit,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::Path,
    process::{Command, Stdio},
    ptr, thread,
    time::Duration,
};

pub(super) fn cores() -> Finding {
    match thread::available_parallelism().map_or(1, usize::from) {
        1 => note("1 core: everything works, more slowly"),
        n => good(format!("{n} cores")),
    }
}

pub(super) fn loopback() -> Finding {
    // Every cluster has a block 127.A.0.0/16 of its own.
    let try_it = || -> io::Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::new(127, 254, 254, 253), 0))?;
        TcpStream::connect_timeout(&listener.local_addr()?, Duration::from_secs(2))?;
        Ok(())
    };
    match try_it() {
        Ok(()) => good("every 127.x.y.z can be bound and reached"),
        Err(error) => bad(format!(
            "127.254.254.253 cannot be used ({error}); the embedded cluster needs Linux' whole loopback range"
        )),
    }
}

pub(super) fn namespaces() -> Finding {
    let mut command = Command::new("true");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    // SAFETY: system calls alone.
    unsafe { command.pre_exec(enter_namespaces) };
    match command.status() {
        Ok(_) => good("user, mount, pid, uts and network namespaces: pods are sandboxed"),
        Err(error) => {
            let said =
                note(format!("none ({error}): pods are plain processes with loopback addresses"));
            Finding { mend: reason().map(Into::into), ..said }
        }
    }
}

/// What a pod's sandbox begins with. Where a security module takes the new namespace's rights away,
/// only the mount fails.
fn enter_namespaces() -> io::Result<()> {
    let flags = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWNET;
    // SAFETY: system calls; the strings are literals that end in a null.
    let done = unsafe {
        libc::unshare(flags) == 0
            && libc::mount(
                c"none".as_ptr(),
                c"/".as_ptr(),
                ptr::null(),
                libc::MS_REC | libc::MS_PRIVATE,
                ptr::null(),
            ) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What would allow them.
fn reason() -> Option<&'static str> {
    let is = |name: &str, value| setting(name).is_some_and(|found| found == value);
    if is("kernel/apparmor_restrict_unprivileged_userns", 1) {
        Some("sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0")
    } else if is("kernel/unprivileged_userns_clone", 0) {
        Some("sudo sysctl kernel.unprivileged_userns_clone=1")
    } else if is("user/max_user_namespaces", 0) {
        Some("sudo sysctl user.max_user_namespaces=10000")
    } else {
        None
    }
}

pub(super) fn port_80() -> Finding {
    match TcpListener::bind(SocketAddr::from(([127, 254, 254, 253], 80))) {
        Ok(_) => good("may be bound: load balancers answer on it"),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            note("may not be bound: load balancers answer on 10080 instead")
                .mended("sudo sysctl net.ipv4.ip_unprivileged_port_start=80")
        }
        Err(error) => note(format!(
            "is taken on every address ({error}): load balancers answer on 10080 instead"
        )),
    }
}

pub(super) fn open_files() -> Finding {
    let mut limit = MaybeUninit::<libc::rlimit>::uninit();
    // SAFETY: filled in by the call that is checked.
    let limit = unsafe {
        match libc::getrlimit(libc::RLIMIT_NOFILE, limit.as_mut_ptr()) {
            0 => limit.assume_init().rlim_cur,
            _ => return note("the limit of open files is not known"),
        }
    };
    match limit {
        0..512 => note(format!("only {limit} may be open at once")).mended("ulimit -n 4096"),
        _ => good(format!("{limit} may be open at once")),
    }
}

pub(super) fn folder(project: &Project) -> Finding {
    let home = match project.home() {
        Ok(home) => home,
        Err(error) => return bad(format!("{error:#}")),
    };
    match free(&home) {
        Some(free) if free < 3e9 => {
            note(format!("{:.1} GB free in {}; a build takes 3 GB", free / 1e9, home.display()))
        }
        Some(free) => good(format!("{}, {:.0} GB free", home.display(), free / 1e9)),
        None => good(home.display().to_string()),
    }
}

pub(super) fn free(folder: &Path) -> Option<f64> {
    let path = CString::new(folder.as_os_str().as_bytes()).ok()?;
    let mut about = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: filled in by the call that is checked.
    unsafe {
        (libc::statvfs(path.as_ptr(), about.as_mut_ptr()) == 0).then(|| {
            let about = about.assume_init();
            about.f_bavail as f64 * about.f_frsize as f64
        })
    }
}

pub(super) fn cluster(project: &Project) -> Finding {
    match project.home().and_then(|home| Running::find(&home)) {
        Ok(Some(running)) => good(format!("running at {}", running.about.server)),
        Ok(None) => good("none is running; `cargo xtask up` starts one"),
        Err(error) => note(format!("{error:#}")),
    }
}

/// A kernel setting that is a number, by its path below `/proc/sys`.
pub(super) fn setting(name: &str) -> Option<u64> {
    fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?.trim().parse().ok()
}

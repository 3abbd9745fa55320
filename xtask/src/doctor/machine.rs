//! Checks of the kernel, this user's rights and limits, and the disk: what the embedded cluster needs.

use super::check::{CheckContext, Finding};
use crate::exec::enter_pod_namespaces;
use lab_environment::OPEN_FILES;
use rustix::process::{Resource, getrlimit};
use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

/// Checks the number of cores.
pub(crate) fn cores(_: &CheckContext) -> Finding {
    match thread::available_parallelism().map_or(1, usize::from) {
        1 => Finding::note("1 core: everything works, more slowly"),
        n => Finding::ok(format!("{n} cores")),
    }
}

/// Checks that any loopback address can be used: every cluster has a block 127.A.0.0/16 of its own.
pub(crate) fn loopback(_: &CheckContext) -> Finding {
    let connect = || -> io::Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::new(127, 254, 254, 253), 0))?;
        TcpStream::connect_timeout(&listener.local_addr()?, Duration::from_secs(2))?;
        Ok(())
    };
    match connect() {
        Ok(()) => Finding::ok("every 127.x.y.z can be bound and reached"),
        Err(error) => Finding::bad(format!(
            "127.254.254.253 cannot be used ({error}); the embedded cluster needs the whole loopback \
             range of Linux"
        )),
    }
}

/// Checks for the namespaces of the pod sandbox by entering them.
pub(crate) fn namespaces(_: &CheckContext) -> Finding {
    let mut command = Command::new("true");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    enter_pod_namespaces(&mut command);
    match command.status() {
        Ok(_) => Finding::ok("user, mount, pid, uts and network namespaces: pods are sandboxed"),
        Err(error) => Finding {
            fix: namespaces_fix().map(Into::into),
            ..Finding::note(format!(
                "none ({error}): pods are plain processes with loopback addresses, and do not resolve names of Services"
            ))
        },
    }
}

fn namespaces_fix() -> Option<&'static str> {
    let is = |name: &str, value| sysctl(name).is_some_and(|found| found == value);
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

/// An address that no cluster uses.
const PORT_80: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 254, 254, 253)), 80);

/// Checks whether this user may bind port 80.
pub(crate) fn port_80(_: &CheckContext) -> Finding {
    match TcpListener::bind(PORT_80) {
        Ok(_) => Finding::ok("can be bound: load balancers listen on it"),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Finding::note("cannot be bound: load balancers listen on 10080 instead")
                .with_fix("sudo sysctl net.ipv4.ip_unprivileged_port_start=80")
        }
        Err(error) => Finding::note(format!(
            "is taken on every address ({error}): load balancers listen on 10080 instead"
        )),
    }
}

/// Returns true if this user may not bind port 80, so that load balancers listen on 10080.
pub(crate) fn needs_other_ports() -> bool {
    let bound = TcpListener::bind(PORT_80);
    bound.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// Checks the limit of open files: the hard one, up to which the programs raise the soft one.
pub(crate) fn open_files(_: &CheckContext) -> Finding {
    of_open_files(getrlimit(Resource::Nofile).maximum)
}

fn of_open_files(limit: Option<u64>) -> Finding {
    match limit {
        Some(limit) if limit < OPEN_FILES => Finding::bad(format!(
            "only {limit} may be open at once, and {OPEN_FILES} are needed: requests would fail"
        ))
        .with_fix(format!(
            "raise the hard limit, e.g. `sudo prlimit --pid $$ --nofile={OPEN_FILES}`"
        )),
        Some(limit) => Finding::ok(format!("{limit} may be open at once")),
        None => Finding::ok("any number may be open at once"),
    }
}

/// Checks the state directory and its disk.
pub(crate) fn home(context: &CheckContext) -> Finding {
    let home = match context.project.home() {
        Ok(home) => home,
        Err(error) => return Finding::bad(format!("{error:#}")),
    };
    match free_bytes(&home) {
        Some(free) if free < 3e9 => Finding::note(format!(
            "{:.1} GB free in {}; a build takes 3 GB",
            free / 1e9,
            home.display()
        )),
        Some(free) => Finding::ok(format!("{}, {:.0} GB free", home.display(), free / 1e9)),
        None => Finding::ok(home.display().to_string()),
    }
}

/// Returns the free bytes of the file system of `path`, as far as this user may use them.
pub(crate) fn free_bytes(path: &Path) -> Option<f64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail as f64 * stat.f_frsize as f64)
}

/// Returns a numeric kernel setting by its path below `/proc/sys`.
pub(crate) fn sysctl(name: &str) -> Option<u64> {
    fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::check::State;

    #[test]
    fn too_low_limit_of_open_files_is_an_error() {
        for (limit, state) in [
            (Some(64), State::Bad),
            (Some(1023), State::Bad),
            (Some(1024), State::Ok),
            (None, State::Ok),
        ] {
            let found = of_open_files(limit);
            assert_eq!(
                (found.state, found.fix.is_some()),
                (state, state == State::Bad),
                "{limit:?}"
            );
        }
    }
}

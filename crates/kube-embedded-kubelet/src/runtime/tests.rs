//! Processes in both sandboxes, without pods around them.

mod attacks;
mod limits;

use super::*;
use crate::{
    rlimit,
    testing::{Folder, eventually, rootfs},
};
use kube_embedded_core::network::{PodSockets, Sandbox};
use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    sync::{Arc, Mutex},
};
use tokio::io::AsyncReadExt;

const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 7);

struct Fixture {
    spawner: Arc<Spawner>,
    root: Folder,
    scratch: Folder,
    /// Those of the last pod.
    ids: Mutex<IdMapping>,
    user: Mutex<(u32, u32)>,
    /// Changes the rights of the next programs.
    change: Mutex<fn(&mut Security)>,
}

impl Fixture {
    fn new() -> Self {
        Self {
            spawner: Spawner::new(rlimit::open_files()).unwrap(),
            root: rootfs(),
            scratch: Folder::new(),
            ids: Mutex::new(IdMapping::Host),
            user: Mutex::default(),
            change: Mutex::new(|_| {}),
        }
    }

    async fn pause(&self) -> Pause {
        self.pause_as(0).await
    }

    async fn pause_as(&self, user: u32) -> Pause {
        let config = PauseConfig {
            hostname: "web-0".to_owned(),
            address: POD,
            link: None,
            user,
            group: user,
            sysctls: Vec::new(),
        };
        let pause = self.spawner.pause(config).await.unwrap();
        *self.ids.lock().unwrap() = pause.ids;
        *self.user.lock().unwrap() = (user, user);
        pause
    }

    fn container(&self, pause: &Pause) -> Container {
        Container {
            shares_processes_of: None,
            pause: pause.process.pidfd(),
            root: RootFs::Overlay(self.root.0.clone()),
            read_only: false,
            storage: 16 << 20,
            scratch: self.scratch.0.clone(),
            files: vec![("/etc/hosts".to_owned(), "10.244.1.7 web-0\n".to_owned())],
            mounts: Vec::new(),
        }
    }

    async fn run(&self, target: LaunchTarget, argv: &[&str]) -> Result<Process, LaunchError> {
        let argv = argv.iter().map(|a| a.to_string()).collect();
        let env = vec!["A=1".to_owned(), "PATH=/nowhere:/".to_owned()];
        let (cwd, stdio) = ("/".to_owned(), Stdio::Output);
        let security = self.security(&target);
        self.spawner
            .launch(Launch { argv, env, cwd, target, stdio, security, rlimits: Vec::new() })
            .await
    }

    /// The rights that containers have by default.
    fn security(&self, target: &LaunchTarget) -> Arc<Security> {
        let ids = match target {
            LaunchTarget::Host { .. } => IdMapping::Host,
            _ => *self.ids.lock().unwrap(),
        };
        let (user, group) = match ids {
            IdMapping::One { user, group } => (user, group),
            _ => *self.user.lock().unwrap(),
        };
        let capabilities = Capabilities::default();
        let mut security = Security {
            ids,
            user,
            group,
            groups: Vec::new(),
            capabilities,
            no_new_privileges: true,
            seccomp: runtime_default(capabilities, ids != IdMapping::Host).unwrap(),
            oom_score_adj: 900,
        };
        (self.change.lock().unwrap())(&mut security);
        Arc::new(security)
    }

    async fn output(&self, target: LaunchTarget, argv: &[&str]) -> (String, Exit) {
        let process = self.run(target, argv).await.unwrap();
        let text = all(&process).await;
        (text, process.wait().await.unwrap())
    }
}

async fn all(process: &Process) -> String {
    let mut streams = process.streams().unwrap();
    let mut text = String::new();
    streams.stdout.read_to_string(&mut text).await.unwrap();
    streams.stderr.unwrap().read_to_string(&mut text).await.unwrap();
    text
}

/// Some machines refuse namespaces to ordinary users. Detection has to find that out.
fn require_namespaces() -> bool {
    let (sandbox, reason) = detect();
    eprintln!("{sandbox:?}: {reason}");
    assert_eq!(sandbox == Sandbox::Plain, reason.contains("do not work"));
    if sandbox == Sandbox::Plain {
        test_support::missing("user-namespaces", &reason);
    }
    sandbox == Sandbox::Namespaced
}

const OK: Exit = Exit { code: 0, signal: None };

#[tokio::test]
async fn container_has_its_own_root_pid_and_files() {
    if !require_namespaces() {
        return;
    }
    let fixture = Fixture::new();
    let pause = fixture.pause().await;
    let run = async |argv: &[&str]| {
        fixture.output(LaunchTarget::Container(Box::new(fixture.container(&pause))), argv).await
    };
    assert_eq!(run(&["/tool", "list", "/"]).await, ("dev etc proc tool\n".to_owned(), OK));
    assert_eq!(run(&["tool", "about"]).await.0, "pid 1 Uid: 0 0 0 0 cwd /\n");
    assert_eq!(run(&["/tool", "cat", "/etc/hosts"]).await.0, "10.244.1.7 web-0\n");
    assert_eq!(run(&["/tool", "cat", "/proc/sys/kernel/hostname"]).await.0, "web-0\n");
    assert_eq!(run(&["/tool", "env"]).await.0, "A=1\nPATH=/nowhere:/\n");
    assert_eq!(run(&["/tool", "exit", "7"]).await.1, Exit { code: 7, signal: None });
    assert_eq!(run(&["/tool", "write", "/x", "y"]).await.1, OK);
    assert_eq!(fs::read_dir(&fixture.root.0).unwrap().count(), 1, "the image was written to");
    assert_ne!(run(&["/tool", "write", "/proc/sys/kernel/panic", "1"]).await.1, OK);
}

#[tokio::test]
async fn volumes_are_mounted_and_read_only_ones_refuse_writes() {
    if !require_namespaces() {
        return;
    }
    let fixture = Fixture::new();
    let volume = Folder::new();
    fs::write(volume.0.join("key"), "value").unwrap();
    fs::set_permissions(&volume.0, fs::Permissions::from_mode(0o777)).unwrap();
    let pause = fixture.pause_as(65_532).await;
    let place = |read_only| {
        let mut container = fixture.container(&pause);
        container.mounts.push(Mount {
            below: None,
            source: volume.0.clone(),
            target: "/a/b".to_owned(),
            read_only,
        });
        container.mounts.push(Mount {
            below: None,
            source: volume.0.join("key"),
            target: "/one/file".to_owned(),
            read_only: true,
        });
        container.read_only = true;
        LaunchTarget::Container(Box::new(container))
    };
    assert_eq!(
        fixture.output(place(false), &["/tool", "about"]).await.0,
        "pid 1 Uid: 65532 65532 65532 65532 cwd /\n"
    );
    assert_eq!(fixture.output(place(false), &["/tool", "cat", "/one/file"]).await.0, "value");
    assert_eq!(fixture.output(place(false), &["/tool", "write", "/a/b/new", "x"]).await.1, OK);
    assert_eq!(fs::read_to_string(volume.0.join("new")).unwrap(), "x");
    assert_ne!(fixture.output(place(true), &["/tool", "write", "/a/b/new", "y"]).await.1, OK);
    assert_ne!(fixture.output(place(false), &["/tool", "write", "/new", "y"]).await.1, OK);
}

#[tokio::test]
async fn namespace_sockets_connect_into_a_pod_and_listen_in_it() {
    if !require_namespaces() {
        return;
    }
    let fixture = Fixture::new();
    let pause = fixture.pause().await;
    let sockets = NamespaceSockets::new(&pause, false).unwrap();
    let place = || LaunchTarget::Container(Box::new(fixture.container(&pause)));
    let server = fixture.run(place(), &["/tool", "serve", "8080"]).await.unwrap();
    let mut out = server.streams().unwrap().stdout;
    let mut line = [0; 10];
    out.read_exact(&mut line).await.unwrap();
    tokio::spawn(async move { tokio::io::copy(&mut out, &mut tokio::io::sink()).await });
    for _ in 0..500 {
        let mut stream = sockets.connect((POD, 8080).into()).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert!(text.ends_with("hi"), "{text}");
    }
    let refused = sockets.connect((POD, 81).into()).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);

    let service = (Ipv4Addr::new(10, 96, 0, 1), 443).into();
    let listener = sockets.listen(service).await.unwrap();
    assert_eq!(sockets.listen(service).await.unwrap_err().raw_os_error(), Some(libc::EADDRINUSE));
    let answer = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"from outside").await.unwrap();
    });
    assert_eq!(
        fixture.output(place(), &["/tool", "fetch", "10.96.0.1:443"]).await,
        ("from outside\n".to_owned(), OK)
    );
    answer.await.unwrap();

    // A program that is started in the container of the server sees the same files.
    assert_eq!(
        fixture
            .output(LaunchTarget::Exec(server.pidfd()), &["/tool", "write", "/tmp-sick", ""])
            .await
            .1,
        OK
    );
    assert_eq!(
        fixture
            .output(LaunchTarget::Exec(server.pidfd()), &["/tool", "exists", "/tmp-sick"])
            .await
            .1,
        OK
    );
    assert_eq!(fixture.output(place(), &["/tool", "exists", "/tmp-sick"]).await.1.code, 1);
    server.signal(libc::SIGTERM);
    server.signal(libc::SIGKILL);
    assert_eq!(server.wait().await.unwrap(), Exit { code: 137, signal: Some(9) });
    drop(pause);
    assert!(sockets.listen((POD, 1).into()).await.is_err());
}

#[tokio::test]
async fn program_that_cannot_be_executed_is_explained() {
    let fixture = Fixture::new();
    let plain = || LaunchTarget::Host { rootfs: fixture.root.0.clone() };
    let error = async |place, program: &str| match fixture.run(place, &[program]).await {
        Ok(_) => panic!("{program} started"),
        Err(e) => e.to_string(),
    };
    assert_eq!(error(plain(), "nope").await, "exec: \"nope\": executable file not found in $PATH");
    assert_eq!(
        error(plain(), "/bin/sh").await,
        "exec: \"/bin/sh\": No such file or directory (os error 2)"
    );
    if require_namespaces() {
        let pause = fixture.pause().await;
        let place = || LaunchTarget::Container(Box::new(fixture.container(&pause)));
        assert_eq!(
            error(place(), "nope").await,
            "exec: \"nope\": executable file not found in $PATH"
        );
        assert_eq!(
            error(place(), "/etc/hosts").await,
            "exec: \"/etc/hosts\": Permission denied (os error 13)"
        );
    }
}

#[tokio::test]
async fn plain_process_finds_its_program_in_the_image() {
    let fixture = Fixture::new();
    let plain = || LaunchTarget::Host { rootfs: fixture.root.0.clone() };
    let (text, exit) = fixture.output(plain(), &["/tool", "about"]).await;
    assert!(text.trim_end().ends_with(&fixture.root.0.display().to_string()), "{text}");
    assert_eq!(exit, OK);
    assert_eq!(fixture.output(plain(), &["tool", "env"]).await.0, "A=1\nPATH=/nowhere:/\n");
    let process = fixture.run(plain(), &["/tool", "wait"]).await.unwrap();
    let pid = process.pid;
    drop(process);
    assert!(!fs::exists(format!("/proc/{pid}")).unwrap());
}

#[tokio::test]
async fn pause_process_keeps_no_memory_or_files_of_the_parent() {
    if !require_namespaces() {
        return;
    }
    let ballast = vec![1u8; 64 << 20];
    let fixture = Fixture::new();
    let pause = fixture.pause().await;
    let smaps = fs::read_to_string(format!("/proc/{}/smaps_rollup", pause.process.pid)).unwrap();
    let values: BTreeMap<&str, u64> = smaps
        .lines()
        .skip(1)
        .filter_map(|l| Some((l.split(':').next()?, l.split_whitespace().nth(1)?.parse().ok()?)))
        .collect();
    assert!(values["Anonymous:".trim_end_matches(':')] < 8 << 10, "{smaps}");
    let open = fs::read_dir(format!("/proc/{}/fd", pause.process.pid)).unwrap().count();
    assert_eq!(open, 2);
    assert!(pause.socket.as_raw_fd() > 2);
    drop(ballast);
}

#[tokio::test]
async fn zygote_is_shared_by_pods_and_started_again_when_killed() {
    if !require_namespaces() {
        return;
    }
    let fixture = Fixture::new();
    let zygote = async || {
        fixture.pause().await;
        let pid = fixture
            .spawner
            .blocking(|thread| Ok(thread.zygote.borrow().as_ref().map(|zygote| zygote.pid())));
        pid.unwrap().unwrap()
    };
    let first = zygote().await;
    assert_eq!(zygote().await, first);
    let parent = fs::read_to_string(format!("/proc/{first}/status")).unwrap();
    assert!(parent.contains(&format!("PPid:\t{}\n", std::process::id())), "{parent}");
    // SAFETY: kill takes plain values; `first` is a child that is reaped only when the next pod is
    // started.
    unsafe { libc::kill(first, libc::SIGKILL) };
    let next = zygote().await;
    assert_ne!(next, first);
    assert!(!fs::exists(format!("/proc/{first}")).unwrap(), "it was not reaped");
    let Fixture { spawner, .. } = fixture;
    drop(spawner);
    eventually("the zygote ends with the spawner", async || {
        !fs::exists(format!("/proc/{next}")).unwrap()
    })
    .await;
}

/// What the attempt starts is what the cluster uses: what ends meanwhile delays what begins.
#[tokio::test]
async fn network_and_pods_of_a_cluster_are_forked_from_the_zygote_of_the_attempt() {
    if !require_namespaces() {
        return;
    }
    let mut runtime = ContainerRuntime::start(None, true).unwrap();
    let zygote = |runtime: &ContainerRuntime| {
        let pid = |thread: &spawner::ForkThread| {
            Ok(thread.zygote.borrow().as_ref().map(|zygote| zygote.pid()))
        };
        runtime.spawner.blocking(pid).unwrap().unwrap()
    };
    let first = zygote(&runtime);
    let network = runtime.take_network();
    assert_eq!(network.is_none(), runtime.reason.contains("not the addresses of each other"));
    let fixture = Fixture { spawner: runtime.spawner.clone(), ..Fixture::new() };
    fixture.pause().await;
    assert_eq!(zygote(&runtime), first);
    assert!(
        network.is_none_or(|network| fs::exists(format!("/proc/{}", network.process.pid)).unwrap())
    );
}

#[tokio::test]
async fn runtime_without_pods_or_namespaces_has_no_network() {
    for (sandbox, has_network) in [(Sandbox::Plain, true), (Sandbox::Namespaced, false)] {
        let mut runtime = ContainerRuntime::start(Some(sandbox), has_network).unwrap();
        assert_eq!(runtime.sandbox, sandbox);
        assert!(runtime.take_network().is_none());
        assert_eq!(runtime.reason, "requested by configuration");
    }
}

#[tokio::test]
async fn vforked_children_leave_the_process_unchanged() {
    let state = || {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let kept = ["Umask:", "Uid:", "SigIgn:", "CapEff:", "NoNewPrivs:", "Seccomp:"];
        let kept = status.lines().filter(|line| kept.iter().any(|field| line.starts_with(field)));
        let files = std::env::current_dir().unwrap();
        let spaces = ["user", "net", "mnt", "pid"]
            .map(|kind| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap());
        // SAFETY: prctl takes plain values. (A process that is not dumpable belongs to root in /proc.)
        let dumpable = unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) };
        (kept.map(str::to_owned).collect::<Vec<_>>(), files, spaces, dumpable)
    };
    // Other tests may add handlers meanwhile.
    let caught = || {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let field = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(field.trim(), 16).unwrap()
    };
    let (before, handled) = (state(), caught());
    let supported = require_namespaces();
    assert_eq!(state(), before, "after detection");
    if !supported {
        return;
    }
    let fixture = Fixture::new();
    let pause = fixture.pause().await;
    let place = || LaunchTarget::Container(Box::new(fixture.container(&pause)));
    let server = fixture.run(place(), &["/tool", "wait"]).await.unwrap();
    for _ in 0..20 {
        // Programs that succeed, that cannot be executed, and that join a container.
        assert_eq!(fixture.output(place(), &["/tool", "exit", "0"]).await.1, OK);
        assert!(fixture.run(place(), &["nope"]).await.is_err());
        let plain = LaunchTarget::Host { rootfs: fixture.root.0.clone() };
        assert_eq!(fixture.output(plain, &["/tool", "exit", "0"]).await.1, OK);
        let joined = LaunchTarget::Exec(server.pidfd());
        assert_eq!(fixture.output(joined, &["/tool", "exit", "0"]).await.1, OK);
        assert!(fixture.run(LaunchTarget::Exec(server.pidfd()), &["nope"]).await.is_err());
    }
    assert_eq!((state(), caught() & handled), (before, handled));
}

/// The kernel ends the first process of a pid namespace only when all others in it are reaped.
#[tokio::test]
async fn container_may_be_dropped_before_what_was_executed_in_it() {
    if !require_namespaces() {
        return;
    }
    let fixture = Fixture::new();
    let pause = fixture.pause().await;
    let place = LaunchTarget::Container(Box::new(fixture.container(&pause)));
    let container = fixture.run(place, &["/tool", "wait"]).await.unwrap();
    let place = LaunchTarget::Exec(container.pidfd());
    let executed = fixture.run(place, &["/tool", "wait"]).await.unwrap();
    let process = format!("/proc/{}", container.pid);
    drop(container);
    drop(executed);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while fs::exists(&process).unwrap() {
        assert!(std::time::Instant::now() < end, "the container was not reaped");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

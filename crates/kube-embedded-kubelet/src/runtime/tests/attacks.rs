//! What a hostile container tries. Each test is a line of the threat model in SECURITY.md.

use super::*;
use std::os::unix::fs::symlink;

/// A user id that can be written, but not read by a program that maps less.
fn is_root() -> bool {
    // SAFETY: geteuid takes no arguments and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// `syscall` of the tool, as text.
fn call(number: i64, arguments: &[&str]) -> Vec<String> {
    let mut all = vec!["/tool".to_owned(), "syscall".to_owned(), number.to_string()];
    all.extend(arguments.iter().map(|a| a.to_string()));
    all
}

impl Fixture {
    pub(super) fn place(&self, pause: &Pause) -> LaunchTarget {
        LaunchTarget::Container(Box::new(self.container(pause)))
    }

    async fn call(&self, target: LaunchTarget, number: i64, arguments: &[&str]) -> String {
        let argv = call(number, arguments);
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        self.output(target, &argv).await.0.trim_end().to_owned()
    }

    fn unconfined(&self) {
        *self.change.lock().unwrap() = |security| security.seccomp = Filters::default();
    }

    /// Starts a program and waits for its first line.
    async fn ready(&self, target: LaunchTarget, argv: &[&str]) -> (Process, Streams) {
        let process = self.run(target, argv).await.unwrap();
        let mut streams = process.streams().unwrap();
        let mut line = [0; 6];
        streams.stdout.read_exact(&mut line).await.unwrap();
        assert_eq!(&line, b"ready\n");
        (process, streams)
    }
}

#[tokio::test]
async fn memory_and_descriptors_of_what_joins_a_container_are_out_of_reach() {
    if !require_namespaces() {
        return;
    }
    let fixture = Fixture::new();
    let pause = fixture.pause().await;
    *fixture.change.lock().unwrap() = |security| {
        security.seccomp = Filters::default();
        security.capabilities = Capabilities::new(&["SYS_PTRACE".to_owned()], &[]).unwrap();
    };
    let (thief, mut streams) =
        fixture.ready(fixture.place(&pause), &["/tool", "steal", "/stop"]).await;
    let joined = || LaunchTarget::Exec(thief.pidfd());
    for _ in 0..200 {
        // It may be stopped by the thief meanwhile, and is let go again.
        fixture.output(joined(), &["/tool", "exit", "0"]).await;
    }
    // The thief may take hold of what is to stop it. It is the first process of the container, which ends with it.
    let mut attempts = 0;
    while let Ok(process) = fixture.run(joined(), &["/tool", "write", "/stop", ""]).await {
        all(&process).await;
        process.wait().await.unwrap();
        attempts += 1;
        assert!(attempts < 1000, "the thief does not stop");
    }
    let mut text = String::new();
    streams.stdout.read_to_string(&mut text).await.unwrap();
    assert!(text.ends_with("stole []\n"), "{text}");
    let refused: u32 = text.split(' ').nth(2).unwrap().parse().unwrap();
    assert!(refused > 0, "the thief was not quick enough to try: {text}");
}

#[tokio::test]
async fn zygote_and_pause_process_hold_nothing_of_the_cluster() {
    if !require_namespaces() {
        return;
    }
    let fixture = Fixture::new();
    // A secret in the memory of this process.
    let secret: String = (1..40_u8).map(|n| format!("{:02x}", n.wrapping_mul(37))).collect();
    let pause = fixture.pause().await;
    let zygote = fixture
        .spawner
        .blocking(|thread| Ok(thread.zygote.borrow().as_ref().map(|zygote| zygote.pid())));
    let zygote = zygote.unwrap().unwrap();
    for pid in [zygote, pause.process.pid] {
        // Only root may look at the zygote.
        let Ok(maps) = fs::read_to_string(format!("/proc/{pid}/maps")) else {
            assert!(!is_root() && pid == zygote);
            continue;
        };
        let environment = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
        // The dynamic linker needs its own variable where the libraries of this program are found by it.
        let names = environment.split('\0').filter_map(|entry| Some(entry.split_once('=')?.0));
        let unexpected: Vec<_> = names
            .filter(|name| !["KUBE_EMBEDDED_ZYGOTE", "LD_LIBRARY_PATH"].contains(name))
            .collect();
        assert!(unexpected.is_empty(), "{unexpected:?}");
        let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
        let mut bytes = Vec::new();
        for line in maps.lines().filter(|l| l.contains(" rw")) {
            let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
            let number = |text| u64::from_str_radix(text, 16).unwrap();
            let mut part = vec![0; (number(end) - number(start)) as usize];
            if std::os::unix::fs::FileExt::read_exact_at(&memory, &mut part, number(start)).is_ok()
            {
                bytes.extend(part);
            }
        }
        assert!(bytes.len() > 4096, "{maps}");
        assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()));
        let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        assert!(open <= 5, "{open} descriptors");
    }
    assert_eq!(secret.len(), 78);
}

#[tokio::test]
async fn rights_of_a_container_are_those_of_containerd() {
    if !require_namespaces() {
        return;
    }
    let fixture = Fixture::new();
    let pause = fixture.pause().await;
    let default = "00000000a80425fb";
    let none = "0000000000000000";
    let expected = |user: u32, effective: &str, bounding: &str, nnp: u32, filters: &str| {
        format!(
            "Uid: {user} {user} {user} {user}\nGid: {user} {user} {user} {user}\nCapInh: {none}\n\
             CapPrm: {effective}\nCapEff: {effective}\nCapBnd: {bounding}\nCapAmb: {none}\n\
             NoNewPrivs: {nnp}\nSeccomp: {filters}"
        )
    };
    let rights = async |target| {
        let text = fixture.output(target, &["/tool", "rights"]).await.0;
        // Only root can give up the supplementary groups of the user.
        let (groups, rest): (Vec<&str>, Vec<&str>) =
            text.lines().partition(|line| line.starts_with("Groups:"));
        assert!(!is_root() || groups == ["Groups:"], "{groups:?}");
        rest.join("\n")
    };
    assert_eq!(rights(fixture.place(&pause)).await, expected(0, default, default, 1, "2"));
    let server = fixture.run(fixture.place(&pause), &["/tool", "wait"]).await.unwrap();
    let joined = rights(LaunchTarget::Exec(server.pidfd())).await;
    assert_eq!(joined, expected(0, default, default, 1, "2"));

    *fixture.change.lock().unwrap() = |security| {
        security.capabilities = Capabilities::new(&[], &["ALL".to_owned()]).unwrap();
        security.seccomp = Filters::default();
        security.no_new_privileges = false;
    };
    assert_eq!(rights(fixture.place(&pause)).await, expected(0, none, none, 0, "0"));

    let pause = fixture.pause_as(65_532).await;
    *fixture.change.lock().unwrap() = |_| {};
    assert_eq!(rights(fixture.place(&pause)).await, expected(65_532, none, default, 1, "2"));
    let plain = || LaunchTarget::Host { rootfs: fixture.root.0.clone() };
    let text = rights(plain()).await;
    assert!(text.ends_with("NoNewPrivs: 1\nSeccomp: 2"), "{text}");
    let own = if is_root() { default } else { none };
    assert!(text.contains(&format!("CapEff: {own}\n")), "{text}");
}

#[tokio::test]
async fn root_of_a_container_is_nobody_on_the_host() {
    if !require_namespaces() {
        return;
    }
    let fixture = Fixture::new();
    let pause = fixture.pause().await;
    let other = fixture.pause().await;
    let id = |process: &Process| {
        let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap();
        let line = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u32>().unwrap()
    };
    let server = fixture.run(fixture.place(&pause), &["/tool", "wait"]).await.unwrap();
    // SAFETY: geteuid takes no arguments and cannot fail.
    let own = unsafe { libc::geteuid() };
    if own == 0 {
        assert!(id(&server) >= 0x7000_0000, "{}", id(&server));
        assert!(id(&pause.process) >= 0x7000_0000);
        assert_ne!(id(&pause.process), id(&other.process), "two pods share their ids");
    } else {
        assert_eq!(id(&server), own);
    }
    // Files of the image and of volumes belong to root there.
    let argv = ["/tool", "write", "/new", ""];
    assert_eq!(fixture.output(LaunchTarget::Exec(server.pidfd()), &argv).await.1, OK);
}

#[tokio::test]
async fn settings_of_the_kernel_stay_read_only_and_hidden() {
    if !require_namespaces() {
        return;
    }
    let fixture = Fixture::new();
    let pause = fixture.pause().await;
    // Also without the filter: capabilities and ids alone have to suffice.
    for unconfined in [false, true] {
        if unconfined {
            fixture.unconfined();
        }
        for path in ["/proc/sys", "/proc/sysrq-trigger", "/proc/keys", "/dev", "/proc"] {
            if fs::exists(path).unwrap() {
                let arguments = [path, "2"];
                let umount = fixture.call(fixture.place(&pause), libc::SYS_umount2, &arguments);
                assert_eq!(umount.await, "errno 1", "{path}");
            }
        }
        for path in
            ["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger"]
        {
            let write = fixture.output(fixture.place(&pause), &["/tool", "write", path, "x"]).await;
            assert_ne!(write.1, OK, "{path}");
        }
        for path in
            ["/proc/kcore", "/proc/keys", "/proc/key-users", "/proc/timer_list", "/proc/interrupts"]
        {
            if fs::exists(path).unwrap() {
                let read = fixture.output(fixture.place(&pause), &["/tool", "cat", path]).await;
                assert_eq!(read, (String::new(), OK), "{path}");
            }
        }
    }
    // A user namespace of its own gives the container nothing that it does not have.
    fixture.unconfined();
    let nested = |argv: &[&str]| [&["/tool", "nested"], argv].concat().join("\n");
    let umount = libc::SYS_umount2.to_string();
    for argv in [
        nested(&["syscall", &umount, "/proc/sys", "2"]),
        nested(&["syscall", &umount, "/proc/keys", "2"]),
    ] {
        let argv: Vec<&str> = argv.lines().collect();
        let (text, _) = fixture.output(fixture.place(&pause), &argv).await;
        assert_eq!(text, "errno 22\n", "{argv:?}"); // EINVAL: the mount is locked
    }
}

#[tokio::test]
async fn read_only_mounts_stay_read_only() {
    if !require_namespaces() {
        return;
    }
    let fixture = Fixture::new();
    let volume = Folder::new();
    fs::set_permissions(&volume.0, fs::Permissions::from_mode(0o777)).unwrap();
    let pause = fixture.pause().await;
    let place = || {
        let mut container = fixture.container(&pause);
        let source = volume.0.clone();
        container.mounts.push(Mount {
            source,
            below: None,
            target: "/ro".to_owned(),
            read_only: true,
        });
        container.read_only = true;
        LaunchTarget::Container(Box::new(container))
    };
    let (remount, bind) = (libc::MS_REMOUNT, libc::MS_BIND);
    let flags = (remount | bind).to_string();
    let number = libc::SYS_mount.to_string();
    for unconfined in [false, true] {
        if unconfined {
            fixture.unconfined();
        }
        for path in ["/ro", "/"] {
            let arguments = ["none", path, "0", &flags, "0"];
            assert_eq!(fixture.call(place(), libc::SYS_mount, &arguments).await, "errno 1");
            let nested = ["/tool", "nested", "syscall", &number, "none", path, "0", &flags, "0"];
            let (text, _) = fixture.output(place(), &nested).await;
            let refused = "unshare: Operation not permitted (os error 1)\n";
            assert_eq!(text, if unconfined { "errno 1\n" } else { refused }, "{path}");
        }
        for path in ["/ro/x", "/x"] {
            assert_ne!(fixture.output(place(), &["/tool", "write", path, ""]).await.1, OK);
        }
    }
    assert_eq!(fs::read_dir(&volume.0).unwrap().count(), 0);
}

#[tokio::test]
async fn default_seccomp_profile_closes_what_containerd_closes() {
    let fixture = Fixture::new();
    let plain = LaunchTarget::Host { rootfs: fixture.root.0.clone() };
    let mut places = vec![plain];
    let pause = if require_namespaces() { Some(fixture.pause().await) } else { None };
    places.extend(pause.as_ref().map(|pause| fixture.place(pause)));
    let new_user = libc::CLONE_NEWUSER.to_string();
    let closed: [(i64, &[&str], &str); 13] = [
        (libc::SYS_keyctl, &["0", "-3", "0"], "errno 1"),
        (libc::SYS_add_key, &["user", "a", "b", "1", "-3"], "errno 1"),
        (libc::SYS_request_key, &["user", "a", "0", "0"], "errno 1"),
        (libc::SYS_bpf, &["0", "0", "0"], "errno 1"),
        (libc::SYS_perf_event_open, &["0", "0", "0", "0", "0"], "errno 1"),
        (libc::SYS_mount, &["none", "/", "0", "0", "0"], "errno 1"),
        (libc::SYS_umount2, &["/proc", "2"], "errno 1"),
        (libc::SYS_userfaultfd, &["0"], "errno 1"),
        (libc::SYS_unshare, &[&new_user], "errno 1"),
        (libc::SYS_clone, &[&new_user, "0", "0", "0", "0"], "errno 1"),
        (libc::SYS_clone3, &["0", "0"], "errno 38"),
        (libc::SYS_io_uring_setup, &["1", "0"], "errno 1"),
        (9999, &[], "errno 38"),
    ];
    for place in places {
        for (number, arguments, expected) in closed {
            let again = match &place {
                LaunchTarget::Host { rootfs } => LaunchTarget::Host { rootfs: rootfs.clone() },
                _ => fixture.place(pause.as_ref().unwrap()),
            };
            let isolated = !matches!(again, LaunchTarget::Host { .. });
            let found = fixture.call(again, number, arguments).await;
            assert_eq!(found, expected, "{number} isolated {isolated}");
        }
    }
    // Processes that are not the container's could be reached only there.
    let plain = LaunchTarget::Host { rootfs: fixture.root.0.clone() };
    let pid = std::process::id().to_string();
    assert_eq!(fixture.call(plain, libc::SYS_ptrace, &["16", &pid, "0", "0"]).await, "errno 1");
}

#[tokio::test]
async fn memory_of_the_cluster_is_out_of_reach_in_the_plain_sandbox() {
    let fixture = Fixture::new();
    fixture.unconfined();
    let plain = || LaunchTarget::Host { rootfs: fixture.root.0.clone() };
    let own = format!("/proc/{}", std::process::id());
    for path in ["maps", "environ", "fd/0"] {
        let read = fixture.output(plain(), &["/tool", "cat", &format!("{own}/{path}")]).await;
        assert_ne!(read.1, OK, "{path}");
    }
    let pid = std::process::id().to_string();
    let attach = fixture.call(plain(), libc::SYS_ptrace, &["16", &pid, "0", "0"]).await;
    assert_eq!(attach, "errno 1");
}

#[tokio::test]
async fn session_keyring_of_the_user_is_out_of_reach() {
    const SESSION: i32 = -3;
    const JOIN: i32 = 1;
    const SEARCH: &str = "10";
    // The forking thread inherits the keyring of this one.
    // SAFETY: all strings are NUL-terminated, and the length is that of the payload.
    let key = unsafe {
        if libc::syscall(libc::SYS_keyctl, JOIN, std::ptr::null::<u8>()) < 0 {
            let error = std::io::Error::last_os_error();
            return test_support::missing("keyrings", &error.to_string());
        }
        let (kind, name, payload) = (c"user".as_ptr(), c"canary".as_ptr(), c"x".as_ptr());
        libc::syscall(libc::SYS_add_key, kind, name, payload, 1, SESSION)
    };
    assert!(key > 0, "{}", std::io::Error::last_os_error());
    let fixture = Fixture::new();
    fixture.unconfined();
    let plain = LaunchTarget::Host { rootfs: fixture.root.0.clone() };
    let search = [SEARCH, "-3", "user", "canary", "0"];
    let missing = "errno 126";
    assert_eq!(fixture.call(plain, libc::SYS_keyctl, &search).await, missing);
    if require_namespaces() {
        let pause = fixture.pause().await;
        assert_eq!(fixture.call(fixture.place(&pause), libc::SYS_keyctl, &search).await, missing);
        let server = fixture.run(fixture.place(&pause), &["/tool", "wait"]).await.unwrap();
        let joined = LaunchTarget::Exec(server.pidfd());
        assert_eq!(fixture.call(joined, libc::SYS_keyctl, &search).await, missing);
    }
}

#[tokio::test]
async fn links_of_an_image_lead_nowhere_outside_of_it() {
    if !require_namespaces() {
        return;
    }
    let fixture = Fixture::new();
    let outside = Folder::new();
    fs::set_permissions(&outside.0, fs::Permissions::from_mode(0o777)).unwrap();
    let pause = fixture.pause().await;
    let target = outside.0.strip_prefix("/").unwrap().display().to_string();
    // While the root is built, the current directory of the process is the old root.
    for link in ["/proc/self/cwd", "/proc/self/root", "/proc/self/fd/5", "/proc/thread-self/cwd"] {
        let etc = fixture.root.0.join("etc");
        let _ = fs::remove_file(&etc);
        symlink(format!("{link}/{target}"), &etc).unwrap();
        let started = fixture.run(fixture.place(&pause), &["/tool", "exit", "0"]).await;
        drop(started);
        assert_eq!(fs::read_dir(&outside.0).unwrap().count(), 0, "{link}");
    }
    fs::remove_file(fixture.root.0.join("etc")).unwrap();
    for directory in ["proc", "dev"] {
        symlink("/etc", fixture.root.0.join(directory)).unwrap();
        let started = fixture.run(fixture.place(&pause), &["/tool", "exit", "0"]).await;
        assert!(started.is_err(), "{directory} is a link");
        fs::remove_file(fixture.root.0.join(directory)).unwrap();
    }
}

#[tokio::test]
async fn working_directory_cannot_be_a_descriptor_of_the_host() {
    if !require_namespaces() {
        return;
    }
    let fixture = Fixture::new();
    let pause = fixture.pause().await;
    let server = fixture.run(fixture.place(&pause), &["/tool", "wait"]).await.unwrap();
    for number in 0..24 {
        for target in [fixture.place(&pause), LaunchTarget::Exec(server.pidfd())] {
            let security = fixture.security(&target);
            let launch = Launch {
                argv: vec!["/tool".to_owned(), "list".to_owned(), ".".to_owned()],
                env: Vec::new(),
                cwd: format!("/proc/self/fd/{number}"),
                target,
                stdio: Stdio::Output,
                security,
                rlimits: Vec::new(),
            };
            if let Ok(process) = fixture.spawner.launch(launch).await {
                panic!("descriptor {number}: {}", super::all(&process).await);
            }
        }
    }
}

#[tokio::test]
async fn devices_of_a_volume_cannot_be_opened() {
    if !require_namespaces() {
        return;
    }
    let fixture = Fixture::new();
    let pause = fixture.pause().await;
    let mut container = fixture.container(&pause);
    let (source, target) = ("/dev".into(), "/host-dev".to_owned());
    container.mounts.push(Mount { source, below: None, target, read_only: false });
    let target = LaunchTarget::Container(Box::new(container));
    let (text, exit) = fixture.output(target, &["/tool", "write", "/host-dev/null", "x"]).await;
    assert_ne!(exit, OK);
    assert!(text.contains("PermissionDenied"), "{text}");
}

// Several threads, since the end of a container waits for what has joined it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn container_that_stops_what_joins_it_does_not_stop_others() {
    if !require_namespaces() {
        return;
    }
    let fixture = Fixture::new();
    let pause = fixture.pause().await;
    fixture.unconfined();
    let (hostile, _streams) =
        fixture.ready(fixture.place(&pause), &["/tool", "stop", "/never"]).await;
    let stopped: Vec<_> = (0..8)
        .map(|_| {
            let target = LaunchTarget::Exec(hostile.pidfd());
            let argv = vec!["/tool".to_owned(), "exit".to_owned(), "0".to_owned()];
            let (env, cwd, stdio) = (Vec::new(), "/".to_owned(), Stdio::Output);
            let security = fixture.security(&target);
            let launch = Launch { argv, env, cwd, target, stdio, security, rlimits: Vec::new() };
            let spawner = fixture.spawner.clone();
            tokio::spawn(async move { spawner.launch(launch).await.map(drop) })
        })
        .collect();
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
    let begin = std::time::Instant::now();
    let other = fixture.pause().await;
    assert_eq!(fixture.output(fixture.place(&other), &["/tool", "exit", "0"]).await.1, OK);
    // What joins is given up after 60 s only.
    assert!(begin.elapsed().as_secs() < 50);
    drop(hostile);
    for start in stopped {
        let _ = start.await.unwrap();
    }
}

#[tokio::test]
async fn stopped_zygote_is_replaced() {
    if !require_namespaces() {
        return;
    }
    let fixture = Fixture::new();
    let zygote = || {
        let pid = fixture
            .spawner
            .blocking(|thread| Ok(thread.zygote.borrow().as_ref().map(|zygote| zygote.pid())));
        pid.unwrap().unwrap()
    };
    let pause = fixture.pause().await;
    let first = zygote();
    // SAFETY: kill takes plain values; the zygote is a child that is not reaped.
    unsafe { libc::kill(first, libc::SIGSTOP) };
    assert_eq!(fixture.output(fixture.place(&pause), &["/tool", "exit", "0"]).await.1, OK);
    assert_ne!(zygote(), first);
}

#[tokio::test]
async fn program_of_the_cluster_cannot_be_opened_for_writing() {
    if !require_namespaces() {
        return;
    }
    let fixture = Fixture::new();
    let pause = fixture.pause().await;
    let zygote = fixture
        .spawner
        .blocking(|thread| Ok(thread.zygote.borrow().as_ref().map(|zygote| zygote.pid())));
    for pid in [zygote.unwrap().unwrap(), pause.process.pid] {
        let program = format!("/proc/{pid}/exe");
        // Only root may look at the zygote.
        let Ok(opened) = fs::File::open(&program) else {
            assert!(!is_root() && pid != pause.process.pid);
            continue;
        };
        // A descriptor that was opened while the program runs could be opened again after that.
        for path in [program, format!("/proc/self/fd/{}", opened.as_raw_fd())] {
            // While the program runs, most kernels report ETXTBSY, unless the file is to be truncated.
            let error = fs::File::create(&path).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{path}: {error}");
            let mode = fs::Permissions::from_mode(0o777);
            let error = fs::set_permissions(&path, mode).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{path}: {error}");
        }
    }
}

//! What a container inherits, and how much of the machine it can take.

use super::*;
use tokio::io::{AsyncBufReadExt, BufReader};

#[tokio::test]
async fn fork_bomb_takes_no_processes_of_other_pods() {
    if !require_namespaces() {
        return;
    }
    let fixture = Fixture::new();
    let mut bombs = Vec::new();
    // The second one can fork as often, while the processes of the first are there.
    for _ in 0..2 {
        let pause = fixture.pause().await;
        let target = fixture.place(&pause);
        let argv = vec!["/tool".to_owned(), "fork-bomb".to_owned()];
        let (env, cwd, stdio) = (Vec::new(), "/".to_owned(), Stdio::Output);
        let (security, rlimits) = (fixture.security(&target), vec![(libc::RLIMIT_NPROC, 64, 64)]);
        let launch = Launch { argv, env, cwd, target, stdio, security, rlimits };
        let process = fixture.spawner.launch(launch).await.unwrap();
        let mut output = BufReader::new(process.streams().unwrap().stdout);
        let mut line = String::new();
        output.read_line(&mut line).await.unwrap();
        let (count, error) = line.split_once(' ').unwrap();
        assert!((50..64).contains(&count.parse::<u32>().unwrap()), "{line}");
        assert_eq!(error, format!("processes, then errno {}\n", libc::EAGAIN));
        bombs.push((pause, process, output));
    }
    let pause = fixture.pause().await;
    assert_eq!(fixture.output(fixture.place(&pause), &["/tool", "exit", "0"]).await.1, OK);
}

#[tokio::test]
async fn root_file_system_takes_as_much_memory_as_it_may() {
    if !require_namespaces() {
        return;
    }
    let fixture = Fixture::new();
    let pause = fixture.pause().await;
    // 16 MiB, and what the overlay itself takes.
    for path in ["/file", "/etc/file"] {
        let argv = ["/tool", "write-until-full", path];
        let (text, _) = fixture.output(fixture.place(&pause), &argv).await;
        let size = text.split(' ').next().unwrap().parse::<u32>().unwrap();
        assert!((15_000..=16_384).contains(&size), "{path}: {text}");
        assert!(text.ends_with(&format!("errno {}\n", libc::ENOSPC)), "{path}: {text}");
    }
    let argv = ["/tool", "create-until-full", "/etc"];
    let (text, _) = fixture.output(fixture.place(&pause), &argv).await;
    let count = text.split(' ').next().unwrap().parse::<u32>().unwrap();
    assert!((4_000..=4_096).contains(&count), "{text}");
    for folder in ["/dev", "/dev/shm"] {
        let argv = ["/tool", "write-until-full", &format!("{folder}/file")];
        let (text, _) = fixture.output(fixture.place(&pause), &argv).await;
        assert_eq!(text, format!("65536 KiB, then errno {}\n", libc::ENOSPC), "{folder}");
        let argv = ["/tool", "create-until-full", folder];
        let (text, _) = fixture.output(fixture.place(&pause), &argv).await;
        assert!(text.ends_with(&format!("errno {}\n", libc::ENOSPC)), "{folder}: {text}");
    }
}

#[tokio::test]
async fn program_inherits_nothing_of_the_cluster() {
    let fixture = Fixture::new();
    // Without O_CLOEXEC, as code in C does it.
    // SAFETY: the path is NUL-terminated.
    let leaked = unsafe { libc::open(c"/".as_ptr(), libc::O_RDONLY) };
    assert!(leaked > 2);
    let limit = rlimit::open_files();
    let number = |value| match value {
        libc::RLIM_INFINITY => "unlimited".to_owned(),
        value => value.to_string(),
    };
    // SIGPIPE is ignored by the Rust runtime of the program itself.
    let expected = format!(
        "Umask: 0022\nSigBlk: 0000000000000000\nSigIgn: 0000000000001000\n\
         descriptors [0, 1, 2, 3]\ncwd CWD\nvariables A PATH\n\
         Max open files {} {} files\noom_score_adj SCORE\n",
        number(limit.rlim_cur),
        number(limit.rlim_max),
    );
    let inherited = async |target| fixture.output(target, &["/tool", "inherited"]).await.0;
    let root = fixture.root.0.display().to_string();
    let plain = LaunchTarget::Host { rootfs: fixture.root.0.clone() };
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let of_plain = expected.replace("CWD", &root).replace("SCORE", own.trim());
    assert_eq!(inherited(plain).await, of_plain);
    if require_namespaces() {
        let expected = expected.replace("CWD", "/").replace("SCORE", "900");
        let pause = fixture.pause().await;
        assert_eq!(inherited(fixture.place(&pause)).await, expected);
        let server = fixture.run(fixture.place(&pause), &["/tool", "wait"]).await.unwrap();
        assert_eq!(inherited(LaunchTarget::Exec(server.pidfd())).await, expected);
        // With it, a container could have the cluster killed in its place.
        let lower = ["/tool", "write", "/proc/self/oom_score_adj", "-1000"];
        assert_ne!(fixture.output(fixture.place(&pause), &lower).await.1, OK);
        if may_raise_limits() {
            let lower = ["/tool", "write", "/proc/self/oom_score_adj", "0"];
            assert_ne!(fixture.output(fixture.place(&pause), &lower).await.1, OK);
        }
    }
    // SAFETY: opened above, and used no more.
    unsafe { libc::close(leaked) };
}

/// Returns true if this process has CAP_SYS_RESOURCE, without which a program may undo `oom_score_adj`.
fn may_raise_limits() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(effective.trim(), 16).unwrap() >> 24 & 1 == 1
}

//! What this program inherits from its caller and passes on: signals, variables, descriptors, limits.

use super::{Fixture, eventually, exit, kill};
use std::{
    fs,
    process::{Command, Stdio},
};

/// Returns a command that runs `line` in a shell that prepares something first.
fn prepared(fixture: &Fixture, prepare: &str, line: &str) -> Command {
    let program = fixture.command(line);
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{prepare}; exec \"$0\" \"$@\"")).arg(program.get_program());
    command.args(program.get_args());
    let variables = program.get_envs().filter_map(|(name, value)| Some((name, value?)));
    command.envs(variables).env_remove("KUBECONFIG");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Returns the ignored or blocked signals in the status of a process, without real-time signals, of which threads use
/// some.
fn signals(status: &str, name: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() & 0x7fff_ffff
}

/// Returns 1, as the signal is in a mask, if these tests run under `nohup`.
fn ignored_hangup() -> u64 {
    signals(&fs::read_to_string("/proc/self/status").unwrap(), "SigIgn:") & 1
}

#[test]
fn ignored_interrupt_still_lets_labs_clean_up() {
    let fixture = Fixture::new("ignored-int");
    let all = ["-INT", "-TERM", "-HUP"];
    let ending = if ignored_hangup() == 1 { &all[..2] } else { &all[..] };
    for &signal in ending {
        let before = fixture.pids("labs").len();
        let mut command = prepared(&fixture, "trap '' INT QUIT CHLD", "lab phase4");
        let child = command.env("FAKE_LABS", "wait").spawn().unwrap();
        eventually("the lab runs", || fixture.pids("labs").len() > before);
        kill(signal, &child);
        let (code, text) = exit(child.wait_with_output().unwrap());
        assert_eq!(code, 130, "{signal}: {text}");
    }
    assert_eq!((fixture.pids("cleaned").len(), fixture.alive("clusters")), (ending.len(), 0));
}

#[test]
fn children_have_default_signals_except_the_hangup_that_nohup_ignores() {
    let fixture = Fixture::new("default-signals");
    let ignoring = "trap '' HUP INT QUIT TERM CHLD USR1";
    for (prepare, ignored) in [("true", ignored_hangup()), (ignoring, 1)] {
        let mut command = prepared(&fixture, prepare, "lab phase4");
        let (code, text) = exit(command.env("FAKE_LABS", "signals").output().unwrap());
        assert_eq!(code, 0, "{text}");
        let found = (signals(&text, "SigIgn:"), signals(&text, "SigBlk:"));
        assert_eq!(found, (ignored, 0), "{prepare}: {text}");
    }
}

#[test]
fn run_under_nohup_outlives_its_terminal() {
    let fixture = Fixture::new("nohup");
    let mut command = prepared(&fixture, "trap '' HUP", "lab phase4");
    let mut child = command.env("FAKE_LABS", "wait").spawn().unwrap();
    eventually("the lab runs", || !fixture.pids("labs").is_empty());
    kill("-HUP", &child);
    // Signals are handled in order, so the run has seen it by the time that it responds to another.
    assert_eq!((child.try_wait().unwrap(), fixture.alive("labs")), (None, 1));
    kill("-TERM", &child);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
    assert_eq!((fixture.pids("cleaned").len(), fixture.alive("clusters")), (1, 0));
}

#[test]
fn variables_of_git_and_proxies_do_not_reach_labs() {
    let fixture = Fixture::new("variables");
    let mut command = fixture.command("lab phase4");
    command.env("FAKE_LABS", "env").env("GIT_DIR", "/nonexistent").env("GIT_AUTHOR_NAME", "me");
    command.env("HTTPS_PROXY", "http://127.0.0.1:9").env("NO_PROXY", "example.com");
    let (code, text) = exit(command.output().unwrap());
    assert_eq!(code, 0, "{text}");
    let has = |line: &str| text.lines().any(|found| found.starts_with(line));
    assert!(!has("GIT_DIR=") && has("GIT_AUTHOR_NAME=me"), "{text}");
    let hosts = "NO_PROXY=example.com,localhost,127.0.0.1,127.0.0.0/8,::1";
    assert!(has(hosts) && has(&hosts.to_lowercase()), "{text}");
}

#[test]
fn persistent_cluster_holds_no_descriptor_of_the_caller() {
    let fixture = Fixture::new("descriptors");
    let file = fixture.folder.join("held");
    let prepare = format!("exec 7>'{}'", file.display());
    let (code, text) = exit(prepared(&fixture, &prepare, "up").output().unwrap());
    assert_eq!(code, 0, "{text}");
    let pid = &fixture.pids("clusters")[0];
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let open = open.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    let open: Vec<_> = open.collect();
    assert!(open.iter().any(|target| target.ends_with("clusters/embedded/pid")), "{open:?}");
    assert!(!open.contains(&file.canonicalize().unwrap()), "{open:?}");
    assert_eq!(fixture.run("down").0, 0);
}

#[test]
fn few_file_descriptors_are_an_error_before_anything_starts() {
    let fixture = Fixture::new("few-files");
    let (code, text) = exit(prepared(&fixture, "ulimit -n 256", "lab phase4").output().unwrap());
    assert_eq!((code, fixture.pids("clusters").len()), (3, 0), "{text}");
    assert!(text.contains("only 256 may be open at once, and 1024 are needed"), "{text}");
    // A soft limit is raised by the programs themselves.
    let (code, text) = exit(prepared(&fixture, "ulimit -Sn 256", "lab phase4").output().unwrap());
    assert_eq!(code, 0, "{text}");
}

#[test]
fn killed_or_ended_run_takes_cargo_and_its_compilers_along() {
    let fixture = Fixture::new("build-killed");
    let cargo = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fakes/cargo-hangs");
    // SIGINT may be ignored where tests run, and is taken notice of only once there is something to clean up.
    for signal in ["-KILL", "-TERM"] {
        let _ = fs::remove_file(fixture.folder.join("builds"));
        let mut command = fixture.command("lab phase4");
        command.env_remove("CANARY_PREBUILT").env("CARGO", &cargo);
        let mut child = command.spawn().unwrap();
        // One for the programs and one for the images.
        eventually("cargo runs", || fixture.pids("builds").len() == 2);
        let builds = fixture.pids("builds");
        let pids = || builds.iter().flat_map(|line| line.split(' '));
        let is_alive = |pid: &&str| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
            stat.is_ok_and(|stat| !stat.contains(") Z "))
        };
        assert_eq!(pids().filter(is_alive).count(), 4, "two cargos with a compiler each");
        kill(signal, &child);
        child.wait().unwrap();
        eventually("cargo and its compilers end", || !pids().any(|pid| is_alive(&pid)));
    }
}

#[test]
fn killed_cargo_takes_its_compilers_along_and_is_an_error() {
    let fixture = Fixture::new("cargo-killed");
    let cargo = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fakes/cargo-hangs");
    let mut command = fixture.command("labs");
    command.env_remove("CANARY_PREBUILT").env("CARGO", &cargo);
    let child = command.spawn().unwrap();
    eventually("cargo runs", || !fixture.pids("builds").is_empty());
    let builds = fixture.pids("builds");
    let (cargo, compiler) = builds[0].split_once(' ').unwrap();
    assert!(Command::new("kill").args(["-KILL", cargo]).status().unwrap().success());
    let (code, text) = exit(child.wait_with_output().unwrap());
    assert_eq!((code, text.contains("failed to build the workspace")), (3, true), "{text}");
    assert!(!fs::exists(format!("/proc/{compiler}/exe")).unwrap_or(false), "it was killed, too");
}

#[test]
fn misspelled_phase_is_reported_before_anything_is_built() {
    let fixture = Fixture::new("no-build");
    let cargo = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fakes/cargo-hangs");
    let mut command = fixture.command("lab pase4");
    let output = command.env_remove("CANARY_PREBUILT").env("CARGO", &cargo).output();
    let (code, text) = exit(output.unwrap());
    assert_eq!((code, text.contains("did you mean `phase4`?")), (2, true), "{text}");
    assert!(fixture.pids("builds").is_empty());
}

//! `xtask` as a process, with fakes of the cluster and the labs: what it starts, forwards and leaves
//! behind, however a run ends. With the real ones, `cargo xtask lab all` is the test.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster_lifecycle;
mod credentials;
mod current_context;
mod edge_process;
mod gcloud;
mod inherited;
mod layering;
mod output;
mod provider_fixture;
mod providers;
mod registry;
mod repository;
mod require;
mod snapshots;
mod soak;
mod state;

use require::{require, skip};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

/// The deadline of everything that is waited for.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A target directory of its own with `xtask`, the fakes and an image in it.
struct Fixture {
    folder: PathBuf,
}

impl Fixture {
    fn new(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("xtask-{name}"));
        let _ = fs::remove_dir_all(&folder);
        let binaries = folder.join("debug");
        fs::create_dir_all(&binaries).unwrap();
        fs::hard_link(env!("CARGO_BIN_EXE_xtask"), binaries.join("xtask")).unwrap();
        let fakes = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fakes");
        for program in ["kube-embedded", "labs"] {
            symlink(fakes.join(program), binaries.join(program)).unwrap();
        }
        fs::create_dir_all(folder.join("images")).unwrap();
        let file = folder.join("images/image");
        fs::write(&file, "").unwrap();
        let image = format!(
            r#"{{"version":"1.0","name":"kubeapp:1.0","digest":"sha256:0","archive":{file:?},
                "size":0,"rebuilt":{file:?},"binary":{file:?},"build_input":"KUBEAPP_VERSION=1.0"}}"#
        );
        let stamp = format!(r#"{{"inputs":"","images":[{image}]}}"#);
        fs::write(folder.join("images/stamp.json"), stamp).unwrap();
        Self { folder }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(self.folder.join("debug/xtask"));
        command.args(line.split_whitespace()).env("CANARY_PREBUILT", "1");
        command.env("CANARY_HOME", self.folder.join("home")).env_remove("KUBECONFIG");
        command.env("FAKE_ROOT", &self.folder);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, line: &str) -> (i32, String) {
        exit(self.command(line).output().unwrap())
    }

    /// Starts a lab that runs until it is signaled; returns once it is running.
    fn start_lab(&self) -> Child {
        let before = self.pids("labs").len();
        let child = self.command("lab phase4").env("FAKE_LABS", "wait").spawn().unwrap();
        eventually("the lab runs", || self.pids("labs").len() > before);
        child
    }

    /// Returns the process ids in a file: `clusters`, `edges`, `labs` or `cleaned`.
    fn pids(&self, file: &str) -> Vec<String> {
        let text = fs::read_to_string(self.folder.join(file)).unwrap_or_default();
        text.lines().map(Into::into).collect()
    }

    fn alive(&self, file: &str) -> usize {
        let alive = |pid: &&String| {
            fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
        };
        self.pids(file).iter().filter(alive).count()
    }

    /// Returns the number of run directories.
    fn run_dirs(&self) -> usize {
        folders(&self.folder.join("home/runs"))
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        for pid in ["clusters", "edges", "labs"].iter().flat_map(|file| self.pids(file)) {
            let stat = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if stat.contains(&*self.folder.to_string_lossy()) {
                let _ = Command::new("kill").args(["-KILL", &pid]).status();
            }
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn exit(output: Output) -> (i32, String) {
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8(text).unwrap())
}

fn eventually(what: &str, check: impl Fn() -> bool) {
    let end = Instant::now() + TIMEOUT;
    while !check() {
        assert!(Instant::now() < end, "not within {TIMEOUT:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn kill(signal: &str, child: &Child) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
}

#[test]
fn invalid_usage_exits_2_with_a_suggestion() {
    let fixture = Fixture::new("usage");
    for (line, part) in [
        ("lab pase4", "did you mean `phase4`?"),
        ("lab 9", "unknown phase `phase9`"),
        ("lab phase4/quater-to-canary", "did you mean `quarter-to-canary`?"),
        ("lba phase4", "a similar subcommand exists: 'lab'"),
        (
            "lab",
            "no phase given; the phases are phase0, phase1, phase2, phase3, phase4, phase5, phase6, phase7, all",
        ),
        ("lab all --on kint", "a similar value exists: 'kind'"),
        ("lab all --sandbox none", "[possible values: auto, namespaced, plain]"),
        ("lab all --verbose", "unexpected argument '--verbose' found"),
        ("lap phase4", "a similar subcommand exists: 'lab'"),
        ("watch phase4 --timeout 0", "invalid value '0' for '--timeout <SECONDS>'"),
        ("", "Usage: cargo xtask <COMMAND>"),
    ] {
        let (code, text) = fixture.run(line);
        assert_eq!(code, 2, "{line}: {text}");
        assert!(text.contains(part), "{line}: {text}");
    }
    assert_eq!(fixture.pids("clusters").len(), 0, "rejected before a cluster starts");
}

#[test]
fn lab_passes_on_single_claims() {
    let fixture = Fixture::new("claim");
    let (code, text) = fixture.run("lab 4/quarter-to-canary 1");
    let started = "run phase4/quarter-to-canary phase1 --environment ";
    assert_eq!((code, text.starts_with(started)), (0, true), "{text}");
}

#[test]
fn exit_code_of_labs_is_passed_through_and_nothing_is_left() {
    let fixture = Fixture::new("codes");
    for code in [0, 1, 3] {
        let lab = fixture.command("lab phase4 --json").env("FAKE_LABS", code.to_string()).output();
        let (actual, text) = exit(lab.unwrap());
        assert_eq!(actual, code, "{text}");
        assert!(text.starts_with("run phase4 --environment "), "{text}");
        assert!(text.contains(" --json"), "{text}");
    }
    assert_eq!(
        (fixture.pids("clusters").len(), fixture.alive("clusters"), fixture.run_dirs()),
        (3, 0, 0)
    );
}

#[test]
fn signal_lets_labs_clean_up_then_stops_the_cluster() {
    let fixture = Fixture::new("signal");
    for signal in ["-INT", "-TERM"] {
        let child = fixture.start_lab();
        kill(signal, &child);
        let (code, text) = exit(child.wait_with_output().unwrap());
        assert_eq!(code, 130, "{text}");
    }
    assert_eq!(
        (fixture.pids("cleaned").len(), fixture.alive("clusters"), fixture.run_dirs()),
        (2, 0, 0)
    );
}

#[test]
fn killed_run_leaves_no_process_and_the_next_run_removes_its_directory() {
    let fixture = Fixture::new("kill");
    let mut child = fixture.start_lab();
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("labs and cluster end", || fixture.alive("labs") + fixture.alive("clusters") == 0);
    assert_eq!((fixture.run("lab phase0").0, fixture.run_dirs()), (0, 0));
}

#[test]
fn cluster_failure_exits_3_with_the_end_of_its_log() {
    let fixture = Fixture::new("cluster");
    for (what, part) in [
        ("refuse", "the cluster did not start; the end of its log:\nport 6443 is in use"),
        ("crash", "the cluster exited during the run; the end of its log:\nout of memory"),
    ] {
        let mut command = fixture.command("lab phase4");
        command.env("FAKE_CLUSTER", what).env("FAKE_LABS", "wait");
        let (code, text) = exit(command.output().unwrap());
        assert_eq!(code, 3, "{text}");
        assert!(text.contains(part), "{text}");
    }
    assert_eq!((fixture.alive("labs"), fixture.run_dirs()), (0, 0));
}

#[test]
fn plain_sandbox_is_reported_unless_requested() {
    let fixture = Fixture::new("plain");
    for (line, warns) in [("lab phase4", true), ("lab phase4 --sandbox plain", false), ("up", true)]
    {
        let (code, text) = fixture.run(line);
        let found = text.contains("pods run as plain processes: no namespaces here");
        assert_eq!((code, found), (0, warns), "{line}: {text}");
    }
    assert_eq!(fixture.run("down").0, 0);
}

/// Runs in a mount namespace in which the target directory is read-only.
#[test]
fn read_only_target_directory_is_avoided_or_named_in_the_error() {
    let fixture = Fixture::new("mount");
    let target = &fixture.folder;
    let state = target.with_extension("state");
    let cargo = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fakes/cargo");
    let script = format!(
        "mount --bind '{0}' '{0}' && mount -o remount,ro,bind '{0}' && echo mounted && \
         exec '{0}/debug/xtask' lab phase4",
        target.display()
    );
    for (prebuilt, code, part) in [
        (true, 0, "run phase4 --environment"),
        (false, 3, "the target directory is read-only; set CARGO_TARGET_DIR=<directory>"),
    ] {
        let mut command = Command::new("unshare");
        command.args(["--user", "--mount", "--map-root-user", "sh", "-c", &script]);
        command.env_remove("CANARY_HOME").env("XDG_STATE_HOME", &state).env("CARGO", &cargo);
        command.env_remove("CANARY_PREBUILT").envs(prebuilt.then_some(("CANARY_PREBUILT", "1")));
        let output = command.output();
        let (actual, text) = output.map_or_else(|e| (-1, e.to_string()), exit);
        if !text.contains("mounted") {
            return skip("namespaces");
        }
        assert_eq!(actual, code, "{text}");
        assert!(text.contains(part), "{text}");
    }
    let _ = fs::remove_dir_all(state);
}

/// Root may write everywhere, so this is a directory that cannot even be created.
#[test]
fn unwritable_home_is_named_in_the_error() {
    let fixture = Fixture::new("read-only");
    for line in ["lab phase4", "up"] {
        let mut command = fixture.command(line);
        let (code, text) = exit(command.env("CANARY_HOME", "/dev/null/home").output().unwrap());
        assert_eq!(code, 3, "{line}: {text}");
        assert!(text.contains("/dev/null/home"), "{line}: {text}");
    }
    assert_eq!(fixture.pids("clusters").len(), 0);
}

#[test]
fn concurrent_runs_have_clusters_of_their_own() {
    let fixture = Fixture::new("two");
    let (one, two) = (fixture.start_lab(), fixture.start_lab());
    assert_eq!((fixture.alive("clusters"), fixture.run_dirs()), (2, 2));
    kill("-INT", &one);
    assert_eq!(one.wait_with_output().unwrap().status.code(), Some(130));
    assert_eq!((fixture.alive("clusters"), fixture.alive("labs"), fixture.run_dirs()), (1, 1, 1));
    kill("-INT", &two);
    assert_eq!(two.wait_with_output().unwrap().status.code(), Some(130));
    assert_eq!((fixture.alive("clusters"), fixture.run_dirs()), (0, 0));
}

#[test]
fn cluster_of_up_runs_until_down_and_serves_one_lab_at_a_time() {
    let fixture = Fixture::new("up");
    for line in ["kubectl get pods", "status"] {
        let (code, text) = fixture.run(line);
        assert_eq!((code, text.contains("`cargo xtask up` starts one")), (3, true), "{text}");
    }
    assert_eq!(fixture.run("down"), (0, "no embedded cluster is up\n".into()));

    let (code, text) = fixture.run("up");
    assert_eq!((code, text.contains("export KUBECONFIG=")), (0, true), "{text}");
    let (code, text) = fixture.run("up");
    assert_eq!((code, text.contains("already running")), (0, true), "{text}");
    assert_eq!(fixture.alive("clusters"), 1);
    let (code, text) = fixture.run("up --sandbox namespaced");
    assert_eq!((code, text.contains("with sandbox plain, not namespaced")), (3, true), "{text}");

    let mut command = fixture.command("kubectl get pods");
    let (code, text) = exit(command.env("PATH", "/nonexistent").output().unwrap());
    assert_eq!((code, text.contains("kubectl is not installed; see ")), (3, true), "{text}");

    let mut first = fixture.start_lab();
    assert_eq!(fixture.pids("clusters").len(), 1, "the lab uses the running cluster");
    let (code, text) = fixture.run("lab phase0");
    assert_eq!((code, text.contains("is in use by another run")), (0, true), "{text}");
    assert_eq!((fixture.pids("clusters").len(), fixture.alive("clusters")), (2, 1));
    first.kill().unwrap();
    first.wait().unwrap();

    assert_eq!(fixture.run("down"), (0, "down\n".into()));
    assert_eq!(fixture.alive("clusters"), 0);
    assert_eq!(fixture.run("down"), (0, "no embedded cluster is up\n".into()));
}

#[test]
fn kept_cluster_is_the_one_of_up() {
    let fixture = Fixture::new("keep");
    let (code, text) = fixture.run("lab phase4 --keep");
    assert_eq!((code, text.contains("kept: export KUBECONFIG=")), (0, true), "{text}");
    assert!(text.contains(" --keep"), "the labs keep what they created, too: {text}");
    assert_eq!((fixture.alive("clusters"), fixture.run_dirs()), (1, 0));
    assert_eq!(fixture.run("down").0, 0);
    assert_eq!(fixture.alive("clusters"), 0);
}

/// Runs the real programs instead of fakes, interrupted and killed at several points.
#[test]
fn real_programs_leave_nothing_behind() {
    if !["labs", "kube-embedded", "images"].into_iter().all(require) {
        return;
    }
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("xtask-real");
    let _ = fs::remove_dir_all(&home);
    for signal in ["-INT", "-KILL"] {
        for moment in ["run-started", "step-started", "sample-progress"] {
            let mut child = Command::new(env!("CARGO_BIN_EXE_xtask"))
                .args(["lab", "phase4", "--json", "--progress"])
                .env("CANARY_PREBUILT", "1")
                .env("CANARY_HOME", &home)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let reached = lines.any(|line| line.unwrap().contains(&format!("\"{moment}\"")));
            assert!(reached, "no {moment} in the events");
            // The rest has to be read, or the labs would block.
            let rest = thread::spawn(move || lines.count());
            if moment == "sample-progress" {
                assert!(
                    processes_of(&home).len() >= 3 + 4,
                    "xtask, labs, the cluster and its pods"
                );
            }
            kill(signal, &child);
            let code = child.wait().unwrap().code();
            match signal {
                "-INT" => {
                    assert_eq!(code, Some(130), "at {moment}");
                    assert_eq!(processes_of(&home), [""; 0], "at {moment}");
                    assert_eq!(folders(&home.join("runs")), 0, "at {moment}");
                }
                _ => eventually("all end", || processes_of(&home).is_empty()),
            }
            rest.join().unwrap();
        }
    }
    let _ = fs::remove_dir_all(home);
}

/// Returns processes that refer to a directory in their environment, command line, mounts or program.
fn processes_of(folder: &Path) -> Vec<String> {
    let folder = folder.to_string_lossy();
    let refers = |process: &Path| {
        let files = ["environ", "cmdline", "mountinfo"].map(|file| fs::read(process.join(file)));
        let program = fs::read_link(process.join("exe")).unwrap_or_default();
        let files = files
            .into_iter()
            .flatten()
            .any(|bytes| String::from_utf8_lossy(&bytes).contains(&*folder));
        files || program.to_string_lossy().contains(&*folder)
    };
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap());
    let processes = processes.filter(|entry| refers(&entry.path()));
    processes.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn folders(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count()
}

/// A cluster that a version before `clusters/embedded` started is shown and stopped like any other.
#[test]
fn running_cluster_of_an_earlier_version_is_taken_over() {
    let fixture = Fixture::new("migrate");
    let home = fixture.folder.join("home");
    fs::create_dir_all(home.join("cluster")).unwrap();
    let kubeconfig = home.join("cluster/kubeconfig");
    fs::write(&kubeconfig, "kubeconfig of an earlier version").unwrap();
    let pid = fs::File::create(home.join("pid")).unwrap();
    pid.lock().unwrap();
    let program = fixture.folder.join("debug/kube-embedded");
    // In a session of its own, as every version starts it.
    let mut child = Command::new("setsid")
        .arg(program)
        .arg("serve")
        .stdin(pid)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let record = format!(
        r#"{{"pid":{},"server":"https://127.1.0.1:6443","kubeconfig":{kubeconfig:?},"sandbox":"plain",
            "since":1,"started_in":0.1,"images":{{}},"build":"old"}}"#,
        child.id()
    );
    fs::write(home.join("cluster.json"), record).unwrap();
    eventually("it runs", || fixture.alive("clusters") == 1);

    let (code, text) = fixture.run("status");
    assert_eq!((code, text.contains("https://127.1.0.1:6443")), (0, true), "{text}");
    let new = home.join("clusters/embedded/kubeconfig");
    assert_eq!(fs::read_to_string(new).unwrap(), "kubeconfig of an earlier version");
    let (code, text) = fixture.run("lab phase4");
    assert_eq!((code, text.contains("not reusing the running cluster")), (0, true), "{text}");
    assert_eq!(fixture.run("down"), (0, "down\n".into()));
    child.wait().unwrap();
    assert_eq!(fixture.alive("clusters"), 0);
    assert_eq!(fixture.run("down"), (0, "no embedded cluster is up\n".into()));
}

#[test]
fn completions_and_man_pages_cover_every_command() {
    let fixture = Fixture::new("completions");
    for shell in ["bash", "zsh", "fish"] {
        let (code, text) = fixture.run(&format!("completions {shell}"));
        assert_eq!(code, 0, "{text}");
        assert!(["lab", "images", "dry-run", "minikube"].iter().all(|word| text.contains(word)));
    }
    let pages = fixture.folder.join("man");
    let (code, text) = fixture.run(&format!("man {}", pages.display()));
    assert_eq!(code, 0, "{text}");
    for page in ["cargo-xtask.1", "cargo-xtask-lab.1", "cargo-xtask-images-push.1"] {
        assert!(pages.join(page).exists(), "{page}");
    }
    let (code, text) = fixture.run("--version");
    assert_eq!((code, text.starts_with("cargo xtask 0.")), (0, true), "{text}");
}

#[test]
fn cluster_that_was_killed_is_started_again_with_the_flags_given() {
    let fixture = Fixture::new("killed-cluster");
    assert_eq!(fixture.run("up").0, 0);
    for pid in fixture.pids("clusters") {
        Command::new("kill").args(["-KILL", &pid]).status().unwrap();
    }
    eventually("it is dead", || fixture.alive("clusters") == 0);
    let (code, text) = fixture.run("status");
    assert_eq!((code, text.contains("no embedded cluster is up")), (3, true), "{text}");
    let (code, text) = fixture.run("up --sandbox plain");
    let warns = text.contains("pods run as plain processes");
    assert_eq!((code, warns, fixture.alive("clusters")), (0, false, 1), "{text}");
    assert_eq!(fixture.run("down"), (0, "down\n".into()));
}

#[test]
fn cluster_with_a_corrupt_record_is_shown_and_stopped() {
    let fixture = Fixture::new("corrupt");
    let record = fixture.folder.join("home/clusters/embedded/cluster.json");
    for corrupt in [true, false] {
        assert_eq!(fixture.run("up").0, 0);
        if corrupt {
            fs::write(&record, "{").unwrap()
        } else {
            fs::remove_file(&record).unwrap()
        }
        for line in ["status", "up", "lab phase0", "down"] {
            let (code, text) = fixture.run(line);
            assert_eq!(code, 0, "{line}: {text}");
        }
        assert_eq!(fixture.alive("clusters"), 0);
    }
}

/// The process is found by the lock that it holds.
#[test]
fn cluster_whose_process_record_is_damaged_is_reported_and_stopped() {
    let fixture = Fixture::new("corrupt-process");
    let record = fixture.folder.join("home/clusters/embedded/process.json");
    for text in ["{", r#"{"format": 2}"#, ""] {
        assert_eq!(fixture.run("up").0, 0);
        match text {
            "" => fs::remove_file(&record).unwrap(),
            text => fs::write(&record, text).unwrap(),
        }
        for (line, code, part) in [
            ("status", 3, "the cluster is running, `cargo xtask down` ends it: "),
            ("up", 0, "of unknown build"),
            ("lab phase0", 0, "not reusing the running cluster: it is of unknown build"),
            ("down", 0, "down\n"),
        ] {
            let (actual, output) = fixture.run(line);
            assert_eq!((actual, output.contains(part)), (code, true), "{line}: {output}");
        }
        assert_eq!(fixture.alive("clusters"), 0, "{text}");
    }
}

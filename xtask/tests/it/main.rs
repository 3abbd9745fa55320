//! `xtask` as a process among stand-ins for the cluster and the labs: what it starts, passes on and
//! leaves behind, however a run ends. With the real ones, `cargo xtask lab all` is the test.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod edges;
mod gcloud;
mod lives;
mod outside;
mod providers;
mod real;
mod registry;
mod rights;
mod workflows;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long anything may take before it counts as never.
const PATIENCE: Duration = Duration::from_secs(30);

/// A target folder of its own with `xtask`, the stand-ins and two images in it.
struct World {
    folder: PathBuf,
}

impl World {
    fn new(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("xtask-{name}"));
        let _ = fs::remove_dir_all(&folder);
        let binaries = folder.join("debug");
        fs::create_dir_all(&binaries).unwrap();
        fs::hard_link(env!("CARGO_BIN_EXE_xtask"), binaries.join("xtask")).unwrap();
        let stand_ins = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stand-ins");
        for program in ["kube-embedded", "labs"] {
            symlink(stand_ins.join(program), binaries.join(program)).unwrap();
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
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, line: &str) -> (i32, String) {
        ended(self.command(line).output().unwrap())
    }

    /// Starts a lab that runs until it is told to stop; answers when it runs.
    fn started(&self) -> Child {
        let before = self.pids("labs").len();
        let child = self.command("lab phase4").env("STAND_IN_LABS", "wait").spawn().unwrap();
        eventually("the lab runs", || self.pids("labs").len() > before);
        child
    }

    /// Who wrote to that file: `clusters`, `edges`, `labs` or `cleaned`.
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

    fn left(&self) -> usize {
        folders(&self.folder.join("home/runs"))
    }
}

impl Drop for World {
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

fn ended(output: Output) -> (i32, String) {
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8(text).unwrap())
}

fn eventually(what: &str, check: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn kill(signal: &str, child: &Child) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_to_type() {
    let world = World::new("usage");
    for (line, part) in [
        ("lab pase4", "did you mean `phase4`?"),
        ("lab", "which phase? There are phase0, phase4, all"),
        ("lab all --on kint", "did you mean `kind`?"),
        ("lab all --sandbox none", "there is no sandbox `none`"),
        ("lab all --verbose", "unexpected flag: `--verbose`"),
        ("lap phase4", "lap"),
    ] {
        let (code, text) = world.run(line);
        assert_eq!(code, 2, "{line}: {text}");
        assert!(text.contains(part), "{line}: {text}");
    }
    assert_eq!(world.pids("clusters").len(), 0, "no cluster is needed to say so");
}

#[test]
fn a_lab_passes_its_exit_code_through_and_leaves_nothing() {
    let world = World::new("codes");
    for code in [0, 1, 3] {
        let lab =
            world.command("lab phase4 --json").env("STAND_IN_LABS", code.to_string()).output();
        let (ended, text) = ended(lab.unwrap());
        assert_eq!(ended, code, "{text}");
        assert!(text.starts_with("run phase4 --environment "), "{text}");
        assert!(text.contains(" --json"), "{text}");
    }
    assert_eq!((world.pids("clusters").len(), world.alive("clusters"), world.left()), (3, 0, 0));
}

#[test]
fn a_signal_lets_the_labs_clean_up_and_ends_the_cluster() {
    let world = World::new("signal");
    for signal in ["-INT", "-TERM"] {
        let child = world.started();
        kill(signal, &child);
        let (code, text) = ended(child.wait_with_output().unwrap());
        assert_eq!(code, 130, "{text}");
    }
    assert_eq!((world.pids("cleaned").len(), world.alive("clusters"), world.left()), (2, 0, 0));
}

#[test]
fn a_killed_run_leaves_no_process_and_the_next_one_its_folder() {
    let world = World::new("kill");
    let mut child = world.started();
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("labs and cluster end", || world.alive("labs") + world.alive("clusters") == 0);
    assert_eq!((world.run("lab phase0").0, world.left()), (0, 0));
}

#[test]
fn a_cluster_that_fails_is_the_environments_fault() {
    let world = World::new("cluster");
    for (what, part) in [
        ("refuse", "the cluster did not start, and said:\nport 6443 is in use"),
        ("crash", "the cluster ended under the labs, and said:\nout of memory"),
    ] {
        let mut command = world.command("lab phase4");
        command.env("STAND_IN_CLUSTER", what).env("STAND_IN_LABS", "wait");
        let (code, text) = ended(command.output().unwrap());
        assert_eq!(code, 3, "{text}");
        assert!(text.contains(part), "{text}");
    }
    assert_eq!((world.alive("labs"), world.left()), (0, 0));
}

#[test]
fn pods_that_are_kept_apart_less_than_asked_are_told() {
    let world = World::new("plain");
    for (line, told) in [("lab phase4", true), ("lab phase4 --sandbox plain", false), ("up", true)]
    {
        let (code, text) = world.run(line);
        let found = text.contains("pods run as plain processes: no namespaces here");
        assert_eq!((code, found), (0, told), "{line}: {text}");
    }
    assert_eq!(world.run("down").0, 0);
}

/// In a mount namespace in which the target folder is read-only.
#[test]
fn a_read_only_target_folder_is_worked_around_or_named() {
    let world = World::new("mount");
    let target = &world.folder;
    let state = target.with_extension("state");
    let cargo = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stand-ins/cargo");
    let script = format!(
        "mount --bind '{0}' '{0}' && mount -o remount,ro,bind '{0}' && echo mounted && \
         exec '{0}/debug/xtask' lab phase4",
        target.display()
    );
    for (prebuilt, code, part) in [
        (true, 0, "run phase4 --environment"),
        (false, 3, "does not build; CARGO_TARGET_DIR=<folder> builds in one that can be written"),
    ] {
        let mut command = Command::new("unshare");
        command.args(["--user", "--mount", "--map-root-user", "sh", "-c", &script]);
        command.env_remove("CANARY_HOME").env("XDG_STATE_HOME", &state).env("CARGO", &cargo);
        command.env_remove("CANARY_PREBUILT").envs(prebuilt.then_some(("CANARY_PREBUILT", "1")));
        let output = command.output();
        let (ended, text) = output.map_or_else(|e| (-1, e.to_string()), ended);
        if !text.contains("mounted") {
            return eprintln!("not tested: nothing can be mounted here: {text}");
        }
        assert_eq!(ended, code, "{text}");
        assert!(text.contains(part), "{text}");
    }
    let _ = fs::remove_dir_all(state);
}

/// Root may write everywhere, so this is a folder that cannot even be made.
#[test]
fn a_home_that_cannot_be_written_is_named() {
    let world = World::new("read-only");
    for line in ["lab phase4", "up"] {
        let mut command = world.command(line);
        let (code, text) = ended(command.env("CANARY_HOME", "/dev/null/home").output().unwrap());
        assert_eq!(code, 3, "{line}: {text}");
        assert!(text.contains("/dev/null/home"), "{line}: {text}");
    }
    assert_eq!(world.pids("clusters").len(), 0);
}

#[test]
fn runs_at_the_same_time_have_clusters_of_their_own() {
    let world = World::new("two");
    let (one, two) = (world.started(), world.started());
    assert_eq!((world.alive("clusters"), world.left()), (2, 2));
    kill("-INT", &one);
    assert_eq!(one.wait_with_output().unwrap().status.code(), Some(130));
    assert_eq!((world.alive("clusters"), world.alive("labs"), world.left()), (1, 1, 1));
    kill("-INT", &two);
    assert_eq!(two.wait_with_output().unwrap().status.code(), Some(130));
    assert_eq!((world.alive("clusters"), world.left()), (0, 0));
}

#[test]
fn up_stays_until_down_and_one_lab_at_a_time_uses_it() {
    let world = World::new("up");
    for line in ["kubectl get pods", "status"] {
        let (code, text) = world.run(line);
        assert_eq!((code, text.contains("`cargo xtask up` starts one")), (3, true), "{text}");
    }
    assert_eq!(world.run("down"), (0, "no cluster is running\n".into()));

    let (code, text) = world.run("up");
    assert_eq!((code, text.contains("export KUBECONFIG=")), (0, true), "{text}");
    let (code, text) = world.run("up");
    assert_eq!((code, text.contains("already running")), (0, true), "{text}");
    assert_eq!(world.alive("clusters"), 1);
    let (code, text) = world.run("up --sandbox namespaced");
    assert_eq!((code, text.contains("with sandbox plain, not namespaced")), (3, true), "{text}");

    let mut command = world.command("kubectl get pods");
    let (code, text) = ended(command.env("PATH", "/nonexistent").output().unwrap());
    assert_eq!((code, text.contains("kubectl is not installed: see ")), (3, true), "{text}");

    let mut first = world.started();
    assert_eq!(world.pids("clusters").len(), 1, "the lab uses the cluster that runs");
    let (code, text) = world.run("lab phase0");
    assert_eq!((code, text.contains("is in use by another run")), (0, true), "{text}");
    assert_eq!((world.pids("clusters").len(), world.alive("clusters")), (2, 1));
    first.kill().unwrap();
    first.wait().unwrap();

    assert_eq!(world.run("down"), (0, "down\n".into()));
    assert_eq!(world.alive("clusters"), 0);
    assert_eq!(world.run("down"), (0, "no cluster is running\n".into()));
}

#[test]
fn kept_clusters_are_the_ones_of_up() {
    let world = World::new("keep");
    let (code, text) = world.run("lab phase4 --keep");
    assert_eq!((code, text.contains("kept: export KUBECONFIG=")), (0, true), "{text}");
    assert!(text.contains(" --keep"), "the labs keep what they made, too: {text}");
    assert_eq!((world.alive("clusters"), world.left()), (1, 0));
    assert_eq!(world.run("down").0, 0);
    assert_eq!(world.alive("clusters"), 0);
}

/// The programs themselves instead of stand-ins, interrupted and killed at several moments.
#[test]
fn the_real_programs_leave_nothing_either() {
    let Some(binaries) = Path::new(env!("CARGO_BIN_EXE_xtask")).parent() else { return };
    for file in ["labs", "kube-embedded", "../images/stamp.json"] {
        if !binaries.join(file).exists() {
            return eprintln!("not tested: {file} is not built (`cargo xtask images` does that)");
        }
    }
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("xtask-real");
    let _ = fs::remove_dir_all(&home);
    for signal in ["-INT", "-KILL"] {
        for moment in ["run-started", "step-started", "sample-progress"] {
            let mut child = Command::new(env!("CARGO_BIN_EXE_xtask"))
                .args(["lab", "phase4", "--json"])
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
            // What follows is of no interest, but has to be read.
            let rest = thread::spawn(move || lines.count());
            if moment == "sample-progress" {
                assert!(
                    belonging_to(&home).len() >= 3 + 4,
                    "xtask, labs, the cluster and its pods"
                );
            }
            kill(signal, &child);
            let code = child.wait().unwrap().code();
            match signal {
                "-INT" => {
                    assert_eq!(code, Some(130), "at {moment}");
                    assert_eq!(belonging_to(&home), [""; 0], "at {moment}");
                    assert_eq!(folders(&home.join("runs")), 0, "at {moment}");
                }
                _ => eventually("all end", || belonging_to(&home).is_empty()),
            }
            rest.join().unwrap();
        }
    }
    let _ = fs::remove_dir_all(home);
}

/// Processes of which the environment, the command line, a mount or the program tells of that folder.
fn belonging_to(folder: &Path) -> Vec<String> {
    let folder = folder.to_string_lossy();
    let tells = |process: &Path| {
        let files = ["environ", "cmdline", "mountinfo"].map(|file| fs::read(process.join(file)));
        let program = fs::read_link(process.join("exe")).unwrap_or_default();
        let files = files
            .into_iter()
            .flatten()
            .any(|bytes| String::from_utf8_lossy(&bytes).contains(&*folder));
        files || program.to_string_lossy().contains(&*folder)
    };
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap());
    let processes = processes.filter(|entry| tells(&entry.path()));
    processes.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn folders(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count()
}

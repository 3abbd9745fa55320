//! Clusters that other people's programs make, with stand-ins for these programs and for the engine:
//! every step that is taken, and what is left and told when one of them fails.

use super::{World, ended, eventually, kill};
use std::{
    env, fs,
    io::{Read as _, Write as _},
    os::unix::{fs::symlink, net::UnixListener},
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
};

/// A world with an engine and programs of its own on the PATH, and none of this machine's.
pub(crate) struct Outside {
    pub(crate) world: World,
}

const ALL: [&str; 8] = [
    "kind",
    "minikube",
    "docker",
    "docker-credential-stand-in",
    "kubectl",
    "gcloud",
    "gke-gcloud-auth-plugin",
    "curl",
];

impl Outside {
    pub(crate) fn new(name: &str) -> Self {
        let world = World::new(name);
        let programs = world.folder.join("path");
        fs::create_dir_all(&programs).unwrap();
        let stand_ins = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stand-ins/path");
        for program in ALL {
            symlink(stand_ins.join(program), programs.join(program)).unwrap();
        }
        for program in ["sh", "cat", "sed", "grep", "mv", "rm", "sleep", "dirname"] {
            symlink(which(program).unwrap(), programs.join(program)).unwrap();
        }
        super::registry::write_images(&world.folder);
        let outside = Self { world };
        outside.engine("2");
        outside
    }

    /// Sockets have short names, and target folders need not.
    pub(crate) fn socket(&self) -> PathBuf {
        let name = self.world.folder.file_name().unwrap().to_string_lossy();
        env::temp_dir().join(format!("{name}-{}.sock", std::process::id()))
    }

    /// Answers as an engine does, until the test's process ends.
    fn engine(&self, cgroups: &str) {
        let _ = fs::remove_file(self.socket());
        let listener = UnixListener::bind(self.socket()).unwrap();
        let info = format!(
            r#"{{"ServerVersion":"29.0.0","Driver":"overlay2","DockerRootDir":"/nonexistent",
                "CgroupVersion":"{cgroups}","MemTotal":8000000000}}"#
        );
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(mut stream), mut asked) = (stream, [0; 256]) else { return };
                let _ = stream.read(&mut asked);
                let _ = stream.write_all(format!("HTTP/1.0 200 OK\r\n\r\n{info}").as_bytes());
            }
        });
    }

    fn without(self, program: &str) -> Self {
        fs::remove_file(self.world.folder.join("path").join(program)).unwrap();
        self
    }

    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = self.world.command(line);
        command.env("PATH", self.world.folder.join("path"));
        command.env("STAND_IN_WORLD", &self.world.folder);
        command.env("DOCKER_HOST", format!("unix://{}", self.socket().display()));
        command.env("DOCKER_CONFIG", &self.world.folder);
        command
    }

    pub(crate) fn run(&self, line: &str) -> (i32, String) {
        self.run_with(line, &[])
    }

    pub(crate) fn run_with(&self, line: &str, env: &[(&str, &str)]) -> (i32, String) {
        ended(self.command(line).envs(env.iter().copied()).output().unwrap())
    }

    /// Runs what has to go well.
    pub(crate) fn well(&self, line: &str) -> String {
        let (code, text) = self.run(line);
        assert_eq!(code, 0, "{line}: {text}");
        text
    }

    /// Runs what has to fail so.
    pub(crate) fn fails(&self, line: &str, env: &[(&str, &str)], expected: i32, part: &str) {
        let (code, text) = self.run_with(line, env);
        assert_eq!(code, expected, "{line}: {text}");
        let last = text.lines().last().unwrap_or_default();
        assert!(last.starts_with("error: ") && last.contains(part), "{line}: {text}");
    }

    /// Starts what then hangs in a stand-in.
    pub(crate) fn hanging(&self, line: &str, env: (&str, &str)) -> Child {
        let _ = fs::remove_file(self.world.folder.join("hanging"));
        let child = self.command(line).env(env.0, env.1).spawn().unwrap();
        eventually("it hangs", || self.there("hanging"));
        child
    }

    /// The command lines of one program since last asked, without the world's own folders.
    fn calls(&self, program: &str) -> Vec<String> {
        let file = self.world.folder.join("calls");
        let calls = fs::read_to_string(&file).unwrap_or_default();
        let _ = fs::remove_file(file);
        let home = self.world.folder.canonicalize().unwrap();
        let calls = calls.replace(&*home.to_string_lossy(), "W");
        let calls = calls.replace(&*self.world.folder.to_string_lossy(), "W");
        let lines = calls.lines().filter(|line| line.split(' ').next() == Some(program));
        lines.map(Into::into).collect()
    }

    pub(crate) fn there(&self, file: &str) -> bool {
        self.world.folder.join(file).exists()
    }

    /// Names of the kind clusters there are.
    fn kinds(&self) -> String {
        fs::read_to_string(self.world.folder.join("kinds")).unwrap_or_default()
    }

    pub(crate) fn recorded(&self, provider: &str) -> bool {
        self.there(&format!("home/clusters/{provider}/cluster.json"))
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.socket());
    }
}

const NEWEST: &str =
    "kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5";

#[test]
fn wrong_usage_ends_with_2_before_anything_is_made() {
    let outside = Outside::new("outside-usage");
    for (line, part) in [
        ("up --on gke", "--project <id> --location"),
        ("up --on gke --project p --location l --nodes 3", "`--nodes` is for `--standard`"),
        ("up --on gke --project p --location l", "`--yes` says so"),
        ("up --on current", "which context?"),
        ("lab phase4 --on current --context c", "which registry"),
        ("lab phase4 --on kind --sandbox plain", "`--sandbox` is for embedded; kind knows none"),
        ("up --image oldest", "`--image` is for kind, k3s, minikube, gke; embedded knows none"),
        ("up --on kind --context c", "`--context` is for current"),
        (
            "lab phase4 --ingress-class x",
            "`--ingress-class` is for kind, k3s, minikube, gke, current",
        ),
        (
            "lab phase4 --on current --context c --registry none --ingress-class Nginx",
            "`Nginx` names no Ingress class",
        ),
        ("lab phase4 --on kind --pull-secret login", "`--pull-secret` is for gke, current; kind"),
        (
            "lab phase4 --on current --context c --registry none --pull-secret login",
            "`--pull-secret` is for a registry",
        ),
        (
            "up --on gke --project p --location l --dry-run --ingress-class Nginx",
            "`Nginx` names no Ingress class",
        ),
        (
            "up --on current --context c --registry none --dry-run --pull-secret login",
            "`--pull-secret` is for a registry",
        ),
        ("lab phase4 --on k3s --edge", "`--edge` is for current; k3s knows none"),
        ("up --on kine", "did you mean `kind`?"),
        ("down --on kine", "did you mean `kind`?"),
        ("images push user", "names no registry"),
        ("doctor --on kine", "did you mean `kind`?"),
    ] {
        outside.fails(line, &[], 2, part);
    }
    assert_eq!((outside.kinds(), outside.there("cluster")), (String::new(), false));
}

#[test]
fn a_kind_cluster_of_up_is_used_until_down() {
    let outside = Outside::new("kind-up");
    let text = outside.well("up --on kind");
    assert!(text.contains("export KUBECONFIG=") && text.contains("clusters/kind/kubeconfig"));
    assert_eq!(
        outside.calls("kind"),
        [
            "kind get clusters".into(),
            format!(
                "kind create cluster --name canary-labs --image {NEWEST} --config \
                 W/home/clusters/kind/kind.json --kubeconfig W/home/clusters/kind/kubeconfig \
                 --wait 180s"
            ),
            "kind export kubeconfig --name canary-labs --kubeconfig \
             W/home/clusters/kind/kubeconfig"
                .into(),
            "kind load image-archive W/images/kubeapp-1.0.tar W/images/kubeapp-2.0.tar --name \
             canary-labs"
                .into(),
        ]
    );
    let config = outside.world.folder.join("home/clusters/kind/kind.json");
    assert_eq!(fs::read_to_string(config).unwrap().matches(r#""role": "worker""#).count(), 3);

    assert!(outside.well("up --on kind").contains("`canary-labs` is up"));
    let calls = outside.calls("kind").join("\n");
    assert!(!calls.contains("create") && !calls.contains("load"), "{calls}");

    let (code, text) =
        outside.run_with("lab phase4 --on kind", &[("STAND_IN_LABS", "environment")]);
    assert_eq!(code, 0, "{text}");
    for part in [
        r#""provider": "kind""#,
        r#""pull_policy": "IfNotPresent""#,
        r#""name": "kubeapp:1.0""#,
        r#""started_in": null"#,
        "clusters/kind/kubeconfig",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(outside.kinds(), "canary-labs\n", "the cluster of `up` stays");

    outside.fails("up --on kind --image oldest", &[], 3, "a kind cluster is up with image");
    assert!(outside.well("status").contains("kind `canary-labs`, up"));
    assert!(outside.well("status --on kind").contains("Server Version: v1.36.4"));
    assert!(outside.well("kubectl --on kind -- get nodes").contains("node-1 Ready"));

    assert_eq!(outside.well("down --on kind"), "down\n");
    assert_eq!((outside.kinds(), outside.recorded("kind")), (String::new(), false));
    assert_eq!(outside.well("down --on kind"), "no kind cluster is up\n");
    outside.fails("status --on kind", &[], 3, "`cargo xtask up --on kind` makes one");
    outside.fails("kubectl --on kind -- get nodes", &[], 3, "`cargo xtask up --on kind` makes one");
    outside.fails("images load --on kind", &[], 3, "`cargo xtask up --on kind` makes one");
}

#[test]
fn a_lab_without_up_makes_a_kind_cluster_and_removes_it() {
    let outside = Outside::new("kind-lab");
    for (code, labs) in [(0, "0"), (1, "1"), (3, "3")] {
        let (ended, text) = outside.run_with("lab phase4 --on kind", &[("STAND_IN_LABS", labs)]);
        assert_eq!((ended, outside.kinds()), (code, String::new()), "{text}");
        assert!(!outside.recorded("kind"));
        assert_eq!(
            outside.calls("kind").last().unwrap().split(" --").next().unwrap(),
            "kind delete cluster"
        );
    }
    assert!(outside.well("lab phase4 --on kind --keep").contains("kept: export KUBECONFIG="));
    assert_eq!(outside.kinds(), "canary-labs\n");
    outside.well("lab phase4 --on kind");
    assert_eq!(outside.kinds(), "canary-labs\n", "what was kept stays");
}

#[test]
fn the_edge_lives_as_long_as_the_cluster() {
    let outside = Outside::new("kind-edge");
    let edges = || outside.world.alive("edges");
    let text = outside.well("up --on kind");
    assert!(text.contains("edge: load balancers at 127.9.0.0/16 through node ports"), "{text}");
    assert_eq!(edges(), 1);
    let kubeconfig = "--kubeconfig W/home/clusters/kind/kubeconfig";
    let calls = outside.calls("edge");
    let published = "--published 30000=127.0.0.1:32768";
    assert_eq!(calls, [format!("edge edge {kubeconfig} {published}")]);
    assert!(outside.well("status").contains("load balancers at 127.9.0.0/16 through node ports"));
    outside.well("lab phase4 --on kind");
    assert_eq!((edges(), outside.calls("edge").len()), (1, 0), "that of `up` serves the labs, too");

    // One that was killed is started again, with the same life.
    for pid in outside.world.pids("edges") {
        Command::new("kill").args(["-KILL", &pid]).status().unwrap();
    }
    eventually("it is gone", || edges() == 0);
    assert!(!outside.well("status").contains("127.9.0.0"));
    outside.well("lab phase4 --on kind");
    assert_eq!(edges(), 1);
    outside.well("down --on kind");
    assert_eq!((edges(), outside.there("home/clusters/kind/edge.json")), (0, false));

    let environment = [("STAND_IN_LABS", "environment"), ("STAND_IN_WAY", "the API")];
    let (code, text) = outside.run_with("lab phase4 --on kind", &environment);
    assert_eq!((code, edges()), (0, 0), "{text}");
    assert!(text.contains("no node can be reached from here: traffic enters by the API"), "{text}");
    assert!(outside.calls("edge").last().unwrap().ends_with("--exit-with-stdin"));
    outside.well("lab phase4 --on k3s");
    assert_eq!(outside.calls("edge").len(), 0, "k3s has load balancers of its own");
    let mine = "lab phase4 --on current --context mine --registry none";
    outside.well(mine);
    assert_eq!(outside.calls("edge").len(), 0, "nobody asked for one");
    outside.well(&format!("{mine} --edge"));
    assert_eq!((outside.calls("edge").len(), edges()), (1, 0));
}

#[test]
fn an_edge_that_does_not_serve_is_blamed() {
    let outside = Outside::new("edge-refuses");
    let refuses = [("STAND_IN_EDGE", "refuse")];
    let (code, text) = outside.run_with("lab phase4 --on kind", &refuses);
    assert_eq!((code, outside.kinds()), (3, String::new()), "{text}");
    assert!(
        text.contains("the edge did not start, and said:\nkube-embedded: another edge"),
        "{text}"
    );
    let (code, text) = outside.run_with("up --on kind", &refuses);
    assert_eq!((code, &*outside.kinds()), (3, "canary-labs\n"), "{text}");
    assert!(text.contains("`canary-labs` is up and stays: `cargo xtask up --on kind`"), "{text}");
    outside.well("down --on kind");
    let crash = [("STAND_IN_EDGE", "crash"), ("STAND_IN_LABS", "wait")];
    let (code, text) = outside.run_with("lab phase4 --on kind", &crash);
    assert_eq!((code, outside.kinds()), (3, String::new()), "{text}");
    assert!(text.contains("another, and said:\nout of memory"), "{text}");
    assert!(outside.there("cleaned"), "the labs were told to end");

    // One that stays is no child of the run.
    outside.well("up --on kind");
    let labs = outside.world.pids("labs").len();
    let line = outside.command("lab phase4 --on kind").env("STAND_IN_LABS", "wait").spawn();
    eventually("the labs run", || outside.world.pids("labs").len() > labs);
    for pid in outside.world.pids("edges") {
        Command::new("kill").args(["-KILL", &pid]).output().unwrap();
    }
    let (code, text) = ended(line.unwrap().wait_with_output().unwrap());
    assert_eq!((code, &*outside.kinds()), (3, "canary-labs\n"), "{text}");
    assert!(text.contains("the edge ended under the labs; the next run starts another"), "{text}");
}

#[test]
fn node_ports_are_published_where_docker_is_in_a_machine_of_its_own() {
    let outside = Outside::new("desktop");
    let config = || {
        let file = outside.world.folder.join("home/clusters/kind/kind.json");
        fs::read_to_string(file).unwrap().matches("containerPort").count()
    };
    outside.well("up --on kind");
    assert_eq!(config(), 0);
    outside.well("down --on kind");
    let desktop = [("STAND_IN_SYSTEM", "Docker Desktop")];
    let (code, text) = outside.run_with("up --on kind", &desktop);
    assert_eq!((code, config()), (0, 16), "{text}");
}

#[test]
fn a_killed_run_leaves_no_edge() {
    let outside = Outside::new("edge-killed");
    let mut child =
        outside.command("lab phase4 --on kind").env("STAND_IN_LABS", "wait").spawn().unwrap();
    eventually("the labs run", || outside.there("labs"));
    assert_eq!(outside.world.alive("edges"), 1);
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the edge is gone", || outside.world.alive("edges") == 0);
}

#[test]
fn what_a_machine_lacks_is_told_in_the_first_second() {
    let outside = Outside::new("lacks");
    fs::remove_file(outside.socket()).unwrap();
    for line in ["up --on kind", "lab phase4 --on kind", "up --on k3s"] {
        outside.fails(line, &[], 3, "no Docker engine listens at");
    }
    let elsewhere = [("DOCKER_HOST", "tcp://192.0.2.1:2375")];
    outside.fails("up --on kind", &elsewhere, 3, "another machine's engine");
    outside.engine("1");
    outside.fails("up --on kind", &[], 3, "`--image oldest`");
    let text = outside.well("up --on kind --image oldest");
    assert!(outside.calls("kind")[1].contains("--image kindest/node:v1.34.11@sha256:"), "{text}");
    for (program, line, part) in [
        ("kind", "up --on kind", "kind is not installed; `go install sigs.k8s.io/kind@v0.33.0`"),
        ("kubectl", "lab phase4 --on k3s", "kubectl is not installed; see "),
        ("docker", "up --on k3s", "docker is not installed; see "),
        ("minikube", "up --on minikube", "minikube is not installed; see "),
        ("gcloud", "up --on gke --project p --location l", "gcloud is not installed; see "),
        (
            "gke-gcloud-auth-plugin",
            "up --on gke --project p --location l",
            "`gcloud components install gke-gcloud-auth-plugin`",
        ),
    ] {
        let outside = Outside::new(&format!("lacks-{program}")).without(program);
        let part = part.trim_matches('`');
        outside.fails(line, &[], 3, part.split('`').next().unwrap());
        assert_eq!((outside.kinds(), outside.calls("gcloud").len()), (String::new(), 0));
    }
}

#[test]
fn the_doctor_tells_of_every_provider_and_machines_can_read_it() {
    let outside = Outside::new("doctor");
    let (_, text) = outside.run("doctor --json");
    let reports: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let ready = |name: &str| {
        let report = reports.iter().find(|report| report["provider"] == name).unwrap();
        report["ready"].as_bool().unwrap()
    };
    assert!(["kind", "k3s", "minikube", "gke", "current"].into_iter().all(ready), "{text}");
    let outside = outside.without("kind");
    let (code, text) = outside.run("doctor --on kind");
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("BAD   kind") && text.contains("→ "), "{text}");
    assert_eq!(outside.run("doctor --on k3s").0, 0);
}

#[test]
fn a_cluster_that_somebody_else_made_is_not_touched() {
    let outside = Outside::new("taken");
    fs::write(outside.world.folder.join("kinds"), "canary-labs\n").unwrap();
    for line in ["up --on kind", "lab phase4 --on kind"] {
        outside.fails(line, &[], 3, "is there that this checkout did not make");
    }
    assert_eq!(outside.kinds(), "canary-labs\n");
    outside.well("up --on kind --name another");
    assert_eq!(outside.kinds(), "canary-labs\nanother\n");
    outside.well("down --on kind");
    assert_eq!(outside.kinds(), "canary-labs\n");
}

#[test]
fn a_cluster_that_cannot_be_made_leaves_nothing() {
    let outside = Outside::new("pull");
    let pull = [("STAND_IN_KIND", "pull")];
    for line in ["up --on kind", "lab phase4 --on kind"] {
        outside.fails(line, &pull, 3, "kind: the node image cannot be pulled; check the network");
        assert_eq!((outside.kinds(), outside.recorded("kind")), (String::new(), false));
    }
    let pull = [("STAND_IN_DOCKER", "pull")];
    outside.fails("up --on k3s", &pull, 3, "docker: the image cannot be pulled; check the network");
    assert_eq!((outside.there("networks"), outside.recorded("k3s")), (false, false));
    let driver = [("STAND_IN_MINIKUBE", "driver")];
    outside.fails("up --on minikube", &driver, 3, "minikube: it finds no driver that works here");
    assert!(!outside.recorded("minikube"));
}

#[test]
fn an_interrupted_cluster_is_removed_and_a_killed_one_by_the_next_run() {
    let outside = Outside::new("interrupted");
    for signal in ["-INT", "-TERM"] {
        let child = outside.hanging("up --on kind", ("STAND_IN_KIND", "create-hangs"));
        assert_eq!(outside.kinds(), "canary-labs\n");
        kill(signal, &child);
        let (code, text) = ended(child.wait_with_output().unwrap());
        assert_eq!(code, 130, "{text}");
        assert_eq!((outside.kinds(), outside.recorded("kind")), (String::new(), false), "{text}");
    }
    let mut child = outside.hanging("up --on kind", ("STAND_IN_KIND", "create-hangs"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!((outside.kinds(), outside.recorded("kind")), ("canary-labs\n".into(), true));
    assert!(outside.well("status").contains("half made"));
    outside.calls("kind");
    assert!(outside.well("up --on kind").contains("is half made: removing it first"));
    assert_eq!(outside.kinds(), "canary-labs\n");
    assert!(outside.calls("kind")[1].starts_with("kind delete cluster"));
}

#[test]
fn an_interrupted_load_leaves_the_cluster_of_up_and_is_done_again() {
    let outside = Outside::new("load");
    let child = outside.hanging("up --on kind", ("STAND_IN_KIND", "load-hangs"));
    kill("-INT", &child);
    let (code, text) = ended(child.wait_with_output().unwrap());
    assert_eq!(
        (code, text.contains("`cargo xtask down --on kind` removes it")),
        (130, true),
        "{text}"
    );
    assert_eq!((outside.kinds(), outside.recorded("kind")), ("canary-labs\n".into(), true));
    outside.calls("kind");
    outside.well("lab phase4 --on kind");
    let calls = outside.calls("kind").join("\n");
    assert!(calls.contains("load image-archive") && !calls.contains("create"), "{calls}");
    outside.well("down --on kind");

    outside.fails(
        "lab phase4 --on kind",
        &[("STAND_IN_KIND", "load-fails")],
        3,
        "failed to load image",
    );
    assert_eq!(outside.kinds(), "", "a cluster of that run alone goes with it");
    let child = outside.hanging("lab phase4 --on kind", ("STAND_IN_KIND", "load-hangs"));
    kill("-INT", &child);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
    assert_eq!((outside.kinds(), outside.recorded("kind")), (String::new(), false));
}

#[test]
fn a_cluster_that_dies_under_the_labs_is_blamed() {
    let outside = Outside::new("dies");
    let dies = [("STAND_IN_LABS", "cluster-dies")];
    outside.fails("lab phase4 --on kind", &dies, 3, "the kind cluster died under the labs");
    assert_eq!(outside.kinds(), "");
    fs::remove_file(outside.world.folder.join("dead")).unwrap();

    outside.well("up --on kind");
    fs::write(outside.world.folder.join("dead"), "").unwrap();
    let (code, text) = outside.run("up --on kind");
    assert!(text.contains("does not answer: making it anew"), "{text}");
    assert_eq!((code, outside.kinds()), (3, String::new()), "nor does the new one: {text}");
}

#[test]
fn one_run_at_a_time_uses_a_cluster() {
    let outside = Outside::new("busy");
    let child = outside.hanging("up --on kind", ("STAND_IN_KIND", "create-hangs"));
    for line in ["up --on kind", "lab phase4 --on kind", "down --on kind"] {
        outside.fails(line, &[], 3, "the kind cluster is in use by another run");
    }
    outside.well("up --on minikube");
    kill("-INT", &child);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
}

#[test]
fn k3s_nodes_are_containers_that_get_the_images_one_by_one() {
    let outside = Outside::new("k3s");
    outside.well("up --on k3s");
    let calls = outside.calls("docker");
    let short = |call: &String| call.split(" --").next().unwrap().to_owned();
    let words: Vec<_> = calls.iter().map(short).collect();
    assert_eq!(words.iter().filter(|call| *call == "docker run").count(), 3, "{words:?}");
    let imports = calls.iter().filter(|call| call.contains("images import -")).count();
    assert_eq!(imports, 3 * 2, "{calls:?}");
    let kubeconfig = outside.world.folder.join("home/clusters/k3s/kubeconfig");
    assert_eq!(fs::read_to_string(kubeconfig).unwrap(), "server: https://127.0.0.1:32768\n");
    outside.well("lab phase4 --on k3s");
    outside.well("down --on k3s");
    assert!(!outside.there("containers") && !outside.there("networks"));
}

#[test]
fn images_are_built_with_or_without_the_word() {
    let outside = Outside::new("images");
    let text = outside.well("images build");
    assert!(text.starts_with("kubeapp:1.0  sha256:"), "{text}");
    assert_eq!(outside.well("images"), text);
    assert!(outside.well("images build --out out-of-the-world --help").contains("images push"));
}

#[test]
fn a_stopped_minikube_is_started_and_not_made_anew() {
    let outside = Outside::new("stopped");
    outside.well("up --on minikube");
    fs::write(outside.world.folder.join("dead"), "").unwrap();
    outside.calls("minikube");
    let (_, text) = outside.run("up --on minikube");
    assert!(text.contains("does not answer: starting it"), "{text}");
    let calls = outside.calls("minikube");
    let started = calls.iter().position(|call| call.starts_with("minikube start")).unwrap();
    assert!(!calls[..started].iter().any(|call| call.starts_with("minikube delete")), "{calls:?}");
}

#[test]
fn minikube_has_a_profile_of_its_own() {
    let outside = Outside::new("minikube");
    outside.well("up --on minikube --image v1.36.0");
    let calls = outside.calls("minikube");
    assert!(calls[1].ends_with("--profile canary-labs --kubernetes-version v1.36.0"), "{calls:?}");
    assert_eq!(calls.iter().filter(|call| call.starts_with("minikube image load")).count(), 2);
    outside.well("down --on minikube");
    assert!(!outside.there("profile"));
}

#[test]
fn a_context_of_the_users_is_used_only_as_far_as_allowed() {
    let outside = Outside::new("current");
    let lab = "lab phase4 --on current --context mine --registry none";
    let (code, text) = outside.run_with(lab, &[("STAND_IN_LABS", "environment")]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains(r#""provider": "current""#), "{text}");
    assert_eq!(
        outside.calls("kubectl")[0],
        "kubectl config view --raw --flatten --minify --context mine"
    );
    let pushed = "lab phase4 --on current --context mine --registry 127.0.0.1:5000/labs";
    let (code, text) = outside.run_with(pushed, &[("STAND_IN_LABS", "environment")]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains(r#""name": "127.0.0.1:5000/labs/kubeapp:1.0""#), "{text}");
    assert!(text.contains(r#""pull_policy": "Always""#), "{text}");

    let namespace = outside.world.folder.join("namespace");
    fs::write(&namespace, r#"{"metadata":{"name":"production"}}"#).unwrap();
    outside.fails(&format!("{lab} --yes"), &[], 3, "was not made by these labs");
    let labels = r#"{"metadata":{"labels":{"app.kubernetes.io/managed-by":"canary-labs"}}}"#;
    fs::write(&namespace, labels).unwrap();
    outside.fails(lab, &[], 2, "`--yes` says so");
    outside.well(&format!("{lab} --yes"));

    let wrong = [("STAND_IN_KUBECTL", "context")];
    outside.fails(lab, &wrong, 3, "there is no such context; `kubectl config get-contexts`");
    let expired = [("STAND_IN_KUBECTL", "expired")];
    outside.fails(lab, &expired, 3, "the cluster does not accept the credentials; log in again");
    fs::write(outside.world.folder.join("dead"), "").unwrap();
    outside.fails(lab, &[], 3, "the context is not reachable; check the network");
}

pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let all = env::var_os("PATH")?;
    env::split_paths(&all).map(|folder| folder.join(program)).find(|file| file.exists())
}

pub(crate) const GKE: &str =
    "up --on gke --project p --location europe-west1-b --standard --nodes 2";

#[test]
fn gke_is_rehearsed_command_by_command() {
    let outside = Outside::new("gke-dry");
    let text = outside.well(&format!("{GKE} --dry-run"));
    let lines: Vec<_> = text.lines().collect();
    assert!(
        lines[0].starts_with("# this costs money in project p: GKE's fee by the hour, 2 nodes")
    );
    for (line, begin) in lines[1..].iter().zip([
        "gcloud artifacts repositories create canary-labs --repository-format docker",
        "gcloud container clusters create canary-labs --num-nodes 2 --machine-type e2-medium",
        "KUBECONFIG=",
        "KUBECONFIG=",
        "gcloud auth print-access-token",
        "# push kubeapp:1.0 to europe-west1-docker.pkg.dev/p/canary-labs/kubeapp:1.0",
        "# push kubeapp:2.0 to",
    ]) {
        assert!(line.starts_with(begin), "{text}");
    }
    assert_eq!((lines.len(), outside.calls("gcloud").len()), (8, 0), "{text}");
    assert!(outside.well("up --on kind --dry-run").contains("kind create cluster --name"));
    assert_eq!(outside.kinds(), "");
}

#[test]
fn gke_is_made_once_used_by_labs_and_taken_apart_in_order() {
    let outside = Outside::new("gke");
    outside.fails("lab phase4 --on gke", &[], 2, "which project, and where?");
    outside.fails(GKE, &[], 2, "nobody is there to be asked");
    assert!(!outside.there("cluster"), "nothing is made without consent");
    outside.well(&format!("{GKE} --yes"));
    let calls = outside.calls("gcloud");
    let made = calls.iter().find(|call| call.contains("clusters create ")).unwrap();
    assert!(made.contains("--labels made-by=canary-labs,expires=") && made.contains("--project p"));
    let (code, text) = outside.run_with("lab phase4 --on gke", &[("STAND_IN_LABS", "environment")]);
    assert_eq!(code, 0, "{text}");
    for part in [
        r#""name": "europe-west1-docker.pkg.dev/p/canary-labs/kubeapp:2.0""#,
        r#""nearest_wrong": "even""#,
        r#""address": 900"#,
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(outside.there("cluster"), "it stays after a lab");
    outside.calls("gcloud");

    let text = outside.well("down --on gke");
    assert!(text.contains("perhaps still costing money:\nk8s-fw-1"), "{text}");
    let calls = fs::read_to_string(outside.world.folder.join("calls")).unwrap();
    let at = |part: &str| calls.find(part).unwrap_or_else(|| panic!("no {part} in {calls}"));
    let order = [
        "kubectl delete ingress --all --all-namespaces",
        "kubectl delete service --wait --timeout=600s --namespace production app-lb",
        "gcloud container clusters delete canary-labs",
        "gcloud compute forwarding-rules list",
        "gcloud artifacts repositories list",
    ];
    assert!(order.map(at).is_sorted(), "{calls}");
    assert!(!outside.there("cluster") && !outside.recorded("gke"));
}

#[test]
fn what_google_refuses_is_told_and_nothing_is_left() {
    let outside = Outside::new("gke-refused");
    let up = format!("{GKE} --yes");
    for (what, part) in [
        ("expired", "gcloud: the credentials have expired; `gcloud auth login`"),
        ("quota", "gcloud: the project's quota refuses it; another `--location`"),
    ] {
        outside.fails(&up, &[("STAND_IN_GCLOUD", what)], 3, part);
        assert!(!outside.there("cluster") && !outside.recorded("gke"), "{what}");
    }
    // The one that comes after the cluster is made: it costs money and is not to be forgotten.
    let token = [("STAND_IN_GCLOUD", "token")];
    outside.fails(&up, &token, 3, "gcloud: the credentials have expired; `gcloud auth login`");
    let (_, text) = outside.run_with(&up, &token);
    assert!(
        text.contains("is up and stays, without all of its images: `cargo xtask up --on gke`"),
        "{text}"
    );
    assert!(outside.there("cluster") && outside.recorded("gke"));
    outside.well(&up);
}

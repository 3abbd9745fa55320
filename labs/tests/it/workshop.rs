//! The workshop: the runner does what the steps list; a phase done by hand with kubectl is judged by `check`
//! and `watch`; each exercise is open before its solution and solved after it.

use crate::fixture::Fixture;
use futures::StreamExt as _;
use kube_embedded::Cluster;
use labs::broken::{self, Exercise};
use labs::check::{State, check};
use labs::{phases, run::Exit, step::Target};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

const NAMESPACE: &str = "by-hand";
/// How long an exercise is left unsolved: pods are ready sooner.
const UNSOLVED: Duration = Duration::from_secs(3);
const DEADLINE: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn runner_performs_exactly_the_commands_of_the_steps() {
    let fixture = Fixture::new().with_embedded_timeouts();
    let cluster = fixture.cluster().await;
    for name in ["phase0", "phase2", "phase3", "phase4", "phase5", "phase6", "phase7"] {
        let run = fixture.run(name, std::future::pending()).await;
        assert_eq!(run.exit(), Exit::Holds, "{name}: {}", run.errors());
        let lab = phases::find(name).expect("a lab");
        let mut performed: Vec<(String, Vec<String>)> = Vec::new();
        for event in run.events() {
            let event: Value = serde_json::from_str(event).expect("JSON");
            let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
            match event["event"].as_str() {
                Some("step-started") => performed.push((text("id"), Vec::new())),
                Some("command") => performed.last_mut().expect("a step").1.push(text("command")),
                Some("claim-judged") => {
                    let claim = text("claim");
                    let step = lab.step_of(&claim).expect("a step").id;
                    assert!(performed.iter().any(|(id, _)| id == step), "{claim} before {step}");
                }
                _ => {}
            }
        }
        performed.dedup_by(|next, first| next == first);
        let target = Target { namespace: "production", environment: Some(&fixture.environment) };
        for (id, commands) in performed {
            let step = lab.steps.iter().find(|step| step.id == id).expect("a step of the lab");
            let listed: Vec<String> =
                step.commands.iter().filter_map(|command| command.performed(target)).collect();
            // A bad release goes through as many stages as it gets, so some commands may be left out.
            let in_part = name == "phase7";
            assert!(in_part || commands.len() == listed.len(), "{name} {id}: {commands:?}");
            let mut rest = listed.iter();
            for command in &commands {
                // A name that only the cluster knows.
                let is = |listed: &&String| {
                    command.starts_with(listed.split("$(").next().unwrap_or(listed))
                };
                let found = if in_part { rest.find(is) } else { rest.next().filter(is) };
                assert!(found.is_some(), "{name} {id}: {command}, not one of {listed:?} in order");
            }
        }
    }
    cluster.stop().await;
}

fn kubectl_is_missing() -> bool {
    let found = Command::new("kubectl").args(["version", "--client"]).output().is_ok();
    if !found {
        test_support::missing("kubectl", "install kubectl");
    }
    !found
}

/// Runs a command as a person types it.
fn shell(fixture: &Fixture, command: &str) {
    let folder = fixture.environment.manifests.parent().expect("a folder");
    let mut shell = Command::new("sh");
    shell.args(["-ec", command]).current_dir(folder);
    shell.env("KUBECONFIG", &fixture.environment.kubeconfig);
    let output = shell.output().expect("a shell");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {error}");
}

/// Types the commands of a step that change something, and those that make the files for them.
fn type_step(fixture: &Fixture, phase: &str, id: &str) {
    let lab = phases::find(phase).expect("a lab");
    let step = lab.steps.iter().find(|step| step.id == id).expect("a step");
    let target = Target { namespace: NAMESPACE, environment: Some(&fixture.environment) };
    for command in step.commands {
        let text = command.text(target);
        if command.performed(target).is_some() || text.starts_with("openssl") {
            shell(fixture, &text);
        }
    }
}

/// A participant's `labs watch`.
struct Watch {
    process: Child,
    lines: Receiver<String>,
    ticked: BTreeSet<String>,
}

impl Watch {
    fn start(fixture: &Fixture, phase: &str) -> Self {
        let mut watch = Command::new(env!("CARGO_BIN_EXE_labs"));
        watch.args(["watch", phase, "--namespace", NAMESPACE, "--environment"]);
        watch.arg(fixture.write_environment());
        let watch = watch.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut process = watch.expect("labs watch");
        let output = BufReader::new(process.stdout.take().expect("standard output"));
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { process, lines, ticked: BTreeSet::new() }
    }

    fn press(&mut self, keys: &str) {
        let input = self.process.stdin.as_mut().expect("standard input");
        input.write_all(keys.as_bytes()).expect("a key");
    }

    /// Waits for a line with this text, and keeps the claims that are ticked meanwhile.
    fn wait(&mut self, text: &str) {
        let until = Instant::now() + DEADLINE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line =
                self.lines.recv_timeout(left).unwrap_or_else(|_| panic!("no line with {text}"));
            let claim = line.strip_prefix("✓ ").and_then(|line| line.split(':').next());
            self.ticked.extend(claim.map(str::to_owned));
            if line.contains(text) {
                return;
            }
        }
    }

    fn wait_ticked(&mut self, claim: &str) {
        if !self.ticked.contains(claim) {
            self.wait(&format!("✓ {claim}"));
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_without_a_terminal_names_its_end_and_comes_to_it() {
    let fixture = Fixture::new().with_embedded_timeouts();
    let cluster = fixture.cluster().await;
    let environment = fixture.write_environment();
    let watch = |shell: &str| {
        let labs = env!("CARGO_BIN_EXE_labs");
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exec timeout 120 {shell}"), labs, labs, "phase4"]);
        command.arg(&environment);
        command.output().expect("sh")
    };
    // As a job of CI: no keys, and no claim will hold.
    let output = watch(r#""$1" watch "$2" --environment "$3" --timeout 1 </dev/null"#);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("no keys without a terminal: ends once every claim holds"), "{text}");
    assert!(text.contains("timed out: 10 of 10 claims do not hold: "), "{text}");
    // A reader that has seen enough ends it, as does a writer.
    let output =
        watch(r#"sh -c '"$1" watch "$2" --environment "$3" </dev/null | head -n 1' sh "$@""#);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let output = watch(r#"sh -c 'printf h | "$1" watch "$2" --environment "$3"' sh "$@""#);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("keys: h hint"), "{text}");
    assert!(text.contains("hint 1: "), "{text}");
    let output = watch(r#""$1" watch "$2" --environment "$3" --timeout 0"#);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    cluster.stop().await;
}

/// Does a phase with kubectl alone: after each of these steps `check` says that its claims hold and `watch` ticks them
/// off, until it ends because all do.
async fn do_by_hand(phase: &str, steps: &[(&str, &[&str])]) {
    if kubectl_is_missing() {
        return;
    }
    let fixture = Fixture::new().with_embedded_timeouts();
    let cluster = fixture.cluster().await;
    let lab = phases::find(phase).expect("a lab");
    shell(&fixture, "kubectl create namespace by-hand");
    let mut watch = Watch::start(&fixture, phase);
    watch.wait("step 1 of");
    // What it shows of the namespace, before anything is measured.
    watch.wait("· the namespace is empty");
    for (step, claims) in steps {
        type_step(&fixture, phase, step);
        let until = Instant::now() + DEADLINE;
        let during = ["promotion-drops-nothing", "stable-unaffected", "ingress-promotes"];
        loop {
            let found = check(lab, &fixture.environment, cluster.client(), NAMESPACE).await;
            let mut open = found.expect("a check").judgments;
            open.retain(|j| claims.contains(&j.claim) && j.state != State::Holds);
            open.retain(|j| !during.contains(&j.claim));
            if open.is_empty() {
                break;
            }
            assert!(Instant::now() < until, "{step}: {open:#?}");
        }
        for claim in *claims {
            watch.wait_ticked(claim);
        }
    }
    watch.wait("every claim holds");
    assert!(watch.process.wait().expect("an exit code").success());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn phase3_done_by_hand_is_judged_by_check_and_watch() {
    let deployed =
        ["rollout-completes", "deployment-owns-replicaset", "pods-spread", "events-tell"];
    do_by_hand(
        "phase3",
        &[
            ("deploy", &deployed),
            ("publish", &["lb-finds-pods", "lb-gets-address"]),
            ("balance", &["stable-serves-all", "load-spreads"]),
            ("unready", &["readiness-gates"]),
            ("remove-unready", &[]),
            ("heal", &["self-heals"]),
            ("scale", &["scales"]),
            ("replace", &["template-is-a-cutter", "service-outlives-pods"]),
            ("namespace", &["namespace-holds"]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn phase4_done_by_hand_is_judged_by_check_and_watch() {
    let joined =
        ["canary-differs-by-env", "canary-joins-untouched", "sessions-flip", "quarter-to-canary"];
    do_by_hand(
        "phase4",
        &[
            ("stable", &[]),
            ("join", &joined),
            ("even", &["ratio-follows-replicas"]),
            ("back", &["quarter-to-canary"]),
            ("ditch", &["canary-can-be-ditched"]),
            ("bad", &["bad-canary-contained"]),
            ("fix", &["quarter-to-canary"]),
            ("promote", &["promotion-by-image", "promotion-drops-nothing"]),
            ("retire", &["canary-retires", "promotion-by-image"]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn phase5_done_by_hand_is_judged_by_check_and_watch() {
    if !test_support::runs("openssl", &["version"]) {
        return test_support::missing("openssl", "install openssl");
    }
    do_by_hand(
        "phase5",
        &[
            ("unready", &[]),
            ("ready", &["backends-healthy-first"]),
            ("node-port", &["nodeport-in-range"]),
            ("default", &["default-backend-takes-all"]),
            ("canary", &["service-internal-address"]),
            ("rules", &["stable-unaffected"]),
            ("hosts", &["vhost-canary", "vhost-stable", "vhost-default"]),
            ("sessions", &["sessions-hold"]),
            ("fanout", &["fanout-paths"]),
            ("tls", &["tls-terminates"]),
            ("promote", &["ingress-promotes"]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reset_asks_before_it_deletes_what_it_did_not_create() {
    if kubectl_is_missing() {
        return;
    }
    let fixture = Fixture::new().with_embedded_timeouts();
    let cluster = fixture.cluster().await;
    shell(&fixture, "kubectl create namespace by-hand");
    shell(&fixture, "kubectl --namespace=by-hand create configmap mine");
    let mut watch = Watch::start(&fixture, "phase4");
    watch.press("r3\n");
    watch.wait("was not created for exercises");
    watch.press("by-hand?\n");
    watch.wait("nothing was deleted");
    shell(&fixture, "kubectl --namespace=by-hand get configmap mine");
    watch.press("r5\n");
    watch.wait("was not created for exercises");
    watch.press("by-hand\n");
    watch.wait("at the start of phase5");
    shell(&fixture, "! kubectl --namespace=by-hand get configmap mine");
    // It was confirmed, and goes to what the phase builds on.
    watch.press("r4\n");
    watch.wait("at the start of phase4");
    shell(&fixture, "kubectl --namespace=by-hand rollout status deployment/kubeapp-production");
    watch.press("p1001\n");
    watch.wait("a number from 0 to 1000");
    watch.press("p0\n");
    watch.wait("you said 0; 0 of 1000 got 2.0");
    for depth in ["hint 1:", "hint 2:", "hint 3:"] {
        watch.press("h");
        watch.wait(depth);
    }
    watch.press("n");
    watch.wait("step 2 of 11");
    watch.press("q");
    assert!(watch.process.wait().expect("an exit code").success());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_plainly_what_it_cannot_judge() {
    if kubectl_is_missing() {
        return;
    }
    let fixture = Fixture::new().with_embedded_timeouts();
    let cluster = fixture.cluster().await;
    let lab = phases::find("phase3").expect("a lab");
    let client = cluster.client();
    let judge = || check(lab, &fixture.environment, client.clone(), NAMESPACE);
    let error = async || judge().await.expect_err("nothing to judge").to_string();
    assert!(error().await.ends_with("create it with `kubectl create namespace by-hand`"));

    shell(&fixture, "kubectl apply -f manifests/lb/app-production.yml");
    let found = error().await;
    assert!(
        found.contains("no namespace `by-hand`") && found.contains("`default` holds"),
        "{found}"
    );
    shell(&fixture, "kubectl create namespace by-hand");
    let found = error().await;
    assert!(found.contains("`by-hand` is empty, but `default` holds the app"), "{found}");

    let apply = "kubectl --namespace=by-hand apply -f manifests/lb/";
    let rolled = "kubectl --namespace=by-hand rollout status deployment/kubeapp-production";
    let edit =
        "kubectl --namespace=by-hand set image deployment/kubeapp-production kubeapp=kubeapp:2.0";
    let until = Instant::now() + DEADLINE;
    // Until one ends while pods of both versions are there: that is neither right nor wrong.
    loop {
        shell(&fixture, &format!("{apply}app-production.yml; {apply}app-lb.yml; {rolled}"));
        let (found, ()) = tokio::join!(judge(), typed(&fixture, edit));
        let found = found.expect("a check");
        let serves = found.judgments.iter().find(|j| j.claim == "stable-serves-all");
        let serves = serves.expect("a judgment");
        if serves.evidence.contains("changed during the check, try again") {
            assert_eq!(serves.state, State::NotYet, "{}", serves.evidence);
            assert!(found.fault.is_none());
            break;
        }
        assert!(Instant::now() < until, "{}", serves.evidence);
    }
    let deletion = "kubectl delete namespace by-hand --wait=false";
    let (found, ()) = tokio::join!(judge(), typed(&fixture, deletion));
    let found =
        found.map(|check| check.text(lab, None)).expect_err("a deleted namespace").to_string();
    assert!(found.contains("is being deleted") || found.contains("no namespace"), "{found}");

    cluster.stop().await;
    let mut check = Command::new(env!("CARGO_BIN_EXE_labs"));
    check.args(["check", "phase3", "--environment"]).arg(fixture.write_environment());
    let output = check.output().expect("labs check");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{error}");
    assert!(error.contains("is it still running? see `cargo xtask status`"), "{error}");
}

/// Types a command on a thread of its own.
async fn typed(fixture: &Fixture, command: &str) {
    tokio::task::block_in_place(|| shell(fixture, command));
}

#[tokio::test(flavor = "multi_thread")]
async fn exercises_are_open_before_their_solution_and_solved_after_it() {
    if kubectl_is_missing() {
        return;
    }
    let fixture = Fixture::new().with_embedded_timeouts();
    let cluster = fixture.cluster().await;
    let exercises = broken::read(&broken::folder()).expect("exercises");
    assert!(exercises.len() >= 27);
    // Each in a namespace of its own, a few at a time: most of it is waiting.
    let proofs = exercises.iter().map(|exercise| prove(&fixture, &cluster, exercise));
    futures::stream::iter(proofs).buffer_unordered(4).collect::<()>().await;
    cluster.stop().await;
}

/// Proves that an exercise stays open without its solution, and is solved by it.
async fn prove(fixture: &Fixture, cluster: &Cluster, exercise: &Exercise) {
    let (name, environment) = (&*exercise.name, &fixture.environment);
    let open = || exercise.open(environment, cluster.client(), name);
    let started = exercise.start(environment, cluster.client(), name).await;
    started.unwrap_or_else(|error| panic!("{name}: {error:#}"));
    let since = Instant::now();
    while since.elapsed() < UNSOLVED {
        assert_ne!(open().await.expect("a check"), Vec::<String>::new(), "{name}");
    }
    for command in exercise.solution(Target { namespace: name, environment: Some(environment) }) {
        typed(fixture, &command).await;
    }
    let until = Instant::now() + DEADLINE;
    loop {
        let open = open().await.expect("a check");
        if open.is_empty() {
            return;
        }
        assert!(Instant::now() < until, "{name}: {open:?}");
    }
}

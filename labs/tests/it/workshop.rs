//! The workshop: the runner does what the steps list; a phase done by hand with kubectl is judged by `check`
//! and `watch`; each exercise is open before its solution and solved after it.

use crate::fixture::Fixture;
use labs::check::{State, check};
use labs::{broken, phases, run::Exit, step::Target};
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
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

/// Types the commands of a step.
fn type_step(fixture: &Fixture, id: &str) {
    let lab = phases::find("phase4").expect("a lab");
    let step = lab.steps.iter().find(|step| step.id == id).expect("a step");
    let target = Target { namespace: NAMESPACE, environment: Some(&fixture.environment) };
    for command in step.commands.iter().filter(|command| command.performed(target).is_some()) {
        shell(fixture, &command.text(target));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn phase_done_by_hand_is_judged_by_check_and_watch() {
    if kubectl_is_missing() {
        return;
    }
    let fixture = Fixture::new().with_embedded_timeouts();
    let cluster = fixture.cluster().await;
    let lab = phases::find("phase4").expect("a lab");
    let environment = &fixture.environment;
    let client = cluster.client();
    let judge = || check(lab, environment, client.clone(), NAMESPACE);
    let error = judge().await.expect_err("no namespace").to_string();
    assert!(error.contains("kubectl create namespace by-hand"), "{error}");
    shell(&fixture, "kubectl create namespace by-hand");

    let file = environment.kubeconfig.with_file_name("environment.json");
    std::fs::write(&file, serde_json::to_string(environment).expect("JSON")).expect("a file");
    let mut watch = Command::new(env!("CARGO_BIN_EXE_labs"));
    watch.args(["watch", "phase4", "--namespace", NAMESPACE, "--environment"]).arg(&file);
    let mut watch = watch.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("labs watch");
    let mut keys = watch.stdin.take().expect("standard input");
    let output = watch.stdout.take().expect("standard output");
    let (sender, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    let seen = |text: &str| {
        let until = Instant::now() + DEADLINE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = lines.recv_timeout(left).unwrap_or_else(|_| panic!("no line with {text}"));
            if line.contains(text) {
                break;
            }
        }
    };
    for (step, claims, ticked) in [
        ("stable", &[][..], "app-lb"),
        (
            "join",
            &[
                "canary-differs-by-env",
                "canary-joins-untouched",
                "sessions-flip",
                "quarter-to-canary",
            ],
            "✓ quarter-to-canary",
        ),
        ("even", &["ratio-follows-replicas"], "✓ ratio-follows-replicas"),
        ("back", &["quarter-to-canary"], ""),
        ("ditch", &["canary-can-be-ditched"], "✓ canary-can-be-ditched"),
        ("bad", &["bad-canary-contained"], "✓ bad-canary-contained"),
        ("fix", &["quarter-to-canary"], ""),
        ("promote", &["promotion-by-image"], "✓ promotion-drops-nothing"),
        ("retire", &["canary-retires", "promotion-by-image"], "✓ canary-retires"),
    ] {
        type_step(&fixture, step);
        let until = Instant::now() + DEADLINE;
        loop {
            let found = judge().await.expect("a check");
            let open: Vec<_> = found
                .judgments
                .iter()
                .filter(|j| claims.contains(&j.claim) && j.state != State::Holds)
                .collect();
            if open.is_empty() {
                break;
            }
            assert!(Instant::now() < until, "{step}: {open:#?}");
        }
        if ticked.starts_with('✓') {
            seen(ticked);
        }
    }
    keys.write_all(b"q").expect("a key");
    assert!(watch.wait().expect("an exit code").success());
    shell(&fixture, "kubectl delete namespace by-hand --wait=false");
    let error = judge().await.map(|check| check.text(lab)).expect_err("a deleted namespace");
    let error = error.to_string();
    assert!(error.contains("is being deleted") || error.contains("no namespace"), "{error}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exercises_are_open_before_their_solution_and_solved_after_it() {
    if kubectl_is_missing() {
        return;
    }
    let fixture = Fixture::new().with_embedded_timeouts();
    let cluster = fixture.cluster().await;
    let exercises = broken::read(&broken::folder()).expect("exercises");
    assert!(exercises.len() >= 16);
    for exercise in exercises {
        let open = || exercise.open(&fixture.environment, cluster.client(), NAMESPACE);
        let started = exercise.start(&fixture.environment, cluster.client(), NAMESPACE).await;
        started.unwrap_or_else(|error| panic!("{}: {error:#}", exercise.name));
        // Left unsolved, it stays open.
        let since = Instant::now();
        while since.elapsed() < UNSOLVED {
            assert_ne!(open().await.expect("a check"), Vec::<String>::new(), "{}", exercise.name);
        }
        let target = Target { namespace: NAMESPACE, environment: Some(&fixture.environment) };
        for command in exercise.solution(target) {
            shell(&fixture, &command);
        }
        let until = Instant::now() + DEADLINE;
        loop {
            let open = open().await.expect("a check");
            if open.is_empty() {
                break;
            }
            assert!(Instant::now() < until, "{}: {open:?}", exercise.name);
        }
    }
    cluster.stop().await;
}

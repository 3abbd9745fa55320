//! The edge on the host: its lifetime, and the errors when it does not serve.

use super::{eventually, exit, provider_fixture::ProviderFixture};
use std::process::Command;

#[test]
fn edge_runs_as_long_as_the_cluster() {
    let fixture = ProviderFixture::new("kind-edge");
    let edges = || fixture.base.alive("edges");
    let text = fixture.succeeds("up --on kind");
    assert!(text.contains("edge: load balancers at 127.9.0.0/16 through node ports"), "{text}");
    assert_eq!(edges(), 1);
    let kubeconfig = "--kubeconfig W/home/clusters/kind/kubeconfig";
    let calls = fixture.calls("edge");
    let published = "--published 30000=127.0.0.1:32768";
    assert_eq!(calls, [format!("edge edge {kubeconfig} {published}")]);
    assert!(
        fixture.succeeds("status").contains("load balancers at 127.9.0.0/16 through node ports")
    );
    fixture.succeeds("lab phase4 --on kind");
    assert_eq!(
        (edges(), fixture.calls("edge").len()),
        (1, 0),
        "the edge of `up` serves the labs, too"
    );

    // An edge that was killed is started again, persistent as before.
    for pid in fixture.base.pids("edges") {
        Command::new("kill").args(["-KILL", &pid]).status().unwrap();
    }
    eventually("it has exited", || edges() == 0);
    assert!(!fixture.succeeds("status").contains("127.9.0.0"));
    fixture.succeeds("lab phase4 --on kind");
    assert_eq!(edges(), 1);
    fixture.succeeds("down --on kind");
    assert_eq!((edges(), fixture.has_file("home/clusters/kind/edge.json")), (0, false));

    let environment = [("FAKE_LABS", "environment"), ("FAKE_ROUTE", "the API")];
    let (code, text) = fixture.run_with("lab phase4 --on kind", &environment);
    assert_eq!((code, edges()), (0, 0), "{text}");
    assert!(
        text.contains("no node is reachable from this host: traffic enters by the API"),
        "{text}"
    );
    assert!(text.contains(r#""propagation": 3"#), "terminating pods have to keep serving: {text}");
    assert!(fixture.calls("edge").last().unwrap().ends_with("--exit-with-stdin"));
    fixture.succeeds("lab phase4 --on k3s");
    assert_eq!(fixture.calls("edge").len(), 0, "k3s has load balancers of its own");
    let mine = "lab phase4 --on current --context mine --registry none";
    fixture.succeeds(mine);
    assert_eq!(fixture.calls("edge").len(), 0, "no edge without --edge");
    fixture.succeeds(&format!("{mine} --edge"));
    let calls = fixture.calls("edge");
    assert_eq!((calls.len(), edges()), (1, 0));
    assert!(calls[0].contains("--namespace production"), "it serves no other namespace");
}

#[test]
fn edge_failure_exits_3_with_the_end_of_its_log() {
    let fixture = ProviderFixture::new("edge-refuses");
    let refuses = [("FAKE_EDGE", "refuse")];
    let (code, text) = fixture.run_with("lab phase4 --on kind", &refuses);
    assert_eq!((code, fixture.kinds()), (3, String::new()), "{text}");
    assert!(
        text.contains("the edge did not start; the end of its log:\nkube-embedded: another edge"),
        "{text}"
    );
    let (code, text) = fixture.run_with("up --on kind", &refuses);
    assert_eq!((code, &*fixture.kinds()), (3, "canary-labs\n"), "{text}");
    assert!(text.contains("`canary-labs` is up and is kept: `cargo xtask up --on kind`"), "{text}");
    fixture.succeeds("down --on kind");
    let crash = [("FAKE_EDGE", "crash"), ("FAKE_LABS", "wait")];
    let (code, text) = fixture.run_with("lab phase4 --on kind", &crash);
    assert_eq!((code, fixture.kinds()), (3, String::new()), "{text}");
    assert!(text.contains("another; the end of its log:\nout of memory"), "{text}");
    assert!(fixture.has_file("cleaned"), "the labs were stopped");

    // A persistent edge is not a child of the run.
    fixture.succeeds("up --on kind");
    let labs = fixture.base.pids("labs").len();
    let line = fixture.command("lab phase4 --on kind").env("FAKE_LABS", "wait").spawn();
    eventually("the labs run", || fixture.base.pids("labs").len() > labs);
    for pid in fixture.base.pids("edges") {
        Command::new("kill").args(["-KILL", &pid]).output().unwrap();
    }
    let (code, text) = exit(line.unwrap().wait_with_output().unwrap());
    assert_eq!((code, &*fixture.kinds()), (3, "canary-labs\n"), "{text}");
    assert!(text.contains("the edge exited during the run; the next run starts another"), "{text}");
}

#[test]
fn killed_run_leaves_no_edge() {
    let fixture = ProviderFixture::new("edge-killed");
    let mut child =
        fixture.command("lab phase4 --on kind").env("FAKE_LABS", "wait").spawn().unwrap();
    eventually("the labs run", || fixture.has_file("labs"));
    assert_eq!(fixture.base.alive("edges"), 1);
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the edge has exited", || fixture.base.alive("edges") == 0);
}

//! The edge on the host: how long it lives, and who is told when it does not serve.

use super::{ended, eventually, outside::Outside};
use std::process::Command;

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
    assert!(text.contains(r#""propagation": 3"#), "pods that end have to serve on: {text}");
    assert!(outside.calls("edge").last().unwrap().ends_with("--exit-with-stdin"));
    outside.well("lab phase4 --on k3s");
    assert_eq!(outside.calls("edge").len(), 0, "k3s has load balancers of its own");
    let mine = "lab phase4 --on current --context mine --registry none";
    outside.well(mine);
    assert_eq!(outside.calls("edge").len(), 0, "nobody asked for one");
    outside.well(&format!("{mine} --edge"));
    let calls = outside.calls("edge");
    assert_eq!((calls.len(), edges()), (1, 0));
    assert!(calls[0].contains("--namespace production"), "what is in others is not ours to serve");
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

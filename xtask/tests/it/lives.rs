//! The life of a cluster that other people's programs make: what is left and told when a step of it
//! fails, is interrupted or killed, or meets somebody else.

use super::{ended, kill, outside::Outside};
use std::fs;

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

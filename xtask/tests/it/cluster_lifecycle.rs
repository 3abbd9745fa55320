//! The lifecycle of an external cluster: what is left and reported when a step fails, is interrupted or
//! killed, or finds a foreign cluster.

use super::{exit, kill, provider_fixture::ProviderFixture};
use std::fs;

#[test]
fn foreign_cluster_is_not_touched() {
    let fixture = ProviderFixture::new("taken");
    fs::write(fixture.base.folder.join("kinds"), "canary-labs\n").unwrap();
    for line in ["up --on kind", "lab phase4 --on kind"] {
        fixture.fails(line, &[], 3, "already exists and was not created by this checkout");
    }
    assert_eq!(fixture.kinds(), "canary-labs\n");
    fixture.succeeds("up --on kind --name another");
    assert_eq!(fixture.kinds(), "canary-labs\nanother\n");
    fixture.succeeds("down --on kind");
    assert_eq!(fixture.kinds(), "canary-labs\n");
}

#[test]
fn failed_creation_leaves_nothing() {
    let fixture = ProviderFixture::new("pull");
    let pull = [("FAKE_KIND", "pull")];
    for line in ["up --on kind", "lab phase4 --on kind"] {
        fixture.fails(line, &pull, 3, "kind: the node image cannot be pulled; check the network");
        assert_eq!((fixture.kinds(), fixture.recorded("kind")), (String::new(), false));
    }
    let pull = [("FAKE_DOCKER", "pull")];
    fixture.fails("up --on k3s", &pull, 3, "docker: the image cannot be pulled; check the network");
    assert_eq!((fixture.has_file("networks"), fixture.recorded("k3s")), (false, false));
    let driver = [("FAKE_MINIKUBE", "driver")];
    fixture.fails("up --on minikube", &driver, 3, "minikube: no driver works on this machine");
    assert!(!fixture.recorded("minikube"));
}

#[test]
fn interrupted_creation_is_undone_and_a_killed_one_by_the_next_run() {
    let fixture = ProviderFixture::new("interrupted");
    for signal in ["-INT", "-TERM"] {
        let child = fixture.hanging("up --on kind", ("FAKE_KIND", "create-hangs"));
        assert_eq!(fixture.kinds(), "canary-labs\n");
        kill(signal, &child);
        let (code, text) = exit(child.wait_with_output().unwrap());
        assert_eq!(code, 130, "{text}");
        assert_eq!((fixture.kinds(), fixture.recorded("kind")), (String::new(), false), "{text}");
    }
    let mut child = fixture.hanging("up --on kind", ("FAKE_KIND", "create-hangs"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!((fixture.kinds(), fixture.recorded("kind")), ("canary-labs\n".into(), true));
    assert!(fixture.succeeds("status").contains("incomplete"));
    fixture.calls("kind");
    assert!(fixture.succeeds("up --on kind").contains("is incomplete; removing it first"));
    assert_eq!(fixture.kinds(), "canary-labs\n");
    assert!(fixture.calls("kind")[1].starts_with("kind delete cluster"));
}

#[test]
fn interrupted_image_load_keeps_the_cluster_of_up_and_is_retried() {
    let fixture = ProviderFixture::new("load");
    let child = fixture.hanging("up --on kind", ("FAKE_KIND", "load-hangs"));
    kill("-INT", &child);
    let (code, text) = exit(child.wait_with_output().unwrap());
    assert_eq!(
        (code, text.contains("`cargo xtask down --on kind` removes it")),
        (130, true),
        "{text}"
    );
    assert_eq!((fixture.kinds(), fixture.recorded("kind")), ("canary-labs\n".into(), true));
    fixture.calls("kind");
    // The labs clean up only on a cluster that stays.
    let text = fixture.succeeds("lab phase4 --on kind");
    assert!(!text.contains("--keep"), "{text}");
    let calls = fixture.calls("kind").join("\n");
    assert!(calls.contains("load image-archive") && !calls.contains("create"), "{calls}");
    fixture.succeeds("down --on kind");
    fixture.calls("kind");
    let text = fixture.succeeds("lab phase4 --on kind");
    assert!(text.contains(" --keep"), "{text}");
    assert!(fixture.calls("kind").join("\n").contains("delete cluster"));

    fixture.fails(
        "lab phase4 --on kind",
        &[("FAKE_KIND", "load-fails")],
        3,
        "failed to load image",
    );
    assert_eq!(fixture.kinds(), "", "an ephemeral cluster is deleted");
    let child = fixture.hanging("lab phase4 --on kind", ("FAKE_KIND", "load-hangs"));
    kill("-INT", &child);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
    assert_eq!((fixture.kinds(), fixture.recorded("kind")), (String::new(), false));
}

#[test]
fn cluster_that_dies_during_the_run_is_reported() {
    let fixture = ProviderFixture::new("dies");
    let dies = [("FAKE_LABS", "cluster-dies")];
    fixture.fails(
        "lab phase4 --on kind",
        &dies,
        3,
        "the kind cluster became unavailable during the run",
    );
    assert_eq!(fixture.kinds(), "");
    fs::remove_file(fixture.base.folder.join("dead")).unwrap();

    fixture.succeeds("up --on kind");
    fs::write(fixture.base.folder.join("dead"), "").unwrap();
    let (code, text) = fixture.run("up --on kind");
    assert!(text.contains("does not respond; recreating it"), "{text}");
    assert_eq!(
        (code, fixture.kinds()),
        (3, String::new()),
        "the new one does not respond either: {text}"
    );
}

#[test]
fn concurrent_use_of_a_cluster_is_rejected() {
    let fixture = ProviderFixture::new("busy");
    let child = fixture.hanging("up --on kind", ("FAKE_KIND", "create-hangs"));
    for line in ["up --on kind", "lab phase4 --on kind", "down --on kind"] {
        fixture.fails(line, &[], 3, "the kind cluster is in use by another run");
    }
    fixture.succeeds("up --on minikube");
    kill("-INT", &child);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
}

//! The state on disk: private, and of use after a cluster died, was damaged or is in use.

use super::{Fixture, eventually, exit, provider_fixture::ProviderFixture};
use std::{fs, io::Write, os::unix::fs::PermissionsExt, path::Path, process::Command};

#[test]
fn state_is_private_whatever_the_umask() {
    let fixture = Fixture::new("private");
    let home = fixture.folder.join("home");
    // As an earlier version left it.
    fs::create_dir_all(home.join("clusters/embedded")).unwrap();
    fs::create_dir_all(home.join("runs")).unwrap();
    let program = fixture.folder.join("debug/xtask");
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("umask 0; '{0}' up && '{0}' lab phase4", program.display()));
    command.env("CANARY_PREBUILT", "1").env("CANARY_HOME", &home);
    let (code, text) = exit(command.output().unwrap());
    assert_eq!(code, 0, "{text}");
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    for folder in ["clusters", "clusters/embedded", "runs", "failures"] {
        assert_eq!(mode(&home.join(folder)), 0o700, "{folder}");
    }
    for file in ["lock", "in-use", "pid", "cluster.json", "process.json", "cluster.log"] {
        assert_eq!(mode(&home.join("clusters/embedded").join(file)), 0o600, "{file}");
    }
    assert_eq!(fixture.run("down").0, 0);
}

#[test]
fn dead_cluster_is_reported_with_its_last_words() {
    let fixture = Fixture::new("dead");
    let home = fixture.folder.join("home/clusters/embedded");
    assert_eq!(fixture.run("up").0, 0);
    let mut log = fs::File::options().append(true).open(home.join("cluster.log")).unwrap();
    log.write_all(b"thread 'main' panicked at src/x.rs\n").unwrap();
    for pid in fixture.pids("clusters") {
        Command::new("kill").args(["-KILL", &pid]).status().unwrap();
    }
    eventually("it is dead", || fixture.alive("clusters") == 0);
    for (line, code) in [("status", 3), ("kubectl get pods", 3), ("status", 3)] {
        let (actual, text) = fixture.run(line);
        assert_eq!(actual, code, "{line}: {text}");
        for part in
            ["the last one died ", " s ago, after ", "panicked at src/x.rs", "starts another"]
        {
            assert!(text.contains(part), "{line}: {text}");
        }
    }
    let (code, text) = fixture.run("up");
    let kept = "the previous cluster died; its log is ";
    assert_eq!((code, text.contains(kept), fixture.alive("clusters")), (0, true, 1), "{text}");
    let previous = fs::read_to_string(home.join("cluster.previous.log")).unwrap();
    assert!(previous.contains("panicked"));
    assert_eq!(fixture.run("down"), (0, "down\n".into()));
    // One that was stopped did not die.
    let (code, text) = fixture.run("status");
    assert_eq!((code, text.contains("died")), (3, false), "{text}");
}

#[test]
fn down_asks_before_it_ends_a_running_lab() {
    let fixture = Fixture::new("down-asks");
    assert_eq!(fixture.run("up").0, 0);
    let lab = fixture.start_lab();
    let (code, text) = fixture.run("down");
    let refused = "cannot prompt to delete the cluster under a running lab";
    assert_eq!((code, text.contains(refused)), (2, true), "{text}");
    assert_eq!((fixture.alive("clusters"), fixture.alive("labs")), (1, 1));
    assert_eq!(fixture.run("down --yes"), (0, "down\n".into()));
    assert_eq!(fixture.alive("clusters"), 0);
    super::kill("-INT", &lab);
    assert_eq!(lab.wait_with_output().unwrap().status.code(), Some(130));
}

#[test]
fn images_load_updates_a_running_cluster() {
    let fixture = Fixture::new("load");
    assert_eq!(fixture.run("images load").0, 3, "no cluster is up");
    assert_eq!(fixture.run("up").0, 0);
    let stamp = fixture.folder.join("images/stamp.json");
    let text = fs::read_to_string(&stamp).unwrap();
    let rebuilt = |digest: &str| fs::write(&stamp, text.replace("sha256:0", digest)).unwrap();
    rebuilt("sha256:1");
    let (code, text) = fixture.run("images load");
    assert_eq!((code, text.contains("the images are loaded")), (0, true), "{text}");
    assert!(fixture.run("status").1.contains("kubeapp:1.0  sha256:1"));
    // A lab that runs would get other images from one moment to the next.
    rebuilt("sha256:2");
    let lab = fixture.start_lab();
    rebuilt("sha256:3");
    let (code, text) = fixture.run("images load");
    assert_eq!((code, text.contains("is in use by another run")), (3, true), "{text}");
    super::kill("-INT", &lab);
    lab.wait_with_output().unwrap();
    assert!(fixture.run("status").1.contains("kubeapp:1.0  sha256:2"), "the lab loaded them");
    assert_eq!((fixture.run("down").0, fixture.pids("clusters").len()), (0, 1));

    let mut command = fixture.command("up");
    command.env("FAKE_LOAD", r#""no tar""#).status().unwrap();
    rebuilt("sha256:4");
    let (code, text) = fixture.run("images load");
    let failed = text.contains("the cluster could not load the images: no tar");
    assert_eq!((code, failed), (3, true), "{text}");
    assert_eq!(fixture.run("down").0, 0);
}

#[test]
fn published_addresses_are_shown_and_exported() {
    let fixture = Fixture::new("published");
    let published = r#"[{"kind":"service","name":"production/app-lb","http":"127.9.1.1:10080"}]"#;
    assert_eq!(fixture.run("env").0, 3, "no cluster is up");
    let (code, text) = fixture.run("up");
    assert_eq!(code, 0, "{text}");
    let (code, text) = fixture.run("env");
    assert_eq!((code, text.contains("no load balancer and no Ingress yet")), (0, true), "{text}");
    fs::write(fixture.folder.join("published"), published).unwrap();
    for line in ["up", "status"] {
        let (_, text) = fixture.run(line);
        assert!(text.contains("service  production/app-lb  http://127.9.1.1:10080"), "{text}");
    }
    let output = fixture.command("env").env("https_proxy", "http://p:1").output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let script = format!("{printed}echo \"$SERVICE_URL ${{INGRESS-none}} $NO_PROXY\"");
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, "http://127.9.1.1:10080 none localhost,127.0.0.1,127.0.0.0/8,::1\n");
    assert_eq!(fixture.run("down").0, 0);
}

#[test]
fn external_cluster_with_a_damaged_record_is_deleted_on_confirmation() {
    let fixture = ProviderFixture::new("damaged-record");
    fixture.succeeds("up --on kind");
    let record = fixture.base.folder.join("home/clusters/kind/cluster.json");
    fs::write(&record, "{").unwrap();
    for line in ["up --on kind", "lab phase4 --on kind", "status --on kind"] {
        fixture.fails(line, &[], 3, "`cargo xtask down --on kind` removes the cluster");
    }
    fixture.fails("down --on kind", &[], 2, "pass `--yes`");
    assert_eq!(fixture.kinds(), "canary-labs\n");
    assert!(fixture.succeeds("down --on kind --yes").contains("down\n"));
    assert_eq!((fixture.kinds(), fixture.recorded("kind")), (String::new(), false));
}

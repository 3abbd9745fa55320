//! The command line of `kube-embedded`: `serve`, help texts and errors.

use crate::fixture::{
    in_time,
    program::{Directory, PROGRAM, first_line, program, start, terminate},
};
use insta::assert_snapshot;
use serde_json::Value;
use std::{os::unix::fs::PermissionsExt, process::Stdio};
use tokio::process::{Child, Command};

/// Starts a cluster whose files are all in the directory.
async fn serve(directory: &Directory, arguments: &[&str]) -> (Child, Value) {
    let mut command = program();
    command
        .args(["serve", "--sandbox", "plain", "--nodes", "1", "--state"])
        .arg(directory.path())
        .arg("--kubeconfig")
        .arg(directory.path().join("config"))
        .args(arguments)
        .stderr(Stdio::inherit());
    start(&mut command).await
}

/// Runs the program to its end, and returns exit code, stdout and stderr.
async fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = program();
    // Without a terminal, help is wrapped at its maximal width.
    command.args(arguments).stdin(Stdio::null()).env_remove("COLUMNS");
    let output = in_time(command.output()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn serve_prints_readiness_and_exits_with_stdin() {
    let directory = Directory::new();
    let (mut child, ready) = serve(&directory, &["--exit-with-stdin"]).await;
    assert_eq!(ready["ready"], true);
    assert!(ready["server"].as_str().unwrap().starts_with("https://127."));
    let config = directory.path().join("config");
    assert_eq!(ready["kubeconfig"], config.to_str().unwrap());
    let mode = config.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(child.stdin.take());
    assert!(in_time(child.wait()).await.unwrap().success());
    assert_eq!(directory.entries(), 0, "files were left behind");
}

#[tokio::test]
async fn serve_exits_on_sigterm_and_cleans_up_after_killed_clusters() {
    let directory = Directory::new();
    let (mut killed, _) = serve(&directory, &[]).await;
    in_time(killed.kill()).await.unwrap();
    assert!(directory.entries() > 0);
    let (mut child, _) = serve(&directory, &[]).await;
    terminate(&child);
    assert!(in_time(child.wait()).await.unwrap().success());
    assert_eq!(directory.entries(), 0);
}

/// Runs in a user namespace in which no other may be created, as where an administrator forbids them.
#[tokio::test]
async fn serve_without_user_namespaces_falls_back_to_plain_and_reports_why() {
    let directory = Directory::new();
    let script = format!(
        "echo 0 >/proc/sys/user/max_user_namespaces && exec '{PROGRAM}' serve --exit-with-stdin \
         --state '{}'",
        directory.path().display()
    );
    let child = Command::new("unshare")
        .args(["--user", "--map-root-user", "sh", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let Ok(mut child) = child else {
        return test_support::missing("unshare", "`apt-get install util-linux` installs it");
    };
    let line = first_line(&mut child).await;
    drop(child.stdin.take());
    let status = in_time(child.wait()).await.unwrap();
    if line.is_empty() {
        return test_support::missing("user-namespaces", &format!("unshare: {status}"));
    }
    let ready: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(ready["sandbox"], "plain", "{ready}");
    let reason = ready["sandboxReason"].as_str().unwrap();
    assert!(reason.starts_with("namespaces do not work here: "), "{reason}");
    assert!(reason.contains("sudo sysctl user.max_user_namespaces=10000"), "{reason}");
    assert!(status.success());
}

#[tokio::test]
async fn wrong_usage_exits_2_and_failed_start_exits_1_with_the_reason() {
    for (arguments, code, expected) in [
        (&["serv"][..], 2, "a similar subcommand exists: 'serve'"),
        (
            &["serve", "--sandbox", "plain", "--state", "/dev/null/x"],
            1,
            "failed to create a state directory in /dev/null/x",
        ),
        (&["serve", "--sandbox", "plain", "--images", "/no/such.tar"], 1, "/no/such.tar"),
    ] {
        let (status, _, stderr) = run(arguments).await;
        assert_eq!(status, Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
    }
}

#[tokio::test]
async fn help_texts_match_their_snapshots() {
    for (name, arguments) in [
        ("help", &["--help"][..]),
        ("help-serve", &["serve", "--help"]),
        ("help-edge", &["edge", "--help"]),
        ("explain-limits", &["explain-limits"]),
    ] {
        let (status, stdout, stderr) = run(arguments).await;
        assert_eq!((status, &*stderr), (Some(0), ""), "{arguments:?}");
        // clap indents the empty lines of long help, which the snapshot does not.
        let lines: Vec<&str> = stdout.lines().map(str::trim_end).collect();
        assert_snapshot!(name, lines.join("\n"));
    }
}

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
/// Sends a signal to a child.
fn send(signal: i32, child: &Child) {
    let pid = child.id().unwrap().to_string();
    let mut kill = std::process::Command::new("kill");
    assert!(kill.args([format!("-{signal}"), pid]).status().unwrap().success());
}

#[tokio::test]
async fn serve_exits_on_the_end_of_its_terminal_unless_that_is_ignored() {
    let directory = Directory::new();
    let status = directory.path().join("status.json");
    let arguments = ["--status-file", status.to_str().unwrap()];
    let (mut child, _) = serve(&directory, &arguments).await;
    assert!(status.exists());
    send(libc::SIGHUP, &child);
    assert!(in_time(child.wait()).await.unwrap().success());
    assert_eq!(directory.entries(), 0, "the kubeconfig and the status file are removed, too");

    let mut command = Command::new("sh");
    command.args([
        "-c",
        "trap '' HUP; exec \"$0\" \"$@\"",
        PROGRAM,
        "serve",
        "--nodes",
        "1",
        "--state",
    ]);
    command.arg(directory.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let (mut child, _) = start(command.kill_on_drop(true)).await;
    send(libc::SIGHUP, &child);
    // Signals are delivered in the order of their numbers, so SIGHUP was before this.
    terminate(&child);
    assert!(in_time(child.wait()).await.unwrap().success());
    assert_eq!(directory.entries(), 0);
}

#[tokio::test]
async fn serve_loads_images_again_on_sigusr1_and_reports_it() {
    let directory = Directory::new();
    let images = directory.path().join("images");
    std::fs::create_dir(&images).unwrap();
    let status = directory.path().join("status.json");
    let (images_text, status_text) = (images.to_str().unwrap(), status.to_str().unwrap());
    let arguments = ["--images", images_text, "--status-file", status_text];
    let (mut child, _) = serve(&directory, &arguments).await;
    let report = || serde_json::from_slice::<Value>(&std::fs::read(&status).unwrap()).unwrap();
    assert_eq!((&report()["loads"], &report()["error"]), (&0.into(), &Value::Null));
    for (loads, fails) in [(1, false), (2, true)] {
        if fails {
            std::fs::remove_dir(&images).unwrap();
        }
        send(libc::SIGUSR1, &child);
        let loaded = async {
            while report()["loads"] != loads {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        in_time(loaded).await;
        let error = report()["error"].as_str().map(str::to_owned);
        assert_eq!(
            error.as_ref().is_some_and(|error| error.contains(images_text)),
            fails,
            "{error:?}"
        );
    }
    terminate(&child);
    assert!(in_time(child.wait()).await.unwrap().success());
}

/// Also through variables that are meant for other programs.
#[tokio::test]
async fn published_lists_load_balancers_whatever_the_environment() {
    let directory = Directory::new();
    let mut command = program();
    command.args(["serve", "--nodes", "1", "--state"]).arg(directory.path());
    command.arg("--kubeconfig").arg(directory.path().join("config"));
    command.env("RUST_LOG", "???").env("HTTPS_PROXY", "http://127.0.0.1:9");
    let (mut child, _) = start(&mut command).await;
    let config = directory.path().join("config");
    let published = async |wait: &str| {
        let mut command = program();
        command.args(["published", "--wait", wait, "--kubeconfig"]).arg(&config);
        command.env("HTTPS_PROXY", "http://127.0.0.1:9").stdin(Stdio::null());
        let output = in_time(command.output()).await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    assert_eq!(published("0").await, serde_json::json!([]));
    let kubeconfig = kube::config::Kubeconfig::read_from(&config).unwrap();
    let options = kube::config::KubeConfigOptions::default();
    let mut own = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    own.proxy_url = None;
    let client = kube::Client::try_from(own).unwrap();
    let services = kube::Api::<k8s_openapi::api::core::v1::Service>::namespaced(client, "default");
    let service = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "lb"},
        "spec": {"type": "LoadBalancer", "selector": {"a": "b"}, "ports": [{"port": 8081}]},
    }));
    in_time(services.create(&<_>::default(), &service.unwrap())).await.unwrap();
    let found = published("60").await;
    assert_eq!(found[0]["name"], "default/lb");
    let at = found[0]["http"].as_str().unwrap();
    assert!(at.starts_with("127.") && at.ends_with(":8081"), "{at}");
    terminate(&child);
    assert!(in_time(child.wait()).await.unwrap().success());
}

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
        ("help-published", &["published", "--help"]),
        ("explain-limits", &["explain-limits"]),
    ] {
        let (status, stdout, stderr) = run(arguments).await;
        assert_eq!((status, &*stderr), (Some(0), ""), "{arguments:?}");
        // clap indents the empty lines of long help, which the snapshot does not.
        let lines: Vec<&str> = stdout.lines().map(str::trim_end).collect();
        assert_snapshot!(name, lines.join("\n"));
    }
}

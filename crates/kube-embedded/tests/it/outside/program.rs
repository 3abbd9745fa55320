//! `kube-embedded edge`.

use super::*;
use std::{path::Path, process::Stdio};
use tokio::{
    io::AsyncBufReadExt,
    process::{Child, Command},
};

fn program(kubeconfig: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kube-embedded"));
    command.arg("edge").arg("--kubeconfig").arg(kubeconfig).args(more).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The program, once it has said that it is ready, and what it said.
async fn ready(kubeconfig: &Path, more: &[&str]) -> (Child, Value) {
    let mut child = program(kubeconfig, more).spawn().unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    in_time(out.read_line(&mut line)).await.unwrap();
    (child, serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_on_a_signal_and_with_stdin_and_takes_addresses_back() {
    let world = World::empty().await;
    world.service("web", json!({})).await;
    let kubeconfig = world.cluster.state_dir().join("config");
    std::fs::write(&kubeconfig, world.cluster.kubeconfig()).unwrap();
    // By a signal, with stdin, and by both at once, as whoever holds its stdin does.
    for (signal, stdin) in [(true, false), (false, true), (true, true), (true, true)] {
        let more: &[&str] = if stdin { &["--exit-with-stdin"] } else { &[] };
        let (mut child, said) = ready(&kubeconfig, more).await;
        let pid = child.id().unwrap();
        assert_eq!((&said["ready"], &said["pid"]), (&json!(true), &json!(pid)));
        assert_eq!(said["way"], "the API, pod by pod (no node has an internal address)");
        let block = said["addresses"].as_str().unwrap().strip_suffix("0.0/16").unwrap();
        until("an address of the edge", async || {
            let address = world.get::<Service>("web").await.address();
            address.is_some_and(|address| address.starts_with(block))
        })
        .await;
        if stdin {
            drop(child.stdin.take());
        }
        if signal {
            // SAFETY: the process is a child of this one that nobody has waited for.
            assert_eq!(unsafe { libc::kill(pid as i32, libc::SIGTERM) }, 0);
        }
        let output = in_time(child.wait_with_output()).await.unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && errors.is_empty(), "{} {errors}", output.status);
        assert_eq!(world.get::<Service>("web").await.address(), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_in_one_line_what_is_wrong() {
    let world = World::empty().await;
    let folder = world.cluster.state_dir();
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let good = world.cluster.kubeconfig();
    let server = |url: &str| good.replace(&world.cluster.url(), url);
    let other = World::empty().await;
    let of_the_user =
        |line: &&str| !line.contains("client-certificate") && !line.contains("client-key");
    let nobody = good.lines().filter(of_the_user).collect::<Vec<_>>().join("\n");
    let cases = [
        (folder.join("missing"), "No such file or directory"),
        (write("garbage", "\u{1}: [}"), "line 1 column 1: unexpected character"),
        (write("text", "hello"), "line 1 column 1: expected mapping start"),
        (write("empty", ""), "failed to determine current context"),
        (
            write("unreachable", &server("https://127.0.0.1:1")),
            "failed to reach the Kubernetes API at https://127.0.0.1:1/: Connection refused",
        ),
        (write("other", &server(&other.cluster.url())), "invalid peer certificate"),
        (write("nobody", &nobody), "Unauthorized (HTTP 401)"),
    ];
    for (kubeconfig, expected) in cases {
        let output = in_time(program(&kubeconfig, &[]).output()).await.unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.starts_with("kube-embedded: ") && errors.contains(expected), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert!(output.stdout.is_empty());
    }
}

//! `kube-embedded edge`.

use crate::fixture::{
    eventually,
    external::{EdgeFixture, External},
    in_time,
    program::{program, start, terminate},
};
use k8s_openapi::api::core::v1::Service;
use serde_json::json;
use std::path::Path;
use tokio::process::Command;

fn edge_command(kubeconfig: &Path, arguments: &[&str]) -> Command {
    let mut command = program();
    command.arg("edge").arg("--kubeconfig").arg(kubeconfig).args(arguments);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_exits_on_signal_or_closed_stdin_and_removes_addresses() {
    let fixture = EdgeFixture::without_nodes().await;
    fixture.create_service("web", json!({})).await;
    let kubeconfig = fixture.cluster.state_dir().join("config");
    std::fs::write(&kubeconfig, fixture.cluster.kubeconfig()).unwrap();
    // A signal, a closed stdin, and both at once, as when Ctrl-C also stops the parent process.
    for (signal, stdin) in [(true, false), (false, true), (true, true), (true, true)] {
        let arguments: &[&str] = if stdin { &["--exit-with-stdin"] } else { &[] };
        let (mut child, ready) = start(&mut edge_command(&kubeconfig, arguments)).await;
        let pid = child.id().unwrap();
        assert_eq!((&ready["ready"], &ready["pid"]), (&json!(true), &json!(pid)));
        assert_eq!(ready["way"], "the API, pod by pod (no node has an internal address)");
        let block = ready["addresses"].as_str().unwrap().strip_suffix("0.0/16").unwrap();
        eventually("an address of the edge", async || {
            let address = fixture.get::<Service>("web").await.address();
            address.is_some_and(|address| address.starts_with(block))
        })
        .await;
        if stdin {
            drop(child.stdin.take());
        }
        if signal {
            terminate(&child);
        }
        let output = in_time(child.wait_with_output()).await.unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && errors.is_empty(), "{} {errors}", output.status);
        assert_eq!(fixture.get::<Service>("web").await.address(), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_reports_unusable_kubeconfig_in_one_line() {
    let fixture = EdgeFixture::without_nodes().await;
    let directory = fixture.cluster.state_dir();
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let good = fixture.cluster.kubeconfig();
    let server = |url: &str| good.replace(&fixture.cluster.url(), url);
    let other = EdgeFixture::without_nodes().await;
    let no_credentials =
        |line: &&str| !line.contains("client-certificate") && !line.contains("client-key");
    let anonymous = good.lines().filter(no_credentials).collect::<Vec<_>>().join("\n");
    let cases = [
        (directory.join("missing"), "No such file or directory"),
        (write("garbage", "\u{1}: [}"), "line 1 column 1: unexpected character"),
        (write("text", "hello"), "line 1 column 1: expected mapping start"),
        (write("empty", ""), "failed to determine current context"),
        (
            write("unreachable", &server("https://127.0.0.1:1")),
            "failed to reach the Kubernetes API at https://127.0.0.1:1/: Connection refused",
        ),
        (write("other", &server(&other.cluster.url())), "invalid peer certificate"),
        (
            write("anonymous", &anonymous),
            "User \"system:anonymous\" cannot get resource \"leases\"",
        ),
    ];
    for (kubeconfig, expected) in cases {
        let output = in_time(edge_command(&kubeconfig, &[]).output()).await.unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.starts_with("kube-embedded: ") && errors.contains(expected), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert!(output.stdout.is_empty());
    }
}

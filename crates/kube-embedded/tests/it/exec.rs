//! `exec`, `attach` and `cp`, by kube-rs in the process and over TLS, and by kubectl.

use crate::{
    clients::tls_client,
    fixture::{
        self, eventually, in_time,
        kubectl::Kubectl,
        pods::{cluster, run, sandboxes, tool},
    },
};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};
use kube::{
    Api, Client,
    api::{AttachParams, AttachedProcess, DeleteParams, TerminalSize},
};
use kube_embedded::Sandbox;
use serde_json::json;
use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn pods(client: Client) -> Api<Pod> {
    Api::default_namespaced(client)
}

/// Returns stdout, stderr and the status of a process once it has exited.
async fn finish(mut process: AttachedProcess) -> (String, String, Status) {
    let status = process.take_status().unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    let (stdout, stderr) = (process.stdout(), process.stderr());
    let read = async {
        if let Some(mut stdout) = stdout {
            stdout.read_to_string(&mut out).await.unwrap();
        }
    };
    let read_errors = async {
        if let Some(mut stderr) = stderr {
            stderr.read_to_string(&mut err).await.unwrap();
        }
    };
    in_time(async { tokio::join!(read, read_errors) }).await;
    let status = in_time(status).await.expect("no status was sent");
    in_time(process.join()).await.unwrap();
    (out, err, status)
}

pub(crate) async fn exec(
    pods: &Api<Pod>,
    name: &str,
    command: &[&str],
) -> (String, String, Status) {
    let command = command.iter().copied();
    finish(in_time(pods.exec(name, command, &AttachParams::default())).await.unwrap()).await
}

fn exit_code(status: &Status) -> String {
    let causes = status.details.as_ref().and_then(|details| details.causes.clone());
    let cause = causes.into_iter().flatten().find(|c| c.reason.as_deref() == Some("ExitCode"));
    cause.and_then(|cause| cause.message).unwrap_or_default()
}

/// Returns whether a process of this machine was started with the argument.
fn is_running(argument: &str) -> bool {
    let command_line =
        |entry: fs::DirEntry| fs::read(entry.path().join("cmdline")).unwrap_or_default();
    fs::read_dir(Path::new("/proc")).unwrap().flatten().any(|entry| {
        command_line(entry).split(|byte| *byte == 0).any(|part| part == argument.as_bytes())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_runs_processes_alongside_the_containers_own() {
    for sandbox in sandboxes().await {
        let cluster = cluster(Some(sandbox)).await;
        run(&cluster, "one", tool(&["wait"])).await;
        for client in [cluster.client(), tls_client(&cluster).await] {
            let pods = pods(client);
            let (out, err, status) = exec(&pods, "one", &["/tool", "both", "a", "b", "0"]).await;
            assert_eq!((&*out, &*err), ("a", "b"));
            assert_eq!(status.status.as_deref(), Some("Success"));
            let (_, _, status) = exec(&pods, "one", &["/tool", "both", "", "", "7"]).await;
            assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"), "{status:?}");
            assert_eq!(exit_code(&status), "7");
            let (_, _, status) = exec(&pods, "one", &["/nope"]).await;
            let message = status.message.unwrap();
            let expected = "Internal error occurred: error executing command";
            assert!(message.starts_with(expected), "{message}");
            assert_eq!(status.code, Some(500));
        }
        if sandbox == Sandbox::Namespaced {
            let (out, ..) = exec(&pods(cluster.client()), "one", &["/tool", "list", "/"]).await;
            assert_eq!(out, "dev etc proc tool var\n");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_delivers_all_of_stdin_and_its_end() {
    for sandbox in sandboxes().await {
        let cluster = cluster(Some(sandbox)).await;
        run(&cluster, "one", tool(&["wait"])).await;
        let pods = pods(tls_client(&cluster).await);
        let params = AttachParams::default().stdin(true);
        // More than all buffers on the way can hold.
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let mut process = in_time(pods.exec("one", ["/tool", "copy"], &params)).await.unwrap();
        let (mut stdin, mut stdout) = (process.stdin().unwrap(), process.stdout().unwrap());
        let write = async {
            stdin.write_all(&sent).await.unwrap();
            stdin.shutdown().await.unwrap();
            drop(stdin);
        };
        let mut received = Vec::new();
        let status = process.take_status().unwrap();
        in_time(async { tokio::join!(write, stdout.read_to_end(&mut received)) }).await.1.unwrap();
        assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
        assert_eq!(in_time(status).await.unwrap().status.as_deref(), Some("Success"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_with_tty_has_a_terminal_that_can_be_resized() {
    for sandbox in sandboxes().await {
        let cluster = cluster(Some(sandbox)).await;
        run(&cluster, "one", tool(&["wait"])).await;
        let pods = pods(tls_client(&cluster).await);
        let params = AttachParams::interactive_tty();
        let mut process = in_time(pods.exec("one", ["/tool", "window"], &params)).await.unwrap();
        let mut size = process.terminal_size().unwrap();
        let mut stdout = process.stdout().unwrap();
        let mut ready = [0; 7];
        in_time(stdout.read_exact(&mut ready)).await.unwrap();
        futures::SinkExt::send(&mut size, TerminalSize { width: 123, height: 45 }).await.unwrap();
        let mut text = String::new();
        in_time(stdout.read_to_string(&mut text)).await.unwrap();
        let (name, rest) = text.split_once("\r\n").unwrap();
        assert_eq!(rest, "terminal true columns 123 rows 45\r\n");
        if sandbox == Sandbox::Namespaced {
            assert_eq!(name, "/dev/pts/0 there true");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_execs_do_not_mix_outputs() {
    let cluster = cluster(None).await;
    run(&cluster, "one", tool(&["wait"])).await;
    let pods = pods(cluster.client());
    let all = (0..40).map(|n| {
        let pods = pods.clone();
        async move {
            let text = n.to_string();
            let (out, _, status) = exec(&pods, "one", &["/tool", "both", &text, "", &text]).await;
            assert_eq!(out, text);
            assert_eq!(exit_code(&status), if n == 0 { String::new() } else { text });
        }
    });
    futures::future::join_all(all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_process_is_killed_with_its_client_pod_or_cluster() {
    for sandbox in sandboxes().await {
        let cluster = cluster(Some(sandbox)).await;
        run(&cluster, "one", tool(&["wait"])).await;
        run(&cluster, "two", tool(&["wait"])).await;
        let pods = pods(tls_client(&cluster).await);
        let mark = |n: u32| format!("mark-{}-{sandbox:?}-{n}", std::process::id());
        let start = async |pod: &str, n: u32| {
            let mark = mark(n);
            let command = ["/tool", "on-term", &*mark];
            let params = AttachParams::default().stdin(true);
            let mut process = in_time(pods.exec(pod, command, &params)).await.unwrap();
            let mut started = [0; 8];
            in_time(process.stdout().unwrap().read_exact(&mut started)).await.unwrap();
            assert!(is_running(&mark), "{mark}");
            process
        };
        let wait_for_exit = async |n: u32| {
            eventually(&format!("exit of {}", mark(n)), async || !is_running(&mark(n))).await;
        };
        // The client disconnects, also while its input is not read.
        start("one", 1).await.abort();
        wait_for_exit(1).await;
        let mut process = start("one", 2).await;
        let mut stdin = process.stdin().unwrap();
        let sent = Arc::new(AtomicUsize::new(0));
        let count = sent.clone();
        let flood = tokio::spawn(async move {
            while stdin.write_all(&[0; 65_536]).await.is_ok() {
                count.fetch_add(65_536, Ordering::Relaxed);
            }
        });
        // More than the pipe and all buffers before it can hold.
        eventually("enough input", async || sent.load(Ordering::Relaxed) > 1_500_000).await;
        process.abort();
        drop(process);
        wait_for_exit(2).await;
        flood.abort();
        // The pod is deleted.
        let process = start("one", 3).await;
        in_time(pods.delete("one", &DeleteParams::default())).await.unwrap();
        wait_for_exit(3).await;
        drop(process);
        // The cluster stops.
        let process = start("two", 4).await;
        in_time(cluster.stop()).await;
        wait_for_exit(4).await;
        drop(process);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_errors_match_kubernetes() {
    let cluster = cluster(Some(Sandbox::Plain)).await;
    let spec = json!({
        "restartPolicy": "Never",
        "containers": [
            { "name": "a", "image": "tool:1.0", "command": ["/tool", "wait"] },
            { "name": "b", "image": "tool:1.0", "command": ["/tool", "wait"] },
        ],
    });
    run(&cluster, "two", spec).await;
    let pods = pods(tls_client(&cluster).await);
    let error =
        async |name: &str, params: AttachParams| match in_time(pods.exec(name, ["/tool"], &params))
            .await
        {
            Err(kube::Error::Api(status)) => (status.code, status.message),
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("exec was not rejected"),
        };
    let params = AttachParams::default;
    assert_eq!(error("no", params()).await, (404, "pods \"no\" not found".into()));
    let expected = "a container name must be specified for pod two, choose one of: [a b]";
    assert_eq!(error("two", params()).await, (400, expected.into()));
    let expected = "container c is not valid for pod two";
    assert_eq!(error("two", params().container("c")).await, (400, expected.into()));
    let path = "/api/v1/namespaces/default/pods/two/exec?container=a&command=x&stdout=true";
    let plain = fixture::get(&cluster, path).await;
    assert_eq!(plain.status(), (400, "Upgrade request required".into()));
    let path = "/api/v1/namespaces/default/pods/two/exec";
    let put = fixture::request(&cluster, "PUT", path, &[], "").await;
    assert_eq!(put.code, 405);
    let ended = json!({
        "restartPolicy": "Never",
        "initContainers": [{ "name": "i", "image": "tool:1.0", "command": ["/tool", "print"] }],
        "containers": [{ "name": "app", "image": "tool:1.0", "command": ["/tool", "wait"] }],
    });
    run(&cluster, "ended", ended).await;
    let params = AttachParams::default().container("i");
    let process = in_time(pods.exec("ended", ["/tool"], &params)).await.unwrap();
    let (.., status) = finish(process).await;
    let expected =
        "Internal error occurred: unable to upgrade connection: container not found (\"i\")";
    assert_eq!(status.message.as_deref(), Some(expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_connects_to_the_containers_own_process() {
    for sandbox in sandboxes().await {
        let cluster = cluster(Some(sandbox)).await;
        let mut spec = tool(&["copy"]);
        spec["restartPolicy"] = json!("Never");
        spec["containers"][0]["stdin"] = json!(true);
        spec["containers"][0]["stdinOnce"] = json!(true);
        run(&cluster, "stdin-once", spec).await;
        let pods = pods(tls_client(&cluster).await);
        let params = AttachParams::default().stdin(true).stderr(false);
        let mut process = in_time(pods.attach("stdin-once", &params)).await.unwrap();
        let (mut stdin, mut stdout) = (process.stdin().unwrap(), process.stdout().unwrap());
        stdin.write_all(b"hello\n").await.unwrap();
        let mut line = [0; 6];
        in_time(stdout.read_exact(&mut line)).await.unwrap();
        assert_eq!(&line, b"hello\n");
        // With stdinOnce, stdin ends with the first client, and so does the process.
        drop((stdin, stdout));
        process.abort();
        let succeeded = kube::runtime::wait::await_condition(
            pods.clone(),
            "stdin-once",
            |pod: Option<&Pod>| {
                pod.and_then(|p| p.status.as_ref()?.phase.as_deref()) == Some("Succeeded")
            },
        );
        in_time(succeeded).await.unwrap();
        let log = in_time(pods.logs("stdin-once", &Default::default())).await.unwrap();
        assert_eq!(log, "hello\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_exec_cp_and_run_succeed() {
    if test_support::busybox().is_none() {
        return test_support::missing("busybox", test_support::BUSYBOX_HINT);
    }
    let cluster = cluster(None).await;
    let Some(kubectl) = Kubectl::new(&cluster).await else { return };
    if cluster.sandbox() == Sandbox::Plain {
        return test_support::missing(
            "user-namespaces",
            "the plain sandbox has no file system to copy to",
        );
    }
    let container = |name: &str| json!({ "name": name, "image": "busybox:1.0", "command": ["sleep", "100000"] });
    run(&cluster, "box", json!({ "containers": [container("a"), container("b")] })).await;
    // Tabs separate the words of a shell script within one argument.
    let script = "exec -i box -c b -- sh -c read\tx;echo\t$x";
    assert_eq!(kubectl.line_with_stdin(script, "word\n").await, "word\n");
    let first = kubectl.line("exec box -- sh -c echo\t$HOSTNAME").await;
    assert_eq!(first, "box\n", "the first container is the default one");
    let failed = kubectl.try_line("exec box -c a -- sh -c exit\t3", "").await.unwrap_err();
    assert!(failed.ends_with("command terminated with exit code 3\n"), "{failed}");

    let directory = cluster.state_dir().join("copies");
    fs::create_dir(&directory).unwrap();
    let (source, copy) = (directory.join("source"), directory.join("copy"));
    fs::write(&source, "some text").unwrap();
    kubectl.line(&format!("cp {} box:/etc/copied -c b", source.display())).await;
    assert_eq!(kubectl.line("exec box -c b -- cat /etc/copied").await, "some text");
    kubectl.line(&format!("cp box:/etc/copied {} -c b", copy.display())).await;
    assert_eq!(fs::read_to_string(copy).unwrap(), "some text");

    let line = "run once -i --rm --quiet --restart=Never --image=busybox:1.0 --command -- cat";
    assert_eq!(kubectl.line_with_stdin(line, "through\n").await, "through\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_logs_covers_init_containers_and_previous_runs() {
    let cluster = cluster(None).await;
    let Some(kubectl) = Kubectl::new(&cluster).await else { return };
    let container = |name: &str, args: &[&str]| {
        json!({
            "name": name, "image": "tool:1.0", "command": ["/tool"], "args": args,
            "volumeMounts": [{ "name": "work", "mountPath": "/scratch" }],
        })
    };
    let namespaced = cluster.sandbox() == Sandbox::Namespaced;
    let prepare = if namespaced {
        container("prepare", &["write", "/scratch/seed", "sown"])
    } else {
        container("prepare", &["print"])
    };
    let spec = json!({
        "initContainers": [container("first", &["print", "first"]), prepare],
        "containers": [container("a", &["on-term", "a"]), container("b", &["on-term", "b"])],
        "volumes": [{ "name": "work", "emptyDir": {} }],
    });
    run(&cluster, "two", spec).await;
    if namespaced {
        let seed = kubectl.line("exec two -c b -- /tool cat /scratch/seed").await;
        assert_eq!(seed, "sown", "all containers of the pod share an emptyDir");
    }
    let expect_lines = async |line: &str, expected: &[&str]| {
        eventually(line, async || {
            let output = kubectl.try_line(line, "").await?;
            let mut lines: Vec<&str> = output.lines().collect();
            lines.sort_unstable();
            if lines == expected { Ok(()) } else { Err(output) }
        })
        .await;
    };
    expect_lines("logs two -c first", &["first"]).await;
    expect_lines("logs two --all-containers", &["first", "started", "started"]).await;
    let named = ["[pod/two/a] started", "[pod/two/b] started", "[pod/two/first] first"];
    expect_lines("logs two --all-containers --prefix", &named).await;
    expect_lines("logs -l app=two --all-containers --prefix", &named).await;
    let error = kubectl.try_line("logs two -c a -p", "").await.unwrap_err();
    let expected = "previous terminated container \"a\" in pod \"two\" not found";
    assert!(error.contains(expected), "{error}");
    // A container that exits by itself has a previous run after its restart.
    let pods = pods(cluster.client());
    let crash = json!({
        "metadata": { "name": "crash" },
        "spec": { "containers": [container("c", &["both", "last words", "", "1"])] ,
            "volumes": [{ "name": "work", "emptyDir": {} }] },
    });
    let crash = serde_json::from_value(crash).unwrap();
    pods.create(&Default::default(), &crash).await.unwrap();
    let restarted = |pod: Option<&Pod>| {
        let status = pod.and_then(|p| p.status.as_ref()?.container_statuses.as_ref()?.first());
        status.is_some_and(|status| status.restart_count > 0)
    };
    in_time(kube::runtime::wait::await_condition(pods, "crash", restarted)).await.unwrap();
    expect_lines("logs crash -p", &["last words"]).await;
}

/// Adds an ephemeral container to the pod `one`.
async fn add_ephemeral(
    cluster: &kube_embedded::Cluster,
    name: &str,
    target: Option<&str>,
) -> fixture::Response {
    let container = json!({
        "name": name, "image": "tool:1.0", "command": ["/tool", "wait"], "targetContainerName": target,
    });
    let patch = json!({ "spec": { "ephemeralContainers": [container] } });
    let path = "/api/v1/namespaces/default/pods/one/ephemeralcontainers";
    fixture::patch(cluster, path, "strategic-merge-patch+json", &patch).await
}

#[tokio::test(flavor = "multi_thread")]
async fn ephemeral_container_starts_in_running_pod_and_sees_processes_of_its_target() {
    for sandbox in sandboxes().await {
        let cluster = cluster(Some(sandbox)).await;
        run(&cluster, "one", tool(&["wait"])).await;
        let added = add_ephemeral(&cluster, "alone", None).await;
        assert_eq!(added.code, 200, "{}", added.text);
        let added = add_ephemeral(&cluster, "debugger", Some("app")).await;
        assert_eq!(added.code, 200, "{}", added.text);
        let pods = pods(cluster.client());
        let started = |pod: Pod| {
            let statuses = pod.status.unwrap().ephemeral_container_statuses.unwrap_or_default();
            let running = |s: &k8s_openapi::api::core::v1::ContainerStatus| {
                s.state.as_ref().is_some_and(|state| state.running.is_some())
            };
            (statuses.len() == 2 && statuses.iter().all(running))
                .then_some(())
                .ok_or_else(|| format!("{statuses:?}"))
        };
        eventually("both run", async || started(pods.get("one").await.unwrap())).await;
        if sandbox == Sandbox::Namespaced {
            for (container, expected) in [("alone", 2), ("debugger", 3)] {
                let params = AttachParams::default().container(container);
                let listed = ["/tool", "list", "/proc"];
                let process = in_time(pods.exec("one", listed, &params)).await.unwrap();
                let (out, err, _) = finish(process).await;
                let processes = out.split_whitespace().filter(|name| name.parse::<u32>().is_ok());
                assert_eq!(processes.count(), expected, "{container}: {out}{err}");
            }
        }
        let path = "/api/v1/namespaces/default/pods/one/ephemeralcontainers";
        let removal = json!({ "spec": { "ephemeralContainers": null } });
        let refused = fixture::patch(&cluster, path, "merge-patch+json", &removal).await;
        assert_eq!(refused.code, 422, "{}", refused.text);
        assert!(refused.text.contains("may not be removed"), "{}", refused.text);
        // It does not keep the pod from ending.
        in_time(pods.delete("one", &DeleteParams::default())).await.unwrap();
        eventually("the pod is gone", async || pods.get_opt("one").await.unwrap().is_none()).await;
    }
}

/// Connects a WebSocket, and returns its messages until the server closes it: opcode and data each.
async fn messages(client: &Client, path: &str, protocol: &str) -> Vec<(u8, Vec<u8>)> {
    let request = http::Request::get(path)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-protocol", protocol);
    let request = request.body(kube::client::Body::empty()).unwrap();
    let response = in_time(client.send(request)).await.unwrap();
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["sec-websocket-protocol"], protocol);
    let upgraded = in_time(hyper::upgrade::on(response)).await.unwrap();
    let mut stream = hyper_util::rt::TokioIo::new(upgraded);
    let mut messages = Vec::new();
    loop {
        // Opcode and length; these messages are short, and a server does not mask them.
        let mut head = [0; 2];
        in_time(stream.read_exact(&mut head)).await.unwrap();
        let mut data = vec![0; usize::from(head[1])];
        in_time(stream.read_exact(&mut data)).await.unwrap();
        if head[0] & 0xf == 8 {
            return messages;
        }
        messages.push((head[0] & 0xf, data));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn log_is_sent_over_a_websocket() {
    const TEXT: u8 = 1;
    const BINARY: u8 = 2;
    let cluster = cluster(None).await;
    run(&cluster, "app", tool(&["on-term", "a"])).await;
    let client = tls_client(&cluster).await;
    let path = "/api/v1/namespaces/default/pods/app/log";
    let logged = async || match pods(client.clone()).logs("app", &Default::default()).await {
        Ok(log) if log == "started\n" => Ok(()),
        other => Err(format!("{other:?}")),
    };
    eventually("the log", logged).await;
    let binary = messages(&client, path, "binary.k8s.io").await;
    assert_eq!(binary, [(BINARY, b"started\n".to_vec())]);
    let text = messages(&client, path, "base64.binary.k8s.io").await;
    assert_eq!(text, [(TEXT, b"c3RhcnRlZAo=".to_vec())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn kernel_parameters_of_a_pod_are_set_or_reject_it() {
    if !sandboxes().await.contains(&Sandbox::Namespaced) {
        return;
    }
    let cluster = cluster(Some(Sandbox::Namespaced)).await;
    let with_sysctl = |name: &str, value: &str| {
        let mut spec = tool(&["wait"]);
        spec["securityContext"] = json!({ "sysctls": [{ "name": name, "value": value }] });
        spec
    };
    run(&cluster, "safe", with_sysctl("net/ipv4/tcp_keepalive_time", "4711")).await;
    let pods = pods(cluster.client());
    let path = "/proc/sys/net/ipv4/tcp_keepalive_time";
    let (out, err, _) = exec(&pods, "safe", &["/tool", "cat", path]).await;
    assert_eq!((out.as_str(), err.as_str()), ("4711\n", ""));
    let unsafe_pod = json!({
        "metadata": { "name": "unsafe" }, "spec": with_sysctl("kernel.msgmax", "65536"),
    });
    let unsafe_pod = serde_json::from_value(unsafe_pod).unwrap();
    pods.create(&Default::default(), &unsafe_pod).await.unwrap();
    let failed = |pod: Option<&Pod>| {
        pod.and_then(|pod| pod.status.as_ref()?.reason.as_deref()) == Some("SysctlForbidden")
    };
    let failed = in_time(kube::runtime::wait::await_condition(pods, "unsafe", failed)).await;
    let status = failed.unwrap().unwrap().status.unwrap();
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    let message = "Pod was rejected: forbidden sysctl: \"kernel.msgmax\" not allowlisted";
    assert_eq!(status.message.as_deref(), Some(message));
}

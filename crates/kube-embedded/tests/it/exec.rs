//! `exec`, `attach` and `cp`, by kube-rs in the process and over TLS, and by kubectl.

use crate::{
    clients::over_tls,
    kubectl::Kubectl,
    pods::{cluster, in_time, run, sandboxes, tool, until},
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

/// All that a program prints, and how it ended.
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
    let status = in_time(status).await.expect("a status");
    in_time(process.join()).await.unwrap();
    (out, err, status)
}

async fn exec(pods: &Api<Pod>, name: &str, command: &[&str]) -> (String, String, Status) {
    let command = command.iter().copied();
    finish(in_time(pods.exec(name, command, &AttachParams::default())).await.unwrap()).await
}

fn code(status: &Status) -> String {
    let causes = status.details.as_ref().and_then(|details| details.causes.clone());
    let cause = causes.into_iter().flatten().find(|c| c.reason.as_deref() == Some("ExitCode"));
    cause.and_then(|cause| cause.message).unwrap_or_default()
}

/// Whether a process of this machine was started with that argument.
fn runs(argument: &str) -> bool {
    let of = |entry: fs::DirEntry| fs::read(entry.path().join("cmdline")).unwrap_or_default();
    fs::read_dir(Path::new("/proc"))
        .unwrap()
        .flatten()
        .any(|entry| of(entry).split(|byte| *byte == 0).any(|part| part == argument.as_bytes()))
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_run_beside_the_containers_own() {
    for sandbox in sandboxes().await {
        let cluster = cluster(Some(sandbox)).await;
        run(&cluster, "one", tool(&["wait"])).await;
        for client in [cluster.client(), over_tls(&cluster).await] {
            let pods = pods(client);
            let (out, err, status) = exec(&pods, "one", &["/tool", "both", "a", "b", "0"]).await;
            assert_eq!((&*out, &*err), ("a", "b"));
            assert_eq!(status.status.as_deref(), Some("Success"));
            let (_, _, status) = exec(&pods, "one", &["/tool", "both", "", "", "7"]).await;
            assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"), "{status:?}");
            assert_eq!(code(&status), "7");
            let (_, _, status) = exec(&pods, "one", &["/nope"]).await;
            let why = status.message.unwrap();
            assert!(why.starts_with("Internal error occurred: error executing command"), "{why}");
            assert_eq!(status.code, Some(500));
        }
        if sandbox == Sandbox::Namespaced {
            let (out, ..) = exec(&pods(cluster.client()), "one", &["/tool", "list", "/"]).await;
            assert_eq!(out, "dev etc proc tool var\n");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn input_goes_in_and_its_end_is_seen() {
    for sandbox in sandboxes().await {
        let cluster = cluster(Some(sandbox)).await;
        run(&cluster, "one", tool(&["wait"])).await;
        let pods = pods(over_tls(&cluster).await);
        let params = AttachParams::default().stdin(true);
        // More than all that lies between has room for.
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let mut process = in_time(pods.exec("one", ["/tool", "copy"], &params)).await.unwrap();
        let (mut stdin, mut stdout) = (process.stdin().unwrap(), process.stdout().unwrap());
        let write = async {
            stdin.write_all(&sent).await.unwrap();
            stdin.shutdown().await.unwrap();
            drop(stdin);
        };
        let mut got = Vec::new();
        let status = process.take_status().unwrap();
        in_time(async { tokio::join!(write, stdout.read_to_end(&mut got)) }).await.1.unwrap();
        assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
        assert_eq!(in_time(status).await.unwrap().status.as_deref(), Some("Success"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_a_size_and_both_outputs_in_one() {
    for sandbox in sandboxes().await {
        let cluster = cluster(Some(sandbox)).await;
        run(&cluster, "one", tool(&["wait"])).await;
        let pods = pods(over_tls(&cluster).await);
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
async fn many_run_at_a_time() {
    let cluster = cluster(None).await;
    run(&cluster, "one", tool(&["wait"])).await;
    let pods = pods(cluster.client());
    let all = (0..40).map(|n| {
        let pods = pods.clone();
        async move {
            let text = n.to_string();
            let (out, _, status) = exec(&pods, "one", &["/tool", "both", &text, "", &text]).await;
            assert_eq!(out, text);
            assert_eq!(code(&status), if n == 0 { String::new() } else { text });
        }
    });
    futures::future::join_all(all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_program_outlives_its_client_its_pod_or_its_cluster() {
    for sandbox in sandboxes().await {
        let cluster = cluster(Some(sandbox)).await;
        run(&cluster, "one", tool(&["wait"])).await;
        run(&cluster, "two", tool(&["wait"])).await;
        let pods = pods(over_tls(&cluster).await);
        let mark = |n: u32| format!("mark-{}-{sandbox:?}-{n}", std::process::id());
        let start = async |pod: &str, n: u32| {
            let mark = mark(n);
            let command = ["/tool", "on-term", &*mark];
            let params = AttachParams::default().stdin(true);
            let mut process = in_time(pods.exec(pod, command, &params)).await.unwrap();
            let mut started = [0; 8];
            in_time(process.stdout().unwrap().read_exact(&mut started)).await.unwrap();
            assert!(runs(&mark), "{mark}");
            process
        };
        let gone = async |n: u32| until(&mark(n), async || !runs(&mark(n))).await;
        // The client goes, also one that has said more than the program takes.
        start("one", 1).await.abort();
        gone(1).await;
        let mut process = start("one", 2).await;
        let mut stdin = process.stdin().unwrap();
        let sent = Arc::new(AtomicUsize::new(0));
        let count = sent.clone();
        let flood = tokio::spawn(async move {
            while stdin.write_all(&[0; 65_536]).await.is_ok() {
                count.fetch_add(65_536, Ordering::Relaxed);
            }
        });
        // More than the pipe and all that may wait for it take.
        until("enough input", async || sent.load(Ordering::Relaxed) > 1_500_000).await;
        process.abort();
        drop(process);
        gone(2).await;
        flood.abort();
        // The pod goes.
        let process = start("one", 3).await;
        in_time(pods.delete("one", &DeleteParams::default())).await.unwrap();
        gone(3).await;
        drop(process);
        // The cluster goes.
        let process = start("two", 4).await;
        in_time(cluster.stop()).await;
        gone(4).await;
        drop(process);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_those_of_kubernetes() {
    let cluster = cluster(Some(Sandbox::Plain)).await;
    let spec = json!({
        "restartPolicy": "Never",
        "containers": [
            { "name": "a", "image": "tool:1.0", "command": ["/tool", "wait"] },
            { "name": "b", "image": "tool:1.0", "command": ["/tool", "wait"] },
        ],
    });
    run(&cluster, "two", spec).await;
    let pods = pods(over_tls(&cluster).await);
    let refusal =
        async |name: &str, params: AttachParams| match in_time(pods.exec(name, ["/tool"], &params))
            .await
        {
            Err(kube::Error::Api(status)) => (status.code, status.message),
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("it was not refused"),
        };
    let params = AttachParams::default;
    assert_eq!(refusal("no", params()).await, (404, "pods \"no\" not found".into()));
    let expected = "a container name must be specified for pod two, choose one of: [a b]";
    assert_eq!(refusal("two", params()).await, (400, expected.into()));
    let expected = "container c is not valid for pod two";
    assert_eq!(refusal("two", params().container("c")).await, (400, expected.into()));
    let path = "/api/v1/namespaces/default/pods/two/exec?container=a&command=x&stdout=true";
    let plain = crate::fixture::get(&cluster, path).await;
    assert_eq!(plain.refusal(), (400, "Upgrade request required".into()));
    let path = "/api/v1/namespaces/default/pods/two/exec";
    let wrong = crate::fixture::ask(&cluster, "PUT", path, &[], "").await;
    assert_eq!(wrong.code, 405);
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
async fn one_may_join_a_containers_own_program() {
    for sandbox in sandboxes().await {
        let cluster = cluster(Some(sandbox)).await;
        let mut spec = tool(&["copy"]);
        spec["restartPolicy"] = json!("Never");
        spec["containers"][0]["stdin"] = json!(true);
        spec["containers"][0]["stdinOnce"] = json!(true);
        run(&cluster, "talker", spec).await;
        let pods = pods(over_tls(&cluster).await);
        let params = AttachParams::default().stdin(true).stderr(false);
        let mut process = in_time(pods.attach("talker", &params)).await.unwrap();
        let (mut stdin, mut stdout) = (process.stdin().unwrap(), process.stdout().unwrap());
        stdin.write_all(b"hello\n").await.unwrap();
        let mut line = [0; 6];
        in_time(stdout.read_exact(&mut line)).await.unwrap();
        assert_eq!(&line, b"hello\n");
        // Its input ends with the first client, and so does the program.
        drop((stdin, stdout));
        process.abort();
        let over =
            kube::runtime::wait::await_condition(pods.clone(), "talker", |pod: Option<&Pod>| {
                pod.and_then(|p| p.status.as_ref()?.phase.as_deref()) == Some("Succeeded")
            });
        in_time(over).await.unwrap();
        let log = in_time(pods.logs("talker", &Default::default())).await.unwrap();
        assert_eq!(log, "hello\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_execs_copies_and_attaches() {
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
    let run = async |line: &str, input: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        in_time(kubectl.run(&words, input)).await
    };
    let said = run("exec -i box -c b -- sh -c read\tx;echo\t$x", "word\n").await.unwrap();
    assert_eq!(said, "word\n");
    let first = run("exec box -- sh -c echo\t$HOSTNAME", "").await.unwrap();
    assert_eq!(first, "box\n", "the first container is the default one");
    let failed = run("exec box -c a -- sh -c exit\t3", "").await.unwrap_err();
    assert!(failed.ends_with("command terminated with exit code 3\n"), "{failed}");

    let folder = cluster.state_dir().join("copies");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("there"), "some text").unwrap();
    let (there, back) = (folder.join("there"), folder.join("back"));
    run(&format!("cp {} box:/etc/copied -c b", there.display()), "").await.unwrap();
    assert_eq!(run("exec box -c b -- cat /etc/copied", "").await.unwrap(), "some text");
    run(&format!("cp box:/etc/copied {} -c b", back.display()), "").await.unwrap();
    assert_eq!(fs::read_to_string(back).unwrap(), "some text");

    let line = "run once -i --rm --quiet --restart=Never --image=busybox:1.0 --command -- cat";
    assert_eq!(run(line, "through\n").await.unwrap(), "through\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_shows_the_logs_of_all_that_ran() {
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
    let say = async |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        in_time(kubectl.run(&words, "")).await
    };
    if namespaced {
        let seed = say("exec two -c b -- /tool cat /scratch/seed").await.unwrap();
        assert_eq!(seed, "sown", "a folder of all containers of the pod");
    }
    let printed = async |line: &str, expected: &[&str]| {
        let mut told = Vec::new();
        until(line, async || {
            let text = say(line).await.unwrap_or_default();
            told = text.lines().map(str::to_owned).collect();
            told.sort();
            told == expected
        })
        .await;
    };
    printed("logs two -c first", &["first"]).await;
    printed("logs two --all-containers", &["first", "started", "started"]).await;
    let named = ["[pod/two/a] started", "[pod/two/b] started", "[pod/two/first] first"];
    printed("logs two --all-containers --prefix", &named).await;
    printed("logs -l app=two --all-containers --prefix", &named).await;
    let refused = say("logs two -c a -p").await.unwrap_err();
    let expected = "previous terminated container \"a\" in pod \"two\" not found";
    assert!(refused.contains(expected), "{refused}");
    // The first run ends by itself, the next is another's to tell of.
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
    printed("logs crash -p", &["last words"]).await;
}

//! What happens to a pod that runs: a lost sandbox, sidecars, updates, deadlines, evictions, messages.

use super::{Fixture, is_ready, require_namespaces, sandboxes, web};
use crate::{
    probe,
    testing::{TIMEOUT, eventually},
};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube_embedded_core::{
    network::Sandbox,
    node_api::{LogOptions, NodeApi},
};
use serde_json::{Value, json};
use std::{fs, path::Path};

/// Returns the status of the first container, or init container, of a pod.
fn first<'a>(pod: &'a Value, list: &str) -> &'a Value {
    &pod["status"][list][0]
}

fn app(pod: &Value) -> &Value {
    first(pod, "containerStatuses")
}

impl Fixture {
    /// Returns the pause process of a pod that has a running container: it shares the container's
    /// network, but not its processes.
    fn pause(&self, pod: &str, container: &str) -> i32 {
        let pod = self.kubelet.workers.find("default", pod).unwrap();
        let pid = pod.running()[container].pid();
        let link = |pid: &str, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
        let network = link(&pid.to_string(), "net").unwrap();
        let own = link("self", "pid");
        let all = fs::read_dir("/proc").unwrap().flatten();
        let mut all = all.filter_map(|entry| entry.file_name().into_string().ok());
        let pause =
            all.find(|pid| link(pid, "net").as_ref() == Some(&network) && link(pid, "pid") == own);
        pause.unwrap().parse().unwrap()
    }

    fn kill_pause(&self, pod: &str, container: &str) {
        let pid = self.pause(pod, container);
        // SAFETY: kill takes plain values.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
    }

    async fn get(&self, pod: &Value, path: &str) -> std::io::Result<u16> {
        let ip: std::net::IpAddr = pod["status"]["podIP"].as_str().unwrap().parse().unwrap();
        let url = probe::url::Url::new(false, (ip, 8080).into(), Some(path));
        probe::http::get(&self.network, &url, &[]).await.map(|response| response.status)
    }

    async fn patch(&self, pod: &str, patch: Value) {
        let patch = Patch::Strategic(patch);
        self.pods().patch(pod, &PatchParams::default(), &patch).await.unwrap();
    }

    async fn log_of(&self, pod: &str, container: &str) -> String {
        let options = LogOptions { container: Some(container.to_owned()), ..LogOptions::default() };
        self.log(pod, options).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn running_pod_gets_another_sandbox_when_its_pause_process_dies() {
    if !require_namespaces() {
        return;
    }
    let fixture = Fixture::new(Sandbox::Namespaced).await;
    let init =
        json!([{ "name": "first", "image": "tool:1.0", "command": ["/tool", "print", "init"] }]);
    let mut more = web();
    more["pod.initContainers"] = init;
    fixture.run("web", &["serve", "8080"], more).await;
    fixture.ready("web").await;
    fixture.kill_pause("web", "app");
    assert_eq!(
        fixture.event("web", "SandboxChanged").await,
        "Pod sandbox changed, it will be killed and re-created."
    );
    let restarted = |p: &Value| app(p)["restartCount"] == 1 && is_ready(p);
    let pod = fixture.until("web", "ready again", restarted).await;
    assert_eq!(app(&pod)["lastState"]["terminated"]["exitCode"], 137, "{pod:#}");
    assert_eq!(first(&pod, "initContainerStatuses")["restartCount"], 1, "{pod:#}");
    assert_eq!(fixture.get(&pod, "/").await.unwrap(), 200);
    // The second one too, after the back-off.
    fixture.kill_pause("web", "app");
    let restarted = |p: &Value| app(p)["restartCount"] == 2 && is_ready(p);
    fixture.until("web", "ready for the third time", restarted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_in_back_off_and_pod_in_init_get_another_sandbox() {
    if !require_namespaces() {
        return;
    }
    let fixture = Fixture::new(Sandbox::Namespaced).await;
    fixture.run("crash", &["serve", "8080"], web()).await;
    let init =
        json!([{ "name": "first", "image": "tool:1.0", "command": ["/tool", "on-term", "x"] }]);
    fixture.run("init", &["wait"], json!({ "pod.initContainers": init })).await;
    let initializes = |p: &Value| first(p, "initContainerStatuses")["state"]["running"].is_object();
    fixture.until("init", "in init", initializes).await;
    fixture.kill_pause("init", "first");
    let restarted =
        |p: &Value| initializes(p) && first(p, "initContainerStatuses")["restartCount"] == 1;
    let pod = fixture.until("init", "in init again", restarted).await;
    assert_eq!(pod["status"]["phase"], "Pending");

    fixture.ready("crash").await;
    let pause = fixture.pause("crash", "app");
    for count in 1..=2 {
        let pod = fixture.ready("crash").await;
        let _ = fixture.get(&pod, "/crash").await;
        let crashed = |p: &Value| {
            app(p)["restartCount"] == count && is_ready(p)
                || app(p)["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        };
        fixture.until("crash", "crashed", crashed).await;
    }
    // SAFETY: kill takes plain values.
    assert_eq!(unsafe { libc::kill(pause, libc::SIGKILL) }, 0);
    fixture.event("crash", "SandboxChanged").await;
    // The delay goes on, and is not forgotten.
    let waits = |p: &Value| {
        app(p)["state"]["waiting"]["reason"] == "CrashLoopBackOff"
            && p["status"]["conditions"]
                .as_array()
                .unwrap()
                .iter()
                .any(|c| c["type"] == "PodReadyToStartContainers" && c["status"] == "True")
    };
    fixture.until("crash", "in back-off in another sandbox", waits).await;
    let restarted = |p: &Value| app(p)["restartCount"] == 2 && is_ready(p);
    let pod = fixture.until("crash", "ready again", restarted).await;
    assert_eq!(fixture.get(&pod, "/").await.unwrap(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_that_never_restarts_fails_when_its_pause_process_dies() {
    if !require_namespaces() {
        return;
    }
    let fixture = Fixture::new(Sandbox::Namespaced).await;
    fixture.run("once", &["wait"], json!({ "pod.restartPolicy": "Never" })).await;
    fixture.ready("once").await;
    fixture.kill_pause("once", "app");
    let pod = fixture.until("once", "failed", |p| p["status"]["phase"] == "Failed").await;
    assert_eq!(app(&pod)["restartCount"], 0);
    assert_eq!(app(&pod)["state"]["terminated"]["exitCode"], 137);
    fixture.pods().delete("once", &DeleteParams::default()).await.unwrap();
    fixture.gone("once").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecar_starts_before_and_stops_after_the_containers() {
    for sandbox in sandboxes() {
        let fixture = Fixture::new(sandbox).await;
        let side = |probe: Value| {
            json!([{ "name": "side", "image": "tool:1.0", "restartPolicy": "Always",
                "command": ["/tool", "on-term", "side"], "startupProbe": probe }])
        };
        // A pod of a Job completes although its sidecar would run on.
        let more = json!({ "pod.initContainers": side(Value::Null), "pod.restartPolicy": "Never" });
        fixture.run("job", &["print", "done"], more).await;
        let pod = fixture.until("job", "over", |p| p["status"]["phase"] == "Succeeded").await;
        let ended =
            |p: &Value| first(p, "initContainerStatuses")["state"]["terminated"].is_object();
        assert!(ended(&pod), "{pod:#}");
        assert_eq!(fixture.log_of("job", "app").await, "done\n");

        // Nor does one that cannot be told to stop hold up the pod for the grace period.
        let mut deaf = side(Value::Null);
        deaf[0]["command"] = json!(["/tool", "wait"]);
        let more = json!({ "pod.initContainers": deaf, "pod.restartPolicy": "Never",
            "pod.terminationGracePeriodSeconds": 3600 });
        fixture.run("deaf", &["print", "done"], more).await;
        fixture.until("deaf", "over", |p| p["status"]["phase"] == "Succeeded").await;

        let more = json!({ "pod.initContainers": side(Value::Null) });
        fixture.run("web", &["on-term", "main", "500"], more).await;
        let pod = fixture.ready("web").await;
        let status = first(&pod, "initContainerStatuses");
        assert_eq!((&status["started"], &status["ready"]), (&json!(true), &json!(true)));
        let follow = |container: &str| {
            let container = Some(container.to_owned());
            let options =
                LogOptions { container, follow: true, timestamps: true, ..LogOptions::default() };
            fixture.kubelet.logs("default", "web", options)
        };
        let (main, side_log) = (follow("app").await.unwrap(), follow("side").await.unwrap());
        eventually("both handle SIGTERM", async || {
            let logs = [fixture.log_of("web", "app").await, fixture.log_of("web", "side").await];
            logs.iter().all(|log| log.starts_with("started"))
        })
        .await;
        fixture.pods().delete("web", &DeleteParams::default()).await.unwrap();
        let text = |stream| async {
            let chunks: Vec<bytes::Bytes> = futures::StreamExt::collect(stream).await;
            String::from_utf8(chunks.concat()).unwrap()
        };
        let both = async { (text(main).await, text(side_log).await) };
        let (main, side_log) = tokio::time::timeout(TIMEOUT, both).await.unwrap();
        let last = |log: &str| log.lines().last().unwrap().to_owned();
        assert!(last(&main).ends_with(" main") && last(&side_log).ends_with(" side"));
        assert!(last(&main) < last(&side_log), "{main}{side_log}");
        fixture.gone("web").await;

        // The containers wait for the startup probe of a sidecar.
        let never =
            json!({ "tcpSocket": { "port": 1 }, "periodSeconds": 1, "failureThreshold": 1000 });
        fixture.run("slow", &["wait"], json!({ "pod.initContainers": side(never) })).await;
        fixture.event("slow", "Unhealthy").await;
        let pod = fixture.until("slow", "pending", |p| p["status"]["phase"] == "Pending").await;
        assert_eq!(app(&pod)["state"]["waiting"]["reason"], "PodInitializing");
        assert_eq!(first(&pod, "initContainerStatuses")["started"], false);
        fixture.pods().delete("slow", &DeleteParams::default()).await.unwrap();
        fixture.gone("slow").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecar_is_restarted_in_a_pod_that_never_restarts() {
    let fixture = Fixture::new(Sandbox::Plain).await;
    let side = json!([{ "name": "side", "image": "tool:1.0", "restartPolicy": "Always",
        "command": ["/tool", "serve", "8080"] }]);
    let more = json!({ "pod.initContainers": side, "pod.restartPolicy": "Never" });
    fixture.run("web", &["wait"], more).await;
    let pod = fixture.ready("web").await;
    let _ = fixture.get(&pod, "/crash").await;
    let restarted =
        |p: &Value| first(p, "initContainerStatuses")["restartCount"] == 1 && is_ready(p);
    let pod = fixture.until("web", "ready again", restarted).await;
    assert_eq!(pod["status"]["phase"], "Running");
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_of_a_running_pod_take_effect() {
    for sandbox in sandboxes() {
        let fixture = Fixture::new(sandbox).await;
        fixture.run("web", &["on-term", "bye"], json!({ "pod.restartPolicy": "Never" })).await;
        fixture.ready("web").await;
        eventually("it handles SIGTERM", async || {
            fixture.log_of("web", "app").await == "started\n"
        })
        .await;
        let image = json!({ "spec": { "containers": [{ "name": "app", "image": "tool:2.0" }] } });
        fixture.patch("web", image).await;
        let changed = |p: &Value| {
            app(p)["image"] == "docker.io/library/tool:2.0"
                && app(p)["restartCount"] == 1
                && is_ready(p)
        };
        let pod = fixture.until("web", "of the other image", changed).await;
        assert_eq!(app(&pod)["lastState"]["terminated"]["reason"], "Completed");
        assert_eq!(pod["status"]["observedGeneration"], 2);
        assert_eq!(
            fixture.event("web", "Killing").await,
            "Container app definition changed, will be restarted"
        );
        fixture.patch("web", json!({ "spec": { "activeDeadlineSeconds": 1 } })).await;
        let failed = |p: &Value| p["status"]["phase"] == "Failed";
        let pod = fixture.until("web", "failed", failed).await;
        assert_eq!(pod["status"]["reason"], "DeadlineExceeded");
        let message = "Pod was active on the node longer than the specified deadline";
        assert_eq!(pod["status"]["message"], message);
        assert_eq!(fixture.event("web", "DeadlineExceeded").await, message);
        assert!(app(&pod)["state"]["terminated"].is_object(), "{pod:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn image_update_ends_the_wait_for_a_missing_image_and_a_back_off() {
    let fixture = Fixture::new(Sandbox::Plain).await;
    let waits =
        |reason: &'static str| move |p: &Value| app(p)["state"]["waiting"]["reason"] == reason;
    fixture.run("late", &["wait"], json!({ "image": "none:1" })).await;
    fixture.until("late", "without image", waits("ErrImagePull")).await;
    fixture.run("crash", &["exit", "3"], json!({})).await;
    fixture.until("crash", "in back-off", waits("CrashLoopBackOff")).await;
    for name in ["late", "crash"] {
        let image = json!({ "spec": { "containers": [{ "name": "app", "image": "tool:2.0" }] } });
        fixture.patch(name, image).await;
    }
    fixture.ready("late").await;
    let restarted = |p: &Value| app(p)["restartCount"].as_i64() >= Some(2);
    fixture.until("crash", "restarted", restarted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn termination_message_is_the_file_or_the_end_of_the_log() {
    for sandbox in sandboxes() {
        let fixture = Fixture::new(sandbox).await;
        let namespaced = sandbox == Sandbox::Namespaced;
        let fallback = "FallbackToLogsOnError";
        let long = "x".repeat(5000);
        let cases: [(&str, Vec<&str>, Value, Option<&str>); 6] = [
            (
                "file",
                vec!["write", "/dev/termination-log", "out of disk"],
                json!({}),
                Some("out of disk"),
            ),
            ("long", vec!["write", "/dev/termination-log", &long], json!({}), Some(&long[..4096])),
            (
                "path",
                vec!["write", "/tmp/why", "elsewhere"],
                json!({ "terminationMessagePath": "/tmp/why" }),
                Some("elsewhere"),
            ),
            (
                "log",
                vec!["both", "no database", "", "4"],
                json!({ "terminationMessagePolicy": fallback }),
                Some("no database"),
            ),
            ("good", vec!["print", "fine"], json!({ "terminationMessagePolicy": fallback }), None),
            ("none", vec!["both", "no database", "", "4"], json!({}), None),
        ];
        for (name, args, mut more, expected) in cases {
            if !namespaced && matches!(name, "file" | "long" | "path") {
                continue;
            }
            more["pod.restartPolicy"] = json!("Never");
            fixture.run(name, &args, more).await;
            let over = |p: &Value| app(p)["state"]["terminated"].is_object();
            let pod = fixture.until(name, "over", over).await;
            let message = &app(&pod)["state"]["terminated"]["message"];
            assert_eq!(message.as_str(), expected, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn volume_above_its_size_limit_evicts_the_pod() {
    if !require_namespaces() {
        return;
    }
    let fixture = Fixture::new(Sandbox::Namespaced).await;
    let volumes = json!([{ "name": "v", "emptyDir": { "sizeLimit": "1Mi" } }]);
    let mounts = json!([{ "name": "v", "mountPath": "/v" }]);
    let more = json!({ "pod.volumes": volumes, "volumeMounts": mounts });
    fixture.run("full", &["fill", "/v/deep/file", "2000000"], more).await;
    let pod = fixture.until("full", "failed", |p| p["status"]["phase"] == "Failed").await;
    assert_eq!(pod["status"]["reason"], "Evicted");
    let message = "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ";
    assert_eq!(pod["status"]["message"], message);
    assert_eq!(fixture.event("full", "Evicted").await, message);
}

#[tokio::test(flavor = "multi_thread")]
async fn folder_that_is_swapped_for_a_link_is_never_mounted() {
    if !require_namespaces() {
        return;
    }
    let fixture = Fixture::new(Sandbox::Namespaced).await;
    // Where the link leads to: a folder of the host that no pod may see.
    let secret = fixture.folder.0.join("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("secret"), "").unwrap();
    let link = secret.to_str().unwrap();
    let swap = json!([{ "name": "swap", "image": "tool:1.0", "restartPolicy": "Always",
        "command": ["/tool", "swap", "/v/sub", link],
        "volumeMounts": [{ "name": "v", "mountPath": "/v" }],
        "startupProbe": { "exec": { "command": ["/tool", "exists", "/v/swapping"] }, "periodSeconds": 1 } }]);
    let readers: Vec<Value> = (0..10)
        .map(|n| {
            json!({ "name": format!("r{n}"), "image": "tool:1.0", "command": ["/tool", "list", "/m"],
                "volumeMounts": [{ "name": "v", "mountPath": "/m", "subPath": "sub" }] })
        })
        .collect();
    let mut mounted = 0;
    for round in 0..3 {
        let name = format!("race-{round}");
        let spec = json!({ "restartPolicy": "Never", "initContainers": swap, "containers": readers,
            "volumes": [{ "name": "v", "emptyDir": {} }] });
        fixture.create(&name, json!({}), spec).await;
        let over =
            |p: &Value| matches!(p["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
        let pod = fixture.until(&name, "over", over).await;
        for status in pod["status"]["containerStatuses"].as_array().unwrap() {
            let reader = status["name"].as_str().unwrap();
            // A mount that was refused is the other good outcome.
            if status["state"]["terminated"]["exitCode"] == 0 {
                mounted += 1;
                assert_ne!(fixture.log_of(&name, reader).await.trim(), "secret");
            }
        }
        fixture.pods().delete(&name, &DeleteParams::default().grace_period(0)).await.unwrap();
        fixture.gone(&name).await;
    }
    println!("{mounted} of 30 were mounted");
    assert!(Path::new(link).join("secret").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn container_above_its_memory_limit_is_killed() {
    for sandbox in sandboxes() {
        let fixture = Fixture::new(sandbox).await;
        let limits = |memory: &str| json!({ "resources": { "limits": { "memory": memory } }, "pod.restartPolicy": "Never" });
        fixture.run("fits", &["allocate", "30000000"], limits("100Mi")).await;
        fixture.run("large", &["allocate", "120000000"], limits("100Mi")).await;
        let pod = fixture.until("large", "killed", |p| p["status"]["phase"] == "Failed").await;
        let ended = &app(&pod)["state"]["terminated"];
        assert_eq!((&ended["reason"], &ended["exitCode"]), (&json!("OOMKilled"), &json!(137)));
        let fits = fixture.ready("fits").await;
        assert_eq!(app(&fits)["restartCount"], 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn host_port_leads_to_the_container() {
    for sandbox in sandboxes() {
        let fixture = Fixture::new(sandbox).await;
        let mut more = web();
        more["ports"] = json!([{ "containerPort": 8080, "hostPort": 18_899 }]);
        fixture.run("web", &["serve", "8080"], more).await;
        let pod = fixture.ready("web").await;
        let node: std::net::IpAddr = pod["status"]["hostIP"].as_str().unwrap().parse().unwrap();
        let url = probe::url::Url::new(false, (node, 18_899).into(), None);
        let get =
            async || probe::http::get(&fixture.network, &url, &[]).await.map(|r| r.status).ok();
        assert_eq!(get().await, Some(200));
        fixture.pods().delete("web", &DeleteParams::default().grace_period(0)).await.unwrap();
        fixture.gone("web").await;
        eventually("the host port is closed", async || get().await.is_none()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn volume_in_memory_is_shared_and_removed_and_unsupported_fields_are_said() {
    if !require_namespaces() {
        return;
    }
    let fixture = Fixture::new(Sandbox::Namespaced).await;
    let mounts = json!([{ "name": "v", "mountPath": "/v" }]);
    let init = json!([{ "name": "first", "image": "tool:1.0", "volumeMounts": mounts,
        "command": ["/tool", "write", "/v/file", "hello"] }]);
    let more = json!({ "pod.initContainers": init, "volumeMounts": mounts, "pod.hostNetwork": true,
        "pod.volumes": [{ "name": "v", "emptyDir": { "medium": "Memory" } }],
        "pod.restartPolicy": "Never" });
    fixture.run("web", &["cat", "/v/file"], more).await;
    fixture.until("web", "over", |p| p["status"]["phase"] == "Succeeded").await;
    assert_eq!(fixture.log_of("web", "app").await, "hello");
    let memory = fixture.folder.0.join("memory");
    let pods = || fs::read_dir(&memory).unwrap().count();
    assert_eq!(pods(), 1);
    let event = fixture.event("web", "UnsupportedField").await;
    assert_eq!(event, "Not honored: spec.hostNetwork (every pod has namespaces of its own)");
    fixture.pods().delete("web", &DeleteParams::default()).await.unwrap();
    // The object is removed first.
    eventually("the directory is removed", async || pods() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volume_belongs_to_the_group_of_the_pod() {
    // An ordinary user cannot give files to another group.
    if !require_namespaces() || !rustix::process::geteuid().is_root() {
        return;
    }
    use std::os::unix::fs::MetadataExt;
    let fixture = Fixture::new(Sandbox::Namespaced).await;
    let more = json!({ "pod.securityContext": { "fsGroup": 2000 },
        "pod.volumes": [{ "name": "v", "emptyDir": {} },
            { "name": "c", "configMap": { "name": "kube-root-ca.crt", "defaultMode": 256 } }] });
    fixture.run("web", &["wait"], more).await;
    let pod = fixture.ready("web").await;
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let volumes = fixture.folder.0.join("state/pods").join(uid).join("volumes");
    let of = |path: &str| {
        let found = fs::metadata(volumes.join(path)).unwrap();
        (found.gid(), found.mode() & 0o7777)
    };
    assert_eq!(of("v"), (2000, 0o2777));
    assert_eq!(of("c"), (2000, 0o2775));
    assert_eq!(of("c/ca.crt"), (2000, 0o440));
}

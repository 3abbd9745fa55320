//! Pods on a node, in both sandboxes, against the API server in the same process.

mod lifecycle;

use crate::{
    Config, ContainerRuntime, Kubelet, detect,
    image_store::ImageStore,
    probe,
    testing::{Folder, PANIC_ANNOTATION, TIMEOUT, eventually, tool},
};
use bytes::Bytes;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{
    ConfigMap, Event as CoreEvent, Namespace, Node as NodeObject, Pod, ServiceAccount,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use kube_embedded_apiserver::{api, store::Store};
use kube_embedded_core::{
    network::{Addresses, Network, Sandbox},
    node_api::{LogOptions, NodeApi},
};
use serde_json::{Value, json};
use std::{collections::HashSet, fs, path::Path, sync::Arc};

struct Fixture {
    api: api::Api,
    kubelet: Arc<Kubelet>,
    network: Arc<Network>,
    images: Arc<ImageStore>,
    folder: Folder,
}

impl Fixture {
    async fn new(sandbox: Sandbox) -> Self {
        let folder = Folder::new();
        let addresses = Addresses { block: 77, sandbox };
        let api = api::Api::new(Store::default(), addresses);
        let namespaces: Api<Namespace> = Api::all(api.client());
        let default = json!({ "metadata": { "name": "default" } });
        namespaces
            .create(&PostParams::default(), &serde_json::from_value(default).unwrap())
            .await
            .unwrap();
        let accounts: Api<ServiceAccount> = Api::namespaced(api.client(), "default");
        let account = serde_json::from_value(json!({ "metadata": { "name": "default" } })).unwrap();
        accounts.create(&PostParams::default(), &account).await.unwrap();
        let maps: Api<ConfigMap> = Api::namespaced(api.client(), "default");
        let authority =
            json!({ "metadata": { "name": "kube-root-ca.crt" }, "data": { "ca.crt": "-" } });
        maps.create(&PostParams::default(), &serde_json::from_value(authority).unwrap())
            .await
            .unwrap();
        let images = Arc::new(ImageStore::new(folder.0.join("images")));
        let archive = folder.0.join("tool.tar");
        crate::image_store::testing::archive(
            &archive,
            "tool:1.0",
            &[("tool", &fs::read(tool()).unwrap())],
        );
        images.add_archive(&archive).unwrap();
        let archive = folder.0.join("tool-2.tar");
        let files = [("tool", &*fs::read(tool()).unwrap()), ("two", b"")];
        crate::image_store::testing::archive(&archive, "tool:2.0", &files);
        images.add_archive(&archive).unwrap();
        let network = Arc::new(Network::default());
        let config = Config {
            nodes: vec![
                ("node-1".to_owned(), addresses.node(0)),
                ("node-2".to_owned(), addresses.node(1)),
            ],
            addresses,
            runtime: ContainerRuntime::start(Some(sandbox), true).unwrap(),
            images: images.clone(),
            network: network.clone(),
            state: folder.0.join("state"),
            allow_host_path: vec![folder.0.clone()],
            memory: Some(folder.0.join("memory")),
            api_server: (addresses.api(), 6443).into(),
        };
        let kubelet = Kubelet::start(api.client(), config).await.unwrap();
        let weak: std::sync::Weak<dyn NodeApi> =
            Arc::downgrade(&(kubelet.clone() as Arc<dyn NodeApi>));
        api.set_nodes(weak);
        Self { api, kubelet, network, images, folder }
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.api.client(), "default")
    }

    async fn create(&self, name: &str, annotations: Value, mut spec: Value) {
        spec["nodeName"] = json!("node-1");
        let metadata = json!({ "name": name, "annotations": annotations });
        let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec });
        self.pods()
            .create(&PostParams::default(), &serde_json::from_value(pod).unwrap())
            .await
            .unwrap();
    }

    /// Creates a pod of one container that runs the tool. `more` are fields of the container, of the
    /// pod (`pod.…`), or its annotations.
    async fn run(&self, name: &str, args: &[&str], more: Value) {
        let mut container =
            json!({ "name": "app", "image": "tool:1.0", "command": ["/tool"], "args": args });
        let mut spec = json!({ "terminationGracePeriodSeconds": 30 });
        let mut annotations = json!({});
        for (key, value) in more.as_object().into_iter().flatten() {
            match key.strip_prefix("pod.") {
                Some(key) => spec[key] = value.clone(),
                None if key == "annotations" => annotations = value.clone(),
                None => container[key] = value.clone(),
            }
        }
        spec["containers"] = json!([container]);
        self.create(name, annotations, spec).await;
    }

    /// Waits until the pod is as wanted, and returns it.
    async fn until(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let params = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut events = kube::runtime::watcher(self.pods(), params).applied_objects().boxed();
        let found = tokio::time::timeout(TIMEOUT, async {
            while let Some(event) = events.next().await {
                let Ok(pod) = event else { continue };
                last = serde_json::to_value(pod).unwrap();
                if wanted(&last) {
                    return;
                }
            }
        });
        if found.await.is_err() {
            panic!("{name} never was {what}: {last:#}");
        }
        last
    }

    async fn ready(&self, name: &str) -> Value {
        self.until(name, "ready", is_ready).await
    }

    async fn gone(&self, name: &str) {
        let gone =
            kube::runtime::wait::await_condition(self.pods(), name, |p: Option<&Pod>| p.is_none());
        tokio::time::timeout(TIMEOUT, gone).await.expect("the pod stayed").unwrap();
    }

    async fn log(&self, name: &str, options: LogOptions) -> String {
        let stream = self.kubelet.logs("default", name, options).await.unwrap();
        let chunks: Vec<Bytes> =
            tokio::time::timeout(TIMEOUT, stream.collect()).await.expect("the log did not end");
        String::from_utf8(chunks.concat()).unwrap()
    }

    /// Waits for an event of that reason, and returns its message.
    async fn event(&self, pod: &str, reason: &str) -> String {
        let api: Api<CoreEvent> = Api::namespaced(self.api.client(), "default");
        let mut events =
            kube::runtime::watcher(api, watcher::Config::default()).applied_objects().boxed();
        let found = tokio::time::timeout(TIMEOUT, async {
            loop {
                let Some(Ok(event)) = events.next().await else { continue };
                if event.involved_object.name.as_deref() == Some(pod)
                    && event.reason.as_deref() == Some(reason)
                {
                    return event.message.unwrap_or_default();
                }
            }
        });
        found.await.unwrap_or_else(|_| panic!("no event {reason} for {pod}"))
    }
}

fn is_ready(pod: &Value) -> bool {
    pod["status"]["conditions"]
        .as_array()
        .is_some_and(|c| c.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}

fn require_namespaces() -> bool {
    let (sandbox, reason) = detect();
    if sandbox == Sandbox::Plain {
        test_support::missing("user-namespaces", &reason);
    }
    sandbox == Sandbox::Namespaced
}

fn sandboxes() -> Vec<Sandbox> {
    if require_namespaces() {
        vec![Sandbox::Namespaced, Sandbox::Plain]
    } else {
        vec![Sandbox::Plain]
    }
}

/// Counts the processes whose environment names a directory.
fn alive(folder: &Path) -> usize {
    let text = folder.display().to_string();
    let mut count = 0;
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let environ = fs::read(entry.path().join("environ")).unwrap_or_default();
        count += usize::from(String::from_utf8_lossy(&environ).contains(&text));
    }
    count
}

const PROBE: &str = "/ready";

fn web() -> Value {
    json!({ "readinessProbe": { "httpGet": { "path": PROBE, "port": 8080 }, "periodSeconds": 10 } })
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_registered_with_labels_and_images() {
    let fixture = Fixture::new(Sandbox::Plain).await;
    let nodes: Api<NodeObject> = Api::all(fixture.api.client());
    let all = nodes.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(all.len(), 2);
    let labels = all[0].metadata.labels.clone().unwrap();
    assert_eq!(labels["kubernetes.io/hostname"], "node-1");
    assert!(labels.contains_key("node-role.kubernetes.io/control-plane"));
    let images = all[0].status.clone().unwrap().images.unwrap();
    let names: HashSet<_> = images.into_iter().flat_map(|i| i.names.unwrap_or_default()).collect();
    let expected = ["docker.io/library/tool:1.0", "docker.io/library/tool:2.0"];
    assert_eq!(names, expected.map(str::to_owned).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_becomes_ready_serves_and_terminates() {
    for sandbox in sandboxes() {
        let fixture = Fixture::new(sandbox).await;
        fixture.run("web", &["serve", "8080"], web()).await;
        let pod = fixture.ready("web").await;
        let status = &pod["status"];
        assert_eq!(status["phase"], "Running", "{status:#}");
        assert_eq!(status["hostIP"], "127.77.0.11");
        let container = &status["containerStatuses"][0];
        assert_eq!(container["restartCount"], 0);
        assert_eq!(container["image"], "docker.io/library/tool:1.0");
        assert!(container["state"]["running"]["startedAt"].is_string());
        let ip: std::net::IpAddr = status["podIP"].as_str().unwrap().parse().unwrap();
        let url = probe::url::Url::new(false, (ip, 8080).into(), None);
        let response = probe::http::get(&fixture.network, &url, &[]).await.unwrap();
        assert_eq!(response.status, 200);
        let log = fixture.log("web", LogOptions::default()).await;
        assert!(log.starts_with("listening\nGET /ready HTTP/1.1\n"), "{log}");
        assert_eq!(fixture.event("web", "Started").await, "Started container app");
        assert_eq!(
            fixture.event("web", "Pulled").await,
            "Container image \"tool:1.0\" already present on machine"
        );
        fixture.pods().delete("web", &DeleteParams::default()).await.unwrap();
        // The tool does not handle SIGTERM; as the first process of a namespace it does not even notice.
        if sandbox == Sandbox::Namespaced {
            fixture.pods().delete("web", &DeleteParams::default().grace_period(0)).await.unwrap();
        }
        fixture.gone("web").await;
        fixture.kubelet.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn termination_runs_pre_stop_then_sigterm_and_keeps_all_output() {
    for sandbox in sandboxes() {
        let fixture = Fixture::new(sandbox).await;
        let hook = json!({ "lifecycle": { "preStop": { "exec": { "command": ["/tool", "print", "hook"] } } } });
        fixture.run("web", &["on-term", "bye"], hook).await;
        fixture.ready("web").await;
        let follow = LogOptions { follow: true, ..LogOptions::default() };
        let mut stream = fixture.kubelet.logs("default", "web", follow).await.unwrap();
        // Before this line it does not handle SIGTERM.
        assert_eq!(stream.next().await.unwrap(), "started\n");
        fixture.pods().delete("web", &DeleteParams::default()).await.unwrap();
        let chunks: Vec<Bytes> = stream.collect().await;
        assert_eq!(String::from_utf8(chunks.concat()).unwrap(), "bye\n");
        fixture.gone("web").await;
        assert_eq!(fixture.event("web", "Killing").await, "Stopping container app");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn program_that_ignores_sigterm_is_killed_after_the_grace_period() {
    for sandbox in sandboxes() {
        let fixture = Fixture::new(sandbox).await;
        fixture.run("deaf", &["ignore-term"], json!({})).await;
        fixture.ready("deaf").await;
        fixture.pods().delete("deaf", &DeleteParams::default().grace_period(1)).await.unwrap();
        fixture.gone("deaf").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn crashing_container_is_restarted_with_back_off() {
    for sandbox in sandboxes() {
        let fixture = Fixture::new(sandbox).await;
        fixture.run("crash", &["exit", "3"], json!({})).await;
        let waits = |p: &Value| {
            p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        };
        let pod = fixture.until("crash", "in back-off", waits).await;
        let container = &pod["status"]["containerStatuses"][0];
        assert_eq!(container["restartCount"], 1);
        assert_eq!(container["lastState"]["terminated"]["exitCode"], 3);
        assert_eq!(container["lastState"]["terminated"]["reason"], "Error");
        assert_eq!(pod["status"]["phase"], "Running");
        let message = container["state"]["waiting"]["message"].as_str().unwrap();
        assert!(
            message.starts_with("back-off 10s restarting failed container=app pod=crash_default("),
            "{message}"
        );
        assert!(
            fixture
                .event("crash", "BackOff")
                .await
                .starts_with("Back-off restarting failed container app in pod crash_default(")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_that_is_not_restarted_succeeds_or_fails() {
    let fixture = Fixture::new(Sandbox::Plain).await;
    fixture.run("good", &["print", "done"], json!({ "pod.restartPolicy": "Never" })).await;
    fixture.run("bad", &["exit", "4"], json!({ "pod.restartPolicy": "Never" })).await;
    fixture.until("good", "over", |p| p["status"]["phase"] == "Succeeded").await;
    let bad = fixture.until("bad", "over", |p| p["status"]["phase"] == "Failed").await;
    assert_eq!(bad["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 4);
    assert_eq!(fixture.log("good", LogOptions::default()).await, "done\n");
    fixture.pods().delete("good", &DeleteParams::default()).await.unwrap();
    fixture.gone("good").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn init_containers_run_before_the_containers() {
    for sandbox in sandboxes() {
        let fixture = Fixture::new(sandbox).await;
        let init = json!([{ "name": "first", "image": "tool:1.0", "command": ["/tool", "print", "init"] }]);
        fixture.run("web", &["serve", "8080"], json!({ "pod.initContainers": init })).await;
        let pod = fixture.ready("web").await;
        assert_eq!(
            pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["reason"],
            "Completed"
        );
        let first = LogOptions { container: Some("first".to_owned()), ..LogOptions::default() };
        assert_eq!(fixture.log("web", first).await, "init\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_liveness_probe_restarts_and_exec_probes_run_in_the_container() {
    if !require_namespaces() {
        return;
    }
    let fixture = Fixture::new(Sandbox::Namespaced).await;
    let probe = json!({ "exec": { "command": ["/tool", "exists", "/tmp-sick"] }, "periodSeconds": 1, "failureThreshold": 1 });
    let sick = json!({ "exec": { "command": ["/tool", "write", "/tmp-sick", ""] } });
    fixture
        .run(
            "web",
            &["on-term", "bye"],
            json!({ "readinessProbe": probe, "lifecycle": { "postStart": sick } }),
        )
        .await;
    fixture.ready("web").await;
    // As the first process of its namespace it would not notice a SIGTERM before it handles it.
    let mut probe = probe;
    probe["initialDelaySeconds"] = json!(1);
    fixture.run("ill", &["on-term", "bye"], json!({ "livenessProbe": probe })).await;
    let pod = fixture
        .until("ill", "restarted", |p| p["status"]["containerStatuses"][0]["restartCount"] == 1)
        .await;
    assert_eq!(pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 0);
    assert_eq!(
        fixture.event("ill", "Killing").await,
        "Container app failed liveness probe, will be restarted"
    );
    assert!(fixture.event("ill", "Unhealthy").await.starts_with("Liveness probe failed:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_image_is_explained_and_used_once_it_is_loaded() {
    let fixture = Fixture::new(Sandbox::Plain).await;
    let images = fixture.folder.0.join("more");
    fs::create_dir(&images).unwrap();
    fixture.images.add_directory(&images).unwrap();
    fixture.run("late", &["serve", "8080"], json!({ "image": "other:2.0" })).await;
    let reason = |p: &Value| {
        p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"]
            .as_str()
            .map(str::to_owned)
    };
    let pod = fixture
        .until("late", "without image", |p| reason(p).as_deref() == Some("ErrImagePull"))
        .await;
    let message =
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"].as_str().unwrap();
    assert!(
        message.contains("\"other:2.0\" is not loaded")
            && message.contains("tool:1.0")
            && message.contains("docker save"),
        "{message}"
    );
    assert_eq!(pod["status"]["phase"], "Pending");
    fixture
        .until("late", "backing off", |p| reason(p).as_deref() == Some("ImagePullBackOff"))
        .await;
    let part = fixture.folder.0.join("part");
    crate::image_store::testing::archive(
        &part,
        "other:2.0",
        &[("tool", &fs::read(tool()).unwrap())],
    );
    fs::rename(part, images.join("other.tar")).unwrap();
    fixture.ready("late").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn container_that_cannot_start_is_explained() {
    for sandbox in sandboxes() {
        let fixture = Fixture::new(sandbox).await;
        fixture.run("nope", &[], json!({ "command": ["/nope"] })).await;
        let ended = |p: &Value| {
            p["status"]["containerStatuses"][0]["lastState"]["terminated"]["reason"] == "StartError"
        };
        let pod = fixture.until("nope", "refused", ended).await;
        let message = pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["message"]
            .as_str()
            .unwrap();
        assert!(message.contains("exec: \"/nope\""), "{message}");
        let env = json!([{ "name": "A", "valueFrom": { "configMapKeyRef": { "name": "none", "key": "a" } } }]);
        fixture.run("conf", &["wait"], json!({ "env": env })).await;
        let refused = |p: &Value| {
            p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"]
                == "CreateContainerConfigError"
        };
        let pod = fixture.until("conf", "refused", refused).await;
        assert_eq!(
            pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"],
            "configmap \"none\" not found"
        );
        fixture.pods().delete("conf", &DeleteParams::default()).await.unwrap();
        fixture.gone("conf").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn security_context_is_honored_or_refused() {
    for sandbox in sandboxes() {
        let fixture = Fixture::new(sandbox).await;
        let security = json!({
            "capabilities": { "drop": ["ALL"], "add": ["NET_BIND_SERVICE"] },
            "allowPrivilegeEscalation": false,
            "seccompProfile": { "type": "Unconfined" },
        });
        let of_pod = json!({ "runAsUser": 1234, "runAsGroup": 1235 });
        let more = json!({ "securityContext": security, "pod.securityContext": of_pod,
            "pod.restartPolicy": "Never" });
        fixture.run("rights", &["rights"], more).await;
        fixture.until("rights", "done", |p| p["status"]["phase"] == "Succeeded").await;
        let log = fixture.log("rights", LogOptions::default()).await;
        assert!(log.contains("NoNewPrivs: 1\nSeccomp: 0"), "{log}");
        if sandbox == Sandbox::Namespaced {
            let expected = "Uid: 1234 1234 1234 1234\nGid: 1235 1235 1235 1235\n";
            assert!(log.starts_with(expected), "{log}");
            assert!(log.contains("CapEff: 0000000000000000\nCapBnd: 0000000000000400\n"), "{log}");
        }
        for (name, security, reason) in [
            (
                "a",
                json!({ "capabilities": { "add": ["SYS_ADMIN"] } }),
                "SYS_ADMIN is not available",
            ),
            (
                "b",
                json!({ "seccompProfile": { "type": "Localhost", "localhostProfile": "none" } }),
                "seccomp/none: No such file",
            ),
        ] {
            fixture.run(name, &["wait"], json!({ "securityContext": security })).await;
            let waiting =
                |p: &Value| p["status"]["containerStatuses"][0]["state"]["waiting"].clone();
            let refused = |p: &Value| waiting(p)["reason"] == "CreateContainerConfigError";
            let pod = fixture.until(name, "refused", refused).await;
            let message = waiting(&pod)["message"].to_string();
            assert!(message.contains(reason) && message.contains("container: app"), "{message}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_pods_start_at_once_and_end_with_a_dropped_kubelet() {
    for sandbox in sandboxes() {
        let fixture = Fixture::new(sandbox).await;
        let mark = fixture.folder.0.display().to_string();
        let begin = std::time::Instant::now();
        for n in 0..20 {
            let mut more = web();
            more["env"] = json!([{ "name": "MARK", "value": mark }]);
            fixture.run(&format!("web-{n}"), &["serve", "8080"], more).await;
        }
        let mut addresses = HashSet::new();
        for n in 0..20 {
            let pod = fixture.ready(&format!("web-{n}")).await;
            addresses.insert(pod["status"]["podIP"].as_str().unwrap().to_owned());
        }
        println!("{sandbox:?}: 20 pods ready after {:?}", begin.elapsed());
        assert_eq!(addresses.len(), 20);
        assert_eq!(alive(&fixture.folder.0), 20);
        let Fixture { kubelet, folder, api, .. } = fixture;
        drop(kubelet);
        drop(api);
        eventually("no pod outlives the kubelet", async || alive(&folder.0) == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_whose_worker_panics_fails_and_can_be_deleted() {
    for sandbox in sandboxes() {
        let fixture = Fixture::new(sandbox).await;
        let panics = json!({ "annotations": { PANIC_ANNOTATION: "injected" } });
        fixture.run("broken", &["serve", "8080"], panics).await;
        let failed = |p: &Value| p["status"]["phase"] == "Failed";
        let pod = fixture.until("broken", "failed", failed).await;
        assert_eq!(pod["status"]["reason"], "InternalError");
        assert_eq!(pod["status"]["message"], "pod worker panicked: injected");
        let state = &pod["status"]["containerStatuses"][0]["state"];
        assert_eq!(state["terminated"]["reason"], "ContainerStatusUnknown");
        let event = fixture.event("broken", "FailedSync").await;
        assert_eq!(event, "Error syncing pod: pod worker panicked: injected");
        // Its address is free again, other pods run, and a pod of the same name can follow.
        fixture.pods().delete("broken", &DeleteParams::default()).await.unwrap();
        fixture.gone("broken").await;
        fixture.run("broken", &["serve", "8080"], web()).await;
        fixture.ready("broken").await;
        fixture.kubelet.stop().await;
    }
}

//! Pods on a node, in both sandboxes, against the API in the process.

use super::*;
use k8s_openapi::api::core::v1::{
    ConfigMap, Event as CoreEvent, Namespace, Node as NodeObject, ServiceAccount,
};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube_embedded_apiserver::{api, store::Store};
use serde_json::{Value, json};
use std::{fs, path::Path, time::Duration};
use testing::{Folder, tool};

struct World {
    api: api::Api,
    kubelet: Arc<Kubelet>,
    network: Arc<Network>,
    images: Arc<ImageStore>,
    folder: Folder,
}

impl World {
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
        crate::images::testing::archive(
            &archive,
            "tool:1.0",
            &[("tool", &fs::read(tool()).unwrap())],
        );
        images.add_archive(&archive).unwrap();
        let network = Arc::new(Network::default());
        let config = Config {
            nodes: vec![
                ("node-1".to_owned(), addresses.node(0)),
                ("node-2".to_owned(), addresses.node(1)),
            ],
            addresses,
            images: images.clone(),
            network: network.clone(),
            state: folder.0.join("state"),
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

    async fn create(&self, name: &str, spec: Value) {
        let mut spec = spec;
        spec["nodeName"] = json!("node-1");
        let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec });
        self.pods()
            .create(&PostParams::default(), &serde_json::from_value(pod).unwrap())
            .await
            .unwrap();
    }

    /// A pod of one container that runs the tool.
    async fn run(&self, name: &str, args: &[&str], more: Value) {
        let mut container =
            json!({ "name": "app", "image": "tool:1.0", "command": ["/tool"], "args": args });
        let mut spec = json!({ "terminationGracePeriodSeconds": 30 });
        for (key, value) in more.as_object().into_iter().flatten() {
            match key.strip_prefix("pod.") {
                Some(key) => spec[key] = value.clone(),
                None => container[key] = value.clone(),
            }
        }
        spec["containers"] = json!([container]);
        self.create(name, spec).await;
    }

    /// Waits until the pod's status is as wanted, and returns the pod.
    async fn until(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let params = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut events = kube::runtime::watcher(self.pods(), params).applied_objects().boxed();
        let found = tokio::time::timeout(Duration::from_secs(20), async {
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
        tokio::time::timeout(Duration::from_secs(20), gone).await.expect("the pod stayed").unwrap();
    }

    async fn log(&self, name: &str, options: LogOptions) -> String {
        let stream = self.kubelet.logs("default", name, options).await.unwrap();
        let chunks: Vec<Bytes> = tokio::time::timeout(Duration::from_secs(20), stream.collect())
            .await
            .expect("the log did not end");
        String::from_utf8(chunks.concat()).unwrap()
    }

    /// Waits until an event of that reason is there, and returns its message.
    async fn event(&self, pod: &str, reason: &str) -> String {
        let api: Api<CoreEvent> = Api::namespaced(self.api.client(), "default");
        let mut events =
            kube::runtime::watcher(api, watcher::Config::default()).applied_objects().boxed();
        let found = tokio::time::timeout(Duration::from_secs(20), async {
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

fn sandboxes() -> Vec<Sandbox> {
    match detect().0 {
        Sandbox::Namespaced => vec![Sandbox::Namespaced, Sandbox::Plain],
        Sandbox::Plain => vec![Sandbox::Plain],
    }
}

/// Processes that run something below a folder or hold the namespaces of its pods.
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
async fn nodes_are_ready() {
    let world = World::new(Sandbox::Plain).await;
    let nodes: Api<NodeObject> = Api::all(world.api.client());
    let all = nodes.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(all.len(), 2);
    let labels = all[0].metadata.labels.clone().unwrap();
    assert_eq!(labels["kubernetes.io/hostname"], "node-1");
    assert!(labels.contains_key("node-role.kubernetes.io/control-plane"));
    let images = all[0].status.clone().unwrap().images.unwrap();
    assert_eq!(images[0].names.clone().unwrap(), ["docker.io/library/tool:1.0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_gets_ready_answers_and_ends_gracefully() {
    for sandbox in sandboxes() {
        let world = World::new(sandbox).await;
        world.run("web", &["serve", "8080"], web()).await;
        let pod = world.ready("web").await;
        let status = &pod["status"];
        assert_eq!(status["phase"], "Running", "{status:#}");
        assert_eq!(status["hostIP"], "127.77.0.11");
        let container = &status["containerStatuses"][0];
        assert_eq!(container["restartCount"], 0);
        assert_eq!(container["image"], "docker.io/library/tool:1.0");
        assert!(container["state"]["running"]["startedAt"].is_string());
        let ip: std::net::IpAddr = status["podIP"].as_str().unwrap().parse().unwrap();
        assert_eq!(
            probe::http_get(&world.network, (ip, 8080).into(), "/", &[]).await.unwrap(),
            200
        );
        let log = world.log("web", LogOptions::default()).await;
        assert!(log.starts_with("listening\nGET /ready HTTP/1.1\n"), "{log}");
        assert_eq!(world.event("web", "Started").await, "Started container app");
        assert_eq!(
            world.event("web", "Pulled").await,
            "Container image \"tool:1.0\" already present on machine"
        );
        world.pods().delete("web", &DeleteParams::default()).await.unwrap();
        // The tool does not handle SIGTERM; as the first process of a namespace it does not even notice.
        if sandbox == Sandbox::Namespaced {
            world.pods().delete("web", &DeleteParams::default().grace_period(0)).await.unwrap();
        }
        world.gone("web").await;
        world.kubelet.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_comes_first_and_output_until_the_end_is_kept() {
    for sandbox in sandboxes() {
        let world = World::new(sandbox).await;
        let hook = json!({ "lifecycle": { "preStop": { "exec": { "command": ["/tool", "print", "hook"] } } } });
        world.run("web", &["on-term", "bye"], hook).await;
        world.ready("web").await;
        let follow = LogOptions { follow: true, ..LogOptions::default() };
        let mut stream = world.kubelet.logs("default", "web", follow).await.unwrap();
        // Only then does it handle SIGTERM.
        assert_eq!(stream.next().await.unwrap(), "started\n");
        world.pods().delete("web", &DeleteParams::default()).await.unwrap();
        let chunks: Vec<Bytes> = stream.collect().await;
        assert_eq!(String::from_utf8(chunks.concat()).unwrap(), "bye\n");
        world.gone("web").await;
        assert_eq!(world.event("web", "Killing").await, "Stopping container app");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_ignores_sigterm_is_killed_after_the_grace_period() {
    for sandbox in sandboxes() {
        let world = World::new(sandbox).await;
        world.run("deaf", &["ignore-term"], json!({})).await;
        world.ready("deaf").await;
        world.pods().delete("deaf", &DeleteParams::default().grace_period(1)).await.unwrap();
        world.gone("deaf").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_is_told_and_restarted_with_a_growing_wait() {
    for sandbox in sandboxes() {
        let world = World::new(sandbox).await;
        world.run("crash", &["exit", "3"], json!({})).await;
        let waits = |p: &Value| {
            p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        };
        let pod = world.until("crash", "in back-off", waits).await;
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
            world
                .event("crash", "BackOff")
                .await
                .starts_with("Back-off restarting failed container app in pod crash_default(")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_end_are_succeeded_or_failed() {
    let world = World::new(Sandbox::Plain).await;
    world.run("good", &["print", "done"], json!({ "pod.restartPolicy": "Never" })).await;
    world.run("bad", &["exit", "4"], json!({ "pod.restartPolicy": "Never" })).await;
    world.until("good", "over", |p| p["status"]["phase"] == "Succeeded").await;
    let bad = world.until("bad", "over", |p| p["status"]["phase"] == "Failed").await;
    assert_eq!(bad["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 4);
    assert_eq!(world.log("good", LogOptions::default()).await, "done\n");
    world.pods().delete("good", &DeleteParams::default()).await.unwrap();
    world.gone("good").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn init_containers_come_first() {
    for sandbox in sandboxes() {
        let world = World::new(sandbox).await;
        let init = json!([{ "name": "first", "image": "tool:1.0", "command": ["/tool", "print", "init"] }]);
        world.run("web", &["serve", "8080"], json!({ "pod.initContainers": init })).await;
        let pod = world.ready("web").await;
        assert_eq!(
            pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["reason"],
            "Completed"
        );
        let first = LogOptions { container: Some("first".to_owned()), ..LogOptions::default() };
        assert_eq!(world.log("web", first).await, "init\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn liveness_restarts_and_exec_probes_look_inside() {
    if detect().0 == Sandbox::Plain {
        return;
    }
    let world = World::new(Sandbox::Namespaced).await;
    let probe = json!({ "exec": { "command": ["/tool", "exists", "/tmp-sick"] }, "periodSeconds": 1, "failureThreshold": 1 });
    let sick = json!({ "exec": { "command": ["/tool", "write", "/tmp-sick", ""] } });
    world
        .run(
            "web",
            &["on-term", "bye"],
            json!({ "readinessProbe": probe, "lifecycle": { "postStart": sick } }),
        )
        .await;
    world.ready("web").await;
    // As the first process of its namespace it would not notice a SIGTERM before it handles it.
    let mut probe = probe;
    probe["initialDelaySeconds"] = json!(1);
    world.run("ill", &["on-term", "bye"], json!({ "livenessProbe": probe })).await;
    let pod = world
        .until("ill", "restarted", |p| p["status"]["containerStatuses"][0]["restartCount"] == 1)
        .await;
    assert_eq!(pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 0);
    assert_eq!(
        world.event("ill", "Killing").await,
        "Container app failed liveness probe, will be restarted"
    );
    assert!(world.event("ill", "Unhealthy").await.starts_with("Liveness probe failed:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_image_says_how_to_load_it_and_is_used_once_it_is_there() {
    let world = World::new(Sandbox::Plain).await;
    let images = world.folder.0.join("more");
    fs::create_dir(&images).unwrap();
    world.images.add_folder(&images).unwrap();
    world.run("late", &["serve", "8080"], json!({ "image": "other:2.0" })).await;
    let reason = |p: &Value| {
        p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"]
            .as_str()
            .map(str::to_owned)
    };
    let pod = world
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
    world.until("late", "backing off", |p| reason(p).as_deref() == Some("ImagePullBackOff")).await;
    let part = world.folder.0.join("part");
    crate::images::testing::archive(&part, "other:2.0", &[("tool", &fs::read(tool()).unwrap())]);
    fs::rename(part, images.join("other.tar")).unwrap();
    world.ready("late").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_says_why() {
    for sandbox in sandboxes() {
        let world = World::new(sandbox).await;
        world.run("nope", &[], json!({ "command": ["/nope"] })).await;
        let ended = |p: &Value| {
            p["status"]["containerStatuses"][0]["lastState"]["terminated"]["reason"] == "StartError"
        };
        let pod = world.until("nope", "refused", ended).await;
        let message = pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["message"]
            .as_str()
            .unwrap();
        assert!(message.contains("exec: \"/nope\""), "{message}");
        let env = json!([{ "name": "A", "valueFrom": { "configMapKeyRef": { "name": "none", "key": "a" } } }]);
        world.run("conf", &["wait"], json!({ "env": env })).await;
        let refused = |p: &Value| {
            p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"]
                == "CreateContainerConfigError"
        };
        let pod = world.until("conf", "refused", refused).await;
        assert_eq!(
            pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"],
            "configmap \"none\" not found"
        );
        world.pods().delete("conf", &DeleteParams::default()).await.unwrap();
        world.gone("conf").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pods_start_at_once_and_a_dropped_kubelet_leaves_none() {
    for sandbox in sandboxes() {
        let world = World::new(sandbox).await;
        let mark = world.folder.0.display().to_string();
        let begin = std::time::Instant::now();
        for n in 0..20 {
            let mut more = web();
            more["env"] = json!([{ "name": "MARK", "value": mark }]);
            world.run(&format!("web-{n}"), &["serve", "8080"], more).await;
        }
        let mut addresses = HashSet::new();
        for n in 0..20 {
            let pod = world.ready(&format!("web-{n}")).await;
            addresses.insert(pod["status"]["podIP"].as_str().unwrap().to_owned());
        }
        println!("{sandbox:?}: 20 pods ready after {:?}", begin.elapsed());
        assert_eq!(addresses.len(), 20);
        assert_eq!(alive(&world.folder.0), 20);
        let World { kubelet, folder, api, .. } = world;
        drop(kubelet);
        drop(api);
        tokio::time::timeout(Duration::from_secs(10), async {
            while alive(&folder.0) > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("pods outlived the kubelet");
    }
}

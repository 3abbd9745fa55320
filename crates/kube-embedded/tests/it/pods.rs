//! Clusters whose nodes run the test tool, and busybox where this machine has a static one.

#[path = "../../../kube-embedded-kubelet/src/image_store/testing.rs"]
#[allow(dead_code, reason = "shared with unit tests, which use more of it")]
mod archives;
#[path = "../../../kube-embedded-kubelet/src/testing.rs"]
#[allow(dead_code, reason = "shared with unit tests, which use more of it")]
pub(crate) mod testing;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, api::PostParams, runtime::wait::await_condition};
use kube_embedded::{Cluster, Config, Sandbox};
use serde_json::{Value, json};
use std::{fs, future::Future, path::PathBuf, time::Duration};

/// Far longer than anything here takes.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Returns the sandboxes that work here; the test covers each.
pub(crate) async fn sandboxes() -> Vec<Sandbox> {
    match kube_embedded_kubelet::detect() {
        (Sandbox::Namespaced, _) => vec![Sandbox::Namespaced, Sandbox::Plain],
        (Sandbox::Plain, why) => {
            test_support::missing("user-namespaces", &why);
            vec![Sandbox::Plain]
        }
    }
}

/// A cluster of one node with the image `tool:1.0`, and `busybox:1.0` where there is a busybox.
pub(crate) async fn cluster(sandbox: Option<Sandbox>) -> Cluster {
    let folder = testing::Folder::new();
    let mut images = vec![tool_archive(&folder)];
    if let Some(busybox) = test_support::busybox() {
        let program = fs::read(busybox).unwrap();
        let archive = folder.0.join("busybox.tar");
        let files = ["bin/sh", "bin/tar", "bin/cat", "bin/sleep"].map(|path| (path, &*program));
        archives::archive(&archive, "busybox:1.0", &files);
        images.push(archive);
    }
    let config = Config { nodes: 1, sandbox, images, ..Config::default() };
    Cluster::start(config).await.unwrap()
}

/// The image `tool:1.0`.
pub(crate) fn tool_archive(folder: &testing::Folder) -> PathBuf {
    let tool = folder.0.join("tool.tar");
    archives::archive(&tool, "tool:1.0", &[("tool", &fs::read(testing::tool()).unwrap())]);
    tool
}

/// Creates a pod and waits until it is ready.
pub(crate) async fn run(cluster: &Cluster, name: &str, spec: Value) -> Pod {
    let pods: Api<Pod> = Api::default_namespaced(cluster.client());
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": name } }, "spec": spec,
    });
    in_time(pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()))
        .await
        .unwrap();
    let ready = await_condition(pods, name, |pod: Option<&Pod>| {
        let conditions = pod.and_then(|p| p.status.as_ref()?.conditions.as_ref());
        conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
    });
    in_time(ready).await.unwrap().unwrap()
}

/// The spec of a pod of one container that runs the tool.
pub(crate) fn tool(args: &[&str]) -> Value {
    json!({
        "terminationGracePeriodSeconds": 1,
        "containers": [{ "name": "app", "image": "tool:1.0", "command": ["/tool"], "args": args }],
    })
}

/// Fails the test when `work` takes too long.
pub(crate) async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(TIMEOUT, work).await.expect("timed out")
}

/// Polls until `is` holds.
pub(crate) async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let begun = tokio::time::Instant::now();
    while !is().await {
        assert!(begun.elapsed() < TIMEOUT, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Returns the internal address of the first node.
pub(crate) async fn node_address(cluster: &Cluster) -> std::net::IpAddr {
    let node = Api::<Node>::all(cluster.client()).get("node-1").await.unwrap();
    let addresses = node.status.unwrap().addresses.unwrap();
    addresses.iter().find(|a| a.type_ == "InternalIP").unwrap().address.parse().unwrap()
}

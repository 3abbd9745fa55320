//! Measures the start of a cluster, its memory, the start of pods, and the latency of a write in the process.
//! See `bench/README.md`.
//!
//! ```text
//! cargo run --release -p bench --bin bench-cluster [DIRECTORY OF IMAGES [PODS]...]
//! ```

use bench::Result;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Node, Pod, ServiceAccount},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::wait::{await_condition, conditions},
};
use kube_embedded::{Cluster, Config};
use serde_json::json;
use std::{
    env, fs,
    path::PathBuf,
    time::{Duration, Instant},
};

const ROUNDS: usize = 5;
const WRITES: u32 = 5000;
const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = env::args().skip(1);
    let images = args.next().map_or_else(|| PathBuf::from("target/images"), PathBuf::from);
    let mut deployments =
        args.map(|pods| pods.parse()).collect::<std::result::Result<Vec<_>, _>>()?;
    if deployments.is_empty() {
        deployments = vec![4, 20];
    }
    if !images.is_dir() {
        let images = images.display();
        return Err(format!("{images} is not a directory; `cargo xtask images` creates it").into());
    }
    let config = || Config { images: vec![images.clone()], ..Config::default() };
    let (mut responses, mut ready) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let cluster = Cluster::start(config()).await?;
        cluster.client().apiserver_version().await?;
        responses.push(start.elapsed());
        wait_for_defaults(cluster.client()).await?;
        ready.push(start.elapsed());
        cluster.stop().await;
    }
    println!("API responds after        {:>8.1} ms (median of {ROUNDS})", median(&mut responses));
    println!("nodes, account ready after{:>8.1} ms (median of {ROUNDS})", median(&mut ready));

    let cluster = Cluster::start(config()).await?;
    wait_for_defaults(cluster.client()).await?;
    // Not a wait for a condition: the memory of interest is that of an idle cluster.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let idle = memory()?;
    println!("memory at rest            {:>8.1} MiB", mib(idle));
    for pods in deployments {
        let took = create_deployment(cluster.client(), pods).await?;
        let all = memory()?;
        println!("{pods:>3} pods ready after      {took:>8.1} ms");
        println!(
            "memory with {pods:>3} pods      {:>8.1} MiB without the pods' programs",
            mib(all)
        );
        delete_deployment(cluster.client()).await?;
    }
    println!(
        "patch round trip          {:>8.1} µs p50, in process",
        patches(cluster.client()).await?
    );
    cluster.stop().await;
    Ok(())
}

/// Waits for ready nodes and the default service account.
async fn wait_for_defaults(client: Client) -> Result<()> {
    let nodes = Api::<Node>::all(client.clone());
    for name in NODES {
        let ready = |node: Option<&Node>| {
            let conditions = node.and_then(|n| n.status.as_ref()?.conditions.as_ref());
            conditions
                .is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
        };
        await_condition(nodes.clone(), name, ready).await?;
    }
    let accounts = Api::<ServiceAccount>::default_namespaced(client);
    let exists = |account: Option<&ServiceAccount>| account.is_some();
    await_condition(accounts, "default", exists).await?;
    Ok(())
}

/// Creates a deployment, and returns the milliseconds until all its pods are available.
async fn create_deployment(client: Client, replicas: i32) -> Result<f64> {
    let start = Instant::now();
    let labels = json!({ "app": "bench" });
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": { "name": "bench" },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": { "containers": [{
                    "name": "app",
                    "image": "kubeapp:1.0",
                    "readinessProbe": { "httpGet": { "path": "/health", "port": 8080 } },
                }] },
            },
        },
    }))?;
    let api = Api::<Deployment>::default_namespaced(client);
    api.create(&PostParams::default(), &deployment).await?;
    let available = |d: Option<&Deployment>| {
        d.and_then(|d| d.status.as_ref()?.available_replicas) == Some(replicas)
    };
    await_condition(api, "bench", available).await?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// Deletes the deployment and waits until its pods are deleted.
async fn delete_deployment(client: Client) -> Result<()> {
    let pods = Api::<Pod>::default_namespaced(client.clone());
    let all = pods.list(&Default::default()).await?;
    let api = Api::<Deployment>::default_namespaced(client);
    api.delete("bench", &DeleteParams::background()).await?;
    for pod in all {
        let uid = pod.uid().unwrap_or_default();
        await_condition(pods.clone(), &pod.name_any(), conditions::is_deleted(&uid)).await?;
    }
    Ok(())
}

/// Returns the median of sequential patches in microseconds.
async fn patches(client: Client) -> Result<f64> {
    let api = Api::<ConfigMap>::default_namespaced(client);
    let map = json!({ "metadata": { "name": "bench" }, "data": { "value": "x".repeat(1024) } });
    api.create(&PostParams::default(), &serde_json::from_value(map)?).await?;
    let mut took = Vec::new();
    for n in 0..WRITES {
        let patch = Patch::Merge(json!({ "data": { "n": n.to_string() } }));
        let start = Instant::now();
        api.patch("bench", &PatchParams::default(), &patch).await?;
        took.push(start.elapsed());
    }
    Ok(median(&mut took) * 1e3)
}

/// Returns the median in milliseconds.
fn median(all: &mut [Duration]) -> f64 {
    all.sort();
    all.get(all.len() / 2).map_or(0.0, |d| d.as_secs_f64() * 1e3)
}

/// Returns the bytes of this process and of the pause processes that it forked: the cost of a pod without its
/// program. These are proportional shares (`Pss`), because forks share their pages.
fn memory() -> Result<u64> {
    let own = std::process::id();
    let mut total = bench::memory(own)?;
    let executable = fs::read_link("/proc/self/exe")?;
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if pid != own && fs::read_link(entry.path().join("exe")).ok().as_ref() == Some(&executable)
        {
            // The process may have exited meanwhile.
            total += bench::memory(pid).unwrap_or(0);
        }
    }
    Ok(total)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

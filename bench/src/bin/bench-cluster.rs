//! How long a cluster takes to be there, what it costs in memory, and how fast a write is:
//! `cargo run --release -p bench --bin bench-cluster [FOLDER OF IMAGES [PODS]...]`. See
//! `bench/README.md`.

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
    env,
    error::Error,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

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
        return Err(format!("there is no folder {images}; `cargo xtask images` makes one").into());
    }
    let config = || Config { images: vec![images.clone()], ..Config::default() };
    let (mut answers, mut ready) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let cluster = Cluster::start(config()).await?;
        cluster.client().apiserver_version().await?;
        answers.push(began.elapsed());
        furnished(cluster.client()).await?;
        ready.push(began.elapsed());
        cluster.stop().await;
    }
    println!("API answers after         {:>8.1} ms (median of {ROUNDS})", median(&mut answers));
    println!("nodes, account there after{:>8.1} ms (median of {ROUNDS})", median(&mut ready));

    let cluster = Cluster::start(config()).await?;
    furnished(cluster.client()).await?;
    tokio::time::sleep(Duration::from_secs(1)).await; // a pace: memory is that of a cluster at rest
    let idle = memory()?;
    println!("memory at rest            {:>8.1} MiB", mib(idle));
    for pods in deployments {
        let took = deployment(cluster.client(), pods).await?;
        let all = memory()?;
        println!("{pods:>3} pods ready after      {took:>8.1} ms");
        println!("memory with {pods:>3} pods      {:>8.1} MiB, pods apart", mib(all));
        gone(cluster.client()).await?;
    }
    println!(
        "patch round trip          {:>8.1} µs p50, in process",
        patches(cluster.client()).await?
    );
    cluster.stop().await;
    Ok(())
}

async fn furnished(client: Client) -> Result<()> {
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
    let there = |account: Option<&ServiceAccount>| account.is_some();
    await_condition(accounts, "default", there).await?;
    Ok(())
}

/// Milliseconds until all its pods are available.
async fn deployment(client: Client, replicas: i32) -> Result<f64> {
    let began = Instant::now();
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
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

async fn gone(client: Client) -> Result<()> {
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

async fn patches(client: Client) -> Result<f64> {
    let api = Api::<ConfigMap>::default_namespaced(client);
    let map = json!({ "metadata": { "name": "bench" }, "data": { "value": "x".repeat(1024) } });
    api.create(&PostParams::default(), &serde_json::from_value(map)?).await?;
    let mut took = Vec::new();
    for n in 0..WRITES {
        let patch = Patch::Merge(json!({ "data": { "n": n.to_string() } }));
        let began = Instant::now();
        api.patch("bench", &PatchParams::default(), &patch).await?;
        took.push(began.elapsed());
    }
    Ok(median(&mut took) * 1e3)
}

/// Milliseconds.
fn median(all: &mut [Duration]) -> f64 {
    all.sort();
    all.get(all.len() / 2).map_or(0.0, |d| d.as_secs_f64() * 1e3)
}

/// Bytes of this process and of the pause processes it forked, which are what a pod costs beside its
/// program. Proportional shares (`Pss`), as forks share their pages.
fn memory() -> Result<u64> {
    let own = std::process::id();
    let mut total = pss(own)?;
    let executable = fs::read_link("/proc/self/exe")?;
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if pid != own && fs::read_link(entry.path().join("exe")).ok().as_ref() == Some(&executable)
        {
            // It may have ended meanwhile.
            total += pss(pid).unwrap_or(0);
        }
    }
    Ok(total)
}

fn pss(pid: u32) -> Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib: u64 = line.and_then(|l| l.trim().split(' ').next()?.parse().ok()).ok_or("no Pss")?;
    Ok(kib * 1024)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

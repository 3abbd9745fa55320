//! Measures the latency, throughput and memory of the API server with real clients: a server process
//! (`kube-embedded serve` of the same build) and this client process, over TLS. See `bench/README.md`.
//!
//! ```text
//! cargo build --release -p kube-embedded -p bench --bins
//! target/release/bench-api [DIRECTORY OF IMAGES]
//! ```

use bench::{Result, Server};
use futures::{StreamExt, TryStreamExt, future::try_join_all, pin_mut};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    runtime::{WatchStreamExt, wait::await_condition, watcher},
};
use serde_json::{Value, json};
use std::{
    env,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

const WRITES: usize = 3000;
const ROUND_TRIPS: usize = 1000;
const OBJECTS: usize = 10_000;
const PAGE: u32 = 500;
const WATCHERS: usize = 1000;
const EVENTS: usize = 500;
const MANY_PODS: i32 = 200;

#[tokio::main]
async fn main() -> Result<()> {
    let images = env::args().nth(1).map_or_else(|| PathBuf::from("target/images"), PathBuf::from);
    let server = Server::start(&images, &[])?;
    let client = server.client().await?;
    let at_rest = server.memory()?;
    println!("at rest                     {:>9.1} MiB", mib(at_rest));
    pods(&server, &client).await?;
    sequential_writes(&client).await?;
    get_requests(&server)?;
    reconcile(&server, &client).await?;
    let before = server.memory()?;
    many_objects(&client).await?;
    let each = (server.memory()? - before) as f64 / OBJECTS as f64;
    println!("1,000 config maps of 1 KiB  {:>9.1} MiB", each * 1000.0 / 1_048_576.0);
    watchers(&server, &client).await?;
    Ok(())
}

fn config_map(name: &str) -> Result<ConfigMap> {
    let data = json!({ "value": "x".repeat(1024) });
    Ok(serde_json::from_value(json!({ "metadata": { "name": name }, "data": data }))?)
}

/// Measures sequential writes, which share one connection.
async fn sequential_writes(client: &Client) -> Result<()> {
    let api = Api::<ConfigMap>::default_namespaced(client.clone());
    let (mut creates, mut patches) = (Vec::new(), Vec::new());
    for n in 0..WRITES {
        let map = config_map(&format!("write-{n}"))?;
        let start = Instant::now();
        api.create(&PostParams::default(), &map).await?;
        creates.push(start.elapsed());
    }
    for n in 0..WRITES {
        let patch = Patch::Merge(json!({ "data": { "n": n.to_string() } }));
        let start = Instant::now();
        api.patch("write-0", &PatchParams::default(), &patch).await?;
        patches.push(start.elapsed());
    }
    println!("create, one connection      {:>9.3} ms p50", median(&mut creates));
    println!("merge patch, one connection {:>9.3} ms p50", median(&mut patches));
    Ok(())
}

/// Measures GET requests, sent by wrk with the token of the kubeconfig.
fn get_requests(server: &Server) -> Result<()> {
    let text = |pointer| server.kubeconfig.pointer(pointer).and_then(Value::as_str);
    let url = text("/clusters/0/cluster/server").ok_or("no server")?;
    let url = format!("{url}/api/v1/namespaces/default/configmaps/write-1");
    let token = text("/users/1/user/token").ok_or("no token")?;
    let header = format!("Authorization: Bearer {token}");
    let output = Command::new("wrk")
        .args(["-t1", "-c16", "-d5s", "-H", &header, &url])
        .stderr(Stdio::null())
        .output();
    let Ok(output) = output else {
        println!("GET over TLS                not measured: wrk is not installed");
        return Ok(());
    };
    let output = String::from_utf8_lossy(&output.stdout);
    let line = |text: &str| output.lines().find(|line| line.contains(text)).map(str::trim);
    let rate = line("Requests/sec").ok_or("unexpected output of wrk")?;
    let errors = line("Non-2xx").unwrap_or("no errors");
    println!("GET over TLS, 16 in flight  {rate} ({errors})");
    Ok(())
}

/// Measures a write, the controller's watch event, its write in response, and our watch event of that.
async fn reconcile(server: &Server, client: &Client) -> Result<()> {
    let desired = Api::<ConfigMap>::default_namespaced(client.clone());
    desired.create(&PostParams::default(), &config_map("desired")?).await?;
    desired.create(&PostParams::default(), &config_map("actual")?).await?;
    let config_maps = Api::<ConfigMap>::default_namespaced(server.client().await?);
    let controller = tokio::spawn(async move {
        let only = watcher::Config::default().fields("metadata.name=desired");
        let changes = watcher(config_maps.clone(), only).applied_objects();
        pin_mut!(changes);
        while let Some(Ok(desired)) = changes.next().await {
            let n = desired.data.unwrap_or_default().get("n").cloned().unwrap_or_default();
            let actual = Patch::Merge(json!({ "data": { "n": n } }));
            if config_maps.patch("actual", &PatchParams::default(), &actual).await.is_err() {
                return;
            }
        }
    });
    let only = watcher::Config::default().fields("metadata.name=actual");
    let actual = watcher(Api::<ConfigMap>::default_namespaced(client.clone()), only);
    let actual = actual.applied_objects();
    pin_mut!(actual);
    let mut took = Vec::new();
    for n in 0..ROUND_TRIPS {
        let n = n.to_string();
        let start = Instant::now();
        let patch = Patch::Merge(json!({ "data": { "n": n } }));
        desired.patch("desired", &PatchParams::default(), &patch).await?;
        while let Some(seen) = actual.try_next().await? {
            if seen.data.is_some_and(|data| data.get("n") == Some(&n)) {
                break;
            }
        }
        took.push(start.elapsed());
    }
    controller.abort();
    println!("write, reconcile, write     {:>9.3} ms p50", median(&mut took));
    Ok(())
}

/// Measures concurrent creates, and a list in pages.
async fn many_objects(client: &Client) -> Result<()> {
    let api = Api::<ConfigMap>::default_namespaced(client.clone());
    let start = Instant::now();
    let mut all = futures::stream::iter(0..OBJECTS)
        .map(|n| {
            let api = api.clone();
            async move {
                let map = config_map(&format!("many-{n}"))?;
                Result::Ok(api.create(&PostParams::default(), &map).await?)
            }
        })
        .buffer_unordered(16);
    while all.try_next().await?.is_some() {}
    println!("create {OBJECTS}, 16 at a time  {:>9.2} s", start.elapsed().as_secs_f64());
    let start = Instant::now();
    let mut listed = 0;
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = api.list(&params).await?;
        listed += page.items.len();
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    println!("list {listed} in pages of {PAGE} {:>9.2} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Measures many watches of one object; each has its own connection and receives every event.
async fn watchers(server: &Server, client: &Client) -> Result<()> {
    let api = Api::<ConfigMap>::default_namespaced(client.clone());
    let now = api.list(&ListParams::default().limit(1)).await?;
    let since = now.metadata.resource_version.unwrap_or_default();
    let before = server.memory()?;
    let open = Arc::new(AtomicUsize::new(0));
    let mut running = Vec::new();
    for _ in 0..WATCHERS {
        let (api, since, open) = (api.clone(), since.clone(), open.clone());
        running.push(tokio::spawn(async move {
            let params = WatchParams::default().fields("metadata.name=actual").timeout(290);
            let stream = api.watch(&params, &since).await?;
            open.fetch_add(1, Ordering::Relaxed);
            pin_mut!(stream);
            let last = (EVENTS - 1).to_string();
            let mut seen = 0;
            while let Some(event) = stream.try_next().await? {
                match event {
                    WatchEvent::Modified(map) => {
                        seen += 1;
                        if map.data.is_some_and(|data| data.get("w") == Some(&last)) {
                            return Result::Ok(seen);
                        }
                    }
                    WatchEvent::Error(error) => return Err(error.message.into()),
                    _ => {}
                }
            }
            Err("a watch ended early".into())
        }));
    }
    eventually("all watches open", async || Ok(open.load(Ordering::Relaxed) == WATCHERS)).await?;
    let with_watches = server.memory()?;
    let start = Instant::now();
    for n in 0..EVENTS {
        let patch = Patch::Merge(json!({ "data": { "w": n.to_string() } }));
        api.patch("actual", &PatchParams::default(), &patch).await?;
    }
    let written = start.elapsed().as_secs_f64();
    let seen: Vec<usize> =
        try_join_all(running).await?.into_iter().collect::<Result<Vec<usize>>>()?;
    let received = start.elapsed().as_secs_f64();
    let total: usize = seen.iter().sum();
    println!(
        "{WATCHERS} watchers open         {:>9.1} MiB more",
        mib(with_watches.saturating_sub(before))
    );
    println!(
        "{EVENTS} writes to that object   {written:>9.2} s; all events after {received:.2} s, {:.0}/s",
        total as f64 / received
    );
    println!(
        "memory after the events     {:>9.1} MiB more",
        mib(server.memory()?.saturating_sub(before))
    );
    Ok(())
}

/// Measures the start of pods and their memory in the server.
async fn pods(server: &Server, client: &Client) -> Result<()> {
    let api = Api::<Deployment>::default_namespaced(client.clone());
    for replicas in [3, 20, MANY_PODS] {
        let before = server.memory()?;
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
        let start = Instant::now();
        api.create(&PostParams::default(), &deployment).await?;
        let available = |d: Option<&Deployment>| {
            d.and_then(|d| d.status.as_ref()?.available_replicas) == Some(replicas)
        };
        await_condition(api.clone(), "bench", available).await?;
        let took = start.elapsed().as_secs_f64() * 1e3;
        let each = server.memory()?.saturating_sub(before) as f64 / f64::from(replicas);
        println!(
            "{replicas:>3} pods available          {took:>9.0} ms, {:.0} KiB each in the server",
            each / 1024.0
        );
        let pods = Api::<k8s_openapi::api::core::v1::Pod>::default_namespaced(client.clone());
        api.delete("bench", &DeleteParams::background()).await?;
        eventually("all pods deleted", async || {
            Ok(pods.list(&ListParams::default()).await?.items.is_empty())
        })
        .await?;
    }
    Ok(())
}

/// Polls until the predicate holds, with a deadline.
async fn eventually(what: &str, mut predicate: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !predicate().await? {
        if Instant::now() > deadline {
            return Err(format!("not within a minute: {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Returns the median in milliseconds.
fn median(all: &mut [Duration]) -> f64 {
    all.sort();
    all.get(all.len() / 2).map_or(0.0, |d| d.as_secs_f64() * 1e3)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

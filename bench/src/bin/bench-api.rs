//! How fast and how large the API is with real clients: one server process (`kube-embedded serve`
//! of the same build) and this one beside it, over TLS. `cargo build --release -p kube-embedded
//! --bins --examples`, then `target/release/examples/bench-api [FOLDER OF IMAGES]`. See
//! `bench/README.md`.

use futures::{StreamExt, TryStreamExt, future::try_join_all, pin_mut};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::{WatchStreamExt, wait::await_condition, watcher},
};
use serde_json::{Value, json};
use std::{
    env,
    error::Error,
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

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
    if !images.is_dir() {
        let images = images.display();
        return Err(format!("there is no folder {images}; `cargo xtask images` makes one").into());
    }
    let server = Server::start(&images)?;
    let client = server.client().await?;
    let at_rest = server.memory()?;
    println!("at rest                     {:>9.1} MiB", mib(at_rest));
    pods(&server, &client).await?;
    one_connection(&client).await?;
    gets(&server)?;
    reconcile(&server, &client).await?;
    let before = server.memory()?;
    ten_thousand(&client).await?;
    let each = (server.memory()? - before) as f64 / OBJECTS as f64;
    println!("1,000 config maps of 1 KiB  {:>9.1} MiB", each * 1000.0 / 1_048_576.0);
    watchers(&server, &client).await?;
    Ok(())
}

/// A server of its own, gone when this is.
struct Server {
    child: Child,
    yaml: Value,
}

impl Server {
    fn start(images: &PathBuf) -> Result<Self> {
        let here = env::current_exe()?;
        let built = here.parent().and_then(|examples| examples.parent()).ok_or("no folder")?;
        let mut child = Command::new(built.join("kube-embedded"))
            .args(["serve", "--exit-with-stdin", "--images"])
            .arg(images)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let ready: Value = serde_json::from_str(&line)?;
        let path = ready["kubeconfig"].as_str().ok_or("no kubeconfig")?;
        let yaml = serde_saphyr::from_str(&fs::read_to_string(path)?)?;
        Ok(Self { child, yaml })
    }

    /// A client with connections of its own.
    async fn client(&self) -> Result<Client> {
        let kubeconfig: Kubeconfig = serde_json::from_value(self.yaml.clone())?;
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
        Ok(Client::try_from(config)?)
    }

    /// Bytes, as its proportional share.
    fn memory(&self) -> Result<u64> {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
        let kib: u64 =
            line.and_then(|l| l.trim().split(' ').next()?.parse().ok()).ok_or("no Pss")?;
        Ok(kib * 1024)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn config_map(name: &str) -> Result<ConfigMap> {
    let data = json!({ "value": "x".repeat(1024) });
    Ok(serde_json::from_value(json!({ "metadata": { "name": name }, "data": data }))?)
}

/// Writes one after the other, so that one connection carries them all.
async fn one_connection(client: &Client) -> Result<()> {
    let api = Api::<ConfigMap>::default_namespaced(client.clone());
    let (mut creates, mut patches) = (Vec::new(), Vec::new());
    for n in 0..WRITES {
        let map = config_map(&format!("write-{n}"))?;
        let began = Instant::now();
        api.create(&PostParams::default(), &map).await?;
        creates.push(began.elapsed());
    }
    for n in 0..WRITES {
        let patch = Patch::Merge(json!({ "data": { "n": n.to_string() } }));
        let began = Instant::now();
        api.patch("write-0", &PatchParams::default(), &patch).await?;
        patches.push(began.elapsed());
    }
    println!("create, one connection      {:>9.3} ms p50", median(&mut creates));
    println!("merge patch, one connection {:>9.3} ms p50", median(&mut patches));
    Ok(())
}

/// wrk asks, with the token of the kubeconfig.
fn gets(server: &Server) -> Result<()> {
    let text = |pointer| server.yaml.pointer(pointer).and_then(Value::as_str);
    let url = text("/clusters/0/cluster/server").ok_or("no server")?;
    let url = format!("{url}/api/v1/namespaces/default/configmaps/write-1");
    let token = text("/users/1/user/token").ok_or("no token")?;
    let header = format!("Authorization: Bearer {token}");
    let asked = Command::new("wrk")
        .args(["-t1", "-c16", "-d5s", "-H", &header, &url])
        .stderr(Stdio::null())
        .output();
    let Ok(asked) = asked else {
        println!("GET over TLS                not measured: wrk is not installed");
        return Ok(());
    };
    let told = String::from_utf8_lossy(&asked.stdout);
    let line = |what: &str| told.lines().find(|line| line.contains(what)).map(str::trim);
    let rate = line("Requests/sec").ok_or("wrk said nothing")?;
    let wrong = line("Non-2xx").unwrap_or("no refusals");
    println!("GET over TLS, 16 in flight  {rate} ({wrong})");
    Ok(())
}

/// A write, a controller's watch that tells of it, its write, and our watch that tells of that.
async fn reconcile(server: &Server, client: &Client) -> Result<()> {
    let wanted = Api::<ConfigMap>::default_namespaced(client.clone());
    wanted.create(&PostParams::default(), &config_map("wanted")?).await?;
    wanted.create(&PostParams::default(), &config_map("made")?).await?;
    let theirs = Api::<ConfigMap>::default_namespaced(server.client().await?);
    let controller = tokio::spawn(async move {
        let only = watcher::Config::default().fields("metadata.name=wanted");
        let changes = watcher(theirs.clone(), only).applied_objects();
        pin_mut!(changes);
        while let Some(Ok(wanted)) = changes.next().await {
            let n = wanted.data.unwrap_or_default().get("n").cloned().unwrap_or_default();
            let made = Patch::Merge(json!({ "data": { "n": n } }));
            if theirs.patch("made", &PatchParams::default(), &made).await.is_err() {
                return;
            }
        }
    });
    let only = watcher::Config::default().fields("metadata.name=made");
    let made = watcher(Api::<ConfigMap>::default_namespaced(client.clone()), only);
    let made = made.applied_objects();
    pin_mut!(made);
    let mut took = Vec::new();
    for n in 0..ROUND_TRIPS {
        let n = n.to_string();
        let began = Instant::now();
        let patch = Patch::Merge(json!({ "data": { "n": n } }));
        wanted.patch("wanted", &PatchParams::default(), &patch).await?;
        while let Some(seen) = made.try_next().await? {
            if seen.data.is_some_and(|data| data.get("n") == Some(&n)) {
                break;
            }
        }
        took.push(began.elapsed());
    }
    controller.abort();
    println!("write, reconcile, write     {:>9.3} ms p50", median(&mut took));
    Ok(())
}

async fn ten_thousand(client: &Client) -> Result<()> {
    let api = Api::<ConfigMap>::default_namespaced(client.clone());
    let began = Instant::now();
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
    println!("create {OBJECTS}, 16 at a time  {:>9.2} s", began.elapsed().as_secs_f64());
    let began = Instant::now();
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
    println!("list {listed} in pages of {PAGE} {:>9.2} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// Each watcher has a connection of its own; all see every event of one object.
async fn watchers(server: &Server, client: &Client) -> Result<()> {
    let api = Api::<ConfigMap>::default_namespaced(client.clone());
    let now = api.list(&ListParams::default().limit(1)).await?;
    let start = now.metadata.resource_version.unwrap_or_default();
    let before = server.memory()?;
    let there = Arc::new(AtomicUsize::new(0));
    let mut running = Vec::new();
    for _ in 0..WATCHERS {
        let (api, start, there) = (api.clone(), start.clone(), there.clone());
        running.push(tokio::spawn(async move {
            let params = WatchParams::default().fields("metadata.name=made").timeout(290);
            let stream = api.watch(&params, &start).await?;
            there.fetch_add(1, Ordering::Relaxed);
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
    let deadline = Instant::now() + Duration::from_secs(60);
    while there.load(Ordering::Relaxed) < WATCHERS && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let open = server.memory()?;
    let began = Instant::now();
    for n in 0..EVENTS {
        let patch = Patch::Merge(json!({ "data": { "w": n.to_string() } }));
        api.patch("made", &PatchParams::default(), &patch).await?;
    }
    let written = began.elapsed().as_secs_f64();
    let seen: Vec<usize> =
        try_join_all(running).await?.into_iter().collect::<Result<Vec<usize>>>()?;
    let told = began.elapsed().as_secs_f64();
    let total: usize = seen.iter().sum();
    println!("{WATCHERS} watchers open         {:>9.1} MiB more", mib(open.saturating_sub(before)));
    println!(
        "{EVENTS} writes beside them      {written:>9.2} s; all told after {told:.2} s, {:.0} events/s",
        total as f64 / told
    );
    println!(
        "memory then                 {:>9.1} MiB more",
        mib(server.memory()?.saturating_sub(before))
    );
    Ok(())
}

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
        let began = Instant::now();
        api.create(&PostParams::default(), &deployment).await?;
        let available = |d: Option<&Deployment>| {
            d.and_then(|d| d.status.as_ref()?.available_replicas) == Some(replicas)
        };
        await_condition(api.clone(), "bench", available).await?;
        let took = began.elapsed().as_secs_f64() * 1e3;
        let each = server.memory()?.saturating_sub(before) as f64 / f64::from(replicas);
        println!(
            "{replicas:>3} pods available          {took:>9.0} ms, {:.0} KiB each in the server",
            each / 1024.0
        );
        let pods = Api::<k8s_openapi::api::core::v1::Pod>::default_namespaced(client.clone());
        api.delete("bench", &DeleteParams::background()).await?;
        let deadline = Instant::now() + Duration::from_secs(60);
        while !pods.list(&ListParams::default()).await?.items.is_empty()
            && Instant::now() < deadline
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

/// Milliseconds.
fn median(all: &mut [Duration]) -> f64 {
    all.sort();
    all.get(all.len() / 2).map_or(0.0, |d| d.as_secs_f64() * 1e3)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

//! Counts what becomes of a million requests through a Gateway while it changes, and measures what a thousand routes
//! cost. See `bench/README.md`.
//!
//! ```text
//! cargo build --release -p kube-embedded -p bench --bins
//! target/release/bench-routes [share | changes | routes]... [--requests N] [--images DIRECTORY]
//! ```

mod load;

use bench::{Result, Server};
use hyper::Request;
use kube::Client;
use load::{CONNECTIONS, Connection, PROTOCOLS, Protocol, load};
use serde_json::{Value, json};
use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

const REPLACEMENTS: usize = 50;
const ROUTES: usize = 1000;
const LIVE_CHANGES: usize = 400;
const ROUNDS: usize = 11;
const PORT: u16 = 8080;
const GATEWAY_API: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/default";
const APPS: &str = "/apis/apps/v1/namespaces/default/deployments";
const CORE: &str = "/api/v1/namespaces/default";

#[tokio::main]
async fn main() -> Result<()> {
    let mut images = "target/images".to_owned();
    let (mut requests, mut parts) = (1_000_000, Vec::new());
    let mut args = env::args().skip(1);
    while let Some(argument) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{argument} needs a value"));
        match &*argument {
            "--images" => images = value()?,
            "--requests" => requests = value()?.parse()?,
            "share" | "changes" | "routes" => parts.push(argument),
            _ => return Err(format!("unknown argument {argument}").into()),
        }
    }
    let runs = |part: &str| parts.is_empty() || parts.iter().any(|chosen| chosen == part);
    let cluster = Cluster::start(&images).await?;
    cluster.deploy().await?;
    if runs("share") {
        cluster.share(requests).await?;
    }
    if runs("changes") {
        cluster.changes().await?;
    }
    if runs("routes") {
        cluster.routes().await?;
    }
    Ok(())
}

/// A cluster in a process of its own.
struct Cluster {
    server: Server,
    client: Client,
}

impl Cluster {
    async fn start(images: &str) -> Result<Self> {
        let server = Server::start(Path::new(images), &["--gateway-api"])?;
        let client = server.client().await?;
        Ok(Self { server, client })
    }

    async fn call(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let content =
            if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
        let request = Request::builder().method(method).uri(path).header("content-type", content);
        let called = self.client.request(request.body(body)?).await;
        called.map_err(|error| format!("{method} {path}: {error}").into())
    }

    /// Reads an object until the predicate finds something in it, with a deadline.
    async fn wait<T>(&self, path: &str, found: impl Fn(&Value) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(found) = found(&self.call("GET", path, &Value::Null).await?) {
                return Ok(found);
            }
            if Instant::now() > deadline {
                return Err(format!("not as expected within a minute: {path}").into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Creates the versions `one` and `two` of the app with a Service each.
    async fn deploy(&self) -> Result<()> {
        for (name, image) in [("one", "kubeapp:1.0"), ("two", "kubeapp:2.0")] {
            let labels = json!({ "app": name });
            let container = json!({
                "name": "app", "image": image,
                "readinessProbe": { "httpGet": { "path": "/health", "port": 8080 }, "periodSeconds": 1 },
            });
            let deployment = json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
                "spec": {
                    "replicas": 1, "selector": { "matchLabels": labels },
                    "strategy": { "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
                    "template": { "metadata": { "labels": labels }, "spec": { "containers": [container] } },
                },
            });
            self.call("POST", APPS, &deployment).await?;
            let service = json!({
                "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
                "spec": { "selector": labels, "ports": [{ "port": 80, "targetPort": 8080 }] },
            });
            self.call("POST", &format!("{CORE}/services"), &service).await?;
        }
        for name in ["one", "two"] {
            self.rolled_out(name).await?;
        }
        Ok(())
    }

    async fn rolled_out(&self, name: &str) -> Result<()> {
        let done = |deployment: &Value| {
            let status = &deployment["status"];
            let is_one = |field: &str| status[field] == 1;
            let observed = status["observedGeneration"] == deployment["metadata"]["generation"];
            let all = ["replicas", "updatedReplicas", "availableReplicas"].into_iter().all(is_one);
            (observed && all).then_some(())
        };
        self.wait(&format!("{APPS}/{name}"), done).await
    }

    /// Creates a Gateway, and returns its address once it is programmed.
    async fn gateway(&self, name: &str) -> Result<String> {
        let gateway = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": { "name": name },
            "spec": { "gatewayClassName": "kube-embedded", "listeners": [http_listener(PORT)] },
        });
        self.call("POST", &format!("{GATEWAY_API}/gateways"), &gateway).await?;
        let address = |gateway: &Value| {
            gateway.pointer("/status/addresses/0/value")?.as_str().map(str::to_owned)
        };
        let address = self.wait(&format!("{GATEWAY_API}/gateways/{name}"), address).await?;
        Ok(format!("{address}:{PORT}"))
    }

    async fn route(&self, gateway: &str, name: &str, prefix: &str, rule: &Value) -> Result<()> {
        let mut rule = rule.clone();
        rule["matches"] = json!([{ "path": { "type": "PathPrefix", "value": prefix } }]);
        let route = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": { "name": name },
            "spec": { "parentRefs": [{ "name": gateway }], "rules": [rule] },
        });
        self.call("POST", &format!("{GATEWAY_API}/httproutes"), &route).await?;
        Ok(())
    }

    /// Replaces the rule of the route `weighted`, and returns when it is live.
    async fn weigh(&self, at: &str, canary: u32) -> Result<()> {
        let patch = json!({ "spec": { "rules": [weighted(canary)] } });
        self.call("PATCH", &format!("{GATEWAY_API}/httproutes/weighted"), &patch).await?;
        let marker = format!("x-route: {canary}\r\n");
        Connection::new(at, "/").await?.until(&marker).await.map(drop)
    }

    fn cpu_and_memory(&self) -> Result<(f64, f64)> {
        let id = self.server.id();
        let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
        let fields: Vec<&str> =
            stat.rsplit_once(')').ok_or("no stat")?.1.split_whitespace().collect();
        let ticks =
            |n: usize| fields.get(n).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        let memory = self.server.memory()? as f64 / (1024.0 * 1024.0);
        Ok(((ticks(11) + ticks(12)) / 100.0, memory))
    }
}

fn http_listener(port: u16) -> Value {
    json!({ "name": format!("http-{port}"), "protocol": "HTTP", "port": port })
}

/// Returns a rule whose responses name the canary's weight.
fn weighted(canary: u32) -> Value {
    json!({
        "backendRefs": [
            { "name": "one", "port": 80, "weight": 100 - canary },
            { "name": "two", "port": 80, "weight": canary },
        ],
        "filters": [marker(&canary.to_string())],
    })
}

fn marker(value: &str) -> Value {
    let set = json!([{ "name": "x-route", "value": value }]);
    json!({ "type": "ResponseHeaderModifier", "responseHeaderModifier": { "set": set } })
}

/// The app responds 404 to paths that it does not know, which would count as failures.
fn to_known_page() -> Value {
    let path = json!({ "type": "ReplaceFullPath", "replaceFullPath": "/version" });
    json!({ "type": "URLRewrite", "urlRewrite": { "path": path } })
}

impl Cluster {
    /// Counts the share of a canary.
    async fn share(&self, requests: i64) -> Result<()> {
        let at = self.weighted_gateway("share").await?;
        for (name, protocol) in PROTOCOLS {
            for canary in [1, 10, 50] {
                self.weigh(&at, canary).await?;
                let tally = load(protocol, &at, Arc::new(requests.into())).await?;
                tally.print(&format!("{canary}% over {name}"), Some(f64::from(canary) / 100.0));
            }
        }
        self.weigh(&at, 10).await?;
        let budget = Arc::new(AtomicI64::new(requests));
        let running = tokio::spawn({
            let (at, budget) = (at.clone(), budget.clone());
            async move { load(Protocol::KeepAlive, &at, budget).await }
        });
        let mut replaced = 0;
        while budget.load(Ordering::Relaxed) > 0 {
            self.replace(["one", "two"][replaced % 2], replaced).await?;
            replaced += 1;
        }
        let what = format!("10%, {replaced} pods replaced");
        running.await??.print(&what, Some(0.1));
        self.remove_gateway("share").await
    }

    async fn weighted_gateway(&self, name: &str) -> Result<String> {
        let at = self.gateway(name).await?;
        self.route(name, "weighted", "/", &weighted(50)).await?;
        Connection::new(&at, "/").await?.until("x-route: 50\r\n").await?;
        Ok(at)
    }

    async fn remove_gateway(&self, name: &str) -> Result<()> {
        self.call("DELETE", &format!("{GATEWAY_API}/httproutes/weighted"), &Value::Null).await?;
        self.call("DELETE", &format!("{GATEWAY_API}/gateways/{name}"), &Value::Null).await?;
        Ok(())
    }

    /// Replaces the pod of a version, as `kubectl rollout restart` does.
    async fn replace(&self, name: &str, round: usize) -> Result<()> {
        let annotations = json!({ "round": round.to_string() });
        let patch =
            json!({ "spec": { "template": { "metadata": { "annotations": annotations } } } });
        self.call("PATCH", &format!("{APPS}/{name}"), &patch).await?;
        self.rolled_out(name).await
    }

    /// Counts requests that fail while something changes.
    async fn changes(&self) -> Result<()> {
        let at = self.weighted_gateway("changes").await?;
        for (name, protocol) in PROTOCOLS {
            self.while_changing(name, protocol, &at, "weights 100 times a second", async |n| {
                let canary = (n % 101) as u32;
                let patch = json!({ "spec": { "rules": [weighted(canary)] } });
                self.call("PATCH", &format!("{GATEWAY_API}/httproutes/weighted"), &patch).await?;
                tokio::time::sleep(Duration::from_millis(10)).await;
                Ok(n < 1000)
            })
            .await?;
            self.while_changing(name, protocol, &at, "pods replaced", async |n| {
                self.replace(["one", "two"][n % 2], 1000 + n).await?;
                Ok(n + 1 < REPLACEMENTS)
            })
            .await?;
            self.while_changing(
                name,
                protocol,
                &at,
                "a listener more, a listener less",
                async |n| {
                    let mut listeners = vec![http_listener(PORT)];
                    listeners.extend((n % 2 == 0).then(|| http_listener(PORT + 1)));
                    let patch = json!({ "spec": { "listeners": listeners } });
                    self.call("PATCH", &format!("{GATEWAY_API}/gateways/changes"), &patch).await?;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Ok(n < 200)
                },
            )
            .await?;
        }
        self.certificates().await?;
        self.remove_gateway("changes").await
    }

    async fn while_changing(
        &self,
        name: &str,
        protocol: Protocol,
        at: &str,
        what: &str,
        mut change: impl AsyncFnMut(usize) -> Result<bool>,
    ) -> Result<()> {
        let budget = Arc::new(AtomicI64::new(i64::MAX));
        let running = tokio::spawn({
            let (at, budget) = (at.to_owned(), budget.clone());
            async move { load(protocol, &at, budget).await }
        });
        let (mut changes, mut more) = (0, Ok(true));
        while let Ok(true) = more {
            more = change(changes).await;
            changes += 1;
        }
        budget.store(0, Ordering::Relaxed);
        let tally = running.await??;
        more?;
        tally.print(&format!("{name}, {changes} x {what}"), None);
        Ok(())
    }

    /// Counts handshakes that fail while the certificate is rotated.
    async fn certificates(&self) -> Result<()> {
        let secrets = [tls_secret()?, tls_secret()?];
        self.call("POST", &format!("{CORE}/secrets"), &secrets[0]).await?;
        let https = json!({
            "name": "https", "protocol": "HTTPS", "port": 8443,
            "tls": { "certificateRefs": [{ "name": "rotated" }] },
        });
        let patch = json!({ "spec": { "listeners": [http_listener(PORT), https] } });
        let gateway = format!("{GATEWAY_API}/gateways/changes");
        self.call("PATCH", &gateway, &patch).await?;
        let address = |gateway: &Value| {
            let programmed = gateway.pointer("/status/listeners/1/attachedRoutes")? == 1;
            let address = gateway.pointer("/status/addresses/0/value")?.as_str()?;
            programmed.then(|| format!("https://{address}:8443/"))
        };
        let url = self.wait(&gateway, address).await?;
        let wrk = ["-t1", "-c8", "-d10s", "-H", "Connection: close", &url];
        let running = Command::new("wrk").args(wrk).stdout(Stdio::piped()).spawn()?;
        let start = Instant::now();
        let mut rotated = 0;
        while start.elapsed() < Duration::from_secs(9) {
            rotated += 1;
            let secret = &secrets[rotated % 2];
            self.call("PUT", &format!("{CORE}/secrets/rotated"), secret).await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let output = running.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let line = |what: &str| text.lines().find(|l| l.contains(what)).unwrap_or("none").trim();
        println!(
            "{rotated} x certificate rotated: {}; socket errors: {}; responses that are no success: {}",
            line("requests in"),
            line("Socket errors"),
            line("Non-2xx")
        );
        Ok(())
    }
}

/// Returns a Secret with a new certificate.
fn tls_secret() -> Result<Value> {
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
        ])
        .args([
            "-keyout",
            "-",
            "-subj",
            "/CN=app",
            "-addext",
            "subjectAltName=DNS:app",
            "-days",
            "2",
        ])
        .output()
        .map_err(|error| format!("failed to run openssl: {error}"))?;
    let text = String::from_utf8(made.stdout)?;
    let (key, certificate) = text.split_at(text.find("-----BEGIN CERT").ok_or("no certificate")?);
    Ok(json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "rotated" },
        "type": "kubernetes.io/tls", "stringData": { "tls.key": key, "tls.crt": certificate },
    }))
}

impl Cluster {
    /// Compares a Gateway and an Ingress with one route to others with a thousand.
    async fn routes(&self) -> Result<()> {
        let backends = json!([{ "name": "one", "port": 80 }]);
        let rule = json!({ "filters": [to_known_page()], "backendRefs": backends });
        let few = self.gateway("few").await?;
        self.route("few", "only", "/", &rule).await?;
        Connection::new(&few, "/").await?.until("200 OK").await?;
        self.live("HTTPRoute, the only one", &few, "only", "/").await?;

        let many = self.gateway("many").await?;
        let before = self.cpu_and_memory()?.1;
        for n in 0..ROUTES {
            self.route("many", &format!("route-{n}"), &format!("/r/{n}"), &rule).await?;
        }
        let last = format!("/r/{}", ROUTES - 1);
        Connection::new(&many, &last).await?.until("200 OK").await?;
        // Not a wait for a condition: the memory of interest is that after all statuses are written.
        tokio::time::sleep(Duration::from_secs(3)).await;
        println!("{ROUTES} HTTPRoutes: {:.1} MiB more", self.cpu_and_memory()?.1 - before);
        self.live("HTTPRoute, of a thousand", &many, "route-500", "/r/500").await?;
        self.compare("HTTPRoute", &few, &many)
    }

    /// Measures the time from the API's response to the first response by the new route.
    async fn live(&self, what: &str, at: &str, route: &str, path: &str) -> Result<()> {
        let mut connection = Connection::new(at, path).await?;
        let mut took = Vec::new();
        for n in 0..LIVE_CHANGES {
            let value = format!("{route}-{n}");
            let path = [json!({ "path": { "type": "PathPrefix", "value": path } })];
            let rule = json!({
                "matches": path, "filters": [marker(&value), to_known_page()],
                "backendRefs": [{ "name": "one", "port": 80 }],
            });
            let patch = json!({ "spec": { "rules": [rule] } });
            self.call("PATCH", &format!("{GATEWAY_API}/httproutes/{route}"), &patch).await?;
            took.push(connection.until(&format!("x-route: {value}\r\n")).await?);
        }
        took.sort();
        let at = |share: usize| {
            took.get(took.len() * share / 100).map_or(0.0, |t| t.as_secs_f64() * 1e3)
        };
        println!("{what}: a change is live after {:.2} ms p50, {:.2} ms p99", at(50), at(99));
        Ok(())
    }

    /// Compares the throughput of two addresses, in turns.
    fn compare(&self, what: &str, few: &str, many: &str) -> Result<()> {
        let script = env::temp_dir().join(format!("bench-routes-{}.lua", std::process::id()));
        let random = format!("wrk.format(nil, \"/r/\" .. math.random(0, {}))", ROUTES - 1);
        fs::write(&script, format!("request = function() return {random} end\n"))?;
        let (mut rates, mut costs) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let mut of_round = [(0.0, 0.0); 2];
            for n in [round % 2, (round + 1) % 2] {
                let before = self.cpu_and_memory()?.0;
                let rate = wrk(&script, [few, many][n])?;
                of_round[n] = (rate, (self.cpu_and_memory()?.0 - before) / rate);
            }
            rates.push(of_round[1].0 / of_round[0].0);
            costs.push(of_round[1].1 / of_round[0].1);
        }
        fs::remove_file(script)?;
        for (figure, mut ratios) in [("rate", rates), ("CPU per request", costs)] {
            ratios.sort_by(f64::total_cmp);
            let [low, median, high] = [1, ROUNDS / 2, ROUNDS - 2].map(|n| ratios[n]);
            println!("{what}, {ROUTES} to 1: {figure} {median:.3} ({low:.3} to {high:.3})");
        }
        Ok(())
    }
}

fn wrk(script: &std::path::Path, at: &str) -> Result<f64> {
    let output = Command::new("wrk")
        .args(["-t1", &format!("-c{CONNECTIONS}"), "-d2s", "-s"])
        .arg(script)
        .arg(format!("http://{at}/"))
        .output()
        .map_err(|error| format!("failed to start wrk: {error}; try `apt-get install wrk`"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let rate = text.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:"));
    if text.contains("Non-2xx") {
        return Err(format!("requests failed: {text}").into());
    }
    Ok(rate.ok_or_else(|| format!("unexpected output of wrk: {text}"))?.trim().parse()?)
}

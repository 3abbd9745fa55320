//! The edge beside haproxy in TCP mode and a direct connection, in one run: requests a second, and
//! CPU per request of the proxy's process. See `bench/README.md`.
//!
//! The machine is noisy, so the contenders take turns, and what counts is the median of each one's
//! rounds and of the ratios within a round.

use http_body_util::Full;
use hyper::{Request, Response, body::Bytes, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use kube_embedded::edge::{
    plane::{Plane, Port},
    route::{Affinity, Backends, Route, Routing},
};
use std::{
    convert::Infallible,
    env,
    error::Error,
    fs,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
};
use tokio::{net::TcpListener, sync::mpsc};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const CONNECTIONS: u32 = 32;
const ROUNDS: usize = 5;
const SECONDS: u32 = 3;
/// Clock ticks of `/proc/PID/stat`, the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        None => compare(ROUNDS, SECONDS),
        Some("--backends") => backends(),
        Some("--edge") => edge(&arguments[1..]),
        Some("--quick") => compare(1, 1),
        Some(other) => Err(format!("unknown argument {other}; --quick is the only one").into()),
    }
}

/// Three endpoints that answer as the app does; prints their addresses.
#[tokio::main]
async fn backends() -> Result<()> {
    let mut addresses = Vec::new();
    for _ in 0..3 {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        addresses.push(listener.local_addr()?.to_string());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service_fn(answer)),
                );
            }
        });
    }
    say(&addresses.join(" "))
}

async fn answer(_: Request<Incoming>) -> std::result::Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::new(Bytes::from_static(b"Hello, this is kubeapp version 1.0\n"))))
}

/// The data plane as a cluster runs it, in front of the endpoints; prints its address.
fn edge(endpoints: &[String]) -> Result<()> {
    let parsed: std::result::Result<Vec<SocketAddr>, _> =
        endpoints.iter().map(|e| e.parse()).collect();
    let routing = Routing { backends: Backends::alike(parsed?), affinity: None };
    let route = Arc::new(Route::new(routing, Arc::new(Affinity::default())));
    let (tell, _troubles) = mpsc::channel(8);
    let plane = Plane::start(Arc::default(), tell)?;
    let port = Port::bind("127.0.0.1:0".parse()?)?;
    let address = port.address()?;
    let _listening = plane.serve(port, route);
    say(&address.to_string())
}

/// Tells the parent where we are, and stays until it goes.
fn say(line: &str) -> Result<()> {
    println!("{line}");
    std::io::stdout().flush()?;
    std::io::stdin().lines().for_each(drop);
    Ok(())
}

/// A process that ends with us: by its standard input, and by force.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn this(arguments: &[String]) -> Result<(Self, String)> {
        let mut child = Command::new(env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("no standard output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        Ok((Self(child), line.trim().to_owned()))
    }

    /// Seconds of CPU so far, of all threads.
    fn cpu(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        let after_name = stat.rsplit_once(')').ok_or("unreadable /proc/PID/stat")?.1;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        let ticks = |n: usize| fields.get(n).and_then(|f| f.parse::<f64>().ok());
        let (user, system) = (ticks(11).ok_or("no utime")?, ticks(12).ok_or("no stime")?);
        Ok((user + system) / TICKS_PER_SECOND)
    }
}

fn haproxy(endpoints: &[&str]) -> Result<(Running, String, PathBuf)> {
    // Asks the kernel for a free port; haproxy cannot tell which it got.
    let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let servers: String =
        endpoints.iter().enumerate().map(|(n, e)| format!("  server s{n} {e}\n")).collect();
    let config = env::temp_dir().join(format!("bench-edge-{}.cfg", std::process::id()));
    fs::write(
        &config,
        format!(
            "global\n  maxconn 8192\ndefaults\n  mode tcp\n  timeout connect 5s\n  \
             timeout client 60s\n  timeout server 60s\nlisten all\n  bind {address}\n  \
             balance random\n{servers}"
        ),
    )?;
    let child = Command::new("haproxy")
        .args(["-db", "-f"])
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("haproxy does not start ({e}); try: apt-get install haproxy wrk"))?;
    Ok((Running(child), address.to_string(), config))
}

/// Requests a second, requests, and how many failed.
fn wrk(address: &str, seconds: u32, fresh: bool) -> Result<(f64, f64, f64)> {
    let mut command = Command::new("wrk");
    command.args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{seconds}s")]);
    if fresh {
        command.args(["-H", "Connection: close"]);
    }
    let output = command
        .arg(format!("http://{address}/"))
        .output()
        .map_err(|e| format!("wrk does not start ({e}); try: apt-get install haproxy wrk"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = |before: &str, after: &str| -> Option<f64> {
        let line = text.lines().find(|l| l.contains(before) && l.contains(after))?;
        let word = match after {
            "" => line.split_whitespace().nth(1),
            _ => line.split_whitespace().next(),
        };
        word?.parse().ok()
    };
    let rate = number("Requests/sec:", "").ok_or_else(|| format!("wrk said: {text}"))?;
    let requests = number("requests in", "requests").ok_or_else(|| format!("wrk said: {text}"))?;
    let errors = match text.lines().find(|l| l.contains("Socket errors:")) {
        Some(line) => line
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|word| word.parse::<f64>().ok())
            .sum(),
        None => 0.0,
    };
    Ok((rate, requests, errors))
}

#[derive(Default)]
struct Figures {
    rate: Vec<f64>,
    cpu: Vec<f64>,
    errors: f64,
}

fn compare(rounds: usize, seconds: u32) -> Result<()> {
    if cfg!(debug_assertions) {
        println!("note: not a release build; the edge's CPU figures are too high");
    }
    let (_backends, addresses) = Running::this(&["--backends".into()])?;
    let endpoints: Vec<&str> = addresses.split(' ').collect();
    let arguments = ["--edge"].iter().chain(&endpoints).map(|s| (*s).to_owned());
    let (edge, edge_at) = Running::this(&arguments.collect::<Vec<_>>())?;
    let (haproxy, haproxy_at, config) = haproxy(&endpoints)?;
    let contenders = [
        ("direct", endpoints.first().copied().unwrap_or_default(), None),
        ("haproxy tcp", haproxy_at.as_str(), Some(&haproxy)),
        ("our edge", edge_at.as_str(), Some(&edge)),
    ];
    println!("{CONNECTIONS} connections, 3 endpoints, median of {rounds} rounds of {seconds} s");
    for (name, fresh) in [("fresh connections", true), ("keep-alive", false)] {
        let mut figures: [Figures; 3] = Default::default();
        for (_, address, _) in &contenders {
            wrk(address, 1, fresh)?;
        }
        for round in 0..rounds {
            // Every other round backwards, so that nobody always follows the same neighbour.
            let mut order = [0, 1, 2];
            if round % 2 == 1 {
                order.reverse();
            }
            for n in order {
                let (_, address, process) = &contenders[n];
                let before = process.map_or(Ok(0.0), Running::cpu)?;
                let (rate, requests, errors) = wrk(address, seconds, fresh)?;
                let cpu = process.map_or(Ok(0.0), Running::cpu)? - before;
                figures[n].rate.push(rate);
                figures[n].cpu.push(cpu / requests * 1e6);
                figures[n].errors += errors;
            }
        }
        println!("\n{name:<20}{:>10}{:>14}{:>10}", "req/s", "CPU/req (µs)", "errors");
        for ((who, _, _), f) in contenders.iter().zip(&figures) {
            println!("{who:<20}{:>10.0}{:>14.1}{:>10}", median(&f.rate), median(&f.cpu), f.errors);
        }
        let ratios = |of: fn(&Figures) -> &Vec<f64>| -> Vec<f64> {
            of(&figures[2]).iter().zip(of(&figures[1])).map(|(ours, its)| ours / its).collect()
        };
        println!(
            "edge / haproxy: {:.2} of the rate, {:.2} of the CPU per request",
            median(&ratios(|f| &f.rate)),
            median(&ratios(|f| &f.cpu))
        );
    }
    fs::remove_file(config)?;
    Ok(())
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

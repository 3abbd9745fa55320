//! Compares the service proxy with its peers and a direct connection, in one run: requests per second,
//! and CPU per request of the proxy's processes. As a load balancer alongside haproxy in TCP mode; with
//! `--ingress` as an Ingress controller alongside nginx, and then the latency at half load as well.
//! See `bench/README.md`.
//!
//! Machines are noisy, so the contenders take turns, and the results are medians of each one's rounds
//! and of the ratios within a round.

use http_body_util::Full;
use hyper::{Request, Response, body::Bytes, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use kube_embedded_proxy::bench::{
    Affinity, Backends, BoundPort, DataPlane, HostSockets, Network, Route, Routing, TcpProxy,
    default_backend_handler,
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
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{Duration, Instant},
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const CONNECTIONS: u32 = 32;
const ROUNDS: usize = 5;
const SECONDS: u32 = 3;
/// Clock ticks of `/proc/PID/stat`, the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["--backends"] => backends(),
        ["--edge", protocol, endpoints @ ..] => edge(*protocol == "http", endpoints),
        ["--paced", address, rate, seconds] => paced(address, rate.parse()?, seconds.parse()?),
        [] => compare(false, ROUNDS, SECONDS),
        ["--quick"] => compare(false, 1, 1),
        ["--ingress"] => compare(true, ROUNDS, SECONDS),
        ["--ingress", "--quick"] => compare(true, 1, 1),
        other => Err(format!("unknown arguments {other:?}; use --ingress, --quick or both").into()),
    }
}

/// Runs three endpoints that respond as the app does; prints their addresses.
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
                        .serve_connection(TokioIo::new(stream), service_fn(respond)),
                );
            }
        });
    }
    print_ready(&addresses.join(" "))
}

async fn respond(_: Request<Incoming>) -> std::result::Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::new(Bytes::from_static(b"Hello, this is kubeapp version 1.0\n"))))
}

/// Runs the data plane, as in a cluster, in front of the endpoints; prints its address.
fn edge(http: bool, endpoints: &[&str]) -> Result<()> {
    let parsed: std::result::Result<Vec<SocketAddr>, _> =
        endpoints.iter().map(|e| e.parse()).collect();
    let parsed = parsed?;
    let network = Network::default();
    for endpoint in &parsed {
        network.attach(endpoint.ip(), Arc::new(HostSockets));
    }
    let network = Arc::new(network);
    let routing = Routing { backends: Backends::uniform(parsed), ..Routing::default() };
    let route = Arc::new(Route::new(routing, Arc::new(Affinity::default())));
    let (errors, _) = mpsc::channel(8);
    let data_plane = DataPlane::start(errors)?;
    let port = BoundPort::bind("127.0.0.1:0".parse()?)?;
    let address = port.address()?;
    let _listener = data_plane.serve(
        port,
        match http {
            true => default_backend_handler(network, route, address)?,
            false => Arc::new(TcpProxy::new(network, route)),
        },
    );
    print_ready(&address.to_string())
}

/// Sends requests at a constant rate over keep-alive connections; prints the 99th percentile and the
/// median in microseconds, and the number of requests. Latency counts from when a request was due, so
/// the wait for its connection is included.
#[tokio::main]
async fn paced(address: &str, rate: f64, seconds: u64) -> Result<()> {
    let interval = Duration::from_secs_f64(f64::from(CONNECTIONS) / rate);
    let (address, until) = (address.to_owned(), Duration::from_secs(seconds));
    let mut senders = Vec::new();
    for n in 0..CONNECTIONS {
        let address = address.clone();
        senders.push(tokio::spawn(async move {
            let mut stream = TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n");
            let mut took = Vec::new();
            let start = Instant::now() + interval.mul_f64(f64::from(n) / f64::from(CONNECTIONS));
            let mut due = start;
            let mut response = [0; 1024];
            while due < start + until {
                // Timers have a resolution of a millisecond, which must not count against the proxy.
                let early = Instant::now() < due;
                tokio::time::sleep_until(due).await;
                let from = if early { Instant::now() } else { due };
                stream.write_all(request.as_bytes()).await?;
                let mut got = 0;
                while !response.get(..got).is_some_and(|r| r.ends_with(b"1.0\n")) {
                    match stream.read(response.get_mut(got..).unwrap_or_default()).await? {
                        0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                        n => got += n,
                    }
                }
                took.push(from.elapsed());
                due += interval;
            }
            Ok::<_, std::io::Error>(took)
        }));
    }
    let mut took = Vec::new();
    for sender in senders {
        took.extend(sender.await??);
    }
    took.sort_unstable();
    let at = |share: usize| took.get(took.len() * share / 100).map_or(0, Duration::as_micros);
    println!("{} {} {}", at(99), at(50), took.len());
    Ok(())
}

/// Prints a line for the parent process, and waits until that exits.
fn print_ready(line: &str) -> Result<()> {
    println!("{line}");
    std::io::stdout().flush()?;
    std::io::stdin().lines().for_each(drop);
    Ok(())
}

/// A child process that ends with this one: by its standard input, or by a signal.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // nginx stops its workers on SIGTERM, not when it is killed.
        drop(self.0.stdin.take());
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

impl Running {
    fn this(arguments: &[&str]) -> Result<(Self, String)> {
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

    /// Returns the seconds of CPU so far, of all threads and workers.
    fn cpu(&self) -> Result<f64> {
        let id = self.0.id();
        let workers = fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
        let workers = workers.split_whitespace().map(str::parse);
        let mut ticks = 0.0;
        for process in std::iter::once(Ok(id)).chain(workers) {
            let stat = fs::read_to_string(format!("/proc/{}/stat", process?))?;
            let after_name = stat.rsplit_once(')').ok_or("unreadable /proc/PID/stat")?.1;
            let fields: Vec<&str> = after_name.split_whitespace().collect();
            let field = |n: usize| fields.get(n).and_then(|f| f.parse::<f64>().ok());
            ticks += field(11).ok_or("no utime")? + field(12).ok_or("no stime")?;
        }
        Ok(ticks / TICKS_PER_SECOND)
    }
}

/// Starts nginx in front of the endpoints: keep-alive on both sides, no logs, a worker per core.
fn nginx(endpoints: &[&str]) -> Result<(Running, String, PathBuf)> {
    let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let servers: String = endpoints.iter().map(|e| format!("server {e};")).collect();
    let folder = env::temp_dir().join(format!("bench-proxy-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let config = folder.join("nginx.conf");
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {}/{what};", folder.display()))
        .concat();
    fs::write(
        &config,
        format!(
            "daemon off; worker_processes auto; pid {0}/pid; error_log {0}/error.log;
             events {{ worker_connections 8192; }}
             http {{
               access_log off; keepalive_requests 1000000000; {temporary}
               upstream app {{ {servers} keepalive 64; keepalive_requests 1000000000; }}
               server {{
                 listen {address} backlog=4096;
                 location / {{
                   proxy_pass http://app; proxy_http_version 1.1;
                   proxy_set_header Connection \"\"; proxy_set_header Host $host;
                   proxy_set_header X-Real-IP $remote_addr;
                   proxy_set_header X-Forwarded-For $remote_addr;
                   proxy_set_header X-Forwarded-Proto $scheme;
                 }}
               }}
             }}",
            folder.display()
        ),
    )?;
    let child = Command::new("nginx")
        .arg("-p")
        .arg(&folder)
        .arg("-c")
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("failed to start nginx: {e}; try `apt-get install nginx wrk`"))?;
    Ok((Running(child), address.to_string(), folder))
}

/// Starts haproxy in TCP mode in front of the endpoints.
fn haproxy(endpoints: &[&str]) -> Result<(Running, String, PathBuf)> {
    // haproxy does not report which port it got for 0.
    let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let servers: String =
        endpoints.iter().enumerate().map(|(n, e)| format!("  server s{n} {e}\n")).collect();
    let folder = env::temp_dir().join(format!("bench-proxy-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let config = folder.join("haproxy.cfg");
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
        .map_err(|e| format!("failed to start haproxy: {e}; try `apt-get install haproxy wrk`"))?;
    Ok((Running(child), address.to_string(), folder))
}

/// Returns requests per second, requests, and failed requests.
fn wrk(address: &str, seconds: u32, fresh: bool) -> Result<(f64, f64, f64)> {
    let mut command = Command::new("wrk");
    command.args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{seconds}s")]);
    if fresh {
        command.args(["-H", "Connection: close"]);
    }
    let output = command
        .arg(format!("http://{address}/"))
        .output()
        .map_err(|e| format!("failed to start wrk: {e}; try `apt-get install wrk`"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = |before: &str, after: &str| -> Option<f64> {
        let line = text.lines().find(|l| l.contains(before) && l.contains(after))?;
        let word = match after {
            "" => line.split_whitespace().nth(1),
            _ => line.split_whitespace().next(),
        };
        word?.parse().ok()
    };
    let rate =
        number("Requests/sec:", "").ok_or_else(|| format!("unexpected output of wrk: {text}"))?;
    let requests = number("requests in", "requests")
        .ok_or_else(|| format!("unexpected output of wrk: {text}"))?;
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

/// A contender of a comparison: its name, where it listens, and its process unless there is none.
type Contender<'a> = (&'a str, &'a str, Option<&'a Running>);

fn compare(ingress: bool, rounds: usize, seconds: u32) -> Result<()> {
    if cfg!(debug_assertions) {
        println!("note: not a release build; the edge's CPU figures are too high");
    }
    let (_backends, addresses) = Running::this(&["--backends"])?;
    let endpoints: Vec<&str> = addresses.split(' ').collect();
    let protocol = if ingress { "http" } else { "tcp" };
    let arguments: Vec<&str> = ["--edge", protocol].into_iter().chain(endpoints.clone()).collect();
    let (edge, edge_at) = Running::this(&arguments)?;
    let (name, (peer, peer_at, folder)) = match ingress {
        true => ("nginx", nginx(&endpoints)?),
        false => ("haproxy tcp", haproxy(&endpoints)?),
    };
    let contenders = [
        ("direct", endpoints.first().copied().unwrap_or_default(), None),
        (name, peer_at.as_str(), Some(&peer)),
        ("our edge", edge_at.as_str(), Some(&edge)),
    ];
    println!("{CONNECTIONS} connections, 3 endpoints, median of {rounds} rounds of {seconds} s");
    compare_throughput("fresh connections", true, &contenders, rounds, seconds)?;
    let peer_rate = compare_throughput("keep-alive", false, &contenders, rounds, seconds)?;
    if ingress {
        compare_latency(peer_rate / 2.0, &contenders, rounds, seconds)?;
    }
    drop(peer);
    fs::remove_dir_all(folder)?;
    Ok(())
}

/// Measures requests per second and CPU per request at full load; returns the peer's rate.
fn compare_throughput(
    title: &str,
    fresh: bool,
    contenders: &[Contender<'_>; 3],
    rounds: usize,
    seconds: u32,
) -> Result<f64> {
    let mut figures: [Figures; 3] = Default::default();
    for (_, address, _) in contenders {
        wrk(address, 1, fresh)?;
    }
    for n in turns(rounds, 3) {
        let (_, address, process) = contenders[n];
        let before = process.map_or(Ok(0.0), Running::cpu)?;
        let (rate, requests, errors) = wrk(address, seconds, fresh)?;
        let cpu = process.map_or(Ok(0.0), Running::cpu)? - before;
        figures[n].rate.push(rate);
        figures[n].cpu.push(cpu / requests * 1e6);
        figures[n].errors += errors;
    }
    println!("\n{title:<20}{:>10}{:>14}{:>10}", "req/s", "CPU/req (µs)", "errors");
    for ((who, _, _), f) in contenders.iter().zip(&figures) {
        println!("{who:<20}{:>10.0}{:>14.1}{:>10}", median(&f.rate), median(&f.cpu), f.errors);
    }
    println!(
        "edge / {}: {:.2} of the rate, {:.2} of the CPU per request",
        contenders[1].0,
        ratio(&figures[2].rate, &figures[1].rate),
        ratio(&figures[2].cpu, &figures[1].cpu)
    );
    Ok(median(&figures[1].rate))
}

/// Measures the latency at a constant rate.
fn compare_latency(
    rate: f64,
    contenders: &[Contender<'_>; 3],
    rounds: usize,
    seconds: u32,
) -> Result<()> {
    let (mut p99, mut p50): ([Vec<f64>; 3], [Vec<f64>; 3]) = Default::default();
    for n in turns(rounds, 3) {
        let (rate, seconds) = (rate.to_string(), seconds.to_string());
        let arguments = ["--paced", contenders[n].1, &rate, &seconds];
        let (_, line) = Running::this(&arguments)?;
        let numbers: Vec<f64> = line.split(' ').filter_map(|n| n.parse().ok()).collect();
        let [slow, middle, _] = numbers[..] else { return Err("a request failed".into()) };
        p99[n].push(slow);
        p50[n].push(middle);
    }
    println!("\n{:<20}{:>10}{:>14}", format!("{rate:.0} req/s"), "p50 (µs)", "p99 (µs)");
    for (n, (who, _, _)) in contenders.iter().enumerate() {
        println!("{who:<20}{:>10.0}{:>14.0}", median(&p50[n]), median(&p99[n]));
    }
    println!("edge / nginx: {:.2} of the p99", ratio(&p99[2], &p99[1]));
    Ok(())
}

/// Returns the order of measurements: every other round is reversed, so that no contender always
/// follows the same one.
fn turns(rounds: usize, contenders: usize) -> impl Iterator<Item = usize> {
    (0..rounds).flat_map(move |round| {
        (0..contenders).map(move |n| if round % 2 == 1 { contenders - 1 - n } else { n })
    })
}

/// Returns the median of the rounds' ratios.
fn ratio(ours: &[f64], theirs: &[f64]) -> f64 {
    let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
    median(&ratios)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

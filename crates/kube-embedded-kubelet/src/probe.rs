//! Probes: whether a container has started, is ready, is alive.

use super::sandbox::{Launch, LaunchError, Place, Process, Spawner, Stdio};
use k8s_openapi::{
    api::core::v1::{Container, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube_embedded_core::network::Network;
use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep_until, timeout},
};

/// Before the first success a probe is repeated sooner than its period says: after 10 ms, then
/// twice that, up to this. Kubernetes does not; but with its own start taking seconds, a period of
/// 10 s is no matter there, while here it would be most of what a learner waits for. Failures count
/// against the threshold once a period, as there.
const EAGER: Duration = Duration::from_millis(500);
const FIRST: Duration = Duration::from_millis(10);
/// No more of an answer is read, nor shown.
const ANSWER: usize = 10 << 10;

/// Counts what a probe answered.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// What the probe says as a whole; `None` before it ever said something.
    pub(crate) verdict: Option<bool>,
    last: Option<bool>,
    in_a_row: i32,
}

impl Tally {
    /// Takes one answer. Returns whether it changed the verdict.
    pub(crate) fn observe(&mut self, success: bool, probe: &Probe) -> bool {
        self.in_a_row =
            if self.last == Some(success) { self.in_a_row.saturating_add(1) } else { 1 };
        self.last = Some(success);
        let threshold = if success {
            probe.success_threshold.unwrap_or(1)
        } else {
            probe.failure_threshold.unwrap_or(3)
        };
        if self.in_a_row < threshold || self.verdict == Some(success) {
            return false;
        }
        self.verdict = Some(success);
        true
    }
}

/// What probes need to know of a container.
pub(crate) struct Target {
    pub(crate) ip: Ipv4Addr,
    pub(crate) network: Arc<Network>,
    pub(crate) spawner: Arc<Spawner>,
    pub(crate) process: Arc<Process>,
    pub(crate) container: Container,
    /// Environment and working directory for exec probes.
    pub(crate) env: Vec<String>,
    pub(crate) cwd: String,
    /// The root file system, for plain processes.
    pub(crate) rootfs: Option<std::path::PathBuf>,
    pub(crate) started: Instant,
}

impl Target {
    /// Starts a program beside the container's. Dropped before its end, it is killed.
    pub(crate) async fn beside(
        &self,
        argv: Vec<String>,
        variables: &[&str],
        stdio: Stdio,
    ) -> Result<Process, LaunchError> {
        let place = match &self.rootfs {
            Some(rootfs) => Place::Host { rootfs: rootfs.clone() },
            None => Place::Beside(self.process.pidfd()),
        };
        let mut env = self.env.clone();
        env.extend(variables.iter().map(|v| (*v).to_owned()));
        self.spawner.launch(Launch { argv, env, cwd: self.cwd.clone(), place, stdio }).await
    }
}

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Startup,
    Readiness,
    Liveness,
}

impl Purpose {
    /// As Kubernetes words it in events.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// Runs the probes of a container until one says that it must be restarted, and returns which.
/// `tell` learns the verdicts: `(Startup, true)` once, readiness as it changes. `fail` learns
/// what went wrong each time.
pub(crate) async fn watch(
    target: &Target,
    tell: impl Fn(Purpose, bool),
    fail: impl Fn(Purpose, &str),
) -> Purpose {
    let container = &target.container;
    if let Some(probe) = &container.startup_probe {
        let done = run(target, probe, Purpose::Startup, &fail, |_| true).await;
        if !done {
            return Purpose::Startup;
        }
    }
    tell(Purpose::Startup, true);
    let readiness = async {
        match &container.readiness_probe {
            None => tell(Purpose::Readiness, true),
            Some(probe) => {
                run(target, probe, Purpose::Readiness, &fail, |ready| {
                    tell(Purpose::Readiness, ready);
                    false
                })
                .await;
            }
        }
        std::future::pending::<()>().await
    };
    let liveness = async {
        match &container.liveness_probe {
            None => std::future::pending().await,
            Some(probe) => run(target, probe, Purpose::Liveness, &fail, |alive| !alive).await,
        }
    };
    tokio::select! {
        _ = readiness => {}
        _ = liveness => {}
    }
    Purpose::Liveness
}

/// Probes until `decide` is content with a change of the verdict, and returns that verdict.
async fn run(
    target: &Target,
    probe: &Probe,
    purpose: Purpose,
    fail: &impl Fn(Purpose, &str),
    decide: impl Fn(bool) -> bool,
) -> bool {
    let period = seconds(probe.period_seconds, 10);
    let begin = target.started
        + Duration::from_secs(probe.initial_delay_seconds.unwrap_or(0).max(0) as u64);
    let mut tally = Tally::default();
    let mut pause = FIRST;
    let mut tick = begin;
    sleep_until(begin).await;
    loop {
        let answer = check(target, probe).await;
        let now = Instant::now();
        let due = now >= tick;
        if due {
            while tick <= now {
                tick += period;
            }
        }
        let eager = tally.verdict != Some(true) && purpose != Purpose::Liveness;
        match &answer {
            Err(why) if due => fail(purpose, why),
            _ => {}
        }
        // In between ticks only a success counts.
        if (due || answer.is_ok()) && tally.observe(answer.is_ok(), probe) {
            let verdict = answer.is_ok();
            if decide(verdict) {
                return verdict;
            }
        }
        if eager && tally.verdict != Some(true) {
            sleep_until(tick.min(Instant::now() + pause)).await;
            pause = (pause * 2).min(EAGER);
        } else {
            sleep_until(tick).await;
        }
    }
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.map_or(default, |s| s.max(1) as u64))
}

/// Asks once.
async fn check(target: &Target, probe: &Probe) -> Result<(), String> {
    let limit = seconds(probe.timeout_seconds, 1);
    if let Some(get) = &probe.http_get {
        let to = address(target, get.host.as_deref(), &get.port)?;
        let path = get.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        if get.scheme.as_deref().is_some_and(|s| s != "HTTP") {
            return Err("probes over HTTPS are not supported here".to_owned());
        }
        let headers: Vec<(&str, &str)> = get
            .http_headers
            .iter()
            .flatten()
            .map(|h| (h.name.as_str(), h.value.as_str()))
            .collect();
        let url = format!("http://{to}{path}");
        let answer = timeout(limit, http_get(&target.network, to, &path, &headers)).await;
        return match answer {
            Err(_) => Err(format!(
                "Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
            )),
            Ok(Err(e)) => Err(format!("Get {url:?}: {}", dialling(to, &e))),
            Ok(Ok(200..=399)) => Ok(()),
            Ok(Ok(code)) => Err(format!("HTTP probe failed with statuscode: {code}")),
        };
    }
    if let Some(socket) = &probe.tcp_socket {
        let to = address(target, socket.host.as_deref(), &socket.port)?;
        return match timeout(limit, target.network.connect(to)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(dialling(to, &e)),
            Err(_) => Err(format!("dial tcp {to}: i/o timeout")),
        };
    }
    if let Some(exec) = &probe.exec {
        let argv = exec.command.clone().unwrap_or_default();
        return match timeout(limit, execute(target, argv)).await {
            Ok(Ok((0, _))) => Ok(()),
            Ok(Ok((_, output))) => Err(output.trim_end().to_owned()),
            Ok(Err(e)) => Err(e),
            Err(_) => Err(format!("command timed out after {}s", limit.as_secs())),
        };
    }
    if probe.grpc.is_some() {
        return Err("gRPC probes are not supported here".to_owned());
    }
    Err("the probe says neither exec, httpGet nor tcpSocket".to_owned())
}

/// Runs a program beside the container's and returns exit code and output. Dropped before its
/// end, the program is killed.
pub(crate) async fn execute(target: &Target, argv: Vec<String>) -> Result<(i32, String), String> {
    let process = target.beside(argv, &[], Stdio::Output).await.map_err(|e| e.to_string())?;
    let streams = process.streams().map_err(|e| e.to_string())?;
    let err = async {
        match streams.stderr {
            Some(err) => read_some(err).await,
            None => String::new(),
        }
    };
    let (out, err) = tokio::join!(read_some(streams.stdout), err);
    let exit = process.wait().await.map_err(|e| e.to_string())?;
    Ok((exit.code, out + &err))
}

async fn read_some(mut from: impl tokio::io::AsyncRead + Unpin) -> String {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let room = ANSWER.saturating_sub(all.len());
        all.extend_from_slice(buffer.get(..read.min(room)).unwrap_or_default());
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// The smallest HTTP client that does: one request, its status.
pub(crate) async fn http_get(
    network: &Network,
    to: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
) -> io::Result<u16> {
    let mut request = format!("GET {path} HTTP/1.1\r\n");
    let given = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    for (name, value) in
        [("Host", to.to_string().as_str()), ("User-Agent", "kube-probe/1.36"), ("Accept", "*/*")]
    {
        if !given(name) {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    for (name, value) in headers {
        // A line break in a value would be a header of its own.
        let value: String = value.chars().filter(|c| !c.is_control()).collect();
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("Connection: close\r\n\r\n");
    let mut stream = network.connect(to).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    // Read to the end where it comes soon: closing on an answer under way would reset the
    // connection, which looks like an error to the program. But the status is all that counts.
    loop {
        let patience =
            if answer.contains(&b'\n') { Duration::from_millis(100) } else { Duration::MAX };
        let Ok(read) = timeout(patience, stream.read(&mut buffer)).await else { break };
        let read = read?;
        answer.extend_from_slice(buffer.get(..read).unwrap_or_default());
        if read == 0 || answer.len() > ANSWER {
            break;
        }
    }
    let line = answer.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let code =
        line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.trim().parse().ok());
    code.ok_or_else(|| {
        io::Error::other(if line.is_empty() {
            "EOF".to_owned()
        } else {
            format!("malformed HTTP response {line:?}")
        })
    })
}

pub(crate) fn address(
    target: &Target,
    host: Option<&str>,
    port: &IntOrString,
) -> Result<SocketAddr, String> {
    let ip = match host.filter(|h| !h.is_empty()) {
        None => IpAddr::V4(target.ip),
        Some(host) => {
            host.parse().map_err(|_| format!("the host {host:?} of the probe is no address"))?
        }
    };
    let number = match port {
        IntOrString::Int(n) => Some(*n),
        IntOrString::String(name) => {
            let ports = target.container.ports.iter().flatten();
            let named =
                ports.clone().find(|p| p.name.as_deref() == Some(name)).map(|p| p.container_port);
            named.or_else(|| name.parse().ok())
        }
    };
    match number.and_then(|n| u16::try_from(n).ok()) {
        Some(number) if number > 0 => Ok(SocketAddr::new(ip, number)),
        _ => Err(format!("invalid port of the probe: {port:?}")),
    }
}

/// In the words of Go, which people search for.
fn dialling(to: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => format!("dial tcp {to}: connect: connection refused"),
        io::ErrorKind::ConnectionReset => format!("read tcp {to}: read: connection reset by peer"),
        io::ErrorKind::HostUnreachable => format!("dial tcp {to}: connect: no route to host"),
        _ => error.to_string(),
    }
}

/// For hooks: waits for `work`, but no longer than until `deadline`.
pub(crate) async fn until<T>(deadline: Instant, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout_at(deadline, work).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokio::net::TcpListener;

    #[test]
    fn thresholds_decide() {
        let probe: Probe =
            serde_json::from_value(json!({ "successThreshold": 2, "failureThreshold": 3 }))
                .unwrap();
        let mut tally = Tally::default();
        let answers =
            [true, false, true, true, true, false, false, true, false, false, false, false];
        let changes: Vec<bool> = answers.iter().map(|a| tally.observe(*a, &probe)).collect();
        let told: Vec<usize> =
            changes.iter().enumerate().filter(|(_, c)| **c).map(|(n, _)| n).collect();
        assert_eq!(told, [3, 10]);
        assert_eq!(tally.verdict, Some(false));
    }

    #[tokio::test]
    async fn http_answers_are_understood() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for answer in
                ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 503 Busy\r\n\r\n", "nonsense\r\n", ""]
            {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 1024];
                let read = stream.read(&mut buffer).await.unwrap();
                let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
                assert!(
                    text.starts_with("GET /health HTTP/1.1\r\nUser-Agent:")
                        && text.contains("\r\nHost: x\r\n"),
                    "{text}"
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let network = Network::default();
        let get = async || {
            http_get(&network, to, "/health", &[("Host", "x")]).await.map_err(|e| e.to_string())
        };
        assert_eq!(get().await, Ok(204));
        assert_eq!(get().await, Ok(503));
        assert_eq!(get().await.unwrap_err(), "malformed HTTP response \"nonsense\\r\"");
        assert_eq!(get().await.unwrap_err(), "EOF");
    }
}

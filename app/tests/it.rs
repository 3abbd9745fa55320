//! The app as a process: its responses over a socket, and its shutdown.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

const TIMEOUT: Duration = Duration::from_secs(20);

struct App {
    child: Child,
    log: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl App {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_kubeapp"))
            .envs([("POD_IP", "127.0.0.1"), ("PORT", "0"), ("POD_NAME", "pod-1")])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        log.read_line(&mut line).unwrap();
        let address = line.trim().rsplit_once("http://").expect(&line).1.parse().unwrap();
        Self { child, log, address }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Waits for the exit, and returns its status and the last line of the log.
    fn wait(mut self) -> (ExitStatus, String) {
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap(), rest.lines().last().unwrap_or_default().into())
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn send(mut stream: &TcpStream, request: &str) -> io::Result<String> {
    stream.write_all(request.as_bytes())?;
    let mut head = String::new();
    let mut reader = BufReader::new(stream);
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).unwrap_or("0");
    let mut body = vec![0; if request.starts_with("HEAD") { 0 } else { length.parse().unwrap() }];
    reader.read_exact(&mut body)?;
    Ok(head + &String::from_utf8(body).unwrap())
}

/// Polls until the predicate holds.
fn eventually(what: &str, mut predicate: impl FnMut() -> bool) {
    let start = Instant::now();
    while !predicate() {
        assert!(start.elapsed() < TIMEOUT, "not within {TIMEOUT:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Returns whether a socket listens on the port, without a connection to it.
fn is_listening(address: SocketAddr) -> bool {
    // Local address in hexadecimal, as in /proc/net/tcp; state 0A is LISTEN.
    let port = format!(":{:04X}", address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields[1].ends_with(&port) && fields[3] == "0A"
    })
}

fn get(app: &App, path: &str) -> String {
    send(&app.connect(), &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).unwrap()
}

#[test]
fn pages_are_served_over_a_socket() {
    let app = App::start();
    let version = get(&app, "/version");
    assert!(version.starts_with("HTTP/1.1 200 OK\r\n"), "{version}");
    assert!(version.contains("\r\nx-pod: pod-1\r\n"), "{version}");
    assert!(version.ends_with("\r\n\r\n0.0-dev\n"), "{version}");
    assert!(get(&app, "/").contains("Version 0.0-dev"));
    assert!(get(&app, "/health").ends_with("\r\n\r\n"));
    assert!(get(&app, "/other").starts_with("HTTP/1.1 404"));
    let stream = app.connect();
    let head = send(&stream, "HEAD /version HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    assert!(head.contains("content-length: 8\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    let post = send(&stream, "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").unwrap();
    assert!(post.starts_with("HTTP/1.1 405") && post.contains("allow: GET, HEAD"), "{post}");
}

#[test]
fn shutdown_finishes_open_requests_and_then_closes_the_listener() {
    let app = App::start();
    let (mut half, idle, silent) = (app.connect(), app.connect(), app.connect());
    half.write_all(b"GET /version HTTP/1.1\r\n").unwrap();
    send(&idle, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    app.signal("-TERM");
    // Not ready any more, but still serving: the load balancers may not know yet.
    eventually("not ready after SIGTERM", || !get(&app, "/health").starts_with("HTTP/1.1 200"));
    let late = get(&app, "/version");
    assert!(late.contains("0.0-dev") && late.contains("connection: close"), "{late}");
    // The listener is closed while the half request is still open. Each attempt to connect delays that, so the
    // state of the port is read from the kernel.
    eventually("closed listener after SIGTERM", || !is_listening(app.address));
    TcpStream::connect(app.address).unwrap_err();
    // Next, idle connections are closed; the half request may still be completed.
    assert_eq!((&idle).read(&mut [0; 1]).unwrap(), 0, "an idle connection is closed");
    // A client on a busy machine sends its first request late.
    let first = send(&silent, "GET /version HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    assert!(first.starts_with("HTTP/1.1 200"), "{first}");
    let response = send(&half, "host: x\r\n\r\n").unwrap();
    assert!(response.starts_with("HTTP/1.1 200") && response.ends_with("0.0-dev\n"), "{response}");
    let (status, line) = app.wait();
    assert_eq!(
        (status.code(), line.as_str()),
        (Some(0), "kubeapp 0.0-dev stopped, all requests served")
    );
}

#[test]
fn second_signal_stops_the_app_immediately() {
    let app = App::start();
    let mut half = app.connect();
    half.write_all(b"GET /version HTTP/1.1\r\n").unwrap();
    app.signal("-INT");
    eventually("not ready after SIGINT", || get(&app, "/health").starts_with("HTTP/1.1 503"));
    app.signal("-INT");
    let (status, line) = app.wait();
    assert_eq!(
        (status.code(), line.as_str()),
        (Some(0), "kubeapp 0.0-dev stopped, immediately, after a second signal")
    );
}

#[test]
fn invalid_address_is_reported() {
    for (ip, message) in [
        ("nowhere", "POD_IP=nowhere is not an IP address"),
        ("192.0.2.1", "failed to listen on 192.0.2.1:8080"),
    ] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_kubeapp")).env("POD_IP", ip).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains(message), "{output:?}");
    }
}

//! Serves the page, and the state as server-sent events, to browsers on this machine.
//!
//! Each reader gets at most one frame per interval, made of the state as it is then: a slow reader gets
//! fewer frames, never a queue. The server is a thread with a runtime of its own, so that it stays live
//! whatever the labs do.

use super::board::Board;
use crate::document::Document;
use crate::event::Stamped;
use anyhow::Context as _;
use futures::stream;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderValue};
use http::{HeaderName, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// The port of the page, unless it is taken: a page that is open already finds the next run there.
const DEFAULT_PORT: u16 = 8619;
/// The interval between two frames.
const INTERVAL: Duration = Duration::from_millis(100);
/// The interval of comments on a connection without frames, by which a page notices that it is dead.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// The number of connections at a time; more wait. A browser uses up to six for a page.
const CONNECTIONS: usize = 64;
/// The time for a client to send its request, and at the end for pages to read the last frame.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const LAST_FRAME: Duration = Duration::from_secs(1);

const FILES: [(&str, &str, &str); 2] = [
    (
        "/page.js",
        "text/javascript; charset=utf-8",
        concat!(include_str!("../document/sentence.js"), include_str!("page/page.js")),
    ),
    ("/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
];

/// The page itself.
static DOCUMENT: LazyLock<Document> =
    LazyLock::new(|| Document::new(include_str!("page/index.html"), include_str!("page/page.css")));

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A running server; it ends with [`Server::finish`], or with the process.
pub(crate) struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    board: Mutex<Board>,
    /// The number of the board's last change, and whether there will be no other.
    state: watch::Sender<(u64, bool)>,
    /// Tells the frames of this run from those of another on the same port.
    run: u32,
}

impl Shared {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// Starts on this port of 127.0.0.1; without one on the default port, or on any if that is taken.
    ///
    /// # Errors
    /// If the port cannot be bound.
    pub(crate) fn start(port: Option<u16>) -> anyhow::Result<Self> {
        let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        let listener = match port {
            Some(port) => bind(port).with_context(|| {
                format!("failed to serve the page on 127.0.0.1:{port}; choose another port")
            })?,
            None => bind(DEFAULT_PORT)
                .or_else(|_| bind(0))
                .context("failed to serve the page on 127.0.0.1")?,
        };
        listener.set_nonblocking(true).context("failed to serve the page")?;
        let address = listener.local_addr().context("failed to serve the page")?;
        let shared = Arc::new(Shared {
            board: Mutex::default(),
            state: watch::Sender::new((0, false)),
            run: rand::random(),
        });
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().context("failed to serve the page")?;
        let serving = shared.clone();
        let named = std::thread::Builder::new().name("page".into());
        let thread = named.spawn(move || {
            if let Err(error) = runtime.block_on(serve(listener, serving)) {
                tracing::error!(%error, "the page is no longer served");
            }
        });
        Ok(Self { shared, address, thread: Some(thread.context("failed to serve the page")?) })
    }

    /// The address for a browser.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Shows one event.
    pub(crate) fn event(&self, stamped: &Stamped) {
        let mut board = self.shared.board();
        board.event(stamped);
        let change = board.change();
        drop(board);
        self.shared.state.send_modify(|state| state.0 = change);
    }

    /// Sends the last frame to open pages, and ends.
    pub(crate) fn finish(&mut self) {
        self.shared.state.send_modify(|state| state.1 = true);
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by its hook, and must not end the run.
            _ = thread.join();
        }
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut state = shared.state.subscribe();
    loop {
        let accepted = async {
            let permit = permits.clone().acquire_owned().await;
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            _ = state.wait_for(|(_, ended)| *ended) => break,
            Some(_) = connections.join_next() => continue,
            accepted = accepted => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection to the page");
                // For want of descriptors: no connection is served faster by trying at once.
                tokio::time::sleep(INTERVAL).await;
                continue;
            }
        };
        let shared = shared.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let response = respond(&request, &shared);
                std::future::ready(Ok::<_, Infallible>(response))
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(REQUEST_TIMEOUT);
            // Errors are of clients that left.
            _ = server.serve_connection(TokioIo::new(stream), service).await;
            drop(permit);
        });
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    _ = tokio::time::timeout(LAST_FRAME, all).await;
    Ok(())
}

fn respond(request: &Request<Incoming>, shared: &Arc<Shared>) -> Response<Body> {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    if !host.is_some_and(is_loopback) {
        // A page of another site whose name was made to resolve to this address (DNS rebinding).
        return text(
            StatusCode::MISDIRECTED_REQUEST,
            "this page is served to this machine only; open it as http://127.0.0.1 or http://localhost",
        );
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "this page only reads: use GET");
    }
    let path = request.uri().path();
    if path == "/events" {
        let of_header = request.headers().get("last-event-id").and_then(|id| id.to_str().ok());
        let of_query = request.uri().query().and_then(|query| query.strip_prefix("since="));
        let since = since(of_header.or(of_query), shared.run);
        return events(shared.clone(), since);
    }
    let file = match path {
        "/" => Some(("text/html; charset=utf-8", &*DOCUMENT.html)),
        _ => FILES.iter().find(|(known, ..)| *known == path).map(|(_, kind, text)| (*kind, *text)),
    };
    match file {
        Some((media_type, content)) => {
            response(StatusCode::OK, media_type, Full::from(content).boxed_unsync())
        }
        None => text(StatusCode::NOT_FOUND, "no such page"),
    }
}

fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    response(status, "text/plain; charset=utf-8", Full::from(text).boxed_unsync())
}

fn response(status: StatusCode, media_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let fixed: [(HeaderName, &'static str); 5] = [
        (CONTENT_TYPE, media_type),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, &DOCUMENT.policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in fixed {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Returns true if the host, with or without a port, is this machine.
fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<http::uri::Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Returns the last change that a page has seen; 0 if that was of another run.
fn since(id: Option<&str>, run: u32) -> u64 {
    let seen = id.and_then(|id| id.split_once('-'));
    let seen = seen.filter(|(of, _)| of.parse() == Ok(run));
    seen.and_then(|(_, change)| change.parse().ok()).unwrap_or(0)
}

/// A response of server-sent events from `since` on.
fn events(shared: Arc<Shared>, since: u64) -> Response<Body> {
    let mut pace = tokio::time::interval(INTERVAL);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let reader = Reader { state: shared.state.subscribe(), shared, since, pace, ended: false };
    let frames = stream::unfold(reader, |mut reader| async {
        let text = reader.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(Bytes::from(text))), reader))
    });
    response(StatusCode::OK, "text/event-stream", StreamBody::new(frames).boxed_unsync())
}

/// A page that reads frames.
struct Reader {
    shared: Arc<Shared>,
    state: watch::Receiver<(u64, bool)>,
    since: u64,
    pace: tokio::time::Interval,
    ended: bool,
}

impl Reader {
    /// Returns the next frame or heartbeat; `None` after the last.
    async fn next(&mut self) -> Option<String> {
        if self.ended {
            return None;
        }
        if !self.state.borrow().1 {
            self.pace.tick().await;
        }
        let since = self.since;
        let changed = self.state.wait_for(|(change, ended)| *change > since || *ended);
        match tokio::time::timeout(HEARTBEAT, changed).await {
            Err(_) => return Some(": alive\n\n".to_owned()),
            Ok(state) => self.ended = state.map_or(true, |state| state.1),
        }
        let board = self.shared.board();
        let Some(mut frame) = board.frame(since) else { return Some(": end\n\n".to_owned()) };
        self.since = board.change();
        drop(board);
        if since == 0 {
            frame["first"] = true.into();
        }
        Some(format!("id: {}-{}\nretry: 500\ndata: {frame}\n\n", self.shared.run, self.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    fn stamped(step: &str) -> Stamped {
        Stamped {
            at: 1.0,
            lab: None,
            event: Event::StepStarted { id: "step", step: step.to_owned() },
        }
    }

    fn send(server: &Server, head: &str) -> TcpStream {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(format!("{head}\r\n\r\n").as_bytes()).unwrap();
        stream
    }

    fn fetch(server: &Server, head: &str) -> String {
        let mut text = String::new();
        send(server, &format!("{head}\r\nConnection: close")).read_to_string(&mut text).unwrap();
        text
    }

    /// Reads until the text appears.
    fn read_until(stream: &mut TcpStream, text: &str) -> String {
        let mut all = Vec::new();
        while !String::from_utf8_lossy(&all).contains(text) {
            let mut part = [0; 4096];
            let n = stream.read(&mut part).unwrap();
            assert!(n > 0, "ended without {text}: {}", String::from_utf8_lossy(&all));
            all.extend_from_slice(&part[..n]);
        }
        String::from_utf8(all).unwrap()
    }

    #[test]
    fn host_of_this_machine_is_accepted_and_no_other() {
        for (host, accepted) in [
            ("127.0.0.1", true),
            ("127.0.0.1:8619", true),
            ("LOCALHOST:1", true),
            ("[::1]:8619", true),
            ("127.0.0.1.evil.example", false),
            ("evil.example:8619", false),
            ("localhost.evil.example", false),
            ("user@evil.example", false),
            ("10.0.0.1", false),
            ("", false),
        ] {
            assert_eq!(is_loopback(host), accepted, "{host}");
        }
    }

    #[test]
    fn files_are_served_with_a_policy_and_bad_requests_are_refused() {
        let server = Server::start(Some(0)).unwrap();
        let page = fetch(&server, "GET / HTTP/1.1\r\nHost: localhost");
        assert!(page.starts_with("HTTP/1.1 200") && page.contains("<!doctype html>"), "{page}");
        assert!(
            page.contains("content-security-policy: default-src 'self'; style-src 'sha256-"),
            "{page}"
        );
        // The first paint needs nothing but this.
        assert!(page.contains("\n<style>/* ") && !page.contains("rel=\"stylesheet\""), "{page}");
        for (head, status) in [
            ("GET / HTTP/1.1\r\nHost: evil.example", "421"),
            ("GET /events HTTP/1.1\r\nHost: evil.example", "421"),
            ("GET / HTTP/1.0", "421"),
            ("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0", "405"),
            ("GET /../etc/passwd HTTP/1.1\r\nHost: localhost", "404"),
            ("HEAD /page.js HTTP/1.1\r\nHost: localhost", "200"),
        ] {
            let found = fetch(&server, head);
            assert!(found.split(' ').nth(1) == Some(status), "{head}: {found}");
        }
        let size: usize = FILES.iter().map(|(_, _, content)| content.len()).sum();
        assert!(size + page.len() < 100 << 10, "{size}");
    }

    #[test]
    fn page_resumes_where_it_was_and_starts_over_with_another_run() {
        let mut server = Server::start(Some(0)).unwrap();
        server.event(&stamped("one"));
        let get = "GET /events HTTP/1.1\r\nHost: localhost";
        let mut first = send(&server, get);
        let text = read_until(&mut first, "\"one\"");
        assert!(text.contains("\"first\":true"), "{text}");
        let id = text.lines().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned();
        server.event(&stamped("two"));
        read_until(&mut first, "\"two\"");
        let mut resumed = send(&server, &format!("{get}\r\nLast-Event-ID: {id}"));
        let text = read_until(&mut resumed, "\"two\"");
        assert!(!text.contains("\"first\"") && !text.contains("\"text\":\"one\""), "{text}");
        let mut other = send(&server, &format!("{get}\r\nLast-Event-ID: 1-1"));
        let text = read_until(&mut other, "\"text\":\"two\"");
        assert!(text.contains("\"first\":true") && text.contains("\"text\":\"one\""), "{text}");
        server.event(&stamped("last"));
        server.finish();
        read_until(&mut first, "\"last\"");
    }

    /// 5,000 requests a second are an event every 100 ms; here they come much faster than anything reads.
    #[test]
    fn slow_reader_gets_the_latest_state_and_no_queue() {
        let mut server = Server::start(Some(0)).unwrap();
        let slow = send(&server, "GET /events HTTP/1.1\r\nHost: localhost");
        for step in 0..20_000 {
            let step = format!("step {step}");
            server.event(&stamped(&step));
            let event = Event::StepEnded { step, seconds: 0.0 };
            server.event(&Stamped { at: 1.0, lab: None, event });
        }
        let mut slow = slow;
        let text = read_until(&mut slow, "step 19999");
        assert!(text.len() < 8 << 20, "{}", text.len());
        let frames = text.matches("\ndata: ").count();
        assert!(frames < 2000, "{frames}");
        server.finish();
    }

    #[test]
    fn taken_port_is_an_error_that_names_it() {
        let server = Server::start(Some(0)).unwrap();
        let error = Server::start(Some(server.address.port())).err().unwrap();
        assert!(format!("{error:#}").contains("choose another port"), "{error:#}");
        assert!(server.url().starts_with("http://127.0.0.1:"));
    }
}

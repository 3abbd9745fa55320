//! Clients that send requests from several connections, and count what becomes of them.

use bench::Result;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, body::Bytes, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    collections::BTreeMap,
    ops::AddAssign,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

/// Client connections at a time.
pub(super) const CONNECTIONS: usize = 32;
/// Of HTTP/2; together they have as many streams.
const HTTP2_CONNECTIONS: usize = 8;

/// What became of requests.
#[derive(Default)]
pub(super) struct Tally {
    one: u64,
    two: u64,
    failed: BTreeMap<String, u64>,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.one += other.one;
        self.two += other.two;
        for (why, count) in other.failed {
            *self.failed.entry(why).or_default() += count;
        }
    }
}

impl Tally {
    fn add(&mut self, response: Result<String>) -> bool {
        match response {
            Ok(text) if text.contains(" Version 1.0 ") => self.one += 1,
            Ok(text) if text.contains(" Version 2.0 ") => self.two += 1,
            Ok(text) => *self.failed.entry(text).or_default() += 1,
            Err(error) => {
                *self.failed.entry(error.to_string()).or_default() += 1;
                return false;
            }
        }
        true
    }

    pub(super) fn print(&self, what: &str, expected: Option<f64>) {
        let total = self.one + self.two;
        let failed: u64 = self.failed.values().sum();
        let share = self.two as f64 / total as f64;
        let deviation = expected.map_or(String::new(), |p| {
            format!(", z = {:+.2}", (share - p) / (p * (1.0 - p) / total as f64).sqrt())
        });
        println!(
            "{what:<34}{total:>9} requests, {failed} failed, {:.3}%{deviation}",
            share * 100.0
        );
        for (why, count) in &self.failed {
            println!("    {count} x {why:?}");
        }
    }
}

#[derive(Clone, Copy)]
pub(super) enum Protocol {
    KeepAlive,
    Fresh,
    Http2,
}

/// A connection of HTTP/1.1 for one path.
pub(super) struct Connection {
    stream: TcpStream,
    request: String,
    buffer: Vec<u8>,
}

impl Connection {
    pub(super) async fn new(at: &str, path: &str) -> Result<Self> {
        let stream = TcpStream::connect(at).await.map_err(|error| format!("connect: {error}"))?;
        stream.set_nodelay(true)?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {at}\r\n\r\n");
        Ok(Self { stream, request, buffer: Vec::with_capacity(4096) })
    }

    /// Returns the response, head and body.
    async fn get(&mut self) -> Result<String> {
        self.stream.write_all(self.request.as_bytes()).await.map_err(|e| format!("write: {e}"))?;
        self.buffer.clear();
        loop {
            let got =
                self.stream.read_buf(&mut self.buffer).await.map_err(|e| format!("read: {e}"))?;
            let text = str::from_utf8(&self.buffer)?;
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| {
                    let (name, value) = line.split_once(": ")?;
                    name.eq_ignore_ascii_case("content-length")
                        .then(|| value.parse::<usize>().ok())?
                });
                if length == Some(body.len()) {
                    return Ok(text.to_owned());
                }
            }
            if got == 0 {
                return Err(format!("closed after {:?}", text.get(..40).unwrap_or(text)).into());
            }
        }
    }

    /// Repeats the request until the response has the text. Returns how long that took.
    pub(super) async fn until(&mut self, text: &str) -> Result<Duration> {
        let start = Instant::now();
        loop {
            let response = self.get().await?;
            if response.contains(text) {
                break;
            }
            if start.elapsed() > Duration::from_secs(10) {
                return Err(format!("{text:?} not within 10 s, but {response:?}").into());
            }
        }
        Ok(start.elapsed())
    }
}

/// Sends requests from several connections for as long as any are left of `budget`.
pub(super) async fn load(protocol: Protocol, at: &str, budget: Arc<AtomicI64>) -> Result<Tally> {
    let mut senders = JoinSet::new();
    for _ in 0..if let Protocol::Http2 = protocol { HTTP2_CONNECTIONS } else { CONNECTIONS } {
        let (at, budget) = (at.to_owned(), budget.clone());
        senders.spawn(async move {
            match protocol {
                Protocol::Http2 => http2_load(&at, &budget).await,
                _ => http1_load(&at, &budget, matches!(protocol, Protocol::Fresh)).await,
            }
        });
    }
    let mut tally = Tally::default();
    while let Some(sent) = senders.join_next().await {
        tally += sent??;
    }
    Ok(tally)
}

fn take(budget: &AtomicI64) -> bool {
    budget.fetch_sub(1, Ordering::Relaxed) > 0
}

async fn http1_load(at: &str, budget: &AtomicI64, fresh: bool) -> Result<Tally> {
    let (mut tally, mut connection) = (Tally::default(), None);
    while take(budget) {
        let response = async {
            let open = match connection.take().filter(|_| !fresh) {
                Some(open) => open,
                None => Connection::new(at, "/").await?,
            };
            connection.insert(open).get().await
        };
        if !tally.add(response.await) {
            connection = None;
        }
    }
    Ok(tally)
}

async fn http2_load(at: &str, budget: &AtomicI64) -> Result<Tally> {
    let stream = TcpStream::connect(at).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let one = async || {
        let (mut tally, mut sender) = (Tally::default(), sender.clone());
        while take(budget) {
            let request = Request::get(format!("http://{at}/")).body(Empty::<Bytes>::new());
            let response = async {
                let response = sender.send_request(request?).await?;
                let status = response.status();
                let body = response.into_body().collect().await?.to_bytes();
                Ok(format!("{status} {}", str::from_utf8(&body)?))
            };
            if !tally.add(response.await) {
                break;
            }
        }
        tally
    };
    let streams = (0..CONNECTIONS / HTTP2_CONNECTIONS).map(|_| one());
    let mut tally = Tally::default();
    futures::future::join_all(streams).await.into_iter().for_each(|of_stream| tally += of_stream);
    Ok(tally)
}

pub(super) const PROTOCOLS: [(&str, Protocol); 3] = [
    ("keep-alive", Protocol::KeepAlive),
    ("fresh connections", Protocol::Fresh),
    ("HTTP/2", Protocol::Http2),
];

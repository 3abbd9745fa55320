//! The room's server: a page, and one resource that is written with one token and read with another.

use super::progress::{Participants, Progress};
use crate::document::Document;
use anyhow::Context as _;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue,
};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use sha2::{Digest as _, Sha256};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The size of a report.
const BODY: usize = 16 << 10;
/// The number of connections at a time; more wait.
const CONNECTIONS: usize = 256;
/// The time for a whole connection: reports and the page's reads are short.
const TIMEOUT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

const SCRIPT: &str = concat!(include_str!("../document/sentence.js"), include_str!("page/room.js"));
/// The page itself.
static DOCUMENT: LazyLock<Document> =
    LazyLock::new(|| Document::new(include_str!("page/room.html"), include_str!("page/room.css")));

struct Room {
    participants: Mutex<Participants>,
    /// The token of participants.
    join: String,
    /// The token of the page.
    view: String,
}

/// Serves until it is dropped. Calls `ready` with the address, the token of participants and that of the page.
///
/// # Errors
/// If the address cannot be bound.
pub(crate) async fn serve(
    listen: SocketAddr,
    ready: impl FnOnce(SocketAddr, &str, &str),
) -> anyhow::Result<()> {
    let failed = || format!("failed to listen on {listen}; choose another with --listen");
    let listener = TcpListener::bind(listen).await.with_context(failed)?;
    let token = || format!("{:032x}", rand::random::<u128>());
    let room = Arc::new(Room { participants: Mutex::default(), join: token(), view: token() });
    ready(listener.local_addr().with_context(failed)?, &room.join, &room.view);
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let permit = permits.clone().acquire_owned().await;
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            // For want of descriptors: no connection is served faster by trying at once.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let room = room.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let room = room.clone();
                async move { Ok::<_, Infallible>(room.respond(request).await) }
            });
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(TIMEOUT).keep_alive(false);
            let connection = server.serve_connection(TokioIo::new(stream), service);
            // Errors are of clients that left.
            _ = tokio::time::timeout(TIMEOUT, connection).await;
            drop(permit);
        });
    }
}

impl Room {
    async fn respond(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let bearer = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = bearer.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        let (is_join, is_view) = (equal(token, &self.join), equal(token, &self.view));
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/progress") if is_view => {
                let state = self.participants().state(Instant::now()).to_string();
                response(StatusCode::OK, "application/json", state)
            }
            (&Method::POST, "/progress") if is_join => self.report(request.into_body()).await,
            (_, "/progress") => text(StatusCode::UNAUTHORIZED, "wrong token"),
            (&Method::GET, "/") => {
                response(StatusCode::OK, "text/html; charset=utf-8", &*DOCUMENT.html)
            }
            (&Method::GET, "/room.js") => {
                response(StatusCode::OK, "text/javascript; charset=utf-8", SCRIPT)
            }
            (&Method::GET, _) => text(StatusCode::NOT_FOUND, "no such page"),
            _ => text(StatusCode::METHOD_NOT_ALLOWED, "use GET, or POST /progress"),
        }
    }

    async fn report(&self, body: Incoming) -> Response<Full<Bytes>> {
        let Ok(body) = Limited::new(body, BODY).collect().await else {
            return text(StatusCode::PAYLOAD_TOO_LARGE, "a report is smaller");
        };
        let progress = match Progress::read(&body.to_bytes()) {
            Ok(progress) => progress,
            Err(error) => {
                return response(StatusCode::BAD_REQUEST, "text/plain", format!("{error:#}"));
            }
        };
        match self.participants().report(progress, Instant::now()) {
            true => text(StatusCode::NO_CONTENT, ""),
            false => text(StatusCode::TOO_MANY_REQUESTS, "the room is full"),
        }
    }

    fn participants(&self) -> std::sync::MutexGuard<'_, Participants> {
        self.participants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Compares tokens by their digests, so that the time says nothing about where they differ.
fn equal(one: &str, other: &str) -> bool {
    Sha256::digest(one) == Sha256::digest(other)
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", text)
}

fn response(
    status: StatusCode,
    media_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.into()));
    *response.status_mut() = status;
    for (name, value) in [
        (CONTENT_TYPE, media_type),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, &DOCUMENT.policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

//! The HTTP data plane of the Ingress controller: requests in, over HTTP/1.1 or HTTP/2, with or
//! without TLS; HTTP/1.1 to a ready endpoint out.
//!
//! Each request chooses its endpoint anew. Bodies pass as they come, never as a whole: hyper keeps
//! one chunk each way, and whoever reads slowly stops whoever writes. Messages are parsed and written
//! anew by hyper, so that an endpoint never sees framing that a client made up; what hyper is lenient
//! about and a proxy must not be is refused in [`head`].

use super::front::Front;
use answer::{Answer, Refusal};
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::{
    body::{Body as _, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
    upgrade,
};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube_embedded_core::network::Network;
use socket::{ClientIo, Side};
use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{net::TcpStream, sync::watch, time};
use tokio_rustls::TlsAcceptor;
use tunnel::Tunnel;
use upload::Upload;

mod answer;
mod forward;
mod head;
mod pool;
mod socket;
mod tunnel;
mod upload;

/// How often it is asked whether a client of HTTP/2 is still there.
const PING: Duration = Duration::from_secs(60);
/// How long a client has to agree on TLS.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Bytes of a head, HTTP/1.1 and HTTP/2 alike: as many as ingress-nginx takes.
/// More than 100 fields hyper refuses as well, and saying so would cost it a fast path.
const HEAD_BYTES: usize = 32 * 1024;
/// Bytes kept of a body, each way of each request.
const BUFFER: usize = 64 * 1024;
/// Requests at a time on one connection of HTTP/2.
const STREAMS: u32 = 128;
/// Flow control of HTTP/2, so what a client may send ahead of its endpoint: of one request, and of
/// all requests of a connection.
const WINDOWS: (u32, u32) = (256 * 1024, 1024 * 1024);

/// What the connections of one listener have in common.
#[derive(Clone)]
pub(crate) struct Door {
    front: Arc<Front>,
    tls: bool,
    port: HeaderValue,
    closing: watch::Receiver<()>,
}

impl Door {
    /// `closing` ends when the listener does; connections then end after their requests.
    pub(crate) fn new(
        front: Arc<Front>,
        tls: bool,
        at: SocketAddr,
        closing: watch::Receiver<()>,
    ) -> Self {
        Self { front, tls, port: HeaderValue::from(at.port()), closing }
    }

    /// Answers the requests of a connection until it ends.
    pub(crate) async fn carry(self, stream: TcpStream, peer: SocketAddr, network: Arc<Network>) {
        let Self { front, tls, port, closing } = self;
        let acceptor = tls.then(|| TlsAcceptor::from(front.tls()));
        let client = Arc::new(Client {
            front,
            network,
            peer,
            seen: Seen::new(peer, tls, port),
            signs: Arc::default(),
            tunnel: Mutex::default(),
            requests: AtomicUsize::new(0),
            served: AtomicU64::new(0),
        });
        let Some(acceptor) = acceptor else {
            return http1(stream, client, closing).await;
        };
        // Apart, so that connections without it need not have the room for it.
        Box::pin(over_tls(acceptor, stream, client, closing)).await;
    }
}

async fn over_tls(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    client: Arc<Client>,
    closing: watch::Receiver<()>,
) {
    // Whoever does not get as far as a request is not told in HTTP.
    let Ok(Ok(stream)) = time::timeout(HANDSHAKE, acceptor.accept(stream)).await else { return };
    match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => http2(stream, client, closing).await,
        _ => http1(stream, client, closing).await,
    }
}

/// What endpoints are told of a connection.
struct Seen {
    peer: HeaderValue,
    port: HeaderValue,
    proto: HeaderValue,
}

impl Seen {
    fn new(peer: SocketAddr, tls: bool, port: HeaderValue) -> Self {
        // An address is always a valid header value.
        let peer = HeaderValue::try_from(peer.ip().to_canonical().to_string());
        Self {
            peer: peer.unwrap_or_else(|_| HeaderValue::from_static("unknown")),
            port,
            proto: HeaderValue::from_static(if tls { "https" } else { "http" }),
        }
    }
}

/// The connection of a client.
struct Client {
    front: Arc<Front>,
    network: Arc<Network>,
    peer: SocketAddr,
    seen: Seen,
    signs: Arc<Signs>,
    /// What the connection becomes when HTTP is done with it.
    tunnel: Mutex<Option<Tunnel>>,
    /// Requests that are being answered, and those that were.
    requests: AtomicUsize,
    served: AtomicU64,
}

/// What the two ends of hyper have to tell each other.
#[derive(Default)]
struct Signs {
    /// An answer broke off that has no other way to say so.
    truncated: AtomicBool,
    /// The client does not take what there is to write.
    blocked: AtomicBool,
    /// How often it took something.
    writes: AtomicUsize,
    /// How often something of a body went on, to the client or to an endpoint.
    frames: AtomicUsize,
    /// The client may still be sending a body that nobody will read.
    unread: AtomicBool,
}

async fn http1<S: Side>(stream: S, client: Arc<Client>, mut closing: watch::Receiver<()>) {
    let io = ClientIo::new(stream, client.signs.clone());
    let service = service_fn(|request| client.clone().answer(request));
    let connection = http1::Builder::new()
        .max_buf_size(BUFFER)
        .max_header_size(HEAD_BYTES)
        .serve_connection(io, service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        _ = closing.changed() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                biased;
                ended = connection => ended,
                () = client.idle() => return,
            }
        }
        () = client.idle() => return,
    };
    let tunnel = client.tunnel.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let (Ok(()), Some(tunnel)) = (ended, tunnel) {
        Box::pin(tunnel.carry::<S>()).await;
    }
}

async fn http2<S: Side>(stream: S, client: Arc<Client>, mut closing: watch::Receiver<()>) {
    let io = ClientIo::new(stream, client.signs.clone());
    let service = service_fn(|request| client.clone().answer(request));
    // Streams that a client resets before they are answered are bounded by h2 itself: 20 that wait
    // to be seen, and 1024 of our own errors, then the connection ends (CVE-2023-44487).
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD_BYTES as u32)
        .max_send_buf_size(BUFFER)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .keep_alive_interval(PING)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        _ = connection.as_mut() => return,
        _ = closing.changed() => {}
        () = client.idle() => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        biased;
        _ = connection => {}
        () = client.idle() => {}
    }
}

impl Client {
    /// Returns when no request came for a while and none is being answered, or the client takes
    /// nothing of its answer. One timer for a whole connection is cheaper than one for each request,
    /// so it may take twice as long.
    ///
    /// Endpoints have shorter limits of their own: what does not move for longer waits for the
    /// client.
    async fn idle(&self) {
        let limits = self.front.limits;
        let moves = || {
            let frames = self.signs.frames.load(Ordering::Relaxed);
            (self.served.load(Ordering::Relaxed), frames)
        };
        let writes = || self.signs.writes.load(Ordering::Relaxed);
        let (mut before, mut written, mut stalled) = (moves(), writes(), 0);
        loop {
            time::sleep(limits.idle).await;
            let blocked = self.signs.blocked.load(Ordering::Relaxed);
            // A slow client is not an idle one: the kernel lets us write a megabyte at a time.
            // Other writes say nothing: over HTTP/2 they may be our own pings.
            if moves() != before || blocked && writes() != written {
                stalled = 0;
            } else if !blocked && self.requests.load(Ordering::Relaxed) == 0 {
                return;
            } else {
                stalled += 1;
            }
            if stalled == limits.stalled {
                return;
            }
            (before, written) = (moves(), writes());
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Answer>, Infallible> {
        Ok(self.exchange(request).await.unwrap_or_else(Refusal::response))
    }

    async fn exchange(
        self: &Arc<Self>,
        mut request: Request<Incoming>,
    ) -> Result<Response<Answer>, Refusal> {
        let counted = Counted::new(self.clone());
        let version = request.version();
        let has_body = !request.body().is_end_stream();
        if version < Version::HTTP_2 {
            self.signs.unread.store(has_body, Ordering::Relaxed);
        }
        let target = head::target(&request)?;
        let table = self.front.table();
        let Some(backend) = table.find(target.host(), target.path()) else {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "no rule matches this host and path"));
        };
        let wanted = head::wanted_upgrade(&request);
        let client_side = wanted.is_some().then(|| upgrade::on(&mut request));
        let (mut parts, body) = request.into_parts();
        let (upload, progress) = match has_body {
            false => (Upload::empty(), None),
            true => {
                let (upload, progress) = Upload::of(body, self.signs.clone());
                (upload, Some(progress))
            }
        };
        head::for_endpoint(&mut parts, target, &self.seen, wanted.as_ref(), progress.is_some())?;
        let request = Request::from_parts(parts, upload);
        let (mut response, lease) = self.forward(backend, request, progress.as_deref()).await?;

        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if switched {
            let (Some(client), Some(_)) = (client_side, response.headers().get(header::UPGRADE))
            else {
                let text = "the endpoint switched protocols unasked";
                return Err(Refusal::new(StatusCode::BAD_GATEWAY, text));
            };
            let tunnel = Tunnel { client, endpoint: upgrade::on(&mut response) };
            *self.tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some(tunnel);
        }
        let (mut parts, body) = response.into_parts();
        head::for_client(&mut parts, switched);
        let truncated = (version < Version::HTTP_11).then(|| self.signs.clone());
        let answer = Answer::of(body, lease, truncated, progress, counted);
        Ok(Response::from_parts(parts, answer))
    }
}

/// One request that is being answered.
struct Counted(Arc<Client>);

impl Counted {
    fn new(client: Arc<Client>) -> Self {
        client.requests.fetch_add(1, Ordering::Relaxed);
        client.served.fetch_add(1, Ordering::Relaxed);
        Self(client)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;

//! The handler of HTTP and HTTPS listeners.

use super::{
    client::Client,
    client_io::ClientIo,
    forwarded_headers::ForwardedHeaders,
    frontend::Frontend,
    limits::{
        BODY_BUFFER, CONNECTION_WINDOW, HANDSHAKE_TIMEOUT, HEAD_BYTES, HEAD_FIELDS, MAX_STREAMS,
        PING_INTERVAL, STREAM_WINDOW,
    },
    on_wake::OnWake,
};
use crate::data_plane::{AcceptedConnection, Handler, ProxyStream};
use futures::{
    FutureExt,
    future::{self, BoxFuture},
};
use http::HeaderValue;
use hyper::{
    rt::Executor,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::TokioTimer;
use kube_embedded_core::{network::Network, task::spawn_named};
use std::{
    net::SocketAddr,
    pin::pin,
    sync::{Arc, PoisonError},
    task::Poll,
    time::Duration,
};
use tokio::{net::TcpStream, sync::watch, time};
use tokio_rustls::TlsAcceptor;

/// The interval in which a preface that came in parts is looked at again.
const PREFACE_RETRY: Duration = Duration::from_millis(5);

/// Serves HTTP on one port by its frontend. The port always listens: a host or path without endpoints
/// gets a response, not a refused connection.
///
/// When the listener is closed, connections end after the requests that are in flight.
pub(crate) struct HttpListener {
    frontend: Arc<Frontend>,
    network: Arc<Network>,
    tls: bool,
    port: HeaderValue,
    /// Dropped with the listener.
    closed: watch::Sender<()>,
}

impl HttpListener {
    /// Creates the handler of a listener at `at`, with TLS or without. TLS clients choose between
    /// HTTP/1.1 and HTTP/2.
    pub(crate) fn new(
        frontend: Arc<Frontend>,
        network: Arc<Network>,
        tls: bool,
        at: SocketAddr,
    ) -> Self {
        let port = HeaderValue::from(at.port());
        Self { frontend, network, tls, port, closed: watch::Sender::new(()) }
    }
}

impl Handler for HttpListener {
    fn handle(&self, connection: AcceptedConnection) -> BoxFuture<'static, ()> {
        let AcceptedConnection { stream, peer, slot } = connection;
        let forwarded = ForwardedHeaders::new(peer, self.tls, self.port.clone());
        let (frontend, network) = (self.frontend.clone(), self.network.clone());
        let client = Arc::new(Client::new(frontend, network, peer, forwarded, slot.clone()));
        let closed = self.closed.subscribe();
        let serve = match self.tls {
            false if self.frontend.http2 => serve_plain(stream, client, closed).boxed(),
            false => serve_http1(stream, client, closed).boxed(),
            true => serve_tls(self.frontend.tls().into(), stream, client, closed).boxed(),
        };
        slot.set_idle();
        async move {
            let shed = pin!(slot.shed());
            tokio::select! {
                biased;
                () = serve => {}
                () = OnWake::new(shed) => tracing::debug!(%peer, "closing an idle connection for another"),
            }
        }
        .boxed()
    }
}

async fn serve_tls(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    client: Arc<Client>,
    closed: watch::Receiver<()>,
) {
    // A failed handshake is closed without an HTTP response.
    let stream = match time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(peer = %client.peer, %error, "TLS handshake failed");
            return;
        }
        Err(_) => {
            tracing::debug!(peer = %client.peer, "TLS handshake timed out");
            return;
        }
    };
    let session = stream.get_ref().1;
    let _ = client.server_name.set(session.server_name().map(str::to_owned));
    match session.alpn_protocol() {
        Some(b"h2") => serve_http2(stream, client, closed).await,
        _ => serve_http1(stream, client, closed).await,
    }
}

/// Serves HTTP/2 to a client that begins with it (RFC 9113, 3.3), and HTTP/1.1 to others.
async fn serve_plain(stream: TcpStream, client: Arc<Client>, closed: watch::Receiver<()>) {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let begins = async {
        let mut read = [0; PREFACE.len()];
        loop {
            let length = stream.peek(&mut read).await.ok().filter(|length| *length > 0)?;
            let read = read.get(..length)?;
            match PREFACE.strip_prefix(read) {
                Some([]) => return Some(()),
                Some(_) => time::sleep(PREFACE_RETRY).await,
                None => return None,
            }
        }
    };
    let http2 = time::timeout(HANDSHAKE_TIMEOUT, begins).await;
    match http2.ok().flatten() {
        Some(()) => serve_http2(stream, client, closed).await,
        None => serve_http1(stream, client, closed).await,
    }
}

async fn serve_http1<S: ProxyStream>(
    stream: S,
    client: Arc<Client>,
    mut closed: watch::Receiver<()>,
) {
    let (mut io, larger) = ClientIo::http1(stream, client.signals.clone());
    let take = || larger.lock().unwrap_or_else(PoisonError::into_inner).take();
    let mut builder = http1::Builder::new();
    builder.max_buf_size(BODY_BUFFER).max_header_size(HEAD_BYTES);
    let end = pin!(async {
        tokio::select! {
            _ = closed.changed() => End::Closed,
            () = client.idle() => End::Idle,
        }
    });
    let mut end = OnWake::new(end);
    let ended = loop {
        let service = service_fn(|request| client.clone().respond(request));
        let connection = builder.serve_connection(io, service).with_upgrades();
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            biased;
            ended = connection.as_mut() => Some(ended),
            // Left while the connection was polled.
            () = future::poll_fn(|_| match larger.try_lock().is_ok_and(|larger| larger.is_some()) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }) => None,
            end = &mut end => match end {
                End::Closed => {
                    connection.as_mut().graceful_shutdown();
                    tokio::select! {
                        biased;
                        ended = connection => Some(ended),
                        () = client.idle() => None,
                    }
                }
                End::Idle => None,
            },
        };
        match (take(), ended) {
            (Some(larger), _) => io = larger,
            (None, Some(ended)) => break ended,
            (None, None) => return,
        }
        builder.max_headers(HEAD_FIELDS);
    };
    match ended {
        Ok(()) => {
            if let Some(tunnel) = client.take_tunnel() {
                client.signals.slot.set_busy();
                Box::pin(tunnel.copy::<S>()).await;
            }
        }
        Err(error) => tracing::debug!(peer = %client.peer, %error, "client connection failed"),
    }
}

/// Why a connection ends that would go on.
enum End {
    /// Its listener is closed.
    Closed,
    Idle,
}

/// Spawns the streams of HTTP/2 connections. A panic ends only its stream.
#[derive(Clone)]
struct StreamExecutor;

impl<F> Executor<F> for StreamExecutor
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        spawn_named("http2-stream", stream).detach();
    }
}

async fn serve_http2<S: ProxyStream>(
    stream: S,
    client: Arc<Client>,
    mut closed: watch::Receiver<()>,
) {
    let io = ClientIo::http2(stream, client.signals.clone());
    let service = service_fn(|request| client.clone().respond(request));
    // h2 itself bounds streams that a client resets before the response: 20 that wait to be
    // accepted, and 1024 of our own errors, then the connection ends (CVE-2023-44487).
    let connection = http2::Builder::new(StreamExecutor)
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(HEAD_BYTES as u32)
        .max_send_buf_size(BODY_BUFFER)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(PING_INTERVAL)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        ended = connection.as_mut() => {
            if let Err(error) = ended {
                tracing::debug!(peer = %client.peer, %error, "client connection failed");
            }
            return;
        }
        _ = closed.changed() => {}
        () = client.idle() => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        biased;
        _ = connection => {}
        () = client.idle() => {}
    }
}

//! The API on a TLS listener, for kubectl and every other client outside the process.

mod body;
mod connections;
mod io;

use crate::{
    api::Api,
    credentials::{Credentials, CredentialsError},
    http::body::Body,
};
use body::TrackedBody;
use bytes::Bytes;
use connections::{Connection, Connections, Registration, Timeouts};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use io::RegisteredStream;
use kube_embedded_core::{
    descriptors::Shares,
    task::{Task, TaskSet, spawn_named},
};
use std::{convert::Infallible, net::SocketAddr, pin::pin, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// The time that open requests get to finish when the server stops.
const GRACE_PERIOD: Duration = Duration::from_secs(2);
/// The delay after a failure to accept a connection.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// Bytes of a request's head. kube-apiserver allows a megabyte, which a client needs no credentials to
/// make it keep.
const HEAD_BYTES: u32 = 128 << 10;
/// Fields of a request's head: impersonation has one for each group.
const HEAD_FIELDS: usize = 512;
/// Concurrent requests on one connection, as in kube-apiserver.
const MAX_STREAMS: u32 = 250;
/// Bytes that HTTP/2 keeps of one response while the client does not read.
const SEND_BUFFER: usize = 64 << 10;
/// Bytes that TLS keeps of all responses of a connection while the client does not read.
const TLS_BUFFER: usize = 32 << 10;

/// A running server. Dropping it closes the listener and every connection.
#[derive(Debug)]
pub struct Server {
    stop: watch::Sender<bool>,
    task: Task<()>,
}

impl Server {
    /// Serves `api` on a listener that the caller bound. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the credentials make no TLS configuration.
    pub fn start(
        listener: TcpListener,
        api: Api,
        credentials: &Credentials,
    ) -> Result<Self, CredentialsError> {
        Self::with_limits(listener, api, credentials, Timeouts::default(), Shares::current().api)
    }

    fn with_limits(
        listener: TcpListener,
        api: Api,
        credentials: &Credentials,
        timeouts: Timeouts,
        connections: usize,
    ) -> Result<Self, CredentialsError> {
        let acceptor = TlsAcceptor::from(Arc::new(credentials.server_config()?));
        let token: Arc<str> = credentials.token().into();
        let (stop, stopping) = watch::channel(false);
        let endpoint = Endpoint { acceptor, api, token, timeouts };
        let task = spawn_named("TLS server", accept(listener, endpoint, connections, stopping));
        Ok(Self { stop, task })
    }

    /// Stops accepting, lets open requests finish briefly, and closes.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let _ = timeout(GRACE_PERIOD + Duration::from_secs(1), &mut self.task).await;
    }
}

/// Everything that a connection is served by.
#[derive(Clone)]
struct Endpoint {
    acceptor: TlsAcceptor,
    api: Api,
    token: Arc<str>,
    timeouts: Timeouts,
}

async fn accept(
    listener: TcpListener,
    endpoint: Endpoint,
    limit: usize,
    mut stopping: watch::Receiver<bool>,
) {
    // Connections are tasks of this set, so that they end with this task however it ends.
    let mut tasks = TaskSet::default();
    let connections = Connections::new(limit);
    let next = async || {
        connections.room().await;
        listener.accept().await
    };
    loop {
        let accepted = tokio::select! {
            accepted = next() => accepted,
            Some(_) = tasks.join_next() => continue,
            _ = stopping.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((socket, peer)) => {
                let registration = connections.register();
                let (endpoint, stopping) = (endpoint.clone(), stopping.clone());
                tasks.spawn("TLS connection", async move {
                    let connection = registration.connection.clone();
                    tokio::select! {
                        () = endpoint.serve(socket, peer, registration, stopping) => {}
                        () = connection.evicted() => {
                            tracing::debug!(target: "apiserver::tls", %peer, "connection evicted");
                        }
                    }
                });
            }
            // Out of descriptors: retrying at once would only burn the processor.
            Err(error) => {
                tracing::warn!(target: "apiserver::tls", %error, "failed to accept a connection");
                connections.shed();
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
    drop(listener);
    let ended = async { while tasks.join_next().await.is_some() {} };
    let _ = timeout(GRACE_PERIOD, ended).await;
}

impl Endpoint {
    /// Serves a connection until it ends.
    async fn serve(
        self,
        socket: TcpStream,
        peer: SocketAddr,
        registration: Registration,
        mut stopping: watch::Receiver<bool>,
    ) {
        let _ = socket.set_nodelay(true);
        let Some(mut stream) = self.handshake(socket, peer).await else { return };
        let Self { api, token, timeouts, .. } = self;
        stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER));
        let http1 = stream.get_ref().1.alpn_protocol() != Some(b"h2");
        let trusted = has_certificate(&stream);
        let connection = registration.connection.clone();
        if trusted {
            connection.authenticate();
        }
        let requests = connection.clone();
        let service = service_fn(move |request| {
            let (api, token, connection) = (api.clone(), token.clone(), requests.clone());
            async move {
                let in_flight = connection.request();
                let response = authenticate(&api, request, trusted, &token, &connection).await;
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    connection.upgrade();
                }
                Ok::<_, Infallible>(response.map(|body| TrackedBody::new(body, in_flight)))
            }
        });
        let io = TokioIo::new(RegisteredStream::new(stream, registration));
        let builder = builder();
        let mut served = pin!(builder.serve_connection_with_upgrades(io, service));
        let ended = tokio::select! {
            ended = served.as_mut() => ended,
            why = connection.expired(&timeouts, http1) => {
                tracing::debug!(target: "apiserver::tls", %peer, why, "closing a connection");
                served.as_mut().graceful_shutdown();
                timeout(GRACE_PERIOD, served).await.unwrap_or(Ok(()))
            }
            () = async { let _ = stopping.wait_for(|stop| *stop).await; } => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        };
        // Clients close connections as they like; an error is worth a trace only.
        if let Err(error) = ended {
            tracing::trace!(target: "apiserver::tls", %peer, error, "connection ended");
        }
    }

    /// Makes the TLS handshake of an accepted connection.
    async fn handshake(&self, socket: TcpStream, peer: SocketAddr) -> Option<TlsStream<TcpStream>> {
        let error = match timeout(self.timeouts.handshake, self.acceptor.accept(socket)).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "timed out".to_owned(),
        };
        tracing::debug!(target: "apiserver::tls", %peer, error, "failed to make a TLS handshake");
        None
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // hyper's own timeout of a head would also end connections that are idle between two requests.
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(HEAD_BYTES as usize)
        .max_headers(HEAD_FIELDS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(HEAD_BYTES)
        .max_send_buf_size(SEND_BUFFER);
    builder
}

fn has_certificate(stream: &TlsStream<TcpStream>) -> bool {
    // Only certificates of this cluster's authority pass the handshake.
    stream.get_ref().1.peer_certificates().is_some_and(|chain| !chain.is_empty())
}

/// Serves a request as the user that its credentials prove.
async fn authenticate(
    api: &Api,
    mut request: Request<Incoming>,
    trusted: bool,
    token: &str,
    connection: &Connection,
) -> Response<Body> {
    let Some(user) = api.authenticate(request.headers(), trusted, token) else {
        return Api::unauthorized();
    };
    let is_anonymous = user.is_anonymous();
    request.extensions_mut().insert(user);
    if !is_anonymous {
        connection.authenticate();
    } else if request.method() == Method::GET {
        // It has no body that counts, and waiting for one would hold the connection.
        return api.handle(request.map(|_| Empty::<Bytes>::new())).await;
    }
    api.handle(request).await
}

#[cfg(test)]
mod tests;

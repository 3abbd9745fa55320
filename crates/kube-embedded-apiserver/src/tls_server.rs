//! The API on a TLS listener, for kubectl and every other client outside the process.

use crate::{
    api::Api,
    credentials::{Credentials, CredentialsError},
    http::body::Body,
};
use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulShutdown},
};
use kube_embedded_core::task::{Task, TaskSet, spawn_named};
use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The time that open requests get to finish when the server stops.
const GRACE_PERIOD: Duration = Duration::from_secs(2);
/// The delay after a failure to accept a connection.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

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
        let acceptor = TlsAcceptor::from(Arc::new(credentials.server_config()?));
        let token: Arc<str> = credentials.token().into();
        let (stop, stopping) = watch::channel(false);
        let task = spawn_named("TLS server", accept(listener, acceptor, api, token, stopping));
        Ok(Self { stop, task })
    }

    /// Stops accepting, lets open requests finish briefly, and closes.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let _ = timeout(GRACE_PERIOD + Duration::from_secs(1), &mut self.task).await;
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    api: Api,
    token: Arc<str>,
    mut stopping: watch::Receiver<bool>,
) {
    // Connections are tasks of this set, so that they end with this task however it ends.
    let mut connections = TaskSet::default();
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            _ = stopping.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((socket, peer)) => {
                let watcher = graceful.watcher();
                let (acceptor, api, token) = (acceptor.clone(), api.clone(), token.clone());
                connections.spawn("TLS connection", async move {
                    let _ = socket.set_nodelay(true);
                    let Some(stream) = handshake(&acceptor, socket, peer).await else { return };
                    let trusted = has_certificate(&stream);
                    let service = service_fn(move |request| {
                        let (api, token) = (api.clone(), token.clone());
                        async move {
                            Ok::<_, Infallible>(authenticate(&api, request, trusted, &token).await)
                        }
                    });
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let connection =
                        builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
                    // Clients close connections as they like; an error is worth a trace only.
                    if let Err(error) = watcher.watch(connection.into_owned()).await {
                        tracing::trace!(target: "apiserver::tls", %peer, error, "connection ended");
                    }
                });
            }
            // Out of descriptors: retrying at once would only burn the processor.
            Err(error) => {
                tracing::warn!(target: "apiserver::tls", %error, "failed to accept a connection");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
    drop(listener);
    let _ = timeout(GRACE_PERIOD, graceful.shutdown()).await;
}

/// Makes the TLS handshake of an accepted connection.
async fn handshake(
    acceptor: &TlsAcceptor,
    socket: TcpStream,
    peer: SocketAddr,
) -> Option<TlsStream<TcpStream>> {
    let error = match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(socket)).await {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "timed out".to_owned(),
    };
    tracing::debug!(target: "apiserver::tls", %peer, error, "failed to make a TLS handshake");
    None
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
) -> Response<Body> {
    let Some(user) = api.authenticate(request.headers(), trusted, token) else {
        return Api::unauthorized();
    };
    request.extensions_mut().insert(user);
    api.handle(request).await
}
